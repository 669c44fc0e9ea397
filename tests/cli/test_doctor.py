"""What a user is told of his computer."""

import json
import shutil

import pytest

from hyperdecode.pipeline import doctor
from hyperdecode.weights.store import cached_path


@pytest.fixture
def found(called):
    """Ask the doctor: exit code, findings by name."""

    def ask():
        code, out, _ = called("doctor", "--json")
        return code, {one["what"]: one for one in json.loads(out)}

    return ask


def test_an_empty_cache_is_told_with_the_command_that_fills_it(found, called, monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))
    code, said = found()
    assert code == 0 and said["packages"]["state"] == "good" and said["Python"]["found"].startswith("3.")
    for name in ("mobilestylegan-ffhq", "face-models", "atlas"):
        assert said[name]["state"] == "hint" and said[name]["then"] == f"hyperdecode weights fetch {name}"
    assert not (tmp_path / "cache").exists(), "nothing is fetched or made"
    code, out, _ = called("doctor")
    assert code == 0 and "-> hyperdecode weights fetch atlas" in out
    assert out.splitlines()[-1] == "Next: hyperdecode demo my_demo --quick"


def test_damaged_weights_are_bad(found, face_generator, monkeypatch, tmp_path):
    whole = cached_path("mobilestylegan-ffhq")
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    cached_path("mobilestylegan-ffhq").parent.mkdir()
    shutil.copy(whole, cached_path("mobilestylegan-ffhq"))
    assert found()[1]["mobilestylegan-ffhq"]["state"] == "good"
    with cached_path("mobilestylegan-ffhq").open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"harm")
    code, said = found()
    assert code == 1 and said["mobilestylegan-ffhq"]["state"] == "bad"
    assert said["mobilestylegan-ffhq"]["then"] == "hyperdecode weights fetch mobilestylegan-ffhq"


def test_parts_that_are_not_installed_and_packages_that_are_too_old(found, monkeypatch):
    given = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "0.1" if name in ("dipy", "numpy") else given(name))
    code, said = found()
    assert code == 1 and "numpy is 0.1, not >=" in said["packages"]["found"]
    assert said["extra register"]["state"] == "hint" and "dipy is 0.1" in said["extra register"]["found"]
    assert said["extra register"]["then"].endswith("pip install 'hyperdecode[register]'")
    assert said["extra dask"]["state"] == "good"


def test_idle_cores_full_disks_and_little_memory_are_told(found, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 8)
    monkeypatch.setattr(doctor, "available_memory", lambda _: 10**9)
    monkeypatch.setattr(doctor, "DEMO_BYTES", 10**18)
    code, said = found()
    assert code == 0
    assert {name for name in ("processor", "memory", "this folder") if said[name]["state"] == "hint"} == {
        "processor",
        "memory",
        "this folder",
    }
    assert "OMP_NUM_THREADS=1 keeps the others idle" in said["processor"]["then"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("HYPERDECODE_MEMORY_GB", "lots")
    code, said = found()
    assert code == 1 and said["cache"]["state"] == said["memory"]["state"] == "bad"
    assert "HYPERDECODE_MEMORY_GB is 'lots'" in said["memory"]["found"]
