from __future__ import annotations

import builtins

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from hyperdecode.errors import UserError
from hyperdecode.fmri.grids import Volume, read_volume
from hyperdecode.fmri.mutualinfo import Level, climb, draw_samples, mutual_information
from hyperdecode.fmri.normalise import (
    Anatomy,
    apply_affine,
    epi_template,
    grid_points,
    mni_template,
    normalise,
    register_anatomy,
    register_epi,
)
from hyperdecode.fmri.realign import rigid_matrix

STILL = np.zeros((2, 2, 2, 3), np.float32)


@pytest.fixture(scope="module")
def template():
    return mni_template(4)


@pytest.fixture(scope="module")
def anatomy(template):
    """A T1w that is the template."""
    return Anatomy(template.brain, template.affine, np.eye(4), STILL, np.eye(4))


@pytest.fixture(scope="module")
def epi():
    """A functional in the template's place: its own contrast, uneven, noisy, its lowest part not in view."""
    template = epi_template(4)
    y = np.linspace(-1, 1, template.brain.shape[1])[None, :, None]
    values = 1000 * template.brain * (1 + 0.2 * y) + np.random.default_rng(0).normal(30, 15, template.brain.shape)
    affine = template.affine.copy()
    affine[:3, 3] = template.affine[:3] @ [0, 0, 8, 1]
    return nib.Nifti1Image(values[:, :, 8:].astype(np.float32), affine)


def brain_points(template):
    return grid_points(template.mask.shape, template.affine)[template.mask.ravel()][::13]


@pytest.mark.parametrize("seed", range(4))
def test_the_rigid_step_does_not_depend_on_where_it_starts(epi, anatomy, template, seed):
    """From 20 mm and 15 degrees away in any direction it comes back to the same place."""
    rng = np.random.default_rng(seed)
    shift, turn = rng.standard_normal((2, 3))
    away = rigid_matrix(
        [*(20 * shift / np.linalg.norm(shift)), *(np.radians(15) * turn / np.linalg.norm(turn))], [0, -20, 10]
    )
    found = normalise(nib.Nifti1Image(np.asarray(epi.dataobj), away @ epi.affine), anatomy)
    points = brain_points(template)
    error = np.linalg.norm(found.to_epi(points) - apply_affine(away, points), axis=1)
    assert error.mean() < 0.7 and error.max() < 1.5


@pytest.fixture(scope="module")
def straight(epi, anatomy, template):
    return normalise(epi, anatomy).to_epi(brain_points(template))


def turned(image, code):
    """The same image with its axes in another order and direction."""
    now = nib.orientations.io_orientation(image.affine)
    wanted = nib.orientations.axcodes2ornt(code)
    out = image.as_reoriented(nib.orientations.ornt_transform(now, wanted))
    assert "".join(nib.aff2axcodes(out.affine)) == code
    return out


@pytest.mark.parametrize("code", ["LAS", "PIR"])
def test_flipped_functionals_give_the_same_answer(epi, anatomy, template, straight, code):
    found = normalise(turned(epi, code), anatomy).to_epi(brain_points(template))
    np.testing.assert_allclose(found, straight, atol=1e-3)


def test_every_image_is_turned_the_same_way_before_it_is_looked_at(epi):
    plain = read_volume(epi, "it")
    for code in ("LAS", "LPI", "PSR", "SAL"):
        other = read_volume(turned(epi, code), "it")
        np.testing.assert_array_equal(other.values, plain.values)
        np.testing.assert_allclose(other.affine, plain.affine, atol=1e-9)


def test_an_oblique_functional_gives_the_same_answer(epi, anatomy, template, straight):
    tilt = rigid_matrix([3, -8, 5, 0.3, 0.05, -0.1], [0, 0, 0])
    oblique = nib.Nifti1Image(np.asarray(epi.dataobj), tilt @ epi.affine)
    found = normalise(oblique, anatomy).to_epi(brain_points(template))
    assert np.linalg.norm(found - apply_affine(tilt, straight), axis=1).max() < 0.1


def test_the_gradient_of_mutual_information(epi, template):
    still = Volume(np.asarray(epi.dataobj), epi.affine)
    samples = draw_samples(still, still.values > 100, Volume(template.brain, template.affine), Level(4.0, 3000))
    matrix = rigid_matrix([2, -3, 4, 0.05, -0.02, 0.03], [0, 0, 0])
    _, slope = mutual_information(samples, matrix)
    for row, column in ((0, 0), (1, 2), (2, 1), (0, 3), (2, 3)):
        step = 1e-3 if column == 3 else 1e-5
        ends = []
        for sign in (1, -1):
            moved = matrix.copy()
            moved[row, column] += sign * step
            ends.append(mutual_information(samples, moved)[0])
        assert slope[row, column] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02, abs=2e-4)


def test_mutual_information_of_an_image_with_itself_is_its_entropy_and_with_noise_next_to_nothing(template):
    still = Volume(template.brain, template.affine)
    noise = Volume(np.random.default_rng(0).random(template.brain.shape, np.float32), template.affine)
    level = Level(1.0, 20_000)
    itself = mutual_information(draw_samples(still, template.mask, still, level), np.eye(4))[0]
    assert itself > 1.0
    assert mutual_information(draw_samples(still, template.mask, noise, level), np.eye(4))[0] < 0.05


def test_an_affine_is_found(template):
    truth = rigid_matrix([4, -6, 3, 0.06, -0.03, 0.05], [0, 0, 0]) @ np.diag([1.08, 0.95, 1.04, 1.0])
    moved = Volume(template.brain, truth @ template.affine)
    samples = draw_samples(Volume(template.brain, template.affine), template.mask, moved, Level(2.0, 8000))
    found, _ = climb(samples, np.eye(4), "affine")
    points = brain_points(template)
    assert np.linalg.norm(apply_affine(found, points) - apply_affine(truth, points), axis=1).max() < 0.5


def test_without_a_t1w_the_functional_finds_the_template_of_its_own_contrast(epi, template):
    truth = rigid_matrix([6, -10, 8, 0.12, -0.05, 0.08], [0, -20, 10]) @ np.diag([1.06, 0.97, 1.04, 1.0])
    subject = nib.Nifti1Image(np.asarray(epi.dataobj), truth @ epi.affine)
    found = register_epi(subject, epi_template(4))
    points = brain_points(template)
    inside = points[:, 2] > -35
    error = np.linalg.norm(found.to_epi(points) - apply_affine(truth, points), axis=1)[inside]
    before = np.linalg.norm(points - apply_affine(truth, points), axis=1)[inside]
    assert before.mean() > 10 and error.mean() < 2.0 and np.percentile(error, 95) < 5.0
    np.testing.assert_array_equal(found.epi_from_t1, np.eye(4))
    np.testing.assert_array_equal(found.to_epi(points), found.to_t1(points))


def test_a_head_of_known_position_is_found():
    """A head made of the template (brain, dark gap, bright scalp), moved and scaled; an EPI of other contrast."""
    template = mni_template(2)
    distance = ndimage.distance_transform_edt(~template.mask) * 2.0
    noise = np.random.default_rng(0).normal(0, 3, template.mask.shape)
    head = np.where(template.mask, 30 + 60 * template.brain / template.brain.max(), 0.0) + noise
    head[(distance > 6) & (distance < 12)] = 45
    t1_from_template = rigid_matrix([12, -20, 15, 0.12, -0.05, 0.08], [0, 0, 0]) @ np.diag([1.06, 1.03, 1.08, 1.0])
    epi_from_t1 = rigid_matrix([-8, 30, 25, -0.1, 0.04, 0.05], [0, 0, 0])

    def sampled(values, template_from_here, shape, affine):
        at = apply_affine(np.linalg.inv(template.affine) @ template_from_here, grid_points(shape, affine)).T
        return nib.Nifti1Image(ndimage.map_coordinates(values, at, order=1).reshape(shape).astype(np.float32), affine)

    t1_affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    t1_affine[:3, 3] = [125, -170, -90]
    t1 = sampled(head, np.linalg.inv(t1_from_template), (120, 140, 120), t1_affine)
    brain = np.where(template.mask, 900 - 500 * template.brain / template.brain.max(), 0.0)
    epi_affine = np.diag([-5.0, 5.0, 5.0, 1.0])
    epi_affine[:3, 3] = [110, -130, -70]
    epi_to_template = np.linalg.inv(t1_from_template) @ np.linalg.inv(epi_from_t1)
    epi = sampled(ndimage.gaussian_filter(brain, 0.8), epi_to_template, (45, 49, 42), epi_affine)

    anatomy = register_anatomy(t1, mni_template(4))
    found = normalise(epi, anatomy)
    points = grid_points(template.mask.shape, template.affine)[template.mask.ravel()][::301]
    truth_t1 = apply_affine(t1_from_template, points)
    error_t1 = np.linalg.norm(found.to_t1(points) - truth_t1, axis=1)
    error_epi = np.linalg.norm(apply_affine(found.epi_from_t1, truth_t1) - apply_affine(epi_from_t1, truth_t1), axis=1)
    assert np.median(error_t1) < 2.0 and np.percentile(error_t1, 95) < 5.0
    assert error_epi.max() < 3.0
    volume = (anatomy.brain > 0).sum() * abs(np.linalg.det(anatomy.affine[:3, :3])) / 1000
    assert volume == pytest.approx(template.mask.sum() * 8e-3 * 1.06 * 1.03 * 1.08, rel=0.06)


def test_unusable_images(monkeypatch):
    good = nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(UserError, match="must be a 3D image"):
        register_anatomy(nib.Nifti1Image(np.ones((4, 4, 4, 5), np.float32), np.eye(4)))
    with pytest.raises(UserError, match="all zeros"):
        register_anatomy(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)))
    with pytest.raises(UserError, match="from 1 to 8"):
        mni_template(9)

    real = builtins.__import__

    def without_dipy(name, *args, **kwargs):
        if name.startswith("dipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_dipy)
    with pytest.raises(UserError, match=r"pip install 'hyperdecode\[register\]'"):
        register_anatomy(good)
