"""The null of Dado et al. (2022), predictions against random latents: another question than the pairing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hyperdecode.errors import UserError

__all__ = ["random_latents_test"]

BLOCK_ENTRIES = 500_000


def random_latents_test(scores: ArrayLike, observed: float, n_draws: int = 10_000, seed: int = 0) -> float:
    r"""Return the p-value of predictions against random latents, or their pictures.

    .. math:: p = (1 + \#\{T_r \ge T\}) / (1 + n), \qquad T_r = \frac1m \sum_j S_{r(j) j},

    with r(j) drawn for each face from a pool of random latents.

    Parameters
    ----------
    scores : array of shape (n_random, n_faces)
        Score of each random latent, or its picture, with each test face.
    observed : float
        Mean score of the predictions.
    n_draws, seed : int
        Draws of r.

    Returns
    -------
    float
        One-sided, never 0.

    Raises
    ------
    UserError
        When there are no scores, or one is not finite.

    Notes
    -----
    It rejects for a predictor that never saw the brain and merely has a good mean or length (predicting zero passes
    it), so it says nothing on decoding; `hyperdecode.evaluation.permutation.pairing_permutation_test` does.
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 2 or not s.size or not np.all(np.isfinite(s)) or n_draws < 1:
        raise UserError(
            f"a test against random latents needs finite scores (n_random, n_faces) and at least one draw, got shape "
            f"{s.shape}, {int((~np.isfinite(s)).sum())} not finite, and {n_draws} draws"
        )
    rng = np.random.default_rng(seed)
    n_random, n_faces = s.shape
    step = max(1, BLOCK_ENTRIES // n_faces)
    reached = observed - 1e-12 * float(np.abs(s).max())
    exceeding = 0
    for done in range(0, n_draws, step):
        drawn = rng.integers(n_random, size=(min(step, n_draws - done), n_faces))
        exceeding += int((s[drawn, np.arange(n_faces)].mean(axis=1) >= reached).sum())
    return (1 + exceeding) / (1 + n_draws)
