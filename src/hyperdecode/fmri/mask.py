"""The voxels that a decoder sees: the most active ones, chosen on training trials without their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.split import require_training

__all__ = ["VoxelMask", "voxel_mask"]


@dataclass(frozen=True)
class VoxelMask:
    """The voxels chosen, and why.

    Attributes
    ----------
    selected : ndarray of bool, shape (n_voxels_in_volume,)
        True for the chosen voxels.
    mean_z : ndarray of float64, shape (n_voxels_in_volume,)
        Mean z over the training trials; NaN for dropped voxels.
    n_dropped_nan : int
        Voxels dropped because a z was not finite (constant or NaN in the BOLD) or all their z are equal.
    """

    selected: NDArray[np.bool_]
    mean_z: NDArray[np.float64]
    n_dropped_nan: int


def voxel_mask(z: ArrayLike, roles: Sequence[str] | None, n_voxels: int = 4096) -> VoxelMask:
    """Choose the `n_voxels` voxels of highest mean z over the training trials.

    ``selected = top_n(mean_i z[i])`` over trials i whose role is ``"train"``. No label is used. Ties are broken by the
    voxel's position, the lower index first, so the count is exact and the choice repeatable.

    Parameters
    ----------
    z : array-like, shape (n_trials, n_voxels_in_volume)
        Single-trial z values of training trials only.
    roles : sequence of str or None, length n_trials
        Role of each row; None when the caller vouches that every row is a training trial.
    n_voxels : int
        How many voxels to choose.

    Returns
    -------
    VoxelMask

    Raises
    ------
    LeakageError
        When a row is a test trial.
    UserError
        When fewer voxels are usable than asked for, or shapes do not fit.
    """
    values = np.asarray(z)
    if values.ndim != 2 or values.shape[0] == 0:
        raise UserError(f"z must be trials x voxels with at least one trial, got shape {values.shape}")
    require_training(roles, values.shape[0], "the voxel mask")
    if n_voxels < 1:
        raise UserError(f"a mask needs at least one voxel, got n_voxels={n_voxels}")
    usable = np.isfinite(values).all(axis=0)
    if values.shape[0] > 1:
        usable &= (values != values[0]).any(axis=0)
    n_usable = int(usable.sum())
    if n_usable < n_voxels:
        raise UserError(
            f"the mask asks for {n_voxels} voxels, {n_usable} of {usable.size} are usable: ask for at most {n_usable}"
        )
    mean_z = np.full(usable.size, np.nan)
    mean_z[usable] = values[:, usable].mean(axis=0, dtype=np.float64)
    order = np.argsort(np.where(usable, -mean_z, np.inf), kind="stable")
    selected = np.zeros(usable.size, dtype=bool)
    selected[order[:n_voxels]] = True
    return VoxelMask(selected=selected, mean_z=mean_z, n_dropped_nan=int(usable.size - n_usable))
