"""From the mean functional to MNI space: mean EPI - T1w (rigid), T1w - template (affine, then diffeomorphic).

Every transform here maps points, in mm, from where a value is wanted to where it is taken: template point to T1w
point to point in the mean functional. `hyperdecode.fmri.realign` adds the last link, to each volume, so that a
BOLD value is interpolated once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hyperdecode.errors import UserError

__all__ = ["TEMPLATE_SPACE", "Anatomy", "Normalisation", "Template", "mni_template", "normalise", "register_anatomy"]

FloatArray = NDArray[np.float64]

TEMPLATE_SPACE = "MNI152NLin2009aSym"
"""nilearn's `load_mni152_template`: ICBM 152 2009a nonlinear symmetric, T1, brain only."""

HEAD_MM = 170.0


@dataclass(frozen=True)
class Template:
    """A brain-only T1 template on a grid.

    Attributes
    ----------
    brain : ndarray of float32, shape (x, y, z)
        T1 intensities, 0 outside the brain.
    mask : ndarray of bool, shape (x, y, z)
        The brain.
    affine : ndarray of float64, shape (4, 4)
        Voxel to mm.
    """

    brain: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: FloatArray


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


@dataclass(frozen=True)
class Normalisation:
    """How to get from a template point to the T1w and to the mean functional.

    Attributes
    ----------
    epi_from_t1 : ndarray, shape (4, 4)
        Rigid; T1w mm to mean functional mm.
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
        shift = np.stack(
            [ndimage.map_coordinates(self.warp[..., k], voxels, order=1, mode="nearest") for k in range(3)], axis=1
        )
        return apply_affine(self.t1_from_template, at + shift)

    def to_epi(self, points: ArrayLike) -> FloatArray:
        """Return mean-functional points for template `points`, both (n, 3) in mm."""
        return apply_affine(self.epi_from_t1, self.to_t1(points))


def apply_affine(affine: ArrayLike, points: ArrayLike) -> FloatArray:
    """Return ``A p + b`` for each row p of `points` (n, 3)."""
    matrix = np.asarray(affine, dtype=np.float64)
    moved: FloatArray = np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def grid_points(shape: tuple[int, ...], affine: ArrayLike) -> FloatArray:
    """Return the mm position of every voxel of a grid, (n_voxels, 3), C order."""
    index = np.indices(shape[:3]).reshape(3, -1).T
    return apply_affine(affine, index)


def mni_template(voxel_size: int = 2) -> Template:
    """Return nilearn's ICBM 152 2009 T1 template and brain mask at `voxel_size` mm."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    if voxel_size != int(voxel_size) or not 1 <= voxel_size <= 8:
        raise UserError(f"the voxel size of the output must be a whole number of mm from 1 to 8, got {voxel_size}")
    voxel_size = int(voxel_size)
    brain = load_mni152_template(resolution=voxel_size)
    mask = load_mni152_brain_mask(resolution=voxel_size)
    inside = np.asarray(mask.dataobj) > 0
    values = np.where(inside, np.asarray(brain.dataobj, dtype=np.float32), np.float32(0))
    return Template(values, inside, np.asarray(brain.affine, dtype=np.float64))


def register_anatomy(t1w: Any, template: Template | None = None) -> Anatomy:
    """Register the template to a T1w; done once for all runs of a subject.

    1. Template to T1w, affine, mutual information inside the template's brain, from the centre of the upper
       170 mm of the head (so a neck in the picture does no harm).
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
    _require_dipy()
    fixed = template or mni_template(2)
    t1, affine = _downsample(*_volume(t1w, "the T1w"), 1.5)
    start = _shift(_head_centre(t1, affine) - apply_affine(fixed.affine, [ndimage.center_of_mass(fixed.mask)])[0])
    around = ndimage.binary_dilation(fixed.mask, iterations=2)
    t1_from_template = _affine(fixed.brain, fixed.affine, t1, affine, start, around, ("rigid", "affine"))
    brain = _brain(t1, _carry(fixed.mask, fixed.affine, _inverse(t1_from_template), t1.shape, affine))
    stripped = np.where(brain, np.minimum(t1, np.percentile(t1[brain], 99)), 0).astype(np.float32)
    t1_from_template = _affine(fixed.brain, fixed.affine, stripped, affine, t1_from_template, None, ("affine",))
    warp = _warp(fixed, stripped, affine, t1_from_template)
    return Anatomy(stripped, affine, t1_from_template, warp, fixed.affine)


def normalise(mean_epi: Any, anatomy: Anatomy) -> Normalisation:
    """Register a mean functional to the T1w of the same subject and compose with the way to the template.

    Rigid, both brain only: first mutual information everywhere, which catches the outline from any starting position,
    then inside the functional's brain mask, so that a field of view that cuts the brain does not pull.

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
        When dipy is missing, or the image is not 3D or is empty.
    """
    _require_dipy()
    epi, affine = _volume(mean_epi, "the mean functional")
    inside = _epi_mask(epi, affine)
    masked = np.where(inside, np.minimum(epi, np.percentile(epi[inside], 99)), 0).astype(np.float32)
    centre_t1 = apply_affine(anatomy.affine, [ndimage.center_of_mass(anatomy.brain > 0)])[0]
    centre_epi = apply_affine(affine, [ndimage.center_of_mass(inside)])[0]
    start = _shift(centre_t1 - centre_epi)
    outline = _affine(masked, affine, anatomy.brain, anatomy.affine, start, None, ("rigid",))
    near = ndimage.binary_dilation(inside)
    t1_from_epi = _affine(masked, affine, anatomy.brain, anatomy.affine, outline, near, ("rigid",))
    return Normalisation(_inverse(t1_from_epi), anatomy.t1_from_template, anatomy.warp, anatomy.warp_affine)


def _require_dipy() -> ModuleType:
    try:
        import dipy.align
    except ImportError as error:
        raise UserError(
            "normalising to MNI space needs dipy, which is not installed: pip install 'hyperdecode[register]'"
        ) from error
    module: ModuleType = dipy.align
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dipy's progress messages, which it logs, out of the caller's terminal."""
    logger = logging.getLogger("dipy")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _volume(image: Any, what: str) -> tuple[NDArray[np.float32], FloatArray]:
    values = np.asarray(image.dataobj, dtype=np.float32)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise UserError(f"{what} must be a 3D image, got shape {values.shape}: average or pick one volume")
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if not values.any():
        raise UserError(f"{what} is all zeros: look for the right file")
    return values, np.asarray(image.affine, dtype=np.float64)


def _downsample(
    values: NDArray[np.float32], affine: FloatArray, millimetres: float
) -> tuple[NDArray[np.float32], FloatArray]:
    """Smooth and resample a finer grid to about `millimetres`, same axes."""
    size = np.linalg.norm(affine[:3, :3], axis=0)
    step = np.maximum(millimetres / size, 1.0)
    smooth = ndimage.gaussian_filter(values, 0.35 * (step - 1.0))
    shape = np.floor((np.asarray(values.shape) - 1) / step).astype(int) + 1
    small = ndimage.affine_transform(smooth, np.diag(step), output_shape=tuple(shape), order=1)
    return small.astype(np.float32), affine @ np.diag([*step, 1.0])


def _epi_mask(epi: NDArray[np.float32], affine: FloatArray) -> NDArray[np.bool_]:
    from nilearn.masking import compute_epi_mask

    return np.asarray(compute_epi_mask(nib.Nifti1Image(epi, affine)).dataobj) > 0


def _head_centre(t1: NDArray[np.float32], affine: FloatArray) -> FloatArray:
    """Centre, in mm, of the head from its top to 170 mm below."""
    points = grid_points(t1.shape, affine)[(t1 > _otsu(t1)).ravel()]
    top = np.percentile(points[:, 2], 99.9)
    centre: FloatArray = points[points[:, 2] > top - HEAD_MM].mean(axis=0)
    return centre


def _otsu(values: NDArray[np.float32]) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(values))


def _inverse(matrix: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _shift(vector: FloatArray) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


def _affine(
    static: NDArray[np.float32],
    static_affine: FloatArray,
    moving: NDArray[np.float32],
    moving_affine: FloatArray,
    start: FloatArray,
    static_mask: NDArray[np.bool_] | None,
    steps: tuple[str, ...],
) -> FloatArray:
    """Return the matrix from static mm to moving mm that raises mutual information, starting at `start`."""
    align = _require_dipy()
    # The anatomy needs no more than half the template's resolution here: the warp does the rest.
    full = static.size < 500_000
    with _quiet():
        _, matrix = align.affine_registration(
            moving,
            static,
            moving_affine=moving_affine,
            static_affine=static_affine,
            starting_affine=start,
            pipeline=list(steps),
            level_iters=[200, 100, 30] if full else [200, 100],
            sigmas=[3.0, 1.0, 0.0] if full else [3.0, 1.0],
            factors=[4, 2, 1] if full else [4, 2],
            static_mask=None if static_mask is None else static_mask.astype(np.int32),
        )
    return np.asarray(matrix, dtype=np.float64)


def _carry(
    mask: NDArray[np.bool_],
    mask_affine: FloatArray,
    mask_from_here: FloatArray,
    shape: tuple[int, ...],
    affine: FloatArray,
) -> NDArray[np.bool_]:
    """Resample a mask onto another grid through ``mask_from_here`` (mm to mm)."""
    matrix = np.linalg.inv(mask_affine) @ mask_from_here @ affine
    values = ndimage.affine_transform(
        mask.astype(np.float32), matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=1
    )
    return np.asarray(values > 0.5)


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


def _warp(
    fixed: Template, moving: NDArray[np.float32], moving_affine: FloatArray, moving_from_fixed: FloatArray
) -> NDArray[np.float32]:
    """Return the displacement (mm) on the template's grid that SyN finds after the affine."""
    align = _require_dipy()
    matrix = np.linalg.inv(moving_affine) @ moving_from_fixed @ fixed.affine
    aligned = ndimage.affine_transform(
        moving, matrix[:3, :3], matrix[:3, 3], output_shape=fixed.brain.shape, order=1
    ).astype(np.float32)
    with _quiet():
        _, mapping = align.syn_registration(
            aligned, fixed.brain, moving_affine=fixed.affine, static_affine=fixed.affine, level_iters=[40, 30, 12]
        )
    shape = fixed.brain.shape
    here = grid_points(shape, fixed.affine).reshape(*shape, 3)
    # Warping images of the coordinates reads the field in mm without relying on how the mapping stores it.
    seen = mapping.transform(np.ones(shape, dtype=np.float32))
    moved = np.stack([mapping.transform(here[..., k].astype(np.float32)) for k in range(3)], axis=-1)
    return np.where(seen[..., None] > 0.999, moved - here, 0.0).astype(np.float32)
