import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import sha256_file
from hyperdecode.weights import store
from hyperdecode.weights.store import SOURCES, cache_dir, cached_path, fetch, load_tensors, tensors_digest

NAME = "mobilestylegan-ffhq"
PRECIOUS = b"what stood there before"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def small_wheel(mobilestylegan_ir, tmp_path_factory):
    """A wheel of the pinned one's layout that holds the tiny generator; its code must never run."""
    path = tmp_path_factory.mktemp("small") / "random_face-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for part, ir in zip(("Mapping", "Synthesis"), mobilestylegan_ir, strict=True):
            archive.writestr(f"random_face/data/{part}Network.xml", ir.xml)
            archive.writestr(f"random_face/data/{part}Network.bin", ir.bin)
        archive.writestr("random_face/__init__.py", "raise SystemExit('imported')")
    return path


@pytest.fixture
def small(cache, small_wheel, make_tiny_tensors, monkeypatch):
    """Pin the small wheel in place of the real one, as if the index held it."""
    with zipfile.ZipFile(small_wheel) as archive:
        digest = tensors_digest(SOURCES[NAME].convert(archive))
    source = replace(SOURCES[NAME], filename=small_wheel.name, sha256=sha256_file(small_wheel), tensors_sha256=digest)
    monkeypatch.setitem(SOURCES, NAME, source)
    monkeypatch.setattr(store, "download_wheel", lambda source, folder: small_wheel)
    return source


def test_fetch_then_load(small, make_tiny_tensors):
    path = fetch(NAME)
    assert path == cached_path(NAME) and path.suffix == ".safetensors"
    loaded = load_tensors(NAME)
    expected = make_tiny_tensors()
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(loaded[name], value.numpy(), rtol=1e-6)
    assert "random_face" not in sys.modules
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_is_cached_is_not_downloaded_again(small, monkeypatch):
    path = fetch(NAME)
    stamp = path.stat().st_mtime_ns
    monkeypatch.setattr(store, "download_wheel", lambda *_: pytest.fail("asked the index again"))
    assert fetch(NAME) == path and path.stat().st_mtime_ns == stamp
    load_tensors(NAME)


def test_load_fetches_when_nothing_is_cached(small):
    assert load_tensors(NAME)
    assert cached_path(NAME).exists()


def test_from_a_file(small, small_wheel, monkeypatch):
    monkeypatch.setattr(store, "download_wheel", lambda *_: pytest.fail("asked the index"))
    assert fetch(NAME, from_file=small_wheel).exists()
    load_tensors(NAME)


def harmed(small_wheel, tmp_path, content):
    path = tmp_path / small_wheel.name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "harm", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:1000] + b"\0" + b[1001:]]
)
def test_a_file_that_is_not_the_pinned_one(small, small_wheel, tmp_path, harm):
    path = harmed(small_wheel, tmp_path, harm(small_wheel.read_bytes()))
    with pytest.raises(WeightFileError, match="not the pinned") as error:
        fetch(NAME, from_file=path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert "--from" in str(error.value) and small.filename in str(error.value)
    assert not cached_path(NAME).exists()


def test_a_bad_file_leaves_the_cache_alone(small, small_wheel, tmp_path):
    path = fetch(NAME)
    before = path.read_bytes()
    with pytest.raises(WeightFileError):
        fetch(NAME, from_file=harmed(small_wheel, tmp_path, b"zip"), force=True)
    assert path.read_bytes() == before


def test_tensors_other_than_the_pinned_ones_are_not_kept(small, monkeypatch):
    monkeypatch.setitem(SOURCES, NAME, replace(small, tensors_sha256="0" * 64))
    with pytest.raises(WeightFileError, match="not those pinned"):
        fetch(NAME)
    assert not cached_path(NAME).exists()


def test_a_wheel_without_the_networks(small, tmp_path, monkeypatch):
    path = tmp_path / "other.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("random_face/data/MappingNetwork.xml", "<net/>")
    monkeypatch.setitem(SOURCES, NAME, replace(small, sha256=sha256_file(path)))
    with pytest.raises(WeightFileError, match=r"no member random_face/data/MappingNetwork\.bin"):
        fetch(NAME, from_file=path)


def test_a_member_larger_than_any_network(small, small_wheel, monkeypatch):
    monkeypatch.setattr(store, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(WeightFileError, match="more than 1000"):
        fetch(NAME, from_file=small_wheel)


@pytest.mark.parametrize("harm", [lambda b: b[:-3], lambda b: b"", lambda b: b"\xff" * 40, lambda b: b[8:]])
def test_a_damaged_cache(small, harm):
    path = fetch(NAME)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(WeightFileError, match=f"weights fetch {NAME} --force") as error:
        load_tensors(NAME)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(WeightFileError):
        fetch(NAME)
    fetch(NAME, force=True)
    load_tensors(NAME)


def altered(tensors):
    tensors["mapping.1.bias"][0] += 1e-3


def renamed(tensors):
    tensors["mapping.9.bias"] = tensors.pop("mapping.1.bias")


def reshaped(tensors):
    tensors["mapping.1.bias"] = tensors["mapping.1.bias"][None]


@pytest.mark.parametrize("harm", [altered, renamed, reshaped])
def test_altered_tensors_in_the_cache(small, harm):
    path = fetch(NAME)
    tensors = load_file(path)
    harm(tensors)
    save_file(tensors, path)
    with pytest.raises(WeightFileError, match="does not hold the pinned weights"):
        load_tensors(NAME)


@pytest.mark.usefixtures("cache", "offline")
@pytest.mark.parametrize("ask", [fetch, load_tensors])
def test_no_network_and_an_empty_cache(ask):
    with pytest.raises(UserError) as error:
        ask(NAME)
    message = str(error.value)
    assert "\n" not in message and message.startswith("cannot download random-face==2021.7.21.1 (")
    assert "random_face-2021.7.21.1-py3-none-any.whl" in message and "37.6 MB" in message
    assert "pip download --no-deps random-face==2021.7.21.1" in message
    assert f"hyperdecode weights fetch {NAME} --from random_face" in message
    assert not cached_path(NAME).exists()


@pytest.mark.usefixtures("offline")
def test_an_index_that_serves_another_file(cache, tmp_path, monkeypatch, small_wheel):
    """Pip itself refuses it; the reason given says so."""
    wrong = tmp_path / "links" / SOURCES[NAME].filename
    wrong.parent.mkdir()
    with zipfile.ZipFile(small_wheel) as old, zipfile.ZipFile(wrong, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        info = "random_face-2021.7.21.1.dist-info"
        new.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: random-face\nVersion: 2021.7.21.1\n")
        new.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        new.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wrong.parent))
    with pytest.raises(UserError, match="DO NOT MATCH THE HASHES") as error:
        fetch(NAME)
    assert "\n" not in str(error.value) and not cached_path(NAME).exists()


def test_no_such_file(small, tmp_path):
    for path in (tmp_path / "nowhere.whl", tmp_path):
        with pytest.raises(UserError, match="no file"):
            fetch(NAME, from_file=path)


@pytest.mark.parametrize("ask", [fetch, load_tensors, cached_path])
def test_unknown_names(ask):
    with pytest.raises(UserError, match=f"by the name 'biggan': choose among {NAME}"):
        ask("biggan")
    with pytest.raises(UserError, match=r"by the name '\.\./x'"):
        ask("../x")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    assert cached_path(NAME) == tmp_path / "weights" / f"{NAME}.safetensors"
    monkeypatch.setenv("HYPERDECODE_CACHE", "~/somewhere")
    assert cache_dir() == Path.home() / "somewhere"
    monkeypatch.delenv("HYPERDECODE_CACHE")
    assert "hyperdecode" in cache_dir().parts


def test_a_cache_that_cannot_be_written(small, cache):
    cache.write_bytes(PRECIOUS)
    with pytest.raises(UserError, match="set HYPERDECODE_CACHE to a folder you can write"):
        fetch(NAME)
    assert cache.read_bytes() == PRECIOUS


def test_the_digest_sees_name_shape_and_value():
    base = {"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    others = [
        {"a": np.ones((3, 2), np.float32), "b": base["b"]},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"], "b": np.array([0, 1e-30], np.float32)},
        {"a": base["a"]},
    ]
    digests = {tensors_digest(t) for t in (base, *others)}
    assert len(digests) == 5
    assert tensors_digest(dict(reversed(base.items()))) == tensors_digest(base)


def test_the_real_wheel_gives_the_pinned_tensors(wheel, cache):
    path = fetch(NAME, from_file=wheel)
    assert load_tensors(NAME)["mapping.0.weight"].shape == (512, 512)
    assert path.is_relative_to(cache) and "random_face" not in sys.modules
