"""Strips of faces: what is drawn, from which latents, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hyperdecode.errors import UserError
from hyperdecode.generators.attributes import AttributeNormals
from hyperdecode.pipeline import faces
from hyperdecode.report.strips import GAP
from hyperdecode.stimuli.pictures import to_uint8

SIDE = 64


def quiet(*_):
    pass


def cell(path, row, column, n_rows, n_columns):
    """Return one picture of a strip."""
    sheet = np.asarray(Image.open(path))
    y, x = sheet.shape[0] - (n_rows - row) * (SIDE + GAP), sheet.shape[1] - (n_columns - column) * (SIDE + GAP)
    return sheet[y : y + SIDE, x : x + SIDE]


def drawn(generator, latent, space="w"):
    return to_uint8(generator.images(latent[None], space=space))[0]


@pytest.fixture
def some(tiny_generator):
    return faces.sampled_faces(tiny_generator, 2, 4, 0.7)


def test_sampled_faces_are_written_with_their_latents(tiny_generator, some, tmp_path):
    strip = faces.sample(tmp_path, tiny_generator, some, None, quiet)
    latents = load_file(tmp_path / "latents.safetensors")["w"]
    assert torch.equal(latents, tiny_generator.to_w(tiny_generator.sample(2, 4), 0.7))
    for k in range(2):
        picture = drawn(tiny_generator, latents[k])
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"face-{k:04d}.png")), picture)
        assert np.array_equal(cell(strip, 0, k, 1, 2), picture)
    again = faces.read_faces(tmp_path / "latents.safetensors", tiny_generator)
    assert again.space == "w" and torch.equal(again.latents, latents)


def test_generators_without_w_are_sampled_in_z(tiny_generator):
    only_z = SimpleNamespace(spaces=("z",), sample=tiny_generator.sample)
    drawn_faces = faces.sampled_faces(only_z, 2, 4, 0.7)
    assert drawn_faces.space == "z" and torch.equal(drawn_faces.latents, tiny_generator.sample(2, 4))


def test_an_edit_moves_the_face_by_standard_deviations(tiny_generator, some, tmp_path):
    normal = torch.zeros(16)
    normal[3] = 1
    normals = AttributeNormals(("age",), normal[None], torch.zeros(1), torch.tensor([0.5]), "w")
    strip = faces.edit(tmp_path, tiny_generator, some, normals, "age", [-2.0, 0.0, 2.0], (), quiet)
    assert strip.name == "edit-age.png"
    for row in range(2):
        for column, step in enumerate((-1.0, 0.0, 1.0)):
            expected = drawn(tiny_generator, some.latents[row] + step * normal)
            assert np.array_equal(cell(strip, row, column, 2, 3), expected)


def test_an_interpolation_goes_straight(tiny_generator, some, tmp_path):
    last = faces.sampled_faces(tiny_generator, 2, 5, 0.7)
    strip = faces.interpolate(tmp_path, tiny_generator, some, last, 3, ("from", "to"), quiet)
    for row in range(2):
        a, b = some.latents[row], last.latents[row]
        for column, latent in enumerate((a, (a + b) / 2, b)):
            difference = cell(strip, row, column, 2, 3).astype(int) - drawn(tiny_generator, latent)
            assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("first", "last", "steps", "words"),
    [
        ((2, "w"), (3, "w"), 3, "2 latents in w to 3 in w"),
        ((2, "w"), (2, "z"), 3, "2 latents in w to 2 in z"),
        ((2, "w"), (2, "w"), 1, "1 steps"),
    ],
)
def test_ways_that_lead_nowhere_are_refused(tiny_generator, tmp_path, first, last, steps, words):
    ends = [faces.Faces(("a",) * n, torch.zeros(n, 16), space) for n, space in (first, last)]
    with pytest.raises(UserError, match=words):
        faces.interpolate(tmp_path, tiny_generator, *ends, steps, ("a", "b"), quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x": torch.zeros(2, 16)}, r"holds \['x'\], expected latents named z or w"),
        ({"w": torch.zeros(2, 15)}, r"shape \(2, 15\), expected finite latents \(n, 16\)"),
        ({"w": torch.full((2, 16), torch.nan)}, "expected finite"),
        (None, "no readable safetensors"),
    ],
)
def test_other_files_are_refused(tiny_generator, tmp_path, tensors, words):
    path = tmp_path / "latents.safetensors"
    if tensors is None:
        path.write_bytes(b"\x80\x04cos\nsystem\n")
    else:
        save_file(tensors, path)
    with pytest.raises(UserError, match=words):
        faces.read_faces(path, tiny_generator)


def test_an_absent_file_is_named(tiny_generator, tmp_path):
    with pytest.raises(UserError, match="no file"):
        faces.read_faces(tmp_path / "none.safetensors", tiny_generator)
