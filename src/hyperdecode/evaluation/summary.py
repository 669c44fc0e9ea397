"""The score table: each metric of the decoder beside every blind predictor, with a test of the pairing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import BLIND_PREDICTORS, matched_noise, random_derangement, shuffled_score
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.metrics import (
    checked_pair,
    correlation_scores,
    cosine_scores,
    lsim_scores,
    r_squared_scores,
    standardise,
)
from hyperdecode.evaluation.permutation import pairing_permutation_test
from hyperdecode.evaluation.pictures import (
    SSIM_PROTOCOLS,
    Pictures,
    Protocol,
    pixel_correlation_scores,
    ssim_pairs,
    ssim_scores,
)

__all__ = ["PRIMARY_METRIC", "TABLE_COLUMNS", "Evaluation", "evaluate_latents", "evaluate_pictures"]

Array = NDArray[np.float64]
Scorer = Callable[[Array, Array], Array]

PRIMARY_METRIC = "identification"
"""The metric that the verdict rests on, chosen before any data: 2-way identification of latents."""

TABLE_COLUMNS: tuple[str, ...] = (
    "metric",
    "space",
    "decoder",
    *(f"blind_{name}" for name in BLIND_PREDICTORS),
    "best_blind",
    "best_blind_score",
    "p_value",
    "n_faces",
    "n_permutations",
)

LARGEST_FULL_MATRIX = 256


@dataclass(frozen=True)
class Evaluation:
    """Scores of one subject.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a metric, columns `TABLE_COLUMNS`. Every metric is higher-is-better; ``p_value`` is that of
        the pairing permutation test, NaN where it was not run; a blind predictor that was not given is NaN.
    per_face : pandas.DataFrame
        One row a test face, one column a metric: the decoder's score of that face.
    """

    table: pd.DataFrame
    per_face: pd.DataFrame

    def joined(self, other: Evaluation) -> Evaluation:
        """Put the rows of `other` below, and its columns beside (both are of the same faces)."""
        if len(self.per_face) != len(other.per_face):
            raise UserError(f"evaluations of {len(self.per_face)} and {len(other.per_face)} faces cannot be joined")
        return Evaluation(
            pd.concat([self.table, other.table], ignore_index=True),
            pd.concat([self.per_face, other.per_face], axis=1),
        )


def evaluate_latents(
    predicted: ArrayLike,
    true: ArrayLike,
    training_mean: ArrayLike,
    *,
    mean: ArrayLike | None = None,
    sd: ArrayLike | None = None,
    n_permutations: int = 10_000,
    n_noise_draws: int = 20,
    seed: int = 0,
) -> Evaluation:
    """Judge decoded latents.

    Metrics: ``lsim``, ``cosine`` and ``r_squared`` (both from the training mean), ``identification`` (2-way, by
    correlation after subtracting the training mean; pool: all other test faces). With `mean` and `sd` these are
    taken on the generator's own scale (`hyperdecode.evaluation.metrics.standardise`), where the zero predictor is
    the average face, and ``lsim_raw`` is added for the latents as they came.

    Parameters
    ----------
    predicted : array of shape (n_faces, n_latents)
        Decoded latents.
    true : array of shape (n_faces, n_latents)
        Latents of the test stimuli, same order.
    training_mean : array of shape (n_latents,)
        Mean latent of the training stimuli (never of the test stimuli).
    mean, sd : arrays of shape (n_latents,), optional
        Mean and standard deviation of the generator's latents.
    n_permutations : int
        Pairings drawn for each p-value.
    n_noise_draws : int
        Draws that the noise predictor's score is averaged over.
    seed : int
        Seed of noise and permutations.

    Returns
    -------
    Evaluation
        Table and scores per face.

    Raises
    ------
    UserError
        When shapes do not fit, values are not finite, or only one of `mean` and `sd` is given.
    """
    p, t, m = *checked_pair(predicted, true), np.asarray(training_mean, dtype=np.float64)
    if p.shape != t.shape or m.shape != p.shape[1:]:
        raise UserError(
            f"got predictions {p.shape}, stimuli {t.shape} and a training mean {m.shape}: "
            "give one prediction a stimulus and one mean of the latents"
        )
    if (mean is None) != (sd is None):
        raise UserError("standardised latents need both mean and sd of the generator's latents, got one of them")

    rows: dict[str, tuple[dict[str, object], Array]] = {}
    if mean is not None and sd is not None:
        rows["lsim_raw"] = _latent_row("lsim_raw", lsim_scores, p, t, m, n_permutations, n_noise_draws, seed)
        p, t, m = (standardise(a, mean, sd) for a in (p, t, m))
    scorers: dict[str, Scorer] = {
        "lsim": lsim_scores,
        "cosine": lambda a, b: cosine_scores(a, b, m),
        "r_squared": lambda a, b: r_squared_scores(a, b, m),
        "identification": lambda a, b: win_rates(correlation_scores(a, b, m)),
    }
    for name, scorer in scorers.items():
        rows[name] = _latent_row(name, scorer, p, t, m, n_permutations, n_noise_draws, seed)
    return _assembled({name: rows[name] for name in (*scorers, "lsim_raw") if name in rows})


def evaluate_pictures(
    predicted: Pictures,
    true: Pictures,
    blind: Mapping[str, Pictures] | None = None,
    *,
    protocols: Sequence[Protocol] = SSIM_PROTOCOLS,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> Evaluation:
    """Judge reconstructed pictures.

    Metrics: ``ssim_hyper-paper`` and ``ssim_hyper-code`` (`hyperdecode.evaluation.pictures.ssim_scores`), ``pixcorr``
    at 224 pixels. The whole score matrix, and with it the test and the exact expectation of the
    shuffled predictor, is computed at up to 256 pixels; ``ssim_hyper-code`` of larger pictures has no p-value,
    and its shuffled score is that of one random derangement.

    Parameters
    ----------
    predicted : uint8 array of shape (n_faces, height, width, 3)
        Reconstructions.
    true : uint8 array of shape (n_faces, height, width, 3)
        Stimuli, same order and size.
    blind : mapping of str to uint8 array of shape (n_faces or 1, height, width, 3), optional
        Pictures that the generator makes of the latents of `hyperdecode.evaluation.blind.blind_predictions`
        (``"mean"``, ``"zero"``, ``"noise"``). One single picture stands for all faces.
    protocols : sequence of {"hyper-paper", "hyper-code"}
        SSIM protocols.
    n_permutations : int
        Pairings drawn for each p-value.
    seed : int
        Seed of permutations and derangement.

    Returns
    -------
    Evaluation
        Table and scores per face.

    Raises
    ------
    UserError
        When pictures do not fit together or a blind predictor is unknown.
    """
    given = dict(blind or {})
    unknown = sorted(set(given) - set(BLIND_PREDICTORS[:-1]))
    if unknown:
        raise UserError(f"unknown blind predictor {unknown[0]!r}: use {', '.join(BLIND_PREDICTORS[:-1])}")
    if len(predicted) != len(true):
        raise UserError(f"got {len(predicted)} reconstructions of {len(true)} stimuli: give one a stimulus")
    rows: dict[str, tuple[dict[str, object], Array]] = {}
    for protocol in protocols:
        name = f"ssim_{protocol}"
        blind_scores = {k: float(ssim_pairs(v, true, protocol).mean()) for k, v in given.items()}
        if protocol == "hyper-code" and max(true.shape[1:3]) > LARGEST_FULL_MATRIX:
            rows[name] = _diagonal_row(name, predicted, true, protocol, blind_scores, seed)
        else:
            scores = ssim_scores(predicted, true, protocol)
            rows[name] = _row(name, "picture", scores, blind_scores, n_permutations, seed)
    blind_scores = {k: _mean_pixel_correlation(v, true) for k, v in given.items()}
    scores = pixel_correlation_scores(predicted, true)
    rows["pixcorr"] = _row("pixcorr", "picture", scores, blind_scores, n_permutations, seed)
    return _assembled(rows)


def _latent_row(
    name: str, scorer: Scorer, p: Array, t: Array, m: Array, n_permutations: int, n_noise_draws: int, seed: int
) -> tuple[dict[str, object], Array]:
    draws = matched_noise(p, n_noise_draws, seed)
    blind = {
        "mean": _mean_of_pairs(scorer(np.tile(m, (len(t), 1)), t)),
        "zero": _mean_of_pairs(scorer(np.zeros_like(t), t)),
        "noise": float(np.mean([_mean_of_pairs(scorer(draw, t)) for draw in draws])),
    }
    return _row(name, "latent", scorer(p, t), blind, n_permutations, seed)


def _row(
    name: str, space: str, scores: Array, blind: dict[str, float], n_permutations: int, seed: int
) -> tuple[dict[str, object], Array]:
    test = pairing_permutation_test(scores, n_permutations, seed)
    filled = blind | {"shuffled": shuffled_score(scores)}
    return _entry(name, space, np.diagonal(scores).copy(), filled, test.p_value, n_permutations)


def _diagonal_row(
    name: str, predicted: Pictures, true: Pictures, protocol: Protocol, blind: dict[str, float], seed: int
) -> tuple[dict[str, object], Array]:
    wrong = ssim_pairs(predicted, true, protocol, random_derangement(len(true), seed), np.arange(len(true)))
    filled = blind | {"shuffled": float(wrong.mean())}
    return _entry(name, "picture", ssim_pairs(predicted, true, protocol), filled, float("nan"), 0)


def _entry(
    name: str, space: str, per_face: Array, blind: dict[str, float], p_value: float, n_permutations: int
) -> tuple[dict[str, object], Array]:
    best = max(blind, key=lambda key: blind[key])
    row: dict[str, object] = {
        "metric": name,
        "space": space,
        "decoder": float(per_face.mean()),
        **{f"blind_{key}": blind.get(key, float("nan")) for key in BLIND_PREDICTORS},
        "best_blind": best,
        "best_blind_score": blind[best],
        "p_value": p_value,
        "n_faces": len(per_face),
        "n_permutations": n_permutations,
    }
    return row, per_face


def _assembled(rows: dict[str, tuple[dict[str, object], Array]]) -> Evaluation:
    table = pd.DataFrame([row for row, _ in rows.values()], columns=list(TABLE_COLUMNS))
    return Evaluation(table, pd.DataFrame({name: per_face for name, (_, per_face) in rows.items()}))


def _mean_of_pairs(scores: Array) -> float:
    return float(np.diagonal(scores).mean())


def _mean_pixel_correlation(predicted: Pictures, true: Pictures) -> float:
    scores = pixel_correlation_scores(predicted, true)
    return float(scores.mean()) if len(predicted) == 1 else _mean_of_pairs(scores)
