"""Latents on axes of equal spread: zero is the generator's average face, and no direction counts more than another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["EIGENVALUE_FLOOR", "Whitening"]

Array = NDArray[np.float64]

EIGENVALUE_FLOOR = 1e-2
"""Share of the mean eigenvalue below which a direction counts as having no more spread than that."""


@dataclass(frozen=True)
class Whitening:
    r"""Map from latents to white latents.

    .. math::
        x = (w - \mu) V \operatorname{diag}(\max(\lambda, f \bar\lambda))^{-1/2} V^T, \qquad
        C = V \operatorname{diag}(\lambda) V^T

    (ZCA: of all white axes those nearest to the latents' own). Samples of the generator become white noise, so that
    zero is the average face, predicting it scores a latent similarity of 0.50, and fresh faces 0.33. In w a few
    directions hold most of the spread, and a raw or standardised error is mostly the error along them.

    The floor f is needed because along directions that hardly vary a small error of the prediction, or of the
    covariance itself, would be blown up: eigenvalues below f times their mean are raised to that, never lowered.

    Attributes
    ----------
    mean : ndarray, (d,)
        The generator's mean latent.
    matrix : ndarray, (d, d)
        Symmetric.
    n_raised : int
        Eigenvalues that were raised to the floor.
    """

    mean: Array
    matrix: Array
    n_raised: int

    @classmethod
    def of(cls, mean: ArrayLike, covariance: ArrayLike, floor: float = EIGENVALUE_FLOOR) -> Whitening:
        """Make the map from the moments of the generator's own latents (never of test stimuli or predictions).

        Parameters
        ----------
        mean : array of shape (d,)
            Mean latent.
        covariance : array of shape (d, d)
            Covariance of latents.
        floor : float
            Least eigenvalue that is believed, as a share of their mean; above 0.

        Returns
        -------
        Whitening

        Raises
        ------
        UserError
            When shapes do not fit, a value is not finite, the latents have no spread, or the floor is not above 0.
        """
        m, c = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
        if m.ndim != 1 or c.shape != (len(m), len(m)) or not len(m):
            raise UserError(f"whitening needs a mean (d,) and a covariance (d, d), got shapes {m.shape} and {c.shape}")
        if not np.all(np.isfinite(m)) or not np.all(np.isfinite(c)) or not floor > 0 or np.trace(c) <= 0:
            raise UserError(
                f"whitening needs finite moments with some spread and a floor above 0, got a mean variance of "
                f"{np.trace(c) / len(m):.3g} and a floor of {floor}"
            )
        values, vectors = np.linalg.eigh((c + c.T) / 2)
        least = floor * float(values.mean())
        return cls(m, (vectors / np.sqrt(np.maximum(values, least))) @ vectors.T, int((values < least).sum()))

    def __call__(self, latents: ArrayLike) -> Array:
        """Return white latents of latents (n, d) or (d,), float64.

        Raises
        ------
        UserError
            When the latents have another number of dimensions.
        """
        values = np.asarray(latents, dtype=np.float64)
        if values.ndim not in (1, 2) or values.shape[-1] != len(self.mean):
            raise UserError(f"latents of shape {values.shape} do not fit a whitening of {len(self.mean)} dimensions")
        return np.asarray((values - self.mean) @ self.matrix)
