"""Test of the pairing: predictions with their own stimuli against predictions with shuffled ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["PairingTest", "null_moments", "null_statistics", "pairing_permutation_test"]

Array = NDArray[np.float64]

BLOCK_ENTRIES = 72_000
"""Indices that are permuted at once (576 kB, so that they stay in the processor's cache)."""


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
    if s.ndim != 2:
        raise UserError(f"a pairing test needs a square matrix of at least two faces, got shape {s.shape}")
    null = null_statistics(s[None], n_permutations, seed)[0]
    statistic = float(np.trace(s) / len(s))
    rounding = 1e-12 * float(np.abs(s).max())
    exceeding = int((null >= statistic - rounding).sum())
    return PairingTest(
        statistic, (1 + exceeding) / (1 + n_permutations), float(null.mean()), float(null.std()), n_permutations
    )


def null_statistics(matrices: ArrayLike, n_permutations: int = 10_000, seed: int = 0) -> Array:
    r"""Return the mean score of the pairs under random pairings, the same ones for all matrices.

    Parameters
    ----------
    matrices : array of shape (n_matrices, n_faces, n_faces)
        Entry (k, i, j): similarity of prediction i and stimulus j by metric k.
    n_permutations : int
        Random permutations, uniform over all pairings.
    seed : int
        Seed of the permutations; `pairing_permutation_test` draws the same ones with the same seed.

    Returns
    -------
    array of shape (n_matrices, n_permutations)
        :math:`T_k(\pi) = \frac1n \sum_i S^k_{i \pi(i)}`.

    Raises
    ------
    UserError
        When matrices are not square, hold NaN, or have fewer than two faces, or no permutation is asked for.

    Notes
    -----
    A permutation is the order of n random keys of 64 bits, of which the last ones hold the index that is carried
    along: sorting such integers is twice as fast as shuffling. Two keys tie with a probability below 1e-9.
    """
    s = checked_matrices(matrices)
    if n_permutations < 1:
        raise UserError(f"a permutation test needs at least one permutation, got {n_permutations}")
    n = s.shape[1]
    tables = s.reshape(len(s), -1)
    null = np.empty((len(s), n_permutations))
    done = 0
    for pairings in _pairings(n, n_permutations, seed):
        entries = pairings + n * np.arange(n)
        for row, table in zip(null, tables, strict=True):
            table.take(entries).sum(axis=1, out=row[done : done + len(entries)])
        done += len(entries)
    null /= n
    return null


def null_moments(matrices: ArrayLike) -> tuple[Array, Array]:
    r"""Return the exact mean and standard deviation of each matrix's statistic over all n! pairings.

    .. math::
        E\,T = \bar S, \qquad \mathrm{var}\,T = \frac{1}{n^2 (n - 1)} \sum_{ij} D_{ij}^2, \qquad
        D_{ij} = S_{ij} - \bar S_{i\cdot} - \bar S_{\cdot j} + \bar S.

    Parameters
    ----------
    matrices : array of shape (n_matrices, n_faces, n_faces)
        Score matrices.

    Returns
    -------
    mean, sd : arrays of shape (n_matrices,)
        A matrix whose statistic is the same for all pairings has an sd of exactly 0.

    References
    ----------
    Hoeffding (1951), Ann. Math. Stat. 22:558.
    """
    s = checked_matrices(matrices)
    n = s.shape[1]
    centred = s - s.mean(axis=2, keepdims=True)
    centred -= centred.mean(axis=1, keepdims=True)
    sd = np.sqrt((centred**2).sum(axis=(1, 2)) / (n - 1)) / n
    mean: Array = s.mean(axis=(1, 2))
    return mean, np.where(sd > 1e-12 * np.abs(s).max(axis=(1, 2)), sd, 0.0)


def checked_matrices(matrices: ArrayLike) -> Array:
    """Return score matrices as float64 (n_matrices, n_faces, n_faces), square and finite; else raise `UserError`."""
    s = np.asarray(matrices, dtype=np.float64)
    if s.ndim != 3 or s.shape[1] != s.shape[2] or s.shape[1] < 2 or not len(s):
        raise UserError(f"a pairing test needs a square matrix of at least two faces, got shape {s.shape[1:]}")
    if not np.all(np.isfinite(s)):
        raise UserError(f"{int((~np.isfinite(s)).sum())} similarity scores are NaN or infinite: check the predictions")
    return s


def _pairings(n: int, count: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield blocks of uniformly random permutations of 0..n-1, `count` rows in all."""
    rng = np.random.default_rng(seed)
    index = np.arange(n, dtype=np.uint64)
    carried = np.uint64(2 ** (n - 1).bit_length() - 1)
    step = max(1, BLOCK_ENTRIES // n)
    for done in range(0, count, step):
        keys = rng.integers(0, 2**64, size=(min(step, count - done), n), dtype=np.uint64)
        keys &= ~carried
        keys |= index
        keys.sort(axis=1)
        keys &= carried
        yield keys.astype(np.intp)
