"""The subject's T1w: where its brain is, and the way to it from the template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hyperdecode.fmri.grids import Volume, carry, downsample, grid_points, inverse, read_volume, shift
from hyperdecode.fmri.mutualinfo import Level, best_start, climb, draw_samples, tilted_starts
from hyperdecode.fmri.template import Template, mni_template
from hyperdecode.fmri.warp import find_warp, require_dipy

__all__ = ["Anatomy", "register_anatomy"]

FloatArray = NDArray[np.float64]

HEAD_MM = 170.0
COARSE, MIDDLE, FINE = Level(4.0, 4_000), Level(2.0, 15_000), Level(1.0, 40_000)


@dataclass(frozen=True)
class Anatomy:
    """A subject's T1w, brain only, and the way to it from the template.

    Attributes
    ----------
    brain : ndarray of float32, shape (x, y, z)
        T1w at about 1.5 mm, 0 outside the brain.
    affine : ndarray, shape (4, 4)
        Voxel to T1w mm.
    t1_from_template, warp, warp_affine : ndarray
        As in `Normalisation`.
    """

    brain: NDArray[np.float32]
    affine: FloatArray
    t1_from_template: FloatArray
    warp: NDArray[np.float32]
    warp_affine: FloatArray


def register_anatomy(t1w: Any, template: Template | None = None) -> Anatomy:
    """Register the template to a T1w; done once for all runs of a subject.

    1. Template to T1w, mutual information inside the template's brain: rigid from several tilts about the centre of
       the upper 170 mm of the head (so a neck in the picture does no harm), the best of them affine.
    2. Brain of the T1w: the template's brain carried there, without CSF and with small bridges opened.
    3. Template to that brain, affine again, then symmetric diffeomorphic (SyN) with local cross-correlation.

    Parameters
    ----------
    t1w : nibabel spatial image, 3D
        Skull on; may be defaced.
    template : Template, optional
        Default: `mni_template(2)`.

    Returns
    -------
    Anatomy

    Raises
    ------
    UserError
        When dipy is missing, or the image is not 3D or is empty.

    References
    ----------
    Avants BB, Epstein CL, Grossman M, Gee JC (2008). Symmetric diffeomorphic image registration with
    cross-correlation. Medical Image Analysis 12, 26-41. Implementation: DIPY (Garyfallidis et al. 2014).
    """
    require_dipy()
    fixed = template or mni_template(2)
    t1 = downsample(read_volume(t1w, "the T1w"), 1.5)
    still = Volume(fixed.brain, fixed.affine)
    around = ndimage.binary_dilation(fixed.mask, iterations=2)
    centre = still.centre(fixed.mask)
    coarse = draw_samples(still, around, t1, COARSE)
    matrix = best_start(coarse, tilted_starts(shift(_head_centre(t1) - centre), centre))
    matrix, _ = climb(coarse, matrix, "affine")
    matrix, _ = climb(draw_samples(still, around, t1, MIDDLE), matrix, "affine")
    rough = carry(fixed.mask, fixed.affine, inverse(matrix), t1.values.shape, t1.affine) > 0.5
    stripped = t1.masked(_brain(t1.values, rough))
    for level in (MIDDLE, FINE):
        matrix, _ = climb(draw_samples(still, around, stripped, level), matrix, "affine")
    return Anatomy(stripped.values, stripped.affine, matrix, *find_warp(fixed, stripped, matrix))


def _head_centre(t1: Volume) -> FloatArray:
    """Centre, in mm, of the head from its top to 170 mm below."""
    from skimage.filters import threshold_otsu

    points = grid_points(t1.values.shape, t1.affine)[(t1.values > threshold_otsu(t1.values)).ravel()]
    top = np.percentile(points[:, 2], 99.9)
    centre: FloatArray = points[points[:, 2] > top - HEAD_MM].mean(axis=0)
    return centre


def _brain(t1: NDArray[np.float32], rough: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the tissue inside a rough brain mask: brighter than CSF, bridges to the skull opened, holes filled.

    Three classes (dark, grey, white) are told apart: a single threshold falls between grey and white matter, and a
    brain without its cortex makes the warp push everything outwards.
    """
    from skimage.filters import threshold_multiotsu

    room = ndimage.binary_dilation(rough, iterations=2)
    dark = threshold_multiotsu(np.clip(t1[room], 0, np.percentile(t1[room], 99)), classes=3)[0]
    tissue = room & (t1 > dark)
    opened = ndimage.binary_opening(tissue)
    labels, n = ndimage.label(opened)
    if n == 0:
        return rough
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    grown = ndimage.binary_dilation(largest, iterations=2) & tissue
    closed = ndimage.binary_closing(np.pad(grown, 6), iterations=5)[6:-6, 6:-6, 6:-6]
    return np.asarray(ndimage.binary_fill_holes(closed | grown))
