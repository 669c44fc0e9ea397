from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtri

from hyperdecode.errors import UserError
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.metrics import cosine_scores
from hyperdecode.evaluation.permutation import pairing_permutation_test
from hyperdecode.evaluation.power import (
    assumed_effect,
    at_reliability,
    faces_needed,
    pilot_effect,
    power,
    power_interval,
)


def found(scores, statistic, n_permutations=299):
    matrix = win_rates(scores) if statistic == "identification" else scores
    return pairing_permutation_test(matrix, n_permutations).p_value <= 0.05


def share_found(make, statistic, n_studies):
    """Brute force: the real test on many simulated studies; the share found and its standard error."""
    hits = np.mean([found(make(np.random.default_rng((7, k))), statistic) for k in range(n_studies)])
    return hits, np.sqrt(hits * (1 - hits) / n_studies)


def decoded(rng, n_faces, gain, noise=1.0):
    """Cosines of a world where 16 latents of decaying spread are decoded with a gain, misfit and noise."""
    spread = 0.8 ** np.arange(16)
    true = rng.standard_normal((n_faces, 16)) * spread
    predicted = gain * true * spread + rng.standard_normal((n_faces, 16)) * noise * spread[::-1]
    return cosine_scores(predicted + 0.2, true, np.zeros(16))


@pytest.mark.parametrize(("accuracy", "n_faces"), [(0.55, 36), (0.6, 36), (0.65, 12), (0.58, 80)])
def test_an_assumed_accuracy_against_brute_force(accuracy, n_faces):
    effect = assumed_effect(accuracy)
    shift = 2**0.5 * ndtri(accuracy) * np.eye(n_faces)
    share, error = share_found(lambda rng: rng.standard_normal((n_faces, n_faces)) + shift, "identification", 600)
    assert power(effect, n_faces) == pytest.approx(share, abs=3 * error)


@pytest.mark.parametrize("statistic", ["identification", "mean"])
def test_pilots_against_brute_force(statistic):
    """Faces whose predictions hang together. Many pilots are averaged: their luck is not what is tested."""
    pilots = [pilot_effect(decoded(np.random.default_rng((1, k)), 60, 0.06), statistic) for k in range(64)]
    parts = ("size", "unit", "face_variance", "second_variance")
    pooled = replace(pilots[0], **{part: float(np.mean([getattr(p, part) for p in pilots])) for part in parts})
    for n_faces in (14, 30):
        share, error = share_found(lambda rng, n=n_faces: decoded(rng, n, 0.06), statistic, 500)
        assert 0.3 < share < 0.97
        luck = np.std([power(replace(pooled, size=pilot.size), n_faces) for pilot in pilots]) / 8
        assert power(pooled, n_faces) == pytest.approx(share, abs=3 * np.hypot(error, luck))


def test_the_interval_of_a_small_pilot_holds_the_true_power():
    share, error = share_found(lambda rng: decoded(rng, 30, 0.06), "mean", 400)
    inside = 0
    for k in range(100):
        low, high = power_interval(pilot_effect(decoded(np.random.default_rng((2, k)), 36, 0.06), "mean"), 30)
        inside += low - error <= share <= high + error
    assert inside >= 87


@pytest.mark.parametrize("statistic", ["identification", "mean"])
def test_more_repeats_against_brute_force(statistic):
    """From averages of 2 trials to averages of 8; reliabilities as planted."""
    rng = np.random.default_rng(0)

    def world(rng, n_faces, repeats):
        true = rng.standard_normal((n_faces, 24))
        misfit = rng.standard_normal((n_faces, 24))
        noise = rng.standard_normal((n_faces, 24)) * 6 / repeats**0.5
        return cosine_scores(0.5 * true + misfit + noise, true, np.zeros(24))

    signal = 0.5**2 + 1
    reliability = {n: signal / (signal + 36 / n) for n in (2, 8)}
    pilot = pilot_effect(world(rng, 200, 2), statistic)
    then = at_reliability(pilot, reliability[2], reliability[8])
    bigger = pilot_effect(world(rng, 200, 8), statistic)
    reach = [np.ptp(one.interval) / 4 for one in (pilot, bigger)]
    error = np.hypot(reach[0] * then.size / pilot.size, reach[1])
    assert then.size == pytest.approx(bigger.size, abs=3 * error)
    assert then.size > 1.5 * pilot.size
    # The scale of both, and how sure the larger effect is, were not part of the extrapolation.
    assert then.unit == pytest.approx(bigger.unit, rel=0.1)
    assert power(then, 20) == pytest.approx(power(bigger, 20), abs=0.1)
    assert at_reliability(pilot, 0.3, 0.3).size == pytest.approx(pilot.size)


def test_no_effect_is_found_as_often_as_the_level_says():
    pilots = [pilot_effect(decoded(np.random.default_rng((3, k)), 60, 0.0)) for k in range(30)]
    no_effect = replace(pilots[0], size=0.0, face_variance=float(np.mean([p.face_variance for p in pilots])))
    assert power(no_effect, 36) == pytest.approx(0.05, abs=0.015)
    assert faces_needed(no_effect) is None


def test_faces_needed_is_the_fewest():
    effect = assumed_effect(0.57)
    n = faces_needed(effect, 0.8)
    assert power(effect, n) >= 0.8 > power(effect, n - 1)
    assert faces_needed(effect, 0.9) > n > faces_needed(assumed_effect(0.65), 0.8)
    assert faces_needed(effect, 0.8, level=0.01) > n


def test_what_cannot_be_planned():
    with pytest.raises(UserError, match="at least 8"):
        pilot_effect(np.eye(5))
    with pytest.raises(UserError, match="an accuracy to plan"):
        assumed_effect(0.5)
    with pytest.raises(UserError, match="all pairings"):
        pilot_effect(np.ones((9, 9)))
    with pytest.raises(UserError, match="no statistic"):
        pilot_effect(np.eye(9), "lsim")
    with pytest.raises(UserError, match="at least 4"):
        power(assumed_effect(0.6), 3)
    with pytest.raises(UserError, match="nothing to extrapolate"):
        at_reliability(assumed_effect(0.6), 0.0, 0.5)
    with pytest.raises(UserError, match="between 0 and 1"):
        faces_needed(assumed_effect(0.6), 1.0)
