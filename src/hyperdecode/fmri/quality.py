"""How good the data are: noise of the BOLD, spikes, and how alike the answers to repeated test stimuli are.

What looks at test repeats is for the report alone: no mask, scaling, penalty or other fitted step may use it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from hyperdecode.errors import UserError
from hyperdecode.fmri.repeats import repeat_variance, repeated_groups, voxel_blocks

__all__ = ["dvars", "noise_ceiling_of_test_repeats", "split_half_of_test_repeats", "tsnr"]

FloatArray = NDArray[np.float64]

IQR_OF_NORMAL = 1.3489795
"""Interquartile range of a standard normal variable."""
FLAT = 1e-12


def tsnr(series: ArrayLike, drift: ArrayLike | None = None) -> NDArray[np.float32]:
    """Return the temporal signal-to-noise ratio of each voxel, ``mean / sd`` of what drift leaves.

    ``sd^2 = |y - D b|^2 / (n_volumes - rank(D))`` with the constant and the drift in D.

    Parameters
    ----------
    series : array-like, shape (n_volumes, n_voxels)
        BOLD of one run, realigned, its mean not taken out.
    drift : array-like, shape (n_volumes, k), optional
        Columns to take out (`hyperdecode.fmri.design.cosine_drift`, say). Default: a straight line.

    Returns
    -------
    ndarray of float32, shape (n_voxels,)
        NaN for voxels that are constant or not finite.

    Raises
    ------
    UserError
        When `series` is not volumes x voxels or too short.

    References
    ----------
    Murphy K, Bodurka J, Bandettini PA (2007). How long to scan? NeuroImage 34, 565-574.
    """
    data = _series(series)
    n = data.shape[0]
    slow = np.linspace(-1, 1, n)[:, None] if drift is None else np.asarray(drift, dtype=np.float64).reshape(n, -1)
    basis, triangle = np.linalg.qr(np.hstack([np.ones((n, 1)), slow]))
    basis = basis[:, np.abs(np.diag(triangle)) > 1e-10]
    if n <= basis.shape[1]:
        raise UserError(f"tSNR needs more volumes than drift columns, got {n} and {basis.shape[1]}: use fewer columns")
    ratio = np.full(data.shape[1], np.nan, dtype=np.float32)
    for block in voxel_blocks(n, data.shape[1]):
        part = data[:, block].astype(np.float64)
        mean = part.mean(axis=0)
        total = (part**2).sum(axis=0)
        part -= basis @ (basis.T @ part)
        power = (part**2).sum(axis=0)
        good = np.isfinite(power) & (power > FLAT * total)
        ratio[block][good] = mean[good] / np.sqrt(power[good] / (n - basis.shape[1]))
    return ratio


def dvars(series: ArrayLike) -> FloatArray:
    """Return standardised DVARS: how much the whole image changes from one volume to the next; 1 is usual.

    ``DVARS_t = sqrt(mean_i (y_it - y_i,t-1)^2 / mean_i s_i^2)``: the root mean square of the differences over voxels,
    divided by what it would be in a run without spikes. ``s_i`` is the interquartile range of voxel i's differences
    divided by 1.349, which few spikes do not move and which holds the voxel's autocorrelation.

    Parameters
    ----------
    series : array-like, shape (n_volumes, n_voxels)
        BOLD of one run at brain voxels. Voxels that are not finite are left out.

    Returns
    -------
    ndarray of float64, shape (n_volumes,)
        NaN for the first volume.

    Raises
    ------
    UserError
        When `series` is not volumes x voxels or too short, or no voxel changes.

    References
    ----------
    Power JD et al. (2012). NeuroImage 59, 2142-2154 (DVARS). Nichols TE (2017). Notes on creating a standardized
    version of DVARS, arXiv:1704.01469 (the same idea, with s_i from the series' own spread and lag-1 autocorrelation).
    """
    data = _series(series)
    squares, expected = np.zeros(data.shape[0] - 1), 0.0
    for block in voxel_blocks(2 * data.shape[0], data.shape[1]):
        step = np.diff(data[:, block].astype(np.float64), axis=0)
        step = step[:, np.isfinite(step).all(axis=0)]
        low, high = np.percentile(step, [25, 75], axis=0) if step.shape[1] else np.zeros((2, 0))
        squares += (step**2).sum(axis=1)
        expected += float((((high - low) / IQR_OF_NORMAL) ** 2).sum())
    if expected <= 0:
        raise UserError("no voxel of the series changes over time: check that the run holds BOLD, not a mask")
    return np.concatenate([[np.nan], np.sqrt(squares / expected)])


def split_half_of_test_repeats(
    z: ArrayLike, stimuli: Sequence[str], *, n_splits: int = 50, seed: int = 0
) -> NDArray[np.float32]:
    """Return how well the average answers to repeated test stimuli repeat, a voxel at a time. For the report alone.

    Each stimulus's repeats are divided at random into two halves (one repeat is left out when their number is odd) and
    averaged; ``r`` is the correlation of the two halves over stimuli, averaged over `n_splits` divisions. Spearman and
    Brown's ``2 r / (1 + r)`` is then the reliability of the average of all repeats; below 0, where it means nothing,
    ``2 r / (1 - r)`` keeps noise symmetric about 0.

    It describes test data: nothing fitted (mask, scaling, penalty, GLM settings) may depend on it. For a mask by
    reliability see `hyperdecode.fmri.mask.reliability_mask`, which takes training trials only.

    Parameters
    ----------
    z : array-like, shape (n_trials, n_voxels)
        Single-trial z values of the test trials.
    stimuli : sequence of str, length n_trials
        The stimulus of each row; those shown once take no part.
    n_splits : int
        Random divisions.
    seed : int
        Of the divisions.

    Returns
    -------
    ndarray of float32, shape (n_voxels,)
        NaN for voxels that are constant or not finite.

    Raises
    ------
    UserError
        When fewer than three stimuli repeat, shapes do not fit or `n_splits` is not positive.

    References
    ----------
    Lage-Castellanos A, Valente G, Formisano E, De Martino F (2019). Methods for computing the maximum performance of
    computational models of fMRI responses. PLoS Computational Biology 15, e1006397.
    """
    values = np.asarray(z)
    rows, counts = repeated_groups(values, stimuli)
    if counts.size < 3 or n_splits < 1:
        raise UserError(
            f"split halves need at least 3 repeated stimuli and 1 division, got {counts.size} and {n_splits}: "
            "show more stimuli again"
        )
    divisions = _divisions(counts, n_splits, np.random.default_rng(seed))
    reliability = np.full(values.shape[1], np.nan, dtype=np.float32)
    for block in voxel_blocks(4 * rows.size, values.shape[1]):
        part = values[:, block][rows].astype(np.float64)
        good = np.isfinite(part).all(axis=0) & (part != part[0]).any(axis=0)
        part = np.ascontiguousarray(part[:, good])
        r = np.zeros(part.shape[1])
        for halves in divisions:
            r += _correlation(*np.split(halves @ part, 2))
        r /= n_splits
        with np.errstate(divide="ignore", invalid="ignore"):
            reliability[block][good] = 2 * r / (1 + np.abs(r))
    return reliability


def noise_ceiling_of_test_repeats(
    z: ArrayLike, stimuli: Sequence[str], n_averaged: float | None = None
) -> NDArray[np.float32]:
    """Return the share of variance over test stimuli that any model could explain. For the report alone.

    ``ceiling = s^2 / (s^2 + n^2 / m)`` with signal variance s^2 (held at 0 from below), noise variance n^2 of a single
    trial, and m averaged trials. The variances are those of `hyperdecode.fmri.repeats.repeat_variance`; Allen et al.
    take s^2 as the variance of all trials less n^2, which is a little low where few stimuli are shown.

    It describes test data: nothing fitted (mask, scaling, penalty, GLM settings) may depend on it.

    Parameters
    ----------
    z : array-like, shape (n_trials, n_voxels)
        Single-trial z values of the test trials.
    stimuli : sequence of str, length n_trials
        The stimulus of each row; those shown once take no part.
    n_averaged : float, optional
        Trials averaged, m. 1 gives the ceiling of single trials. Default: the repeats of a stimulus.

    Returns
    -------
    ndarray of float32, shape (n_voxels,)
        From 0 to 1; NaN for voxels that are constant or not finite.

    Raises
    ------
    UserError
        When fewer than two stimuli repeat, shapes do not fit or `n_averaged` is not positive.

    References
    ----------
    Allen EJ et al. (2022). A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial intelligence.
    Nature Neuroscience 25, 116-126.
    """
    if n_averaged is not None and not n_averaged > 0:
        raise UserError(f"n_averaged is a number of trials above 0, got {n_averaged}")
    parts = repeat_variance(z, stimuli)
    signal = np.maximum(parts.signal, 0.0)
    total = signal + parts.noise / (parts.repeats if n_averaged is None else n_averaged)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, signal / total, np.nan).astype(np.float32)


def _series(series: ArrayLike) -> NDArray[np.generic]:
    data = np.asarray(series)
    if data.ndim != 2 or data.shape[0] < 3:
        raise UserError(f"a series is volumes x voxels with at least 3 volumes, got shape {data.shape}: mask it first")
    return data


def _divisions(counts: NDArray[np.intp], n_splits: int, rng: np.random.Generator) -> list[sparse.csr_array]:
    """Return for each division a matrix (2 n_stimuli, n_trials) that averages the first and the second halves."""
    n, starts, halves = counts.size, np.cumsum(counts) - counts, counts // 2
    groups = np.concatenate([np.repeat(np.arange(n), halves), np.repeat(np.arange(n, 2 * n), halves)])
    weights = 1.0 / np.concatenate([np.repeat(halves, halves)] * 2)
    shape = (2 * n, int(counts.sum()))
    divisions = []
    for _ in range(n_splits):
        drawn = [start + rng.permutation(count) for start, count in zip(starts, counts, strict=True)]
        first = [order[:half] for order, half in zip(drawn, halves, strict=True)]
        second = [order[half : 2 * half] for order, half in zip(drawn, halves, strict=True)]
        divisions.append(sparse.csr_array((weights, (groups, np.concatenate(first + second))), shape=shape))
    return divisions


def _correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """Pearson correlation of each column of `a` with that of `b`."""
    a = a - a.mean(axis=0)
    b = b - b.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r: FloatArray = np.einsum("ij,ij->j", a, b) / np.sqrt(np.einsum("ij,ij->j", a, a) * np.einsum("ij,ij->j", b, b))
    return r
