"""Which training trials a learning curve is fitted to, and how the test scores grow with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.evaluation.bootstrap import bootstrap_interval
from hyperdecode.evaluation.metrics import checked_pair, correlation_scores
from hyperdecode.evaluation.power import pilot_effect, power
from hyperdecode.evaluation.repeats_curve import CURVE_METRICS, latent_scorer

__all__ = ["LEARNING_COLUMNS", "SHARES", "curve_point", "learning_table", "nested_trials"]

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Of the training faces."""
LEARNING_COLUMNS = ("metric", "n_trials", "score", "low", "high", "power")
FEWEST = 20
"""Training faces below which a decoder with folds means nothing."""


def nested_trials(stimuli: Sequence[str], shares: Sequence[float] = SHARES, *, seed: int = 0) -> list[NDArray[np.intp]]:
    """Choose ever larger sets of training trials, each holding the ones before.

    Parameters
    ----------
    stimuli : sequence of str, length n_trials
        The face of each training trial; all trials of a face go together.
    shares : sequence of float
        Of the faces, above 0 and up to 1.
    seed : int
        Of the order in which faces join.

    Returns
    -------
    list of intp arrays
        Rows in ascending order, from the smallest set to the largest. Sets of fewer than 20 faces are left out, as are
        those as large as another.

    Raises
    ------
    UserError
        When a share is out of range, or not even all faces are enough.
    """
    if not all(0 < share <= 1 for share in shares):
        raise UserError(f"shares of the training faces lie above 0 and up to 1, got {list(shares)}")
    faces = sorted(set(stimuli))
    sizes = sorted({round(share * len(faces)) for share in shares if round(share * len(faces)) >= FEWEST})
    if not sizes:
        raise UserError(f"a learning curve needs {FEWEST} training faces or more, got {len(faces)}")
    order = np.random.default_rng(seed).permutation(len(faces))
    rank = {faces[k]: place for place, k in enumerate(order)}
    place = np.array([rank[name] for name in stimuli])
    return [np.flatnonzero(place < size) for size in sizes]


def curve_point(
    n_trials: int,
    predicted: ArrayLike,
    true: ArrayLike,
    training_mean: ArrayLike,
    *,
    level: float = 0.05,
    seed: int = 0,
) -> list[tuple[object, ...]]:
    """Score the test faces of one decoder of the curve.

    Parameters
    ----------
    n_trials : int
        Training trials it was fitted to.
    predicted, true : array of shape (n_faces, n_latents)
        Of the averaged test faces.
    training_mean : array of shape (n_latents,)
        Mean latent of these training trials.
    level : float
        Of the test whose power is told.
    seed : int
        Of the intervals.

    Returns
    -------
    list of tuple
        Rows of `LEARNING_COLUMNS`, one a metric of `CURVE_METRICS`: mean over faces with its 95 % bootstrap interval;
        for identification the power with as many test faces (`hyperdecode.evaluation.power`), NaN where not known.

    Raises
    ------
    UserError
        When shapes do not fit.
    """
    p, t = checked_pair(predicted, true)
    rows: list[tuple[object, ...]] = []
    for metric in CURVE_METRICS:
        scores = np.diagonal(latent_scorer(metric, training_mean)(p, t))
        limits = bootstrap_interval(scores, seed=seed)
        found = _power(p, t, training_mean, level) if metric == "identification" else np.nan
        rows.append((metric, n_trials, float(scores.mean()), *limits, found))
    return rows


def learning_table(rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    """Return rows of `curve_point` as a table, metric by metric."""
    table = pd.DataFrame(list(rows), columns=list(LEARNING_COLUMNS))
    order = table["metric"].map(CURVE_METRICS.index)
    return table.assign(order=order).sort_values(["order", "n_trials"]).drop(columns="order").reset_index(drop=True)


def _power(p: NDArray[np.float64], t: NDArray[np.float64], mean: ArrayLike, level: float) -> float:
    try:
        effect = pilot_effect(correlation_scores(p, t, np.asarray(mean, np.float64)), "identification")
        return power(effect, len(p), level)
    except UserError:
        return float("nan")
