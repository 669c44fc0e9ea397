import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.report.maskfigure import mask_figure


def volume(inside):
    values = np.zeros((20, 24, 18), np.uint8)
    values[inside] = 1
    return nib.Nifti1Image(
        values, np.diag([8.0, 8, 8, 1]) + np.array([[0, 0, 0, -80], [0, 0, 0, -110], [0, 0, 0, -60], [0] * 4])
    )


def reddish(png):
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return (picture[..., 0] - picture[..., 2] > 60).sum()


@pytest.mark.parametrize("background", [None, "mean"])
def test_mask_is_drawn_and_a_larger_mask_covers_more(background):
    img = None
    if background:
        img = nib.Nifti1Image(np.random.default_rng(0).uniform(1, 2, (20, 24, 18)).astype(np.float32), volume(0).affine)
    small = mask_figure(volume(np.s_[4:6, 5:7, 6:8]), img, dpi=50)
    large = mask_figure(volume(np.s_[4:14, 5:15, 6:14]), img, dpi=50)
    # Only a mask in the template's space can be seen through a glass brain, a fourth row.
    assert Image.open(io.BytesIO(small)).size == (500, 315 if background else 420)
    assert 0 < reddish(small) < reddish(large)


def test_mask_with_one_voxel_or_none():
    assert reddish(mask_figure(volume(np.s_[10, 10, 10]), dpi=50)) > 0
    with pytest.raises(UserError, match="voxels in it"):
        mask_figure(volume(np.s_[0:0]))


def test_the_glass_brain_is_a_choice():
    img = nib.Nifti1Image(np.random.default_rng(0).uniform(1, 2, (20, 24, 18)).astype(np.float32), volume(0).affine)
    mask = volume(np.s_[4:10, 5:10, 6:10])
    shut, seen = (mask_figure(mask, img, dpi=50, glass_brain=choice) for choice in (False, True))
    assert Image.open(io.BytesIO(seen)).size[1] > Image.open(io.BytesIO(shut)).size[1]
    assert reddish(seen) > reddish(shut)


def test_what_lies_around_the_head_is_left_white_on_an_oblique_grid():
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[1, 0, 0, -80], [0, c, -s, -60], [0, s, c, -90], [0, 0, 0, 1]]) @ np.diag([8.0, 8, 8, 1])
    head = np.indices((20, 24, 18)) - np.array([10, 12, 9])[:, None, None, None]
    inside = (head**2).sum(axis=0) < 49
    values = np.where(inside, 1000.0, 40.0) + np.random.default_rng(0).normal(0, 10, inside.shape)
    mask = nib.Nifti1Image((np.abs(head).max(axis=0) < 3).astype(np.uint8), turn)
    drawn = np.asarray(
        Image.open(io.BytesIO(mask_figure(mask, nib.Nifti1Image(values.astype(np.float32), turn), dpi=60))).convert("L")
    )
    # A ball fills pi / 4 of its box, and boxes do not fill the page.
    assert (drawn == 255).mean() > 0.35
    assert reddish(mask_figure(mask, nib.Nifti1Image(values.astype(np.float32), turn), dpi=60)) > 200
    with pytest.raises(UserError, match="one 3D volume"):
        mask_figure(mask, nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), turn))
