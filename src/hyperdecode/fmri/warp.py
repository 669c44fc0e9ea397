"""The diffeomorphic step: symmetric normalisation (SyN) with local cross-correlation, by dipy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hyperdecode.errors import UserError
from hyperdecode.fmri.grids import Volume, apply_affine, carry, grid_points
from hyperdecode.fmri.template import Template

__all__ = ["find_warp", "require_dipy"]

ITERATIONS = (40, 30, 12)
"""At a quarter, half and the whole of the template's resolution."""
MARGIN_MM = 12.0
"""Room around the template's brain for a larger one."""


def find_warp(
    fixed: Template, moving: Volume, moving_from_fixed: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the displacement in mm that SyN finds after the affine, (x, y, z, 3), and its grid's affine (4, 4).

    A template point p is found at ``moving_from_fixed (p + displacement(p))``. The grid is the template's, cut to a
    box around its brain: beyond, there is nothing to find, and it is half of the work.

    Raises
    ------
    UserError
        When dipy is missing.
    """
    align = require_dipy()
    brain, affine = _cut(fixed)
    shape = brain.shape
    aligned = carry(moving.values, moving.affine, moving_from_fixed, shape, affine)
    with _quiet():
        _, mapping = align.syn_registration(
            aligned, brain, moving_affine=affine, static_affine=affine, level_iters=list(ITERATIONS)
        )
    here = grid_points(shape, affine).reshape(*shape, 3)
    # Warping images of the coordinates reads the field in mm without relying on how the mapping stores it.
    seen = mapping.transform(np.ones(shape, dtype=np.float32))
    moved = np.stack([mapping.transform(here[..., k].astype(np.float32)) for k in range(3)], axis=-1)
    return np.where(seen[..., None] > 0.999, moved - here, 0.0).astype(np.float32), affine


def _cut(template: Template) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the brain in its box with a margin, and the affine of that box."""
    margin = int(np.ceil(MARGIN_MM / np.linalg.norm(template.affine[:3, 0])))
    box = ndimage.find_objects(template.mask.astype(np.uint8))[0]
    padded = np.pad(template.brain[box], margin)
    affine = template.affine.copy()
    affine[:3, 3] = apply_affine(template.affine, [[part.start - margin for part in box]])[0]
    return padded, affine


def require_dipy() -> ModuleType:
    """Return `dipy.align`.

    Raises
    ------
    UserError
        When dipy is not installed.
    """
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
