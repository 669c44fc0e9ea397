"""`hyperdecode explore` as its user meets it: an address, a page, Ctrl-C; one line for each mistake."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from queue import Queue

import pytest

from hyperdecode.explorer import server


@pytest.fixture
def opened(monkeypatch):
    """Return a queue of the addresses that a browser was sent to."""
    found = Queue()
    monkeypatch.setattr("webbrowser.open", found.put)
    return found


def test_it_serves_opens_the_browser_and_ends_in_good_order(called, opened, tiny_generator, monkeypatch):
    monkeypatch.setattr("hyperdecode.generators.load_generator", lambda name: tiny_generator)
    servers, make = [], server.uvicorn_server
    monkeypatch.setattr(server, "uvicorn_server", lambda app: servers.append(make(app)) or servers[-1])
    seen = []

    def look():
        address = opened.get(timeout=30)
        with urllib.request.urlopen(address, timeout=10) as answer:
            seen.append((address, answer.status))
        servers[0].should_exit = True

    visitor = threading.Thread(target=look)
    visitor.start()
    code, out, err = called("explore", "--generator", "tiny")
    visitor.join(10)
    ((address, status),) = seen
    assert (code, status, err) == (0, 200, "") and address in out
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
    assert out.endswith("The explorer has ended.\n")


def test_ctrl_c_ends_it_with_exit_code_0(face_generator):
    command = [
        sys.executable,
        "-m",
        "hyperdecode",
        "--threads",
        "1",
        "explore",
        "--generator",
        face_generator.name,
        "--no-browser",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        first = program.stdout.readline()
        with urllib.request.urlopen(first.split()[-1], timeout=30) as answer:
            assert answer.status == 200
        time.sleep(0.2)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, "") and out.endswith("The explorer has ended.\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give a study, or --generator NAME"),
        (("folder", "--generator", "tiny"), "give a study, or --generator NAME"),
        (("--generator", "tiny", "--subject", "01"), "--subject chooses among the subjects of a study"),
        (("--generator", "nonsense"), "no generator nonsense"),
        (("/nowhere",), "no study at /nowhere"),
    ],
)
def test_mistakes_are_one_line(called, words, said):
    code, _, err = called("explore", *words)
    assert code == 2 and said in err.replace("'", "") and err.count("\n") == 1


def test_a_port_in_use_is_one_line(called, opened, tiny_generator, monkeypatch):
    monkeypatch.setattr("hyperdecode.generators.load_generator", lambda name: tiny_generator)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = called("explore", "--generator", "tiny", "--port", taken.getsockname()[1])
    assert code == 2 and "give another --port" in err and err.count("\n") == 1 and opened.empty()
