"""Accuracy as the number of averaged repeats grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.evaluation.bootstrap import bootstrap_interval
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.metrics import checked_pair, correlation_scores, cosine_scores

__all__ = ["CURVE_COLUMNS", "CURVE_METRICS", "latent_scorer", "repeats_curve"]

Array = NDArray[np.float64]

CURVE_COLUMNS = ("metric", "n_repeats", "score", "low", "high")
CURVE_METRICS = ("identification", "cosine")


def latent_scorer(metric: str, training_mean: ArrayLike) -> Callable[[Array, Array], Array]:
    """Return what makes the score matrix of predictions and stimuli, seen from the mean of the training latents.

    ``"identification"`` is the share of other stimuli that each stimulus beats by correlation
    (`hyperdecode.evaluation.identification.win_rates`), ``"cosine"`` that of `hyperdecode.evaluation.metrics`.
    """
    m = np.asarray(training_mean, dtype=np.float64)
    if metric == "identification":
        return lambda p, t: win_rates(correlation_scores(p, t, m))
    if metric == "cosine":
        return lambda p, t: cosine_scores(p, t, m)
    raise UserError(f"no metric {metric!r} for averages of repeats: choose among {', '.join(CURVE_METRICS)}")


def repeats_curve(
    decoded: ArrayLike,
    faces: Sequence[str],
    true: ArrayLike,
    names: Sequence[str],
    training_mean: ArrayLike,
    *,
    metrics: Sequence[str] = CURVE_METRICS,
    n_draws: int = 50,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Score decoded averages of 1, 2, ... repeats of each test face.

    For each n, `n_draws` times: n trials of each face are drawn without replacement, their decoded latents averaged and
    scored against all faces. A face's score is its mean over draws.

    Parameters
    ----------
    decoded : array of shape (n_trials, n_latents)
        Decoded latents of the single test trials. Decoders here are linear (`hyperdecode.decoding.base`), for which
        the average of decoded trials is the decoded average.
    faces : sequence of str, length n_trials
        The face of each trial.
    true : array of shape (n_faces, n_latents)
        Latents of the test faces.
    names : sequence of str, length n_faces
        The faces in the order of `true`.
    training_mean : array of shape (n_latents,)
        Mean latent of the training stimuli.
    metrics : sequence of str
        Of `CURVE_METRICS`.
    n_draws : int
        Subsets of each size (one of all repeats, where each face has as many).
    level : float
        Of the intervals.
    seed : int
        Of subsets and intervals.

    Returns
    -------
    pandas.DataFrame
        Columns `CURVE_COLUMNS`: the mean over faces and its bootstrap interval
        (`hyperdecode.evaluation.bootstrap.bootstrap_interval`), one row a metric and n, up to the fewest trials that
        any face has. Rows share trials: their intervals are not independent of each other.

    Raises
    ------
    UserError
        When shapes do not fit, a face has no trial, a trial is of another face, or a metric is unknown.
    """
    p, t = checked_pair(decoded, true)
    scorers = {metric: latent_scorer(metric, training_mean) for metric in metrics}
    trials = _trials_of(faces, names, len(p), len(t))
    if n_draws < 1:
        raise UserError(f"averages of repeats need at least one draw, got {n_draws}")
    rng = np.random.default_rng(seed)
    most = min(len(rows) for rows in trials)
    single_subset = all(len(rows) == most for rows in trials)
    points: dict[str, list[tuple[object, ...]]] = {metric: [] for metric in metrics}
    for n in range(1, most + 1):
        per_face = {metric: np.zeros(len(t)) for metric in metrics}
        draws = 1 if n == most and single_subset else n_draws
        for _ in range(draws):
            averages = np.stack([p[rng.permutation(mine)[:n]].mean(axis=0) for mine in trials])
            for metric, scorer in scorers.items():
                per_face[metric] += np.diagonal(scorer(averages, t)) / draws
        for metric, scores in per_face.items():
            limits = bootstrap_interval(scores, level, seed=seed)
            points[metric].append((metric, n, float(scores.mean()), *limits))
    return pd.DataFrame([point for metric in metrics for point in points[metric]], columns=list(CURVE_COLUMNS))


def _trials_of(faces: Sequence[str], names: Sequence[str], n_trials: int, n_faces: int) -> list[NDArray[np.intp]]:
    """Rows of each face's trials."""
    shown, wanted = np.asarray(faces, dtype=str), [str(name) for name in names]
    if len(shown) != n_trials or len(wanted) != n_faces or len(set(wanted)) != n_faces:
        raise UserError(
            f"got {n_trials} decoded trials of {len(shown)} faces, and {n_faces} true latents of {len(set(wanted))} "
            "names: give one face a trial and one name a row of true latents"
        )
    others = sorted(set(shown.tolist()) - set(wanted))
    rows = [np.flatnonzero(shown == name) for name in wanted]
    if others or not all(len(mine) for mine in rows):
        odd = others[0] if others else next(name for name, mine in zip(wanted, rows, strict=True) if not len(mine))
        raise UserError(f"trials and true latents are not of the same faces, {odd!r} is in one of them only")
    return rows
