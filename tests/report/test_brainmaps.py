from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from hyperdecode.fmri.normalise import Anatomy, Normalisation, mni_template
from hyperdecode.report.brainmaps import draw_registration


@pytest.fixture(scope="module")
def template():
    return mni_template(4)


def straight(shift=(0.0, 0.0, 0.0)):
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return Normalisation(matrix, np.eye(4), np.zeros((2, 2, 2, 3), np.float32), np.eye(4))


def drawn(path, template, to_mni, anatomy=None):
    epi = nib.Nifti1Image(np.where(template.mask, 700.0, 50.0).astype(np.float32), template.affine)
    draw_registration(path, epi, to_mni, template, "sub-01", anatomy)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def near(what):
    """Within 8 pixels, about a voxel."""
    return np.any([np.roll(what, (i, j), (0, 1)) for i in (-8, 0, 8) for j in (-8, 0, 8)], axis=0)


def test_the_outline_lies_on_the_edge_of_the_brain_and_leaves_it_when_the_registration_is_off(tmp_path, template):
    def share_on_edge(to_mni):
        picture = drawn(tmp_path / "a.png", template, to_mni)[90:]
        red = (picture[..., 0] > 200) & (picture[..., 1] < 120) & (picture[..., 2] < 120)
        dark = picture.max(axis=2) < 40
        bright = (picture.min(axis=2) > 200) & (np.ptp(picture, axis=2) < 10)
        assert red.sum() > 2000 and dark.sum() > 2000 and bright.sum() > 20000
        return (near(dark) & near(bright))[red].mean()

    good, off = share_on_edge(straight()), share_on_edge(straight((0, 12, 12)))
    assert good > 0.8 and off < 0.6


def test_the_white_matter_of_the_t1w_is_drawn_where_there_is_one(tmp_path, template):
    anatomy = Anatomy(template.brain, template.affine, np.eye(4), np.zeros((2, 2, 2, 3), np.float32), np.eye(4))
    with_t1 = drawn(tmp_path / "a.png", template, straight(), anatomy)
    half = np.where(np.arange(template.brain.shape[2]) > 20, template.brain, 0).astype(np.float32)
    cut = drawn(
        tmp_path / "b.png",
        template,
        straight(),
        Anatomy(half, template.affine, np.eye(4), np.zeros((2, 2, 2, 3), np.float32), np.eye(4)),
    )
    blue = [((p[90:, :, 2] > 200) & (p[90:, :, 0] < 130)).sum() for p in (with_t1, cut)]
    assert blue[0] > 5000 and blue[1] < 0.8 * blue[0]


def test_a_functional_beside_the_template_is_drawn_empty(tmp_path, template):
    assert drawn(tmp_path / "a.png", template, straight((1000, 0, 0)))[90:].max() > 200
