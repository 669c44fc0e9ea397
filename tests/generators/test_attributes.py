"""Attribute directions: planted ones are found, conditions hold, published conditional directions come out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError
from hyperdecode.generators.attribute_store import attribute_spaces, load_attributes, save_attributes
from hyperdecode.generators.attributes import AttributeNormals, conditional_normal, extremes, fit_boundary
from hyperdecode.weights.boundaries import attributes_path, boundary_name, read_boundary

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "interfacegan-boundaries"


def unit(*values):
    vector = torch.tensor(values, dtype=torch.float32)
    return vector / vector.norm()


@pytest.fixture
def normals():
    return AttributeNormals(
        ("age", "smile"),
        torch.stack([unit(3.0, 4.0, 0.0), unit(1.0, 0.0, 0.0)]),
        torch.tensor([0.5, 0.0]),
        torch.tensor([2.0, 1.0]),
        "w",
    )


def test_scores_are_products_with_the_normals(normals):
    scores = normals.scores(torch.tensor([[1.0, 2.0, 9.0], [0.0, -1.0, 0.0]]))
    assert torch.allclose(scores, torch.tensor([[2.2, 1.0], [-0.8, 0.0]]))


def test_a_move_raises_the_score_by_its_standard_deviations(normals):
    latents = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    moved = normals.move(latents, "age", -1.5)
    assert torch.allclose(normals.scores(moved)[:, 0] - normals.scores(latents)[:, 0], torch.full((5,), -3.0))
    layers = latents[:, None].expand(5, 4, 3)
    assert torch.allclose(normals.move(layers, "age", -1.5)[:, 2], moved)


def test_what_is_kept_does_not_move(normals):
    latents = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    moved = normals.move(latents, "age", 2.0, keep=["smile"])
    change = normals.scores(moved) - normals.scores(latents)
    assert torch.allclose(change[:, 1], torch.zeros(5), atol=1e-6)
    assert torch.allclose(change[:, 0], torch.full((5,), 4 * 0.8), atol=1e-5)  # 2 x scale 2 x cosine to the plane


def test_a_direction_within_what_is_kept_is_refused(normals):
    with pytest.raises(UserError, match="span"):
        normals.direction("smile", keep=["smile"])


@pytest.mark.parametrize("call", ["move", "direction"])
def test_unknown_attributes_are_named(normals, call):
    arguments = (torch.zeros(1, 3), "beard", 1.0) if call == "move" else ("beard",)
    with pytest.raises(UserError, match=r"no attribute 'beard' in w: choose among age, smile"):
        getattr(normals, call)(*arguments)


def test_latents_of_other_dimensions_are_refused(normals):
    with pytest.raises(UserError, match="3 dimensions of w, the latents have 4"):
        normals.scores(torch.zeros(2, 4))


def test_conditional_normal_is_the_projection_that_least_squares_gives():
    generator = torch.Generator().manual_seed(1)
    normal, others = torch.randn(20, generator=generator), torch.randn(3, 20, generator=generator)
    fitted = np.linalg.lstsq(others.numpy().T, normal.numpy(), rcond=None)[0]
    rest = normal.numpy() - others.numpy().T @ fitted
    found = conditional_normal(normal, list(others)).numpy()
    assert np.allclose(found, rest / np.linalg.norm(rest), atol=1e-5)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="InterFaceGAN's boundaries are not at hand")
def test_published_conditional_directions_come_out_of_the_base_ones():
    files = sorted(PUBLISHED.glob("pggan_*_c_*.npy"))
    assert len(files) == 9
    for file in files:
        base, _, rest = boundary_name(file).partition("_c_")
        primal, *others = (
            torch.from_numpy(read_boundary(PUBLISHED / f"pggan_celebahq_{name}_boundary.npy"))
            for name in (base, *rest.split("_"))
        )
        cosine = float(conditional_normal(primal, others) @ torch.from_numpy(read_boundary(file)))
        plain = float(primal @ torch.from_numpy(read_boundary(file)))
        assert cosine > 0.9999 > plain, file.name


def test_extremes_are_the_ends():
    rows, labels = extremes(np.array([5.0, 1.0, 3.0, 2.0, 4.0, 0.0]), 0.34)
    assert rows.tolist() == [5, 1, 4, 0] and labels.tolist() == [False, False, True, True]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6])
def test_fractions_that_leave_nothing_or_overlap_are_refused(fraction):
    with pytest.raises(UserError, match="use up to"):
        extremes(np.arange(6.0), fraction)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="1 of 3 scores"):
        extremes(np.array([0.0, np.nan, 1.0]), 0.4)


def test_a_planted_direction_is_found():
    rng = np.random.default_rng(0)
    planted = rng.standard_normal(32).astype(np.float32)
    planted /= np.linalg.norm(planted)
    latents = (3 + 2 * rng.standard_normal((4000, 32))).astype(np.float32)
    labels = latents @ planted + 0.5 * rng.standard_normal(4000)
    boundary = fit_boundary(latents, labels, 0.1)
    assert np.isclose(np.linalg.norm(boundary.normal), 1, atol=1e-5)
    assert boundary.normal @ planted > 0.97
    middle = np.median(labels)
    assert abs((boundary.scores(latents) > 0).mean() - 0.5) < 0.05
    assert ((boundary.scores(latents) > 0) == (labels > middle)).mean() > 0.85


def test_labels_without_a_direction_give_none():
    rng = np.random.default_rng(0)
    latents, labels = rng.standard_normal((4000, 32)).astype(np.float32), rng.standard_normal(4000)
    boundary = fit_boundary(latents[:2000], labels[:2000], 0.1)
    rows, positive = extremes(labels[2000:], 0.1)
    assert abs(((boundary.scores(latents[2000:][rows]) > 0) == positive).mean() - 0.5) < 0.1


def test_attributes_are_kept_by_generator_and_space(normals, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    save_attributes(attributes_path("mine"), {"w": normals}, {})
    found = load_attributes("mine", "w")
    assert found.names == normals.names and found.space == "w"
    for field in ("normals", "biases", "scales"):
        assert torch.equal(getattr(found, field), getattr(normals, field))
    with pytest.raises(UserError, match="known only in w, not in z"):
        load_attributes("mine", "z")
    with pytest.raises(UserError, match="known in no latent space"):
        load_attributes("nobody", "w")


def test_the_shipped_attributes_are_unit_normals_of_the_default_generator():
    spaces = attribute_spaces("mobilestylegan-ffhq")
    assert set(spaces) == {"z", "w"}
    for found in spaces.values():
        assert found.names == ("gender", "age", "eyeglasses", "smile", "pose")
        assert torch.allclose(found.normals.norm(dim=1), torch.ones(5), atol=1e-5)
        assert (found.scales > 0).all()
