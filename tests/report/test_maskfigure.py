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
    assert Image.open(io.BytesIO(small)).size == (500, 315)
    assert 0 < reddish(small) < reddish(large)


def test_mask_with_one_voxel_or_none():
    assert reddish(mask_figure(volume(np.s_[10, 10, 10]), dpi=50)) > 0
    with pytest.raises(UserError, match="voxels in it"):
        mask_figure(volume(np.s_[0:0]))
