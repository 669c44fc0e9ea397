"""Impulse responses: by name, and a library of early, late, narrow and wide ones to choose from for each voxel."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import gamma

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.fmri.design import OVERSAMPLING, frame_times, nuisance_matrix, trial_columns
from hyperdecode.fmri.solvers import orthonormal

__all__ = ["CANONICAL", "LIBRARY", "Hrf", "LibraryEntry", "best_hrf", "choose_hrf", "hrf_kernels", "hrf_library"]

Hrf = Literal[
    "spm",
    "spm + derivative",
    "spm + derivative + dispersion",
    "glover",
    "glover + derivative",
    "library",
]
FloatArray = NDArray[np.float64]

DELAYS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
WIDTHS = (0.7, 1.0, 1.4)
N_DIMENSIONS = 3
LENGTH = 32.0
SPM_PEAK, SPM_UNDERSHOOT, SPM_RATIO = 5.0, 15.0, 0.167
REFERENCE_T_R = 2.5
"""The grid of 0.05 s on which the basis is found."""
UNSEEN = 1e-4


@dataclass(frozen=True)
class LibraryEntry:
    """One response of the library.

    Attributes
    ----------
    delay : float
        Seconds by which the positive gamma's mode comes after SPM's 5 s.
    width : float
        Scale (dispersion) of the positive gamma in seconds; SPM's is 1.
    """

    delay: float
    width: float


LIBRARY = tuple(LibraryEntry(delay, width) for width in WIDTHS for delay in DELAYS)
CANONICAL = LIBRARY.index(LibraryEntry(0.0, 1.0))
"""The library's entry that is SPM's canonical response, exactly."""


def hrf_kernels(hrf: Hrf, t_r: float) -> FloatArray:
    """Return the impulse responses of a named model, (n_kernels, n_steps), sampled `OVERSAMPLING` times a volume.

    The first is the canonical one, the others its derivatives by time and dispersion; all are nilearn's.

    Parameters
    ----------
    hrf : str
        "spm", "spm + derivative", "spm + derivative + dispersion", "glover" or "glover + derivative".
    t_r : float
        Repetition time in seconds.

    Raises
    ------
    UserError
        When the name is another.
    """
    from nilearn.glm import first_level as nilearn

    parts = {
        "spm": (nilearn.spm_hrf, nilearn.spm_time_derivative, nilearn.spm_dispersion_derivative),
        "glover": (nilearn.glover_hrf, nilearn.glover_time_derivative),
    }
    names = str(hrf).split(" + ")
    if hrf not in get_args(Hrf) or names[0] not in parts:
        raise UserError(f"unknown HRF {hrf!r}: choose {', '.join(repr(name) for name in get_args(Hrf))}")
    return np.stack([np.asarray(kernel(t_r, OVERSAMPLING)) for kernel in parts[names[0]][: len(names)]])


def hrf_library(t_r: float) -> FloatArray:
    """Return the library's impulse responses, (n_hrfs, n_steps), sampled `OVERSAMPLING` times a volume, of sum 1.

    Each is a double gamma ``g(t; 5 s + delay, width) - 0.167 g(t; 15 s + delay, 1)``, g being named by its mode and
    scale, projected on the three dimensions that span the family best with SPM's canonical response as the first:
    ``h_k = sum_b C_kb phi_b``. So three regressors hold every response of the library exactly, which is what lets
    `choose_hrf` take test trials out completely. The projection keeps 98.5 % or more of each response's energy and
    moves no peak by more than 0.3 s.

    The idea of choosing from a library that lies in a three-dimensional subspace is that of Allen et al. (2022); their
    responses come from measured time courses, these from a formula.

    Parameters
    ----------
    t_r : float
        Repetition time in seconds.

    References
    ----------
    Allen EJ et al. (2022). A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial intelligence.
    Nature Neuroscience 25, 116-126.
    """
    coefficients, basis = _weights()
    responses = coefficients @ basis @ _family(t_r)
    # The canonical one passes through the projection with rounding errors; put itself back.
    responses[CANONICAL] = _family(t_r)[CANONICAL]
    return responses


def choose_hrf(
    bold: ArrayLike,
    onsets: ArrayLike,
    durations: ArrayLike,
    t_r: float,
    is_training: ArrayLike,
    *,
    high_pass: float = 0.01,
    confounds: ArrayLike | None = None,
    slice_time_ref: float = 0.0,
    block: int = 4096,
) -> FloatArray:
    """Score every response of the library in every voxel of a run, by its training trials alone.

    ``score_h = (r_h' y)^2 / (r_h' r_h)`` with ``r_h = M sum_{i in training} x_i^h``: the sum of squares that one
    common response to all training trials explains. M projects out drift, constant, confounds and, for each
    test trial by itself, the three responses that span the library; so whatever the test trials evoked, each with
    an amplitude and a response of the library of its own, is gone from ``r_h' y``. Scores of runs add up.

    Parameters
    ----------
    bold : array-like, shape (n_volumes, n_voxels)
        BOLD of one run; runs whose scores are summed must have the same unit.
    onsets, durations : array-like, shape (n_trials,)
        Seconds from the first volume.
    t_r : float
        Repetition time in seconds.
    is_training : array-like of bool, shape (n_trials,)
        False for test trials and for events that are no trials.
    high_pass, confounds, slice_time_ref, block
        As in `single_trial_zmaps`.

    Returns
    -------
    ndarray of float64, shape (n_hrfs, n_voxels)
        0 where a voxel is constant or not finite, and everywhere when the run can tell nothing.

    Raises
    ------
    UserError
        When shapes do not fit.

    Warns
    -----
    DataWarning
        When the run has no training trial, or its test trials leave too few volumes.
    """
    data = np.asarray(bold)
    training = np.asarray(is_training, dtype=bool).ravel()
    if data.ndim != 2:
        raise UserError(f"bold must be volumes x voxels, got an array of shape {data.shape}: mask the 4D image first")
    if training.size != np.size(onsets):
        raise UserError(f"is_training names {training.size} trials, the run has {np.size(onsets)}: give one a trial")
    times = frame_times(data.shape[0], t_r, slice_time_ref)
    scores = np.zeros((len(LIBRARY), data.shape[1]))
    responses, no_interest = _common_responses(onsets, durations, times, t_r, training)
    basis = orthonormal(np.hstack([nuisance_matrix(times, high_pass, confounds), no_interest]))
    clean = responses - basis @ (basis.T @ responses)
    before, after = np.linalg.norm(responses, axis=0), np.linalg.norm(clean, axis=0)
    if (after <= UNSEEN * before).any() or not training.any():
        warnings.warn(
            f"a run of {data.shape[0]} volumes with {int(training.sum())} training and {int((~training).sum())} other "
            "trials says nothing of the HRF: left out of the choice",
            DataWarning,
            stacklevel=2,
        )
        return scores
    clean /= after
    for first in range(0, data.shape[1], block):
        y = data[:, first : first + block].astype(np.float64)
        y[:, ~np.isfinite(y).all(axis=0)] = 0.0
        y -= y.mean(axis=0)
        scores[:, first : first + block] = (clean.T @ (y - basis @ (basis.T @ y))) ** 2
    return scores


def best_hrf(scores: ArrayLike) -> NDArray[np.intp]:
    """Return the index in the library of each voxel's best response, (n_voxels,); the canonical one where none leads.

    Parameters
    ----------
    scores : array-like, shape (n_hrfs, n_voxels)
        Sum over runs of what `choose_hrf` returned.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != len(LIBRARY):
        raise UserError(f"scores must be {len(LIBRARY)} HRFs x voxels, got an array of shape {table.shape}")
    best = table.argmax(axis=0)
    leads = table[best, np.arange(table.shape[1])] > table[CANONICAL]
    return np.where(leads, best, CANONICAL)


def _common_responses(
    onsets: ArrayLike, durations: ArrayLike, times: FloatArray, t_r: float, training: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray]:
    """Return the training trials' sum under each HRF (n_volumes, n_hrfs), and every other trial's span."""
    coefficients, basis = _weights()
    columns = trial_columns(onsets, durations, times, basis @ _family(t_r))
    common = columns[:, :, training].sum(axis=2)
    others = columns[:, :, ~training]
    return (coefficients @ common).T, np.moveaxis(others, 0, 1).reshape(times.size, -1)


@lru_cache(maxsize=4)
def _family(t_r: float) -> FloatArray:
    """Return the double gammas on nilearn's grid for this repetition time, (n_hrfs, n_steps), each of sum 1."""
    step = t_r / OVERSAMPLING
    t = np.linspace(0, LENGTH, np.rint(LENGTH / step).astype(int))

    def bump(mode: float, scale: float) -> FloatArray:
        density: FloatArray = gamma.pdf(t, mode / scale + 1, loc=step, scale=scale)
        return density

    responses: FloatArray = np.stack([bump(SPM_PEAK + h.delay, h.width) for h in LIBRARY])
    responses -= SPM_RATIO * np.stack([bump(SPM_UNDERSHOOT + h.delay, 1.0) for h in LIBRARY])
    responses /= responses.sum(axis=1, keepdims=True)
    return responses


@lru_cache(maxsize=1)
def _weights() -> tuple[FloatArray, FloatArray]:
    """Return C (n_hrfs, 3) and the basis (3, n_hrfs) in terms of the family; found once, on one grid, for every t_r."""
    family = _family(REFERENCE_T_R)
    unit = family / np.linalg.norm(family, axis=1, keepdims=True)
    first = unit[CANONICAL]
    rest = unit - np.outer(unit @ first, first)
    left, sizes, _ = np.linalg.svd(rest, full_matrices=False)
    # The principal axes as sums of family members: v_b = sum_j left_jb / size_b * rest_j.
    axes = (left[:, : N_DIMENSIONS - 1] / sizes[: N_DIMENSIONS - 1]).T
    scale = 1 / np.linalg.norm(family, axis=1)
    basis = np.zeros((N_DIMENSIONS, len(LIBRARY)))
    basis[0, CANONICAL] = scale[CANONICAL]
    basis[1:] = axes * scale
    basis[1:, CANONICAL] -= scale[CANONICAL] * (axes @ (unit @ first))
    coefficients = family @ (basis @ family).T
    coefficients /= (coefficients @ basis).sum(axis=1, keepdims=True)
    return coefficients, basis
