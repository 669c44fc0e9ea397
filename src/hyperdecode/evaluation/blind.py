"""Predictors that never saw the brain: what a score must beat before it means anything."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = [
    "BLIND_PREDICTORS",
    "blind_predictions",
    "matched_noise",
    "random_derangement",
    "shuffled_score",
    "typical_face",
]

Array = NDArray[np.float64]
NOISE_STREAM = 1

BLIND_PREDICTORS: tuple[str, ...] = ("mean", "zero", "noise", "random", "nearest", "average", "shuffled")
"""Training mean; zero; noise with the decoder's own mean and spread; fresh latents of the generator; the training face
nearest to the training mean; the average of the training pictures (pictures only); the decoder's own outputs, paired
wrongly."""


def blind_predictions(predicted: ArrayLike, training_mean: ArrayLike, seed: int = 0) -> dict[str, Array]:
    """Latents that each blind predictor gives for the test faces.

    ``"shuffled"`` uses the decoder's own predictions with other faces' stimuli; it has an exact
    expectation, `shuffled_score`, and so needs no latents of its own. ``"nearest"`` is `typical_face`, and ``"random"``
    comes from the generator.

    Parameters
    ----------
    predicted : array of shape (n_faces, n_latents)
        The decoder's predictions (only their mean and spread are used).
    training_mean : array of shape (n_latents,)
        Mean latent of the training stimuli.
    seed : int
        Seed of the noise.

    Returns
    -------
    dict of str to array of shape (n_faces, n_latents)
        Keys ``"mean"``, ``"zero"`` and ``"noise"`` (one draw of `matched_noise`).
    """
    p = np.asarray(predicted, dtype=np.float64)
    mean = np.asarray(training_mean, dtype=np.float64)
    if p.ndim != 2 or mean.shape != p.shape[1:]:
        raise UserError(f"predictions of shape {p.shape} need a training mean of one row, got shape {mean.shape}")
    return {
        "mean": np.tile(mean, (len(p), 1)),
        "zero": np.zeros_like(p),
        "noise": matched_noise(p, n_draws=1, seed=seed)[0],
    }


def matched_noise(predicted: ArrayLike, n_draws: int = 20, seed: int = 0) -> Array:
    """Fresh Gaussian predictions with the mean and standard deviation of the decoder's, dimension by dimension.

    Parameters
    ----------
    predicted : array of shape (n_faces, n_latents)
        The decoder's predictions.
    n_draws : int
        Independent draws, to be averaged after scoring.
    seed : int
        Seed of the noise.

    Returns
    -------
    array of shape (n_draws, n_faces, n_latents)
        Noise.
    """
    p = np.asarray(predicted, dtype=np.float64)
    # A stream of its own: latents that a caller drew with the same seed must not come back as noise.
    fresh = np.random.default_rng([seed, NOISE_STREAM]).standard_normal((n_draws, *p.shape))
    noise: Array = p.mean(axis=0) + p.std(axis=0) * fresh
    return noise


def typical_face(training_latents: ArrayLike) -> int:
    """Return which training face is nearest to the training mean: a real face that any predictor may always give.

    Parameters
    ----------
    training_latents : array of shape (n_training, n_latents)
        Latents of the training stimuli.

    Returns
    -------
    int
        Its row.

    Raises
    ------
    UserError
        When there are none, or a value is not finite.
    """
    t = np.asarray(training_latents, dtype=np.float64)
    if t.ndim != 2 or not t.size or not np.all(np.isfinite(t)):
        raise UserError(f"the typical face needs finite training latents (n, d), got shape {t.shape}")
    return int(np.argmin(np.sum((t - t.mean(axis=0)) ** 2, axis=1)))


def shuffled_score(scores: ArrayLike) -> float:
    """Return the mean score to expect when every prediction goes to another face's stimulus.

    In a uniformly random derangement prediction i meets each stimulus j != i equally often, so the
    expectation is the mean of the matrix off its diagonal; no draws are needed.

    Parameters
    ----------
    scores : array of shape (n_faces, n_faces)
        Similarity of prediction i and stimulus j.

    Returns
    -------
    float
        The expectation.
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 2 or s.shape[0] != s.shape[1] or len(s) < 2:
        raise UserError(f"shuffling needs a square matrix of at least two faces, got shape {s.shape}")
    return float((s.sum() - np.trace(s)) / (s.size - len(s)))


def random_derangement(n: int, seed: int = 0) -> NDArray[np.intp]:
    """Return a uniformly random permutation of 0..n-1 that moves every element (by rejection)."""
    if n < 2:
        raise UserError(f"a derangement needs at least two faces, got {n}")
    rng = np.random.default_rng(seed)
    while True:
        permutation = rng.permutation(n)
        if not np.any(permutation == np.arange(n)):
            return permutation
