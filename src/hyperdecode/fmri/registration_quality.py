"""Figures that say whether a mean functional has found its place, and when to look at the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hyperdecode.fmri.anatomy import Anatomy
from hyperdecode.fmri.grids import Volume, apply_affine, grid_points, inverse, read_volume
from hyperdecode.fmri.mutualinfo import Level, climb, draw_samples
from hyperdecode.fmri.normalise import Normalisation, epi_mask
from hyperdecode.fmri.template import Template

__all__ = [
    "LEAST_CORRELATION",
    "LEAST_DICE",
    "LEAST_SEEN",
    "MOST_OFF_MM",
    "RegistrationQuality",
    "registration_quality",
]

FloatArray = NDArray[np.float64]

LEAST_DICE, MOST_OFF_MM, LEAST_CORRELATION, LEAST_SEEN = 0.85, 3.0, 0.7, 0.5
"""Beyond these a registration is called poor; see `registration_quality`."""
SECOND_LOOK = Level(2.0, 15_000)


@dataclass(frozen=True)
class RegistrationQuality:
    """How well a registration fits.

    Attributes
    ----------
    dice : float
        Overlap ``2 |A & B| / (|A| + |B|)`` of the functional's brain, carried to the template, with the template's,
        within the field of view.
    off_mm : float
        How far a second, rigid registration moves the carried functional, mean over the brain.
    seen : float
        Share of the template's brain in the field of view.
    t1_correlation : float or None
        Correlation of the carried T1w with the template inside the template's brain; None without a T1w.
    poor : tuple of str
        One sentence for each figure beyond its limit.
    """

    dice: float
    off_mm: float
    seen: float
    t1_correlation: float | None
    poor: tuple[str, ...]


def registration_quality(
    mean_epi: Any, to_mni: Normalisation, template: Template, anatomy: Anatomy | None = None
) -> RegistrationQuality:
    """Judge a registration by figures that do not come out of it.

    Overlap alone does not see a brain turned by 15 degrees. So the functional, carried to the template, is registered
    to it once more, rigidly and from where it is (mutual information, 2 mm smoothing): a good registration stays, and
    one that is wrong by a centimetre moves back.

    Parameters
    ----------
    mean_epi : nibabel spatial image, 3D
    to_mni : Normalisation
    template : Template
        T1, on any grid.
    anatomy : Anatomy, optional
        Where there is one.

    Returns
    -------
    RegistrationQuality

    Raises
    ------
    UserError
        When the image is not 3D or is empty.
    """
    epi = read_volume(mean_epi, "the mean functional")
    brain = epi_mask(epi)
    shape = template.mask.shape
    to_epi = apply_affine(inverse(epi.affine), to_mni.to_epi(grid_points(shape, template.affine))).T
    limits = np.array(epi.values.shape)[:, None] - 0.5
    seen: NDArray[np.bool_] = np.all((to_epi > -0.5) & (to_epi < limits), axis=0).reshape(shape)
    carried: NDArray[np.bool_] = np.logical_and(_at(brain.astype(np.float32), to_epi).reshape(shape) > 0.5, seen)
    there = template.mask & seen
    dice = float(2 * (carried & there).sum() / max(carried.sum() + there.sum(), 1))
    share = float(there.sum() / template.mask.sum())
    values = _at(epi.masked(brain).values, to_epi).reshape(shape)
    off = _second_look(Volume(np.where(carried, values, 0), template.affine), carried, seen, template)
    correlation = None if anatomy is None else _t1_correlation(anatomy, to_mni, template)
    return RegistrationQuality(dice, off, share, correlation, _poor(dice, off, share, correlation))


def _second_look(epi: Volume, carried: NDArray[np.bool_], seen: NDArray[np.bool_], template: Template) -> float:
    if not carried.any():
        return float("inf")
    near = ndimage.binary_dilation(carried, iterations=2) & seen
    samples = draw_samples(epi, near, Volume(template.brain, template.affine), SECOND_LOOK)
    matrix, _ = climb(samples, np.eye(4), "rigid")
    points = apply_affine(template.affine, np.argwhere(template.mask & seen))
    return float(np.linalg.norm(apply_affine(matrix, points) - points, axis=1).mean()) if len(points) else float("inf")


def _t1_correlation(anatomy: Anatomy, to_mni: Normalisation, template: Template) -> float:
    points = apply_affine(template.affine, np.argwhere(template.mask))
    values = _at(anatomy.brain, apply_affine(inverse(anatomy.affine), to_mni.to_t1(points)).T)
    return float(np.corrcoef(values, template.brain[template.mask])[0, 1]) if values.any() else 0.0


def _at(values: NDArray[np.float32], index: FloatArray) -> NDArray[np.float32]:
    return np.asarray(ndimage.map_coordinates(values, index, order=1, mode="constant"), np.float32)


def _poor(dice: float, off: float, seen: float, correlation: float | None) -> tuple[str, ...]:
    said = (
        (
            dice < LEAST_DICE,
            f"the functional's brain overlaps the template's by a Dice of {dice:.2f} (good: {LEAST_DICE:g} up)",
        ),
        (
            off > MOST_OFF_MM,
            f"a second registration moves the mean functional by {off:.1f} mm (good: up to {MOST_OFF_MM:g} mm)",
        ),
        (
            seen < LEAST_SEEN,
            f"only {seen:.0%} of the template's brain lies in the field of view (usual: {LEAST_SEEN:.0%} up)",
        ),
        (
            correlation is not None and correlation < LEAST_CORRELATION,
            f"the T1w correlates with the template by {correlation or 0.0:.2f} (good: {LEAST_CORRELATION:g} up)",
        ),
    )
    return tuple(f"registration looks poor: {words}; look at its picture" for bad, words in said if bad)
