"""Rows of the score table that are about latents: raw, on the generator's scale, and white."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import matched_noise, shuffled_score
from hyperdecode.evaluation.identification import matched_pools, n_way_rates, win_rates
from hyperdecode.evaluation.metrics import (
    correlation_scores,
    cosine_scores,
    lsim_scores,
    norm_ratios,
    r_squared_scores,
    standardise,
)
from hyperdecode.evaluation.rows import Inference, Row, described, scored
from hyperdecode.evaluation.whitening import Whitening

__all__ = ["PRIMARY_METRIC", "latent_rows"]

Array = NDArray[np.float64]
Pools = NDArray[np.bool_]
Scorer = Callable[[Array, Array], Array]

PRIMARY_METRIC = "identification"
"""The metric that the verdict rests on, chosen before any data: 2-way identification of latents."""


@dataclass(frozen=True)
class _View:
    """Latents in one unit: predictions, stimuli, training mean, blind predictors (one row stands for all faces)."""

    p: Array
    t: Array
    m: Array
    blind: Mapping[str, Array]

    def mapped(self, change: Callable[[Array], Array]) -> _View:
        blind = {key: change(rows) for key, rows in self.blind.items()}
        return _View(change(self.p), change(self.t), change(self.m), blind)


@dataclass(frozen=True)
class _Metric:
    """A metric of one call: how it scores, in which unit, among which foils."""

    score: Scorer
    view: _View
    pool: str = ""


def latent_rows(
    metrics: Sequence[str],
    latents: tuple[Array, Array, Array],
    blind: Mapping[str, Array],
    scale: tuple[Array, Array] | None,
    whitening: Whitening | None,
    attributes: ArrayLike | None,
    inference: Inference,
    n_noise_draws: int,
) -> list[Row]:
    """Make the rows of those `metrics` that can be computed (see `hyperdecode.evaluation.summary.evaluate_latents`).

    Parameters
    ----------
    metrics : sequence of str
    latents : predictions, stimuli, training mean
        As they came.
    blind : mapping of str to array of shape (n, n_latents)
        ``"random"``, ``"nearest"``.
    scale : mean and sd of the generator's latents, optional
    whitening : Whitening, optional
    attributes : array of shape (n_faces, n_attributes), optional
    inference : Inference
    n_noise_draws : int

    Returns
    -------
    list of Row
    """
    p, t, m = latents
    raw = _View(p, t, m, blind)
    views = {"raw": raw, "own": raw}
    if scale is not None:
        views["own"] = raw.mapped(partial(standardise, mean=scale[0], sd=scale[1]))
    if whitening is not None:
        views["white"] = raw.mapped(whitening)
    pools = None if attributes is None else _pools(attributes, len(t))
    rows = []
    for name in metrics:
        metric = _metric(name, views, pools, scale is not None)
        if metric is not None:
            rows.append(_row(name, metric, inference, n_noise_draws))
    return rows


def _metric(name: str, views: Mapping[str, _View], pools: Pools | None, scaled: bool) -> _Metric | None:
    """Return a metric by its name; None where what it needs was not given."""
    kind, _, unit = name.partition("_")
    if kind == "identification":
        return _identification(unit, views["own"], pools)
    if unit == "white":
        return None if "white" not in views else _similarity(kind, views["white"])
    if unit == "raw":
        return _similarity(kind, views["raw"]) if scaled else None
    return _similarity(name, views["own"])


def _similarity(kind: str, view: _View) -> _Metric:
    scorers: dict[str, Scorer] = {
        "lsim": lsim_scores,
        "cosine": lambda a, b: cosine_scores(a, b, view.m),
        "r_squared": lambda a, b: r_squared_scores(a, b, view.m),
        "norm_ratio": lambda a, b: norm_ratios(a, b, view.m),
    }
    if kind not in scorers:
        raise UserError(f"unknown latent metric {kind!r}: use {', '.join(scorers)} or identification")
    return _Metric(scorers[kind], view)


def _identification(kind: str, view: _View, pools: Pools | None) -> _Metric | None:
    """Identification by correlation from the training mean: 2-way, n-way, or 2-way among foils that are alike."""
    others = len(view.t) - 1

    def alike(a: Array, b: Array) -> Array:
        return correlation_scores(a, b, view.m)

    if kind == "matched":
        if pools is None:
            return None
        pool = f"{pools.sum(axis=1).max()} of {others} other test faces, most like it in attributes"
        return _Metric(lambda a, b: n_way_rates(alike(a, b), 2, pools), view, pool)
    pool = f"{others} other test faces"
    if not kind:
        return _Metric(lambda a, b: win_rates(alike(a, b)), view, pool)
    n = int(kind)
    return _Metric(lambda a, b: n_way_rates(alike(a, b), n), view, pool) if n <= others + 1 else None


def _row(name: str, metric: _Metric, inference: Inference, n_noise_draws: int) -> Row:
    view, score = metric.view, metric.score
    noise = matched_noise(view.p, n_noise_draws, inference.seed)
    blind = {
        "mean": float(score(view.m[None], view.t).mean()),
        "zero": float(score(np.zeros_like(view.m)[None], view.t).mean()),
        "noise": float(np.mean([np.diagonal(score(draw, view.t)).mean() for draw in noise])),
    }
    others = {key: score(rows, view.t) for key, rows in view.blind.items()}
    blind |= {key: float(scores.mean()) for key, scores in others.items()}
    scores = score(view.p, view.t)
    blind["shuffled"] = shuffled_score(scores)
    per_face = np.diagonal(scores).copy()
    if name == "norm_ratio":
        return described(name, "latent", per_face, blind, inference)
    if name == PRIMARY_METRIC:
        inference = replace(inference, null="pairing")
    random = others.get("random")
    return scored(name, "latent", per_face, blind, inference, scores=scores, random=random, pool=metric.pool)


def _pools(attributes: ArrayLike, n_faces: int) -> Pools:
    pools = matched_pools(attributes)
    if len(pools) != n_faces:
        raise UserError(f"got attribute scores of {len(pools)} faces for {n_faces} stimuli: give one row a stimulus")
    return pools
