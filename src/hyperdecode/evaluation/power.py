r"""How likely the permutation test of the pairing finds an effect, and how many test faces or repeats it would take.

In closed form. With e the mean score of own pairs above that over all pairings and :math:`\tau_n` the null's standard
deviation over pairings of n faces, the test rejects about where :math:`e / \tau_n` exceeds
:math:`z = \Phi^{-1}(1 - \text{level})`. This ratio is nearly normal over sets of faces, so that

.. math:: \mathrm{power} = \Phi\!\left(\frac{E[e / \tau_n] - z}{\mathrm{sd}[e / \tau_n]}\right).

The ratio is followed as a whole: a set of faces that happen to be very different from each other raises both parts.

What this assumes: new test faces are of the same kind, shown as often, to the same subject, decoded by the same
decoder; and the effect is as large as given. An effect that was measured is uncertain, and one that was looked at
because it was large is too large: `power_interval` puts the limits of the effect in, and is the honest answer. Training
trials are not covered: how a decoder improves with them cannot be read off its scores; fit it to parts and see
(`hyperdecode.evaluation.training_curve`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from hyperdecode.errors import UserError
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.permutation import checked_matrices, null_moments

__all__ = ["Effect", "assumed_effect", "at_reliability", "faces_needed", "pilot_effect", "power", "power_interval"]

Array = NDArray[np.float64]
Statistic = Literal["identification", "mean"]

FEWEST_FACES = 4
FEWEST_PILOT_FACES = 8
MOST_FACES = 100_000
RANKS = 1 / 12
"""Variance of win rates in an endless pool (they are ranks, from 0 to 1), and what a comparison adds to it that belongs
to prediction, stimulus and foil together."""
WITHIN = 1 / 6
"""Mean variance of one comparison around its win rate, without an effect."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(61)


@dataclass(frozen=True)
class Effect:
    """An effect in the units of the test: how far own pairs lie above others, and how this varies.

    Attributes
    ----------
    statistic : {"identification", "mean"}
        2-way identification, or the mean of any similarity.
    size : float
        Accuracy above 0.5; or mean similarity of own pairs above that of others.
    unit : float
        Standard deviation of wrong pairs, apart from what is a prediction's or a stimulus' own; the null's over
        pairings of n faces is about ``unit / sqrt(n)``.
    face_variance, second_variance : float
        ``size / unit`` varies over sets of n faces by ``face_variance / n + second_variance / n^2``; the second part is
        that of the finite pool of other faces.
    n_faces : int
        Faces of the pilot; 0 for an assumed effect.
    """

    statistic: Statistic
    size: float
    unit: float
    face_variance: float
    second_variance: float
    n_faces: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % limits of `size`; the size itself where it was assumed."""
        if not self.n_faces:
            return self.size, self.size
        reach = float(ndtri(0.975)) * self.unit * self._ratio_sd(self.n_faces)
        return self.size - reach, self.size + reach

    def _ratio_sd(self, n: int) -> float:
        return float(np.sqrt(self.face_variance / n + self.second_variance / n**2))


def pilot_effect(scores: ArrayLike, statistic: Statistic = "identification") -> Effect:
    """Measure an effect in a pilot.

    Parameters
    ----------
    scores : array of shape (n_faces, n_faces)
        Similarity of prediction i and stimulus j, as they came (not win rates).
    statistic : {"identification", "mean"}
        What will be tested: 2-way identification by these similarities, or their mean.

    Returns
    -------
    Effect
        Variance over faces by the jackknife, less what the jackknife counts twice (the pool's part).

    Raises
    ------
    UserError
        When the matrix is not square, holds NaN, has fewer than eight faces, or the statistic is unknown.

    References
    ----------
    Efron & Stein (1981), Ann. Stat. 9:586 (jackknife variance); Hoeffding (1948), Ann. Math. Stat. 19:293.
    """
    if statistic not in ("identification", "mean"):
        raise UserError(f"no statistic {statistic!r} to plan for: choose identification or mean")
    s = checked_matrices(np.asarray(scores, dtype=np.float64)[None])[0]
    m = len(s)
    if m < FEWEST_PILOT_FACES:
        raise UserError(f"a pilot needs at least {FEWEST_PILOT_FACES} test faces to tell power from, got {m}")
    size, unit = _size_and_unit(s, statistic)
    if not unit > 0:
        raise UserError("all pairings of the pilot score the same: nothing was decoded that could be tested")
    left_out = [_size_and_unit(np.delete(np.delete(s, k, 0), k, 1), statistic) for k in range(m)]
    ratios = np.array([a / b if b > 0 else 0.0 for a, b in left_out])
    jackknife = float((m - 1) ** 2 / m * ((ratios - ratios.mean()) ** 2).sum() * m / (m - 1))
    second = 1.0
    if statistic == "identification":
        own = np.diagonal(win_rates(s))
        second = _pool_variance(unit) * float((own * (1 - own)).mean()) / WITHIN
    face = max(jackknife - 2 * second / m, 0.1 * jackknife)
    return Effect(statistic, size, unit, face, second, m)


def assumed_effect(accuracy: float) -> Effect:
    r"""Assume a 2-way identification accuracy, before any data.

    Own pairs' similarities are taken to be :math:`N(d, 1)`, those of others N(0, 1), all independent, so that
    ``accuracy`` is :math:`\Phi(d / \sqrt 2)`.

    Raises
    ------
    UserError
        When the accuracy does not lie between 0.5 and 1.
    """
    if not 0.5 < accuracy < 1:
        raise UserError(f"an accuracy to plan for lies above 0.5 and below 1, got {accuracy}")
    face, second = _binormal(accuracy)
    return Effect("identification", accuracy - 0.5, RANKS**0.5, face / RANKS, second / RANKS, 0)


def at_reliability(effect: Effect, now: float, then: float) -> Effect:
    r"""Return the effect that decoded averages of another reliability would show: more or fewer repeats.

    Similarities of direction (cosine, correlation) of own pairs grow as :math:`\sqrt{R}`, with the spread of wrong
    pairs as it is; an accuracy A does so on the scale of :math:`\Phi^{-1}(A)`.

    Parameters
    ----------
    effect : Effect
        Of averages with reliability `now`.
    now, then : float
        `hyperdecode.evaluation.ceiling.signal_share` of the decoded latents at both numbers of repeats; 1 stands for
        endless repeats.

    Returns
    -------
    Effect

    Raises
    ------
    UserError
        When a reliability does not lie above 0 and up to 1.
    """
    if not 0 < now <= 1 or not 0 < then <= 1:
        raise UserError(f"reliabilities lie above 0 and up to 1, got {now} and {then}: there is nothing to extrapolate")
    growth = float(np.sqrt(then / now))
    if effect.statistic == "mean":
        return replace(effect, size=effect.size * growth)
    accuracy = np.clip(0.5 + effect.size, 1e-9, 1 - 1e-9)
    size = float(ndtr(ndtri(accuracy) * growth) - 0.5)
    was, becomes = _binormal(0.5 + effect.size), _binormal(0.5 + size)
    return replace(
        effect,
        size=size,
        face_variance=effect.face_variance * becomes[0] / was[0],
        second_variance=effect.second_variance * becomes[1] / was[1],
    )


def power(effect: Effect, n_faces: int, level: float = 0.05) -> float:
    """Return the probability that the one-sided permutation test with `n_faces` test faces has p <= `level`.

    Raises
    ------
    UserError
        When there are fewer than four faces or the level does not lie between 0 and 0.5.
    """
    if n_faces < FEWEST_FACES or not 0 < level < 0.5:
        raise UserError(
            f"power needs at least {FEWEST_FACES} test faces and a level between 0 and 0.5, got {n_faces} and {level}"
        )
    return _power(effect, effect.size, n_faces, level)


def power_interval(effect: Effect, n_faces: int, level: float = 0.05) -> tuple[float, float]:
    """Return the power at the lower and at the upper limit of the effect; see `power`."""
    power(effect, n_faces, level)
    low, high = effect.interval
    return _power(effect, low, n_faces, level), _power(effect, high, n_faces, level)


def faces_needed(effect: Effect, wanted: float = 0.8, level: float = 0.05) -> int | None:
    """Return the fewest test faces with which the power is at least `wanted`; None where no number up to 100,000 is.

    Raises
    ------
    UserError
        When `wanted` does not lie between 0 and 1, and as `power` does.
    """
    if not 0 < wanted < 1:
        raise UserError(f"a power to reach lies between 0 and 1, got {wanted}")
    few, many = FEWEST_FACES, MOST_FACES
    if effect.size <= 0 or power(effect, many, level) < wanted:
        return None
    while few < many:
        middle = (few + many) // 2
        if power(effect, middle, level) >= wanted:
            many = middle
        else:
            few = middle + 1
    return few


def _power(effect: Effect, size: float, n: int, level: float) -> float:
    ratio = size / effect.unit
    if effect.statistic == "identification":
        growth = effect.unit * np.sqrt((n - 1) / (effect.unit**2 + RANKS / n))
    else:
        # The null's variance holds the own pairs too, which makes a strong effect count a little less.
        growth = (n - 1) / n / np.sqrt((n - 1) ** 2 / n**3 + (ratio / n) ** 2)
    spread = max(effect._ratio_sd(n), 1e-12) * growth
    return float(ndtr((ratio * growth - ndtri(1 - level)) / spread))


def _size_and_unit(s: Array, statistic: Statistic) -> tuple[float, float]:
    """Effect and the spread of wrong pairs: what `_power` grows by the number of faces, taken back."""
    n = len(s)
    if statistic == "identification":
        matrix = win_rates(s)
        variance = float(null_moments(matrix[None])[1][0] ** 2) * (n - 1)
        return float(np.trace(matrix) / n - 0.5), float(np.sqrt(max(variance - RANKS / n, 0.1 * variance)))
    own = float(np.trace(s))
    size = own / n - (float(s.sum()) - own) / (n * (n - 1))
    variance = float(null_moments(s[None])[1][0] ** 2) - (size / n) ** 2
    return size, float(np.sqrt(max(variance, 0.0) * n**3)) / (n - 1)


def _pool_variance(unit: float) -> float:
    """Return what a finite pool adds to the ratio's variance (times n^2): without an effect it is then the null's."""
    return 1 + RANKS / unit**2


def _binormal(accuracy: float) -> tuple[float, float]:
    """Variance over faces of the expected win rate, and the mean variance of a single comparison around it."""
    d = np.sqrt(2) * ndtri(np.clip(accuracy, 1e-9, 1 - 1e-9))
    rates, weights = ndtr(d + NODES), WEIGHTS / WEIGHTS.sum()
    mean = float(weights @ rates)
    return max(float(weights @ (rates - mean) ** 2), 1e-12), max(float(weights @ (rates * (1 - rates))), 1e-12)
