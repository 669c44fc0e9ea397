"""What every decoder asks of its responses and latents before it fits or predicts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["checked_matrix", "checked_pair", "refuse_constant"]

Array = NDArray[np.float64]


def checked_matrix(values: ArrayLike, what: str, n_voxels: int | None = None) -> Array:
    """Return a finite trials x columns matrix in float64; with `n_voxels`, one of the training's width."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise UserError(f"{what} must be a matrix with one trial a row, got an array of shape {matrix.shape}")
    bad = int((~np.isfinite(matrix)).any(axis=0).sum())
    if bad:
        raise UserError(
            f"{what}: {bad} of {matrix.shape[1]} columns hold NaN or infinite values: "
            "drop those voxels from the mask (or those trials) before decoding"
        )
    if n_voxels is not None and matrix.shape[1] != n_voxels:
        raise UserError(
            f"the decoder was fitted on {n_voxels} voxels and got {matrix.shape[1]}: "
            "apply the mask that made the training responses"
        )
    return matrix


def checked_pair(X: ArrayLike, Y: ArrayLike) -> tuple[Array, Array]:
    """Return responses and latents of the same trials."""
    voxels, latents = checked_matrix(X, "responses"), checked_matrix(Y, "latents")
    if len(voxels) != len(latents):
        raise UserError(f"got {len(voxels)} trials of responses and {len(latents)} rows of latents: give one a trial")
    return voxels, latents


def refuse_constant(voxels: Array, spread: Array) -> None:
    """Refuse voxels that carry nothing: their spread over the training trials is rounding."""
    magnitude = np.abs(voxels).max(axis=0, initial=0.0)
    constant = int((spread <= 1e-12 * magnitude).sum())
    if constant:
        raise UserError(
            f"{constant} of {voxels.shape[1]} voxels are constant over the training trials: drop them from the mask"
        )
