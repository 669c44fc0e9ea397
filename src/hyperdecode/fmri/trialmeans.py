"""Mean response of every voxel over training trials that come a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.split import require_training

__all__ = ["TrialMeans"]

BLOCK = 32
"""Trials that are looked at together."""


class TrialMeans:
    """Running mean of z over training trials, and which voxels may be used: finite in every trial, not always equal.

    Trials are summed one after the other in float64, so that the mean does not depend on how many come at once.

    Parameters
    ----------
    n_voxels : int

    Attributes
    ----------
    n_trials : int
        Trials that were added.
    """

    def __init__(self, n_voxels: int) -> None:
        self.n_trials = 0
        self._sum = np.zeros(n_voxels)
        self._finite = np.ones(n_voxels, dtype=bool)
        self._varies = np.zeros(n_voxels, dtype=bool)
        self._first: NDArray[Any] | None = None

    def add(self, z: NDArray[Any], roles: Sequence[str] | None) -> None:
        """Add trials.

        Parameters
        ----------
        z : ndarray, (n_trials, n_voxels)
        roles : sequence of str or None, length n_trials
            Role of each; None when the caller vouches for them.

        Raises
        ------
        LeakageError
            When one is a test trial.
        UserError
            When shapes do not fit.
        """
        if z.ndim != 2 or z.shape[1] != self._sum.size:
            raise UserError(f"trials of shape {z.shape} came to means of {self._sum.size} voxels: give trials x voxels")
        require_training(roles, len(z), "the mean over training trials")
        if self._first is None and len(z):
            self._first = np.array(z[0])
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, len(z), BLOCK):
                part = z[start : start + BLOCK]
                self._finite &= np.isfinite(part).all(axis=0)
                self._varies |= (part != self._first).any(axis=0)
                for trial in part:
                    self._sum += trial
        self.n_trials += len(z)

    def at(self, places: NDArray[np.intp]) -> TrialMeans:
        """Return the means of some voxels, in the order of `places`."""
        some = TrialMeans(len(places))
        some.n_trials = self.n_trials
        some._sum, some._finite, some._varies = (a[places] for a in (self._sum, self._finite, self._varies))
        some._first = None if self._first is None else self._first[places]
        return some

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Voxels that are finite in every trial and, where there are several trials, not equal in all, (n_voxels,)."""
        return self._finite & self._varies if self.n_trials > 1 else self._finite.copy()

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over the trials, (n_voxels,); NaN where a voxel may not be used."""
        return np.where(self.usable, self._sum / max(self.n_trials, 1), np.nan)
