"""How well a run's design lets single trials be told apart, before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times, nuisance_matrix, trial_regressors

__all__ = ["DesignEfficiency", "design_efficiency"]

FloatArray = NDArray[np.float64]

DEPENDENT = 1e-10
"""Eigenvalues of the regressors' correlation matrix below this are zero but for rounding."""


@dataclass(frozen=True)
class DesignEfficiency:
    """Collinearity of the single-trial regressors of a run, after HRF convolution and with drift taken out.

    Attributes
    ----------
    lag1, lag2 : float
        Mean correlation of each trial's regressor with that of the next trial, and of the one after it; NaN where
        there are too few trials. Small ones do not make a design good: the inflation counts all trials together.
    inflation : ndarray of float64, (n_trials,)
        Variance of each trial's beta in least squares-all, as a multiple of what it would be if the trial stood alone
        in the run; 1 at best, infinite where the trial cannot be told from others.
    separate_inflation : ndarray of float64, (n_trials,)
        The same for least squares-separate, whose second regressor is the sum of the other trials.
    efficiency : float
        Reciprocal of the summed variances of all betas in least squares-all per unit of noise variance; 0 where one is
        infinite. Comparable between designs of one number of trials.
    """

    lag1: float
    lag2: float
    inflation: FloatArray
    separate_inflation: FloatArray
    efficiency: float


def design_efficiency(
    onsets: ArrayLike,
    durations: ArrayLike,
    n_volumes: int,
    t_r: float,
    *,
    high_pass: float = 0.01,
    slice_time_ref: float = 0.0,
) -> DesignEfficiency:
    """Work out the collinearity of a run's trials and what it costs.

    X, (n_volumes, n_trials), holds the canonical response to each trial with drift and constant projected out. Under
    white noise of variance s^2 the betas of least squares-all have the covariance ``s^2 (X'X)^-1``; alone, a trial's
    beta has the variance ``s^2 / x_i'x_i``. Hence

    - the correlation of neighbours: ``x_i'x_j / sqrt(x_i'x_i x_j'x_j)``, j = i + 1, i + 2;
    - the variance inflation: ``[(X'X)^-1]_ii x_i'x_i``;
    - that of least squares-separate: ``1 / (1 - r_i^2)``, where r_i is the correlation of x_i with the sum of the other
      regressors. It is small because the model is wrong on purpose: what is saved in variance is paid in bias, as a
      neighbour's response that differs from the mean of all leaks into the trial's beta;
    - the efficiency: ``1 / trace((X'X)^-1)``.

    Parameters
    ----------
    onsets, durations : array-like, (n_trials,)
        Seconds from the first volume, in any order.
    n_volumes : int
        Volumes of the run.
    t_r : float
        Repetition time in seconds.
    high_pass : float
        Cut-off of the cosine drift in Hz.
    slice_time_ref : float
        Where in the repetition time a volume counts as taken, 0 to 1.

    Returns
    -------
    DesignEfficiency
        Trials in the order of their onsets.

    Raises
    ------
    UserError
        When events or timing cannot be used, or a trial leaves no response in the run.

    References
    ----------
    Dale AM (1999). Optimal experimental design for event-related fMRI. Human Brain Mapping 8, 109-114.

    Mumford JA, Turner BO, Ashby FG, Poldrack RA (2012). Deconvolving BOLD activation in event-related designs for
    multivoxel pattern classification analyses. NeuroImage 59, 2636-2643.

    Examples
    --------
    >>> fast = design_efficiency([6.0, 10.5, 15.0], [1.5] * 3, 40, 1.5)
    >>> slow = design_efficiency([6.0, 20.0, 34.0], [1.5] * 3, 40, 1.5)
    >>> bool(fast.lag1 > slow.lag1 and (fast.inflation > slow.inflation).all())
    True
    """
    start, length = (np.asarray(values, dtype=np.float64).ravel() for values in (onsets, durations))
    if start.size == length.size:
        order = np.argsort(start, kind="stable")
        start, length = start[order], length[order]
    times = frame_times(n_volumes, t_r, slice_time_ref)
    regressors = trial_regressors(start, length, times)
    drift, _ = np.linalg.qr(nuisance_matrix(times, high_pass))
    clean = regressors - drift @ (drift.T @ regressors)
    power = (clean**2).sum(axis=0)
    unseen = np.flatnonzero(power <= DEPENDENT * np.maximum((regressors**2).sum(axis=0), DEPENDENT))
    if unseen.size:
        raise UserError(
            f"trial {unseen[0] + 1} (onset {start[unseen[0]]:g} s) leaves no response in the run: raise timing.lead_out"
        )
    unit = clean / np.sqrt(power)
    correlation = unit.T @ unit
    inflation = _inverse_diagonal(correlation)
    return DesignEfficiency(
        lag1=_mean_at_lag(correlation, 1),
        lag2=_mean_at_lag(correlation, 2),
        inflation=inflation,
        separate_inflation=_separate(clean, power),
        efficiency=float(1 / np.sum(inflation / power)),
    )


def _inverse_diagonal(correlation: FloatArray) -> FloatArray:
    """Diagonal of the inverse; infinite for trials that linear dependence touches."""
    values, vectors = np.linalg.eigh(correlation)
    alive = values > DEPENDENT * values[-1] * len(values)
    diagonal: FloatArray = (vectors[:, alive] ** 2 / values[alive]).sum(axis=1)
    diagonal[(vectors[:, ~alive] ** 2).sum(axis=1) > DEPENDENT] = np.inf
    return diagonal


def _separate(clean: FloatArray, power: FloatArray) -> FloatArray:
    """Variance inflation of least squares-separate."""
    others = clean.sum(axis=1, keepdims=True) - clean
    size = (others**2).sum(axis=0)
    shared = np.einsum("vt,vt->t", clean, others) ** 2
    # A trial that is alone in its run has no others.
    part = np.divide(shared, power * size, out=np.zeros_like(power), where=size > DEPENDENT * power)
    with np.errstate(divide="ignore"):
        inflation: FloatArray = 1 / np.where(part > 1 - DEPENDENT, 0.0, 1 - part)
    return inflation


def _mean_at_lag(correlation: FloatArray, lag: int) -> float:
    neighbours = np.diagonal(correlation, lag)
    return float(neighbours.mean()) if neighbours.size else float("nan")
