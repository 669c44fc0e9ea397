"""From the mean functional to MNI space: mean EPI - T1w (rigid), T1w - template (affine, then diffeomorphic).

Without a T1w the mean EPI is registered to a template of its own contrast.

Every transform here maps points, in mm, from where a value is wanted to where it is taken: template point to T1w
point to point in the mean functional. `hyperdecode.fmri.realign` adds the last link, to each volume, so that a
BOLD value is interpolated once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, ndimage

from hyperdecode.fmri.anatomy import Anatomy, register_anatomy
from hyperdecode.fmri.grids import Volume, apply_affine, carry, grid_points, inverse, read_volume, shift
from hyperdecode.fmri.mutualinfo import Level, best_start, climb, draw_samples, tilted_starts
from hyperdecode.fmri.template import TEMPLATE_SPACE, Template, epi_template, mni_template
from hyperdecode.fmri.warp import find_warp, require_dipy

__all__ = [
    "TEMPLATE_SPACE",
    "Anatomy",
    "Normalisation",
    "Template",
    "apply_affine",
    "epi_mask",
    "epi_template",
    "grid_points",
    "mni_template",
    "normalise",
    "register_anatomy",
    "register_epi",
]

FloatArray = NDArray[np.float64]

COARSE, MIDDLE, FINE = Level(4.0, 4_000), Level(2.0, 15_000), Level(1.0, 40_000)


@dataclass(frozen=True)
class Normalisation:
    """How to get from a template point to the T1w and to the mean functional.

    Attributes
    ----------
    epi_from_t1 : ndarray, shape (4, 4)
        Rigid; T1w mm to mean functional mm. The identity where there is no T1w.
    t1_from_template : ndarray, shape (4, 4)
        Affine; (warped) template mm to T1w mm.
    warp : ndarray, shape (x, y, z, 3)
        Displacement in mm at each voxel of the registration grid, added to a template point before the affine.
    warp_affine : ndarray, shape (4, 4)
        Voxel of the registration grid to template mm.
    """

    epi_from_t1: FloatArray
    t1_from_template: FloatArray
    warp: NDArray[np.float32]
    warp_affine: FloatArray

    def to_t1(self, points: ArrayLike) -> FloatArray:
        """Return T1w points for template `points`, both (n, 3) in mm."""
        at = np.asarray(points, dtype=np.float64)
        voxels = apply_affine(np.linalg.inv(self.warp_affine), at).T
        shifts = np.stack(
            [ndimage.map_coordinates(self.warp[..., k], voxels, order=1, mode="nearest") for k in range(3)], axis=1
        )
        return apply_affine(self.t1_from_template, at + shifts)

    def to_epi(self, points: ArrayLike) -> FloatArray:
        """Return mean-functional points for template `points`, both (n, 3) in mm."""
        return apply_affine(self.epi_from_t1, self.to_t1(points))


def normalise(mean_epi: Any, anatomy: Anatomy) -> Normalisation:
    """Register a mean functional to the T1w of the same subject and compose with the way to the template.

    Rigid, by mutual information of the two brains at points of the functional's brain, so that a field of view that
    cuts the brain does not pull. It starts from both centres put together and from the scanner's coordinates, each
    also turned by 14 degrees both ways about each axis; the best after a coarse search is refined.

    Parameters
    ----------
    mean_epi : nibabel spatial image, 3D
        Mean of the realigned run.
    anatomy : Anatomy
        From `register_anatomy`.

    Returns
    -------
    Normalisation

    Raises
    ------
    UserError
        When the image is not 3D or is empty.
    """
    epi = read_volume(mean_epi, "the mean functional")
    inside = epi_mask(epi)
    brain = Volume(anatomy.brain, anatomy.affine)
    t1_from_epi = _rigid(epi.masked(inside), inside, brain, brain.values > 0)
    return Normalisation(inverse(t1_from_epi), anatomy.t1_from_template, anatomy.warp, anatomy.warp_affine)


def register_epi(mean_epi: Any, template: Template | None = None) -> Normalisation:
    """Register a mean functional to a template of its own contrast, for a subject without a T1w.

    1. Rigid, mutual information, from the starting points of `normalise`.
    2. Affine, from both sides: with points of the functional's brain the template shrinks into it, with points of the
       template's brain it grows; the matrix half-way is kept.
    3. SyN on what lies inside both brains: the functional's mask holds the fluid around the brain, the template's does
       not. What of the template lies outside the field of view is left out.

    Parameters
    ----------
    mean_epi : nibabel spatial image, 3D
        Mean of the realigned run.
    template : Template, optional
        Default: `epi_template(2)`.

    Returns
    -------
    Normalisation
        `epi_from_t1` is the identity, so `to_t1` and `to_epi` both lead to the mean functional.

    Raises
    ------
    UserError
        When dipy is missing, or the image is not 3D or is empty.
    """
    require_dipy()
    fixed = template or epi_template(2)
    epi = read_volume(mean_epi, "the mean functional")
    inside = epi_mask(epi)
    brain = epi.masked(inside)
    target = Volume(fixed.brain, fixed.affine)
    epi_from_template = inverse(_rigid(brain, inside, target, fixed.mask))
    for level in (COARSE, MIDDLE, FINE):
        epi_from_template = _affine_from_both_sides(brain, inside, fixed, epi_from_template, level)
    both = inside & (carry(fixed.mask, fixed.affine, inverse(epi_from_template), inside.shape, epi.affine) > 0.5)
    if both.any():
        brain = epi.masked(both)
    cut = np.where(_seen(epi, fixed, epi_from_template), fixed.brain, 0).astype(np.float32)
    still = Template(cut, fixed.mask, fixed.affine)
    return Normalisation(np.eye(4), epi_from_template, *find_warp(still, brain, epi_from_template))


def _affine_from_both_sides(
    epi: Volume, inside: NDArray[np.bool_], fixed: Template, epi_from_template: FloatArray, level: Level
) -> FloatArray:
    target = Volume(fixed.brain, fixed.affine)
    near = ndimage.binary_dilation(inside)
    there, _ = climb(draw_samples(epi, near, target, level), inverse(epi_from_template), "affine")
    around = ndimage.binary_dilation(fixed.mask, iterations=2) & _seen(epi, fixed, inverse(there))
    if not around.any():
        return inverse(there)
    back, _ = climb(draw_samples(target, around, epi, level), inverse(there), "affine")
    halfway = linalg.expm((linalg.logm(inverse(there)) + linalg.logm(back)) / 2)
    return np.asarray(np.real(halfway), dtype=np.float64)


def _seen(epi: Volume, fixed: Template, epi_from_template: FloatArray) -> NDArray[np.bool_]:
    """Return the template's voxels that lie in the functional's field of view."""
    everywhere = np.ones(epi.values.shape, np.float32)
    return np.asarray(carry(everywhere, epi.affine, epi_from_template, fixed.mask.shape, fixed.affine) > 0.5)


def epi_mask(epi: Volume) -> NDArray[np.bool_]:
    """Return the brain of a mean functional, by nilearn's histogram and openings."""
    from nilearn.masking import compute_epi_mask

    return np.asarray(compute_epi_mask(nib.Nifti1Image(epi.values, epi.affine)).dataobj) > 0


def _rigid(static: Volume, inside: NDArray[np.bool_], moving: Volume, moving_inside: NDArray[np.bool_]) -> FloatArray:
    """Return the rigid matrix from static mm to moving mm."""
    centre = static.centre(inside)
    meeting = shift(moving.centre(moving_inside) - centre)
    # Two voxels of the dark around the brain: the outline is what holds a coarse picture.
    wide = draw_samples(static, ndimage.binary_dilation(inside, iterations=2), moving, COARSE)
    matrix = best_start(wide, [*tilted_starts(meeting, centre), *tilted_starts(np.eye(4), centre)])
    for level in (MIDDLE, FINE):
        matrix, _ = climb(draw_samples(static, ndimage.binary_dilation(inside), moving, level), matrix, "rigid")
    return matrix
