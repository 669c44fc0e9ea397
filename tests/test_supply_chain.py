"""What is installed and fetched: every version and every file is pinned, and known holes are asked for."""

import ast
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import hyperdecode
from hyperdecode.errors import UserError
from hyperdecode.weights import packages, store, wheels
from hyperdecode.weights.packages import Package
from hyperdecode.weights.store import WeightSource

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "hyperdecode").rglob("*.py"))
HASH = re.compile(r"[0-9a-f]{64}")

# What may be installed


def pins(path=ROOT / "constraints.txt"):
    """Name -> version of each line of a file of constraints."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    found = [re.fullmatch(r"([A-Za-z0-9.-]+)==([A-Za-z0-9.!]+)", line) for line in lines if line]
    assert all(found), "a line that pins no version"
    named = [(canonicalize_name(match[1]), match[2]) for match in found]
    assert len(dict(named)) == len(named), "a package is pinned twice"
    return dict(named)


def brought(name, extras, seen):
    """Add what a package brings along, all that is installed of it: name -> version."""
    key = (canonicalize_name(name), frozenset(extras))
    if key in seen:
        return
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return
    seen[key] = found.version
    for text in found.requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            brought(wanted.name, set(wanted.extras), seen)


def test_nothing_that_is_installed_floats():
    """`make` installs the extras all and test: each package in them, and each that these bring, has its version."""
    seen = {}
    brought("hyperdecode", {"all", "test"}, seen)
    installed = {name: version for (name, _), version in seen.items() if name != "hyperdecode"}
    assert {"numpy", "tornado", "markupsafe", "tzdata"} <= installed.keys()
    # Builds of torch for GPUs bring libraries of their own, which torch names by version.
    loose = [name for name in installed.keys() - pins().keys() if not re.match("nvidia-|cuda-|triton", name)]
    assert not loose, f"not in constraints.txt: {sorted(loose)}"
    other = {
        name: f"{version}, pinned {pins()[name]}"
        for name, version in installed.items()
        if name in pins() and Version(version).public != pins()[name]
    }
    assert not other


def test_tools_of_the_audit_are_pinned():
    assert "pip-audit" in pins(ROOT / ".ci" / "audit-constraints.txt")


def test_what_pip_builds_with_is_pinned():
    text = (ROOT / "Makefile").read_text()
    assert "export PIP_CONSTRAINT := $(CURDIR)/constraints.txt" in text and "export PIP_BUILD_CONSTRAINT" in text
    assert "setuptools" in pins()


# The audit


@pytest.fixture
def audit(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_environment", lambda: (Path(sys.executable), ""))
    monkeypatch.setattr(module, "unreachable", lambda url: "")
    return module


SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
# As pip-audit 2.10.1 prints them.
HOLE = {
    "name": "jinja2",
    "version": "3.1.6",
    "vulns": [{"id": "PYSEC-0000-1", "fix_versions": ["9.9"], "aliases": ["CVE-0000-1"]}],
}
UNKNOWN = {"name": "x", "skip_reason": "Dependency not found on PyPI and could not be audited: x (1)"}


def answers(monkeypatch, audit, *dependencies, **others):
    """Let the services answer: the first with `dependencies`, others by name; None is a failure."""
    by_name = {"pypi": list(dependencies)} | others

    def ask(python, service, pins):
        found = by_name.get(service)
        return (None, "it broke") if found is None else ({"dependencies": found}, "")

    monkeypatch.setattr(audit, "_ask", ask)


def test_no_known_hole(monkeypatch, audit, capsys):
    answers(monkeypatch, audit, SOUND)
    assert audit.main() == 0
    assert capsys.readouterr().out == "audit: 2 pins by pypi, 0 known vulnerabilities\n"


def test_a_known_hole_fails(monkeypatch, audit, capsys):
    answers(monkeypatch, audit, SOUND, HOLE)
    assert audit.main() == 1
    assert "vulnerable: jinja2 3.1.6: PYSEC-0000-1, CVE-0000-1 (mended in 9.9)" in capsys.readouterr().out


def test_pins_that_nobody_knows_are_not_called_sound(monkeypatch, audit, capsys):
    answers(monkeypatch, audit, UNKNOWN, osv=[UNKNOWN])
    assert audit.main() == 0
    said = capsys.readouterr().out
    assert said.startswith("audit skipped, nobody could be asked: pypi: it knows none of the 2 pins")
    answers(monkeypatch, audit, UNKNOWN, osv=[HOLE])
    assert audit.main() == 1
    answers(monkeypatch, audit, UNKNOWN, SOUND)
    assert audit.main() == 0 and "not audited, pypi does not know them: x" in capsys.readouterr().out


def test_an_audit_that_breaks_is_not_skipped(monkeypatch, audit, capsys):
    answers(monkeypatch, audit, osv=[SOUND], pypi=None)
    assert audit.main() == 1
    assert "audit failed: constraints.txt, pypi: it broke" in capsys.readouterr().out


def test_without_a_way_to_the_services_it_is_skipped(monkeypatch, audit, capsys):
    monkeypatch.setattr(audit, "unreachable", lambda url: f"no way to {url}")
    monkeypatch.setattr(audit, "_environment", lambda: pytest.fail("made for nothing"))
    assert audit.main() == 0
    said = capsys.readouterr().out
    assert "pypi: no way to https://pypi.org/" in said and "osv: no way to https://api.osv.dev/" in said


def test_a_service_that_is_away(monkeypatch):
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "cannot be reached" in module.unreachable("http://127.0.0.1:9/")


# What is fetched


def found_in_modules(*kinds):
    """Every object of some kinds that a module of the package holds: name -> object."""
    found = {}
    for info in pkgutil.walk_packages(hyperdecode.__path__, "hyperdecode."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            values = value.values() if isinstance(value, dict) else [value]
            found |= {f"{info.name}.{name}": one for one in values if isinstance(one, kinds)}
    return found


def unpinned(source):
    """Say what a source of files lacks; nothing where all of it is pinned."""
    lacks = [] if re.fullmatch(r"[a-z0-9-]+==[0-9.]+", source.requirement) else ["a version"]
    lacks += [] if HASH.fullmatch(source.sha256) else ["the hash of the wheel"]
    if isinstance(source, WeightSource):
        return lacks + ([] if HASH.fullmatch(source.tensors_sha256) else ["the hash of the tensors"])
    members = [member for member in source.members.values() if not (HASH.fullmatch(member.sha256) and member.size > 0)]
    return lacks + [f"the hash of {member.path}" for member in members] + ([] if source.members else ["members"])


def test_every_file_that_can_be_fetched_is_pinned():
    sources = found_in_modules(Package, WeightSource)
    assert len({source.requirement for source in sources.values()}) >= 5
    assert {name: lacks for name, source in sources.items() if (lacks := unpinned(source))} == {}


def test_one_that_is_not_would_be_found():
    bare = Package("x==1", "x-1-py3-none-any.whl", "", 1.0, "free", {"a": packages.Member("a", "", 0)})
    assert unpinned(bare) == ["the hash of the wheel", "the hash of a"]


@pytest.mark.parametrize(
    ("requirement", "sha256"), [("x==1", ""), ("x==1", "a" * 63), ("x", "a" * 64), ("x>=1", "a" * 64)]
)
def test_nothing_is_downloaded_without_version_and_hash(tmp_path, monkeypatch, requirement, sha256):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked pip"))
    with pytest.raises(ValueError, match="not pinned"):
        wheels.download_wheel(requirement, "x-1-py3-none-any.whl", sha256, tmp_path, by_hand="")


def test_pip_refuses_a_wheel_of_another_hash(tmp_path, monkeypatch):
    """The pinned name with other content, on an index of the user's."""
    name = store.SOURCES["mobilestylegan-ffhq"].filename
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / name).write_bytes(b"PK\x05\x06" + b"\0" * 18)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(UserError, match="cannot download random-face=="):
        store.download_wheel(store.SOURCES["mobilestylegan-ffhq"], tmp_path)
    assert not (tmp_path / name).exists()


NETWORK = {
    "aiohttp", "asyncio", "ftplib", "http", "httpx", "huggingface_hub", "imaplib", "nntplib", "paramiko", "poplib",
    "pooch", "requests", "smtplib", "socket", "socketserver", "ssl", "subprocess", "telnetlib", "tornado",
    "torchvision", "urllib", "urllib3", "webbrowser", "xmlrpc",
}  # fmt: skip
"""Modules that lead to the network, or start programs that could."""
CALLS = {"load_state_dict_from_url", "download_url_to_file", "urlretrieve", "urlopen", "system", "popen"}
"""Functions of other modules that do."""
ALLOWED = {
    ("cli/explore.py", "webbrowser"),  # its own page, on this computer
    ("explorer/newest.py", "asyncio"),  # one picture at a time
    ("explorer/server.py", "socket"),  # listens on 127.0.0.1
    ("pipeline/processes.py", "socket"),  # the name of this computer
    ("pipeline/processes.py", "subprocess"),  # ps, where there is no /proc
    ("pipeline/validate.py", "subprocess"),  # the BIDS validator, without the right to the network
    ("weights/wheels.py", "subprocess"),  # pip
}


def leads_out(path):
    """Names in a module that lead to the network."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name.split(".")[0] for name in names} & NETWORK
        found |= {name for name in names if name.startswith(("torch.hub", "sklearn.datasets", "skimage.data"))}
        called = node.func if isinstance(node, ast.Call) else None
        word = getattr(called, "attr", getattr(called, "id", ""))
        if word in CALLS or word.startswith("fetch_"):
            found.add(word)
    return found


def test_no_other_way_leads_to_the_network():
    home = ROOT / "src" / "hyperdecode"
    ways = {(path.relative_to(home).as_posix(), name) for path in SOURCES for name in leads_out(path)}
    ours = {(file, name) for file, name in ways if name in ("fetch_members", "fetch_models")}
    assert ways - ours == ALLOWED
    assert {file for file, _ in ours} == {"cli/weights.py", "features/sources.py", "weights/packages.py"}


def test_what_leads_out_is_seen(tmp_path):
    path = tmp_path / "module.py"
    for text, name in (
        ("import urllib.request", "urllib"), ("from http import client", "http"),
        ("import os; os.system('x')", "system"),
        ("from torch import hub", "torch.hub"), ("from torch.hub import load", "torch.hub"),
        ("from nilearn import datasets; datasets.fetch_surf_fsaverage()", "fetch_surf_fsaverage"),
    ):  # fmt: skip
        path.write_text(text)
        assert name in leads_out(path), text


def test_only_what_is_pinned_reaches_pip():
    calls = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if getattr(called, "attr", getattr(called, "id", "")) == "download_wheel":
                calls.append((path.name, ast.unparse(node)))
    assert sorted(name for name, _ in calls) == ["packages.py", "store.py", "store.py"]
    asked = [text for _, text in calls if text.startswith("wheels.")]
    assert len(asked) == 2 and all(".sha256" in text and ".requirement" in text for text in asked)
