"""Training stimuli shown more than once: their means, and how far each trial or mean can be relied on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from hyperdecode.decoding.checks import checked_matrix, checked_pair
from hyperdecode.errors import DataWarning, UserError
from hyperdecode.split import require_training

__all__ = ["average_repeats", "reliability_weights"]

Array = NDArray[np.float64]


def average_repeats(
    X: Any, Y: Any, stimuli: Sequence[str], roles: Sequence[str] | None = None
) -> tuple[Any, Any, NDArray[np.int64], list[str]]:
    """Average the trials of each training stimulus.

    Parameters
    ----------
    X : array or Tensor of shape (n_trials, n_voxels)
        Responses.
    Y : array or Tensor of shape (n_trials, n_latents)
        Latents of the stimuli shown.
    stimuli : sequence of str, length n_trials
        The stimulus of each trial.
    roles : sequence of {"train", "test"}, length n_trials, optional
        Role of each row; a single test trial is refused.

    Returns
    -------
    X : array or Tensor of shape (n_stimuli, n_voxels)
        Mean responses, of the library and type of `X`; stimuli in the order in which they first come.
    Y : array or Tensor of shape (n_stimuli, n_latents)
        Of the type of `X`.
    n_repeats : array of shape (n_stimuli,)
    names : list of str

    Raises
    ------
    LeakageError
        When a row is a test trial.
    UserError
        When arrays do not fit together, or trials of one stimulus have different latents.
    """
    voxels, latents, kind = checked_pair(X, Y)
    names, place, counts = _numbered(stimuli, roles, len(voxels), "average_repeats")
    first = torch.from_numpy(np.unique(place, return_index=True)[1])
    shown = torch.from_numpy(place)
    differ = (latents != latents[first][shown]).any(1)
    if bool(differ.any()):
        name = names[int(shown[int(differ.nonzero()[0, 0])])]
        raise UserError(
            f"trials of stimulus {name!r} have different latents: give every trial of a stimulus the latents it was "
            "made from"
        )
    sums = torch.zeros(len(names), voxels.shape[1], dtype=torch.float64, device=voxels.device)
    sums.index_add_(0, shown.to(voxels.device), voxels.double())
    means = sums / torch.from_numpy(counts).to(sums)[:, None]
    return kind.back(means), kind.back(latents[first]), counts, names


def reliability_weights(
    X: Any,
    stimuli: Sequence[str],
    runs: Sequence[object] | None = None,
    n_repeats: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    roles: Sequence[str] | None = None,
) -> Array:
    r"""Return weights of training rows by the inverse of their variance, with a mean of 1.

    .. math:: w_i \propto 1 / (\tau^2 + \sigma_i^2)

    Rows are single trials, whose :math:`\sigma_i^2` is the noise of their run, or means of repeats (`n_repeats`), with
    :math:`\sigma_i^2 = \sigma^2 / n_i`. Variances are means over voxels, each in units of its own.

    Of trials, :math:`\tau^2` and the noise of every run are found by least squares from how far trials are from the
    mean of the k trials of their stimulus s, and from the variance over all trials of a run r:

    .. math::
        E (x_i - m_s)^2 = \sigma_i^2 (1 - 2/k) + \sum_j \sigma_j^2 / k^2, \qquad
        E (x_i - \bar x)^2 = \tau^2 + \sigma_r^2 .

    Of means, they are found from how far these are from the mean of all. :math:`\tau^2` is all that repeats have in
    common, the signal too, so that weights are nearer to one another than those of noise alone.

    Parameters
    ----------
    X : array or Tensor of shape (n_rows, n_voxels)
    stimuli : sequence of str, length n_rows
        The stimulus of each row.
    runs : sequence, length n_rows, optional
        Run of each trial. Without runs all trials are as noisy as each other and weigh the same.
    n_repeats : sequence of int, length n_rows, optional
        How many trials each row is the mean of.
    roles : sequence of {"train", "test"}, length n_rows, optional
        Role of each row; a single test trial is refused.

    Returns
    -------
    array of shape (n_rows,)

    Raises
    ------
    LeakageError
        When a row is a test trial.
    UserError
        When lengths do not fit, or a number of repeats is below 1.

    Warns
    -----
    DataWarning
        When no stimulus repeats, or all means are of as many trials: nothing tells rows apart, all weigh the same. When
        a run holds no trial of a repeated stimulus: it gets the mean noise.
    """
    voxels = checked_matrix(X, "responses")[0].double().numpy(force=True)
    _, place, counts = _numbered(stimuli, roles, len(voxels), "reliability_weights")
    spread = voxels.std(axis=0)
    z = (voxels - voxels.mean(axis=0)) / np.where(spread > 0, spread, 1)
    if n_repeats is not None:
        return _weights_of_means(z, np.asarray(n_repeats))
    if runs is not None and len(runs) != len(voxels):
        raise UserError(f"got {len(voxels)} trials and {len(runs)} runs: give one run a trial")
    if (counts > 1).sum() == 0:
        return _equal(len(voxels), "no training stimulus was shown twice: nothing tells how noisy each run is")
    if runs is None or len(set(runs)) == 1:
        return np.ones(len(voxels))
    number = {run: place for place, run in enumerate(dict.fromkeys(runs))}
    signal, noise = _variances(z, place, counts, np.array([number[run] for run in runs]), list(number))
    weights: Array = 1 / (signal + noise)
    weights /= weights.mean()
    return weights


def _variances(
    z: Array, place: NDArray[np.intp], counts: NDArray[np.int64], run: NDArray[np.intp], names: list[object]
) -> tuple[float, Array]:
    """Return the variance that repeats have in common, and the noise variance of each trial's run."""
    rows = np.flatnonzero(counts[place] > 1)
    stimulus, mine, n_runs = place[rows], run[rows], len(names)
    sums = np.zeros((len(counts), z.shape[1]))
    np.add.at(sums, place, z)
    k = counts[stimulus].astype(float)
    distance = ((z[rows] - sums[stimulus] / k[:, None]) ** 2).mean(axis=1)
    shown_in = np.zeros((len(counts), n_runs))
    np.add.at(shown_in, (stimulus, mine), 1)
    within = np.zeros((len(rows), n_runs + 1))
    within[:, :-1] = shown_in[stimulus] / k[:, None] ** 2
    within[np.arange(len(rows)), mine] += 1 - 2 / k
    over_run = np.zeros((len(z), n_runs + 1))
    over_run[np.arange(len(z)), run] = over_run[:, -1] = 1
    known = np.append(np.bincount(mine, minlength=n_runs) > 0, True)
    used = known[run]
    design = np.concatenate([within, over_run[used]])[:, known]
    found = np.zeros(n_runs + 1)
    found[known] = nnls(design, np.concatenate([distance, (z[used] ** 2).mean(axis=1)]))[0]
    average = float(found[mine].mean())
    # A run that seems to have no noise at all was estimated from too few trials: nothing weighs without bound.
    found[:-1][known[:-1]] = np.maximum(found[:-1][known[:-1]], 0.05 * average)
    if not known.all():
        found[~known] = average
        lacking = ", ".join(str(name) for name, there in zip(names, known[:-1], strict=True) if not there)
        warnings.warn(
            f"no stimulus of run {lacking} was shown again: its noise is taken for the mean of the other runs",
            DataWarning,
            stacklevel=3,
        )
    return float(found[-1]), found[run]


def _weights_of_means(z: Array, n_repeats: NDArray[np.integer[Any]]) -> Array:
    if n_repeats.shape != (len(z),) or (len(z) and n_repeats.min() < 1):
        raise UserError(
            f"got {len(z)} means and n_repeats of shape {n_repeats.shape}: give the number of trials of each, 1 or more"
        )
    if len(set(n_repeats.tolist())) == 1:
        return _equal(len(z), f"all means are of {n_repeats[0]} trials: nothing tells how noisy each is")
    share = 1 / n_repeats.astype(float)
    signal, noise = nnls(np.stack([np.ones_like(share), share], axis=1), (z**2).mean(axis=1))[0]
    weights: Array = 1 / (signal + noise * share)
    weights /= weights.mean()
    return weights


def _equal(n: int, why: str) -> Array:
    warnings.warn(f"{why}, so all rows weigh the same", DataWarning, stacklevel=4)
    return np.ones(n)


def _numbered(
    stimuli: Sequence[str], roles: Sequence[str] | None, n_rows: int, what: str
) -> tuple[list[str], NDArray[np.intp], NDArray[np.int64]]:
    """Return stimuli in order of appearance, the place of each row's among them, and how often each was shown."""
    if len(stimuli) != n_rows:
        raise UserError(f"got {n_rows} trials and {len(stimuli)} stimuli: give one stimulus a trial")
    require_training(roles, n_rows, what)
    names = list(dict.fromkeys(map(str, stimuli)))
    number = {name: k for k, name in enumerate(names)}
    place = np.array([number[str(name)] for name in stimuli], dtype=np.intp)
    return names, place, np.bincount(place, minlength=len(names)).astype(np.int64)
