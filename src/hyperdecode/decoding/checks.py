"""What every decoder asks of its responses and latents before it fits or predicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperdecode.decoding.arrays import Kind, as_tensor
from hyperdecode.errors import UserError

__all__ = ["checked_matrix", "checked_pair", "checked_weights", "refuse_constant"]


def checked_matrix(values: Any, what: str, n_voxels: int | None = None) -> tuple[Tensor, Kind]:
    """Return a finite trials x columns matrix and its kind; with `n_voxels`, one of the training's width."""
    matrix, kind = as_tensor(values, what)
    if matrix.ndim != 2:
        raise UserError(f"{what} must be a matrix with one trial a row, got an array of shape {tuple(matrix.shape)}")
    bad = int((~torch.isfinite(matrix)).any(0).sum())
    if bad:
        raise UserError(
            f"{what}: {bad} of {matrix.shape[1]} columns hold NaN or infinite values: "
            "drop those voxels from the mask (or those trials) before decoding"
        )
    if n_voxels is not None and matrix.shape[1] != n_voxels:
        swapped = "; trials and voxels may be swapped" if matrix.shape[0] == n_voxels else ""
        raise UserError(
            f"the decoder was fitted on {n_voxels} voxels and got {matrix.shape[1]}: "
            f"apply the mask that made the training responses{swapped}"
        )
    return matrix, kind


def checked_pair(X: Any, Y: Any) -> tuple[Tensor, Tensor, Kind]:
    """Return responses and latents of the same trials in one type on one device, and the kind of the responses."""
    voxels, kind = checked_matrix(X, "responses")
    latents, _ = checked_matrix(Y, "latents")
    if len(voxels) != len(latents):
        swapped = ": responses look swapped, voxels x trials" if voxels.shape[1] == len(latents) else ""
        raise UserError(
            f"got {len(voxels)} trials of responses and {len(latents)} rows of latents: give one a trial{swapped}"
        )
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
        raise UserError("weights of trials must be positive and finite: leave trials out instead of weighing them 0")
    return values / values.mean()


def refuse_constant(voxels: Tensor, spread: Tensor) -> None:
    """Refuse voxels that carry nothing: their spread over the training trials is rounding."""
    tiny = 1e-12 if voxels.dtype == torch.float64 else 1e-6
    magnitude = voxels.abs().amax(0)
    constant = int((spread <= tiny * magnitude).sum())
    if constant:
        raise UserError(
            f"{constant} of {voxels.shape[1]} voxels are constant over the training trials: drop them from the mask"
        )
