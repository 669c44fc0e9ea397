"""Test of the pairing: predictions with their own stimuli against predictions with shuffled ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["PairingTest", "pairing_permutation_test"]

CHUNK = 2_000


@dataclass(frozen=True)
class PairingTest:
    """Result of `pairing_permutation_test`.

    Attributes
    ----------
    statistic : float
        Mean score of the true pairs.
    p_value : float
        One-sided; never 0, at least ``1 / (n_permutations + 1)``.
    null_mean, null_sd : float
        Mean and standard deviation of the statistic over the permutations.
    n_permutations : int
        Permutations drawn.
    """

    statistic: float
    p_value: float
    null_mean: float
    null_sd: float
    n_permutations: int


def pairing_permutation_test(scores: ArrayLike, n_permutations: int = 10_000, seed: int = 0) -> PairingTest:
    r"""Permute which stimulus each prediction belongs to.

    .. math::
        T(\pi) = \frac1n \sum_i S_{i \pi(i)}, \qquad
        p = \frac{1 + \#\{\pi : T(\pi) \ge T(\mathrm{id})\}}{1 + n_{\mathrm{permutations}}}.

    Under the null hypothesis the predictions carry no information on which stimulus was shown, so any
    pairing is as likely as the true one. A blind predictor whose outputs merely have a good mean or scale
    gains nothing here, unlike in a test against random latents.

    Parameters
    ----------
    scores : array of shape (n_faces, n_faces)
        Similarity of prediction i and stimulus j; for identification pass
        `hyperdecode.evaluation.identification.win_rates` of it.
    n_permutations : int
        Random permutations, uniform over all pairings.
    seed : int
        Seed of the permutations.

    Returns
    -------
    PairingTest
        Statistic, p-value, and the null's mean and spread.

    Raises
    ------
    UserError
        When the matrix is not square, holds NaN, or has fewer than two faces.

    References
    ----------
    Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9:39 (the count starts at one);
    Dado et al. (2022), Sci. Rep. 12:141, compare with random latents instead.
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 2 or s.shape[0] != s.shape[1] or len(s) < 2:
        raise UserError(f"a pairing test needs a square matrix of at least two faces, got shape {s.shape}")
    if not np.all(np.isfinite(s)):
        raise UserError(f"{int((~np.isfinite(s)).sum())} similarity scores are NaN or infinite: check the predictions")
    if n_permutations < 1:
        raise UserError(f"a permutation test needs at least one permutation, got {n_permutations}")
    rng = np.random.default_rng(seed)
    null = np.concatenate(
        [_null_statistics(s, min(CHUNK, n_permutations - done), rng) for done in range(0, n_permutations, CHUNK)]
    )
    statistic = float(np.trace(s) / len(s))
    rounding = 1e-12 * float(np.abs(s).max())
    exceeding = int((null >= statistic - rounding).sum())
    return PairingTest(
        statistic, (1 + exceeding) / (1 + n_permutations), float(null.mean()), float(null.std()), n_permutations
    )


def _null_statistics(s: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    pairings = rng.permuted(np.tile(np.arange(len(s)), (count, 1)), axis=1)
    statistics: NDArray[np.float64] = s[np.arange(len(s)), pairings].mean(axis=1)
    return statistics
