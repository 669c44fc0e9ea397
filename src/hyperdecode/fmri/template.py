"""The MNI templates that ship with nilearn: T1 contrast, and the contrast of a mean functional."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError

__all__ = ["TEMPLATE_SPACE", "Template", "epi_template", "mni_template"]

FloatArray = NDArray[np.float64]

TEMPLATE_SPACE = "MNI152NLin2009aSym"
"""nilearn's `load_mni152_template`: ICBM 152 2009a nonlinear symmetric, T1, brain only."""

GREY, WHITE, FLUID = 0.75, 0.6, 1.0
"""Relative brightness of the tissues in T2*-weighted EPI."""


@dataclass(frozen=True)
class Template:
    """A brain-only template on a grid.

    Attributes
    ----------
    brain : ndarray of float32, shape (x, y, z)
        Intensities, 0 outside the brain.
    mask : ndarray of bool, shape (x, y, z)
        The brain.
    affine : ndarray of float64, shape (4, 4)
        Voxel to mm.
    """

    brain: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: FloatArray


def mni_template(voxel_size: int = 2) -> Template:
    """Return nilearn's ICBM 152 2009 T1 template and brain mask at `voxel_size` mm.

    Raises
    ------
    UserError
        When the voxel size is not a whole number from 1 to 8.
    """
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    if voxel_size != int(voxel_size) or not 1 <= voxel_size <= 8:
        raise UserError(f"the voxel size of the output must be a whole number of mm from 1 to 8, got {voxel_size}")
    voxel_size = int(voxel_size)
    brain = load_mni152_template(resolution=voxel_size)
    mask = load_mni152_brain_mask(resolution=voxel_size)
    inside = np.asarray(mask.dataobj) > 0
    values = np.where(inside, np.asarray(brain.dataobj, dtype=np.float32), np.float32(0))
    return Template(values, inside, np.asarray(brain.affine, dtype=np.float64))


def epi_template(voxel_size: int = 2) -> Template:
    """Return a template with the contrast of EPI: ``0.75 GM + 0.6 WM + CSF``, from nilearn's tissue maps.

    CSF is what of the brain mask is neither grey nor white matter.

    Raises
    ------
    UserError
        As `mni_template`.
    """
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

    t1 = mni_template(voxel_size)
    grey, white = (
        np.asarray(load(resolution=int(voxel_size)).dataobj, dtype=np.float32)
        for load in (load_mni152_gm_template, load_mni152_wm_template)
    )
    fluid = np.clip(1 - grey - white, 0, 1)
    values = np.where(t1.mask, GREY * grey + WHITE * white + FLUID * fluid, 0)
    return Template(values.astype(np.float32), t1.mask, t1.affine)
