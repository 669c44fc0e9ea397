"""What every decoder asks of its responses and latents before it fits or predicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperdecode.decoding.arrays import Kind, as_tensor
from hyperdecode.errors import UserError

__all__ = [
    "checked_latents",
    "checked_matrix",
    "checked_pair",
    "checked_weights",
    "refuse_bad_columns",
    "refuse_constant",
    "refuse_other_length",
    "refuse_wrong_shape",
]


def checked_matrix(values: Any, what: str, n_voxels: int | None = None) -> tuple[Tensor, Kind]:
    """Return a finite trials x columns matrix and its kind; with `n_voxels`, one of the training's width."""
    matrix, kind = as_tensor(values, what)
    refuse_wrong_shape(tuple(matrix.shape), what, n_voxels)
    refuse_bad_columns(int((~torch.isfinite(matrix)).any(0).sum()), matrix.shape[1], what)
    return matrix, kind


def checked_latents(Y: Any) -> tuple[Tensor, bool]:
    """Return finite latents as a trials x latents matrix, and whether they came as one row of numbers."""
    if Y is None:
        raise UserError("fit needs latents, one row a trial: requires y to be passed, but the target y is None")
    latents, _ = as_tensor(Y, "latents")
    one_latent = latents.ndim == 1
    return checked_matrix(latents[:, None] if one_latent else latents, "latents")[0], one_latent


def checked_pair(X: Any, Y: Any) -> tuple[Tensor, Tensor, Kind]:
    """Return responses and latents of the same trials in one type on one device, and the kind of the responses."""
    voxels, kind = checked_matrix(X, "responses")
    latents, _ = checked_latents(Y)
    refuse_other_length(tuple(voxels.shape), len(latents))
    return voxels, latents.to(voxels), kind


def checked_weights(weights: Any | None, voxels: Tensor) -> Tensor | None:
    """Return the weights of trials with a mean of 1, None where all weigh the same."""
    if weights is None:
        return None
    values, _ = as_tensor(weights, "sample_weight")
    values = values.to(voxels)
    if values.shape != voxels.shape[:1]:
        raise UserError(f"got {len(voxels)} trials and weights of shape {tuple(values.shape)}: give one weight a trial")
    if not bool(torch.isfinite(values).all()) or not bool((values > 0).all()):
        raise UserError("weights of trials must be positive and finite, not zero: leave such trials out")
    return values / values.mean()


def refuse_wrong_shape(shape: tuple[int, ...], what: str, n_voxels: int | None = None) -> None:
    """Refuse what is no filled trials x columns matrix, or not of the training's width."""
    if len(shape) != 2:
        hint = ": Reshape your data" if len(shape) == 1 else ""
        raise UserError(f"{what} must be a matrix with one trial a row, got an array of shape {shape}{hint}")
    if n_voxels is not None and shape[1] != n_voxels:
        swapped = "; trials and voxels may be swapped" if shape[0] == n_voxels else ""
        raise UserError(
            f"the decoder was fitted on {n_voxels} voxels and got {shape[1]}: "
            f"apply the mask that made the training responses{swapped}"
        )
    if not shape[0]:
        raise UserError(f"{what} are empty: 0 trials of {shape[1]} columns, give at least one")
    if not shape[1]:
        raise UserError(f"{what} are empty: 0 feature(s) (shape={shape}) while a minimum of 1 is required.")


def refuse_bad_columns(bad: int, n_columns: int, what: str) -> None:
    """Refuse columns that hold NaN or infinite values."""
    if bad:
        raise UserError(
            f"{what}: {bad} of {n_columns} columns hold NaN or infinite values: "
            "drop those voxels from the mask (or those trials) before decoding"
        )


def refuse_other_length(shape: tuple[int, ...], n_latents: int) -> None:
    """Refuse responses of this shape and another number of rows of latents."""
    if shape[0] != n_latents:
        swapped = ": responses look swapped, voxels x trials" if shape[1] == n_latents else ""
        raise UserError(
            f"got {shape[0]} trials of responses and {n_latents} rows of latents: give one a trial{swapped}"
        )


def refuse_constant(voxels: Tensor, spread: Tensor) -> None:
    """Refuse voxels that carry nothing: their spread over the training trials is rounding."""
    tiny = 1e-12 if voxels.dtype == torch.float64 else 1e-6
    magnitude = voxels.abs().amax(0)
    constant = int((spread <= tiny * magnitude).sum())
    if constant:
        raise UserError(
            f"{constant} of {voxels.shape[1]} voxels are constant over the training trials: drop them from the mask"
        )
