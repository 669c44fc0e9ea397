from __future__ import annotations

import builtins

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from hyperdecode.errors import UserError
from hyperdecode.fmri.normalise import apply_affine, grid_points, mni_template, normalise, register_anatomy
from hyperdecode.fmri.realign import rigid_matrix


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
