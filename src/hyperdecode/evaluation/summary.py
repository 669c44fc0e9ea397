"""The score table: each metric of the decoder beside every blind predictor, with a test of the pairing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import BLIND_PREDICTORS, random_derangement, shuffled_score
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.latent_scores import PRIMARY_METRIC, latent_rows
from hyperdecode.evaluation.metrics import checked_pair, feature_scores
from hyperdecode.evaluation.pictures import (
    COMPARED_SIZE,
    SSIM_PROTOCOLS,
    Pictures,
    Protocol,
    check_pictures,
    ms_ssim_pairs,
    ms_ssim_scores,
    pixel_correlation_scores,
    resized,
    ssim_pairs,
    ssim_scores,
)
from hyperdecode.evaluation.presets import Preset
from hyperdecode.evaluation.rows import TABLE_COLUMNS, Inference, Row, scored, table_of
from hyperdecode.evaluation.structural import MS_SSIM_SMALLEST
from hyperdecode.evaluation.whitening import Whitening

__all__ = [
    "PRIMARY_METRIC",
    "TABLE_COLUMNS",
    "Evaluation",
    "evaluate_features",
    "evaluate_latents",
    "evaluate_pictures",
]

Array = NDArray[np.float64]
Pairs = NDArray[np.intp]

LATENT_METRICS = ("lsim", "cosine", "r_squared", "identification", "lsim_raw")
"""Without a preset."""
LARGEST_FULL = 2e9
"""Pixels of all pairs above which full-size SSIM is that of the true pairs alone (half a minute of one core)."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one subject.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a metric, columns `TABLE_COLUMNS`: the decoder's mean score over faces with its interval ``low`` to
        ``high`` (`hyperdecode.evaluation.bootstrap.bootstrap_interval`), the mean score of each blind predictor (NaN
        where it was not given), the best of them, ``skill``, p, q, family-wise p and what it is against (``null``).
        Every metric is higher-is-better but ``norm_ratio``, which has no best predictor and no test.
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
    whitening: Whitening | None = None,
    blind: Mapping[str, ArrayLike] | None = None,
    attributes: ArrayLike | None = None,
    preset: Preset | None = None,
    n_permutations: int = 10_000,
    n_noise_draws: int = 20,
    seed: int = 0,
) -> Evaluation:
    """Judge decoded latents.

    Metrics: ``lsim``, ``cosine`` and ``r_squared`` (both from the training mean), ``identification`` (2-way, by
    correlation after subtracting the training mean; pool: all other test faces). With `mean` and `sd` these are
    taken on the generator's own scale (`hyperdecode.evaluation.metrics.standardise`), where the zero predictor is
    the average face, and ``lsim_raw`` is added for the latents as they came. A preset may ask for more:
    ``lsim_white`` and ``cosine_white`` (with `whitening`), ``identification_10`` and ``_36`` (with as many faces),
    ``identification_matched`` (with `attributes`), ``norm_ratio``.

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
    whitening : Whitening, optional
        By the generator's mean and covariance.
    blind : mapping of str to array, optional
        Latents of more blind predictors: ``"random"`` (n_random, n_latents), fresh ones of the generator, and
        ``"nearest"`` (n_latents,), of the face that `hyperdecode.evaluation.blind.typical_face` chooses.
    attributes : array of shape (n_faces, n_attributes), optional
        Attribute scores of the test stimuli, for foils that are like them.
    preset : Preset, optional
        Which metrics, tested against what. Default: those of the first paragraph, by their pairing.
    n_permutations : int
        Pairings drawn for each p-value.
    n_noise_draws : int
        Draws that the noise predictor's score is averaged over.
    seed : int
        Seed of noise, permutations and intervals.

    Returns
    -------
    Evaluation
        Table and scores per face.

    Raises
    ------
    UserError
        When shapes do not fit, values are not finite, a blind predictor is unknown, or only one of `mean` and `sd` is
        given.
    """
    p, t, m = *checked_pair(predicted, true), np.asarray(training_mean, dtype=np.float64)
    if p.shape != t.shape or m.shape != p.shape[1:]:
        raise UserError(
            f"got predictions {p.shape}, stimuli {t.shape} and a training mean {m.shape}: "
            "give one prediction a stimulus and one mean of the latents"
        )
    if (mean is None) != (sd is None):
        raise UserError("standardised latents need both mean and sd of the generator's latents, got one of them")
    given = {name: np.atleast_2d(np.asarray(values, np.float64)) for name, values in (blind or {}).items()}
    _refuse_unknown(given, ("random", "nearest"))
    inference = _inference(preset, n_permutations, seed)
    metrics = LATENT_METRICS if preset is None else preset.latent_metrics
    scale = None if mean is None or sd is None else (np.asarray(mean, np.float64), np.asarray(sd, np.float64))
    rows = latent_rows(metrics, (p, t, m), given, scale, whitening, attributes, inference, n_noise_draws)
    return Evaluation(*table_of(rows, inference))


def evaluate_features(
    predicted: ArrayLike,
    true: ArrayLike,
    blind: Mapping[str, ArrayLike] | None = None,
    *,
    name: str = "fsim_dlib",
    identification: bool = False,
    preset: Preset | None = None,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> Evaluation:
    """Judge reconstructions by a face network's features.

    Parameters
    ----------
    predicted, true : arrays of shape (n_faces, n_features)
        Features of reconstructions and stimuli, same order.
    blind : mapping of str to array of shape (n_faces or 1, n_features), optional
        Features of the pictures of blind predictors; one single row stands for all faces.
    name : str
        Of the feature similarity (`hyperdecode.evaluation.metrics.feature_scores`): ``"fsim"`` for the paper's network
        alone.
    identification : bool
        Whether ``identification_features`` is added: 2-way, by the distance of features.
    preset : Preset, optional
        Its test; with one, metrics that it does not name are left out.
    n_permutations, seed
        As for `evaluate_latents`.

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        When features do not fit together or a blind predictor is unknown.
    """
    p, t = checked_pair(predicted, true)
    given = {key: checked_pair(values, t)[0] for key, values in (blind or {}).items()}
    _refuse_unknown(given, BLIND_PREDICTORS[:-1])
    if len(p) != len(t):
        raise UserError(f"got features of {len(p)} reconstructions and {len(t)} stimuli: give one a stimulus")
    inference = _inference(preset, n_permutations, seed)
    wanted = [name] + ["identification_features"] * identification
    rows = []
    for metric in wanted if preset is None else [one for one in wanted if one in preset.feature_metrics]:
        scorer = _feature_win_rates if metric == "identification_features" else feature_scores
        pool = f"{len(t) - 1} other test faces" if metric == "identification_features" else ""
        rows.append(
            _full_row(metric, "feature", scorer(p, t), {k: scorer(v, t) for k, v in given.items()}, inference, pool)
        )
    return Evaluation(*table_of(rows, inference))


def evaluate_pictures(
    predicted: Pictures,
    true: Pictures,
    blind: Mapping[str, Pictures] | None = None,
    *,
    protocols: Sequence[Protocol] = SSIM_PROTOCOLS,
    preset: Preset | None = None,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> Evaluation:
    """Judge reconstructed pictures.

    Metrics: ``ssim_hyper-paper`` and ``ssim_hyper-code`` (`hyperdecode.evaluation.pictures.ssim_scores`), ``pixcorr``
    at 224 pixels. A preset may ask for more: ``ms_ssim`` (of pictures of 112 pixels or more) and
    ``identification_pixels`` (2-way, by ``pixcorr``). Where all pairs of full-size pictures have more than 2e9 pixels
    (1024 pixels: more than 43 faces), ``ssim_hyper-code`` has no p-value, and its shuffled score is that of one random
    derangement.

    Parameters
    ----------
    predicted : uint8 array of shape (n_faces, height, width, 3)
        Reconstructions.
    true : uint8 array of shape (n_faces, height, width, 3)
        Stimuli, same order and size.
    blind : mapping of str to uint8 array of shape (n_faces or 1, height, width, 3), optional
        Pictures of blind predictors (all of `hyperdecode.evaluation.blind.BLIND_PREDICTORS` but ``"shuffled"``). One
        single picture stands for all faces; for the test against random latents ``"random"`` may be any number.
    protocols : sequence of {"hyper-paper", "hyper-code"}
        SSIM protocols, where there is no preset.
    preset : Preset, optional
        Which metrics, tested against what.
    n_permutations : int
        Pairings drawn for each p-value.
    seed : int
        Seed of permutations, derangement and intervals.

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
    _refuse_unknown(given, BLIND_PREDICTORS[:-1])
    if len(predicted) != len(true):
        raise UserError(f"got {len(predicted)} reconstructions of {len(true)} stimuli: give one a stimulus")
    inference = _inference(preset, n_permutations, seed)
    metrics = (*(f"ssim_{p}" for p in protocols), "pixcorr") if preset is None else preset.picture_metrics
    by_pixels = [metric for metric in metrics if metric in ("pixcorr", "identification_pixels")]
    for pictures in (predicted, *given.values()):
        check_pictures(pictures, true)
    # Resized once for all metrics but the one that is of full-size pictures.
    small, small_true = (resized(pictures, COMPARED_SIZE) for pictures in (predicted, true))
    small_given = {key: resized(pictures, COMPARED_SIZE) for key, pictures in given.items()}
    pixels = _pixel_rows(by_pixels, small, small_true, small_given, inference) if by_pixels else {}
    rows = []
    for metric in metrics:
        if metric in pixels:
            rows.append(pixels[metric])
        elif metric == "ssim_hyper-code":
            rows.append(_structural_row(metric, predicted, true, given, inference))
        elif metric != "ms_ssim" or min(true.shape[1:3]) >= MS_SSIM_SMALLEST:
            rows.append(_structural_row(metric, small, small_true, small_given, inference))
    return Evaluation(*table_of(rows, inference))


def _pixel_rows(
    metrics: Sequence[str], predicted: Pictures, true: Pictures, given: Mapping[str, Pictures], inference: Inference
) -> dict[str, Row]:
    """Pixel correlation, and identification by it."""
    scores = {key: pixel_correlation_scores(pictures, true) for key, pictures in given.items()}
    own = pixel_correlation_scores(predicted, true)
    rows = {}
    for metric in metrics:
        change, pool = (win_rates, f"{len(true) - 1} other test faces") if metric != "pixcorr" else (np.asarray, "")
        blind = {key: change(matrix) for key, matrix in scores.items()}
        rows[metric] = _full_row(metric, "picture", change(own), blind, inference, pool)
    return rows


def _structural_row(
    metric: str, predicted: Pictures, true: Pictures, given: Mapping[str, Pictures], inference: Inference
) -> Row:
    """Score of a kind of SSIM: the whole matrix where it is needed and can be had, else the pairs."""
    pairs, matrix = _structural(metric)
    full = metric != "ssim_hyper-code" or float(true[..., 0].size) * len(true) <= LARGEST_FULL
    whole = {"random"} if full and inference.null == "random latents" else set()
    blind = {key: float(pairs(pictures, true).mean()) for key, pictures in given.items() if key not in whole}
    random = matrix(given["random"], true) if whole and "random" in given else None
    if random is not None:
        blind["random"] = float(random.mean())
    if full and inference.null == "pairing":
        scores = matrix(predicted, true)
        blind["shuffled"] = shuffled_score(scores)
        return scored(metric, "picture", np.diagonal(scores).copy(), blind, inference, scores=scores)
    wrong = random_derangement(len(true), inference.seed)
    blind["shuffled"] = float(pairs(predicted[wrong], true).mean())
    return scored(metric, "picture", pairs(predicted, true), blind, inference, random=random)


def _structural(
    metric: str,
) -> tuple[Callable[[Pictures, Pictures], Array], Callable[[Pictures, Pictures], Array]]:
    """Return the functions of true pairs and of all pairs."""
    if metric == "ms_ssim":
        return ms_ssim_pairs, ms_ssim_scores
    protocol = next(p for p in SSIM_PROTOCOLS if metric == f"ssim_{p}")
    return lambda p, t: ssim_pairs(p, t, protocol), lambda p, t: ssim_scores(p, t, protocol)


def _full_row(
    metric: str, space: str, scores: Array, blind: Mapping[str, Array], inference: Inference, pool: str = ""
) -> Row:
    """Make the row of a metric whose matrices (n_predictions, n_faces) are all there."""
    random = blind.get("random") if inference.null == "random latents" else None
    known = {key: float((matrix if matrix is random else _own(matrix)).mean()) for key, matrix in blind.items()}
    known["shuffled"] = shuffled_score(scores)
    return scored(metric, space, np.diagonal(scores).copy(), known, inference, scores=scores, random=random, pool=pool)


def _own(scores: Array) -> Array:
    """Score of each prediction with its own face; one single prediction goes with every face."""
    return scores[0] if len(scores) == 1 else np.diagonal(scores).copy()


def _feature_win_rates(predicted: Array, true: Array) -> Array:
    return win_rates(feature_scores(predicted, true))


def _inference(preset: Preset | None, n_permutations: int, seed: int) -> Inference:
    if preset is None:
        return Inference(n_permutations=n_permutations, seed=seed)
    return Inference(preset.null, n_permutations, seed, preset.corrected)


def _refuse_unknown(given: Mapping[str, object], known: Sequence[str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(f"unknown blind predictor {unknown[0]!r}: use {', '.join(known)}")
