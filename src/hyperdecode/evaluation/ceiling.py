"""Noise ceilings from repeated test faces: what the scatter of repeats alone leaves of a score.

A decoder's output for trial i of face s is :math:`p_{si} = f_s + e_{si}`: what it gives for the face without noise, and
noise of the measurement. Every ceiling here is that of *this decoder on these voxels*, were :math:`f_s` exactly right:
averaging more repeats comes closer to it, and nothing that the decoder gets wrong (misfit, too few training trials) is
in it. A score far below its ceiling says that a better decoder could help; one near it, that only more repeats can.

Test repeats are looked at, so nothing that is fitted may depend on any number from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.fmri.repeats import repeat_variance, repeated_groups

__all__ = [
    "Ceiling",
    "averaged_repeats",
    "correlation_ceiling",
    "metric_ceiling",
    "signal_share",
    "split_half_reliability",
]

Array = NDArray[np.float64]
Scorer = Callable[[Array, Array], Array]
"""Score matrix (n_predictions, n_stimuli) of predictions and stimuli, as in `hyperdecode.evaluation.metrics`."""


@dataclass(frozen=True)
class Ceiling:
    """A ceiling with its interval over test faces.

    Attributes
    ----------
    value, low, high : float
        In units of the score; the interval is a bootstrap over faces, each with all its trials.
    n_averaged : float
        Repeats that are averaged.
    """

    value: float
    low: float
    high: float
    n_averaged: float


def averaged_repeats(faces: Sequence[str]) -> float:
    """Return the number of repeats whose average is as noisy as the faces' own averages: the harmonic mean over faces.

    Faces shown once count.
    """
    _, counts = np.unique(np.asarray(faces, dtype=str), return_counts=True)
    if not len(counts):
        raise UserError("no trials were given: a ceiling needs repeated trials of test faces")
    return float(len(counts) / (1 / counts).sum())


def signal_share(
    values: ArrayLike,
    faces: Sequence[str],
    n_averaged: float | None = None,
    *,
    level: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
) -> Ceiling:
    r"""Return the share of variance over faces that the face explains, of averages of n trials.

    .. math:: R_n = \frac{s^2}{s^2 + \sigma^2 / n},

    with the variances :math:`s^2` of faces and :math:`\sigma^2` of repeats of one, each summed over columns
    (`hyperdecode.fmri.repeats.repeat_variance`). It is the split-half reliability of averages of n trials, taken
    over all divisions into halves (Spearman and Brown's formula links any two n). Of voxels it is the share that
    any model of the face could explain; of decoded values, the reliability of the decoder's output.

    Parameters
    ----------
    values : array of shape (n_trials, n_columns)
        z values of voxels, decoded latents, or decoded scores of an attribute; one row a test trial.
    faces : sequence of str, length n_trials
        The face of each trial; those shown once take no part.
    n_averaged : float, optional
        n. 1 gives the share of single trials. Default: `averaged_repeats`.
    level : float
        Of the interval.
    n_draws : int
        Bootstrap draws.
    seed : int
        Of the draws.

    Returns
    -------
    Ceiling
        From 0 to 1.

    Raises
    ------
    UserError
        When shapes do not fit, a value is not finite, fewer than three faces repeat, or nothing varies.

    Notes
    -----
    The interval is that of percentiles; a face drawn twice would make faces look alike, so the variance between the
    drawn faces is multiplied by :math:`g / (g - 1)` of g faces. Faces drawn are of the same kind and this brain.

    References
    ----------
    Shrout & Fleiss (1979), Psychol. Bull. 86:420 (intraclass correlation); Brown (1910), Br. J. Psychol. 3:296;
    Spearman (1910), Br. J. Psychol. 3:271.
    """
    x, names = _checked(values, faces)
    n = averaged_repeats(names) if n_averaged is None else n_averaged
    if not n > 0 or not 0 < level < 1 or n_draws < 1:
        raise UserError(f"got n_averaged {n}, level {level}, {n_draws} draws: all above 0, the level below 1")
    found = repeat_variance(x, names)
    signal, noise = float(found.signal.sum()), float(found.noise.sum())
    if not signal + noise > 0:
        raise UserError("all trials gave the same values: there is no variance to divide between faces and noise")
    signals, noises = _resampled(x, names, n_draws, np.random.default_rng(seed))
    low, high = np.quantile(_share(signals, noises, n), [(1 - level) / 2, (1 + level) / 2])
    value = float(_share(np.array([signal]), np.array([noise]), n)[0])
    return Ceiling(value, float(low), float(high), n)


def correlation_ceiling(
    values: ArrayLike,
    faces: Sequence[str],
    n_averaged: float | None = None,
    *,
    level: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
) -> Ceiling:
    r"""Return what noise leaves of the correlation over faces between decoded averages and the truth.

    .. math:: \mathrm{corr}(\bar p_n, y) = \mathrm{corr}(f, y) \sqrt{R_n} \le \sqrt{R_n},

    with :math:`R_n` of `signal_share` and the noise independent of the face. A decoder reaches it whose noise-free
    output follows the truth exactly.

    Parameters
    ----------
    values : array of shape (n_trials, n_columns)
        Decoded values of the single test trials, by a decoder that saw none of them. Several columns are pooled (sum of
        products over root of sums of squares), so give them a common scale.
    faces, n_averaged, level, n_draws, seed
        As for `signal_share`.

    Returns
    -------
    Ceiling
        From 0 to 1; 0 where repeats of a face are no more alike than trials of other faces.

    Raises
    ------
    UserError
        As `signal_share` does.
    """
    share = signal_share(values, faces, n_averaged, level=level, n_draws=n_draws, seed=seed)
    return replace(share, value=share.value**0.5, low=share.low**0.5, high=share.high**0.5)


def split_half_reliability(values: ArrayLike, faces: Sequence[str], *, n_splits: int = 100, seed: int = 0) -> float:
    r"""Return the split-half reliability of the average of all repeats: the plain measure beside `signal_share`.

    Each face's repeats are divided at random into two halves (one is left out of an odd number) and averaged; r is the
    correlation of the halves over faces, columns pooled, averaged over divisions; Spearman and Brown give
    :math:`2 r / (1 + r)` (``2 r / (1 + |r|)``, which keeps noise symmetric about 0).

    Parameters
    ----------
    values, faces
        As for `signal_share`.
    n_splits : int
        Random divisions.
    seed : int
        Of the divisions.

    Returns
    -------
    float
        From -1 to 1.

    Raises
    ------
    UserError
        As `signal_share` does, or without a division.
    """
    x, names = _checked(values, faces)
    if n_splits < 1:
        raise UserError(f"split halves need at least one division, got {n_splits}")
    rows, counts = repeated_groups(x, names)
    rng, starts, halves = np.random.default_rng(seed), np.cumsum(counts) - counts, counts // 2
    group = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(rows)) - starts[group]
    found = []
    for _ in range(n_splits):
        shuffled = x[rows[np.lexsort((rng.random(len(rows)), group))]]
        first, second = (
            np.add.reduceat(shuffled * chosen[:, None], starts, axis=0) / halves[:, None]
            for chosen in (place < halves[group], (place >= halves[group]) & (place < 2 * halves[group]))
        )
        a, b = (half - half.mean(axis=0) for half in (first, second))
        size = float(np.sqrt((a**2).sum() * (b**2).sum()))
        found.append(float((a * b).sum()) / size if size > 0 else 0.0)
    r = float(np.mean(found))
    return 2 * r / (1 + abs(r))


def metric_ceiling(
    values: ArrayLike,
    faces: Sequence[str],
    scorer: Scorer,
    n_averaged: float | None = None,
    *,
    level: float = 0.95,
    n_draws: int = 50,
    seed: int = 0,
) -> Ceiling:
    r"""Return the score that averages of n trials would reach if the decoder's noise-free output were the truth.

    For any metric, by simulation: faces :math:`\hat f_s` are the decoded averages, drawn towards their mean until
    their variance is the :math:`s^2` of `signal_share`; a prediction is :math:`\hat f_s` and the mean of n deviations
    of trials from their faces' averages, drawn from all trials; its score is taken against :math:`\hat f`.

    Parameters
    ----------
    values : array of shape (n_trials, n_latents)
        Decoded latents of the single test trials.
    faces, n_averaged, level, seed
        As for `signal_share`.
    scorer : callable
        Score matrix of predictions and stimuli; for identification `hyperdecode.evaluation.identification.win_rates` of
        one.
    n_draws : int
        Sets of simulated predictions that the score is averaged over.

    Returns
    -------
    Ceiling
        The interval comes from that of `signal_share`, through the same simulation.

    Raises
    ------
    UserError
        As `signal_share` does.

    Notes
    -----
    It takes noise to be alike for all faces. Decoded averages keep some noise in their pattern over latents, so that
    where :math:`R_n` is far below 1 the score is that of patterns with more dimensions than the noise-free ones have.
    """
    x, names = _checked(values, faces)
    share = signal_share(x, names, n_averaged, level=level, seed=seed)
    single = signal_share(x, names, 1, level=level, n_draws=1, seed=seed).value
    found = repeat_variance(x, names)
    total = max(float(found.signal.sum()), 0.0) + float(found.noise.sum())
    pattern, residuals = _pattern_and_residuals(x, names)
    mean = pattern.mean(axis=0)
    pattern = _of_variance(pattern - mean, len(pattern) - 1)
    residuals = _of_variance(residuals, len(residuals))

    def score(single_share: float) -> float:
        rng = np.random.default_rng(seed)
        truth = mean + np.sqrt(single_share * total) * pattern
        noise = np.sqrt((1 - single_share) * total / share.n_averaged) * residuals
        scores = []
        for _ in range(n_draws):
            drawn = _averages(noise, len(truth), share.n_averaged, rng)
            scores.append(float(np.diagonal(scorer(truth + drawn, truth)).mean()))
        return float(np.mean(scores))

    low, high = (_single_share(limit, share.n_averaged) for limit in (share.low, share.high))
    return Ceiling(score(single), score(low), score(high), share.n_averaged)


def _checked(values: ArrayLike, faces: Sequence[str]) -> tuple[Array, list[str]]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or len(x) != len(faces) or not x.shape[1]:
        raise UserError(f"a ceiling needs one row of values a trial, got shape {x.shape} and {len(faces)} faces")
    if not np.isfinite(x).all():
        raise UserError(f"{int((~np.isfinite(x)).sum())} values of test trials are NaN or infinite: check the decoder")
    names = [str(face) for face in faces]
    _, counts = np.unique(np.asarray(names), return_counts=True)
    if (counts > 1).sum() < 3:
        raise UserError(
            f"{int((counts > 1).sum())} of {len(counts)} test faces were shown more than once, a noise ceiling needs "
            "at least 3: show test faces again"
        )
    return x, names


def _share(signal: Array, noise: Array, n: float) -> Array:
    held = np.maximum(signal, 0.0)
    total = held + noise / n
    share: Array = np.divide(held, total, out=np.zeros_like(held), where=total > 0)
    return share


def _single_share(share: float, n: float) -> float:
    """Share of single trials, from that of averages of n (Spearman and Brown)."""
    return share / (n - (n - 1) * share)


def _resampled(x: Array, names: list[str], n_draws: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Variance components of bootstrap samples of faces: quadratic forms in how often each face was drawn."""
    rows, counts = repeated_groups(x, names)
    g, starts, k = len(counts), np.cumsum(counts) - counts, counts.astype(np.float64)
    part = x[rows] - x[rows].mean(axis=0)
    means = np.add.reduceat(part, starts, axis=0) / k[:, None]
    within = np.add.reduceat(((part - np.repeat(means, counts, axis=0)) ** 2).sum(axis=1), starts)
    gram = means @ means.T
    drawn = rng.multinomial(g, np.full(g, 1 / g), size=n_draws).astype(np.float64)
    weight = drawn * k
    n = weight.sum(axis=1)
    between = weight @ np.diagonal(gram) - np.einsum("di,ij,dj->d", weight, gram, weight, optimize=True) / n
    noise: Array = drawn @ within / (drawn @ (k - 1))
    k0 = (n - (drawn @ k**2) / n) / (g - 1)
    return (between / (g - 1) * g / (g - 1) - noise) / k0, noise


def _pattern_and_residuals(x: Array, names: list[str]) -> tuple[Array, Array]:
    """Averages of the faces that repeat, and how each of their trials departs from its own, made as long as noise."""
    rows, counts = repeated_groups(x, names)
    starts = np.cumsum(counts) - counts
    means = np.add.reduceat(x[rows], starts, axis=0) / counts[:, None]
    longer = np.sqrt(counts / (counts - 1))
    return means, (x[rows] - np.repeat(means, counts, axis=0)) * np.repeat(longer, counts)[:, None]


def _of_variance(values: Array, n: int) -> Array:
    """Scale rows until the sum of their variances over columns is 1."""
    size = float((values**2).sum()) / n
    return values / np.sqrt(size) if size > 0 else values


def _averages(noise: Array, n_faces: int, n_averaged: float, rng: np.random.Generator) -> Array:
    """Rows of noise that were averaged and stretched to the noise of one, so that `noise` sets the variance alone."""
    n = max(1, round(n_averaged))
    counts = rng.multinomial(n, np.full(len(noise), 1 / len(noise)), size=n_faces)
    return np.asarray(counts @ noise / np.sqrt(n))
