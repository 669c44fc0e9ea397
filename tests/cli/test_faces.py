"""`hyperdecode faces` and `hyperdecode attributes` as their user meets them."""

import sys
import warnings

import numpy as np
import pytest
from PIL import Image

import hyperdecode.generators
from hyperdecode.cli import main
from hyperdecode.generators import PGGAN
from hyperdecode.pipeline import boundaries


@pytest.fixture
def pggan(make_tiny_pggan_tensors):
    return PGGAN(make_tiny_pggan_tensors(), "my-pggan")


@pytest.fixture
def program(monkeypatch, capsys, tmp_path, tiny_generator, pggan):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))

    def load(name):
        return pggan if name == "my-pggan" else tiny_generator

    monkeypatch.setattr(hyperdecode.generators, "load_generator", load)
    monkeypatch.setattr(boundaries, "load_generator", load)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["hyperdecode", "--threads", "1", *map(str, words)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as leaving:
            main()
        return leaving.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def boundary(tmp_path):
    def write(name, dimensions=16):
        path = tmp_path / f"pggan_celebahq_{name}_boundary.npy"
        np.save(path, np.random.default_rng(len(name)).standard_normal((1, dimensions)))
        return path

    return write


def refused(result):
    code, _, err = result
    assert code == 2, err
    assert err.startswith("Error: ") and err.count("\n") == 1
    return err


def test_faces_are_sampled_and_not_overwritten(program, tmp_path):
    code, out, _ = program("faces", "sample", tmp_path / "out", "-n", 3)
    assert code == 0 and "3 pictures" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"strip.png", "latents.safetensors", *(f"face-{k:04d}.png" for k in range(3))}
    assert "give --force" in refused(program("faces", "sample", tmp_path / "out"))
    assert program("faces", "sample", tmp_path / "out", "--force")[0] == 0


def test_a_pggan_with_published_boundaries_is_edited(program, tmp_path, boundary):
    assert "in no latent space" in refused(program("faces", "edit", tmp_path, "--generator", "my-pggan"))
    files = [boundary("age"), boundary("gender")]
    code, out, _ = program("attributes", "import", *files, "--generator", "my-pggan")
    assert code == 0 and "gender, age in z" in out
    code, out, _ = program("attributes", "list", "--generator", "my-pggan")
    assert out.split("\t") == ["my-pggan", "z", "gender, age\n"]
    code, out, _ = program("faces", "edit", tmp_path / "e", "--generator", "my-pggan", "--steps", 3, "-n", 2)
    assert code == 0 and {path.name for path in (tmp_path / "e").iterdir()} == {"edit-age.png", "edit-gender.png"}
    code, out, _ = program(
        "faces", "edit", tmp_path / "e", "--generator", "my-pggan", "--attribute", "age", "--keep", "gender", "-n", 1
    )
    assert code == 0 and (tmp_path / "e" / "edit-age-keep-gender.png").exists()
    assert "no attribute 'beard'" in refused(
        program("faces", "edit", tmp_path / "f", "--generator", "my-pggan", "--attribute", "beard")
    )
    assert not (tmp_path / "f").exists()


def test_boundaries_that_do_not_fit_are_refused(program, boundary):
    assert "8 dimensions, my-pggan has 16" in refused(
        program("attributes", "import", boundary("age", 8), "--generator", "my-pggan")
    )
    assert "no latent space 'w'" in refused(
        program("attributes", "import", boundary("age"), "--generator", "my-pggan", "--space", "w")
    )
    assert program("attributes", "import", boundary("age"), "--generator", "my-pggan")[0] == 0
    again = ("attributes", "import", boundary("age"), "--generator", "my-pggan")
    assert "has age in z already" in refused(program(*again))
    assert program(*again, "--force")[0] == 0


def test_faces_go_from_one_seed_or_file_to_another(program, tmp_path):
    code, _, _ = program("faces", "interpolate", tmp_path / "i", "--steps", 3, "-n", 2)
    assert code == 0 and Image.open(tmp_path / "i" / "interpolation.png").width > 3 * 64
    for seed in (1, 2):
        program("faces", "sample", tmp_path / f"s{seed}", "-n", 2, "--seed", seed)
    files = [tmp_path / f"s{seed}" / "latents.safetensors" for seed in (1, 2)]
    assert program("faces", "interpolate", tmp_path / "j", "--latents", files[0], "--to", files[1])[0] == 0
    assert "together" in refused(program("faces", "interpolate", tmp_path / "k", "--latents", files[0]))


def test_a_study_that_was_not_decoded_is_refused(program, tmp_path):
    assert "no study at" in refused(program("faces", "interpolate", tmp_path / "i", "--study", tmp_path / "none"))


def test_attributes_that_are_there_are_not_fitted_anew(program, boundary):
    program("attributes", "import", boundary("age"), "--generator", "my-pggan")
    assert "give --force" in refused(program("attributes", "fit", "--generator", "my-pggan"))
