from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times, trial_regressors
from hyperdecode.fmri.singletrial import single_trial_zmaps
from hyperdecode.simulation.features import FeatureBank
from hyperdecode.simulation.subject import AR1, SELECTIVITY, SHARED_NOISE, simulate_run, simulate_subject

T_R, N_VOLUMES, N_STIMULI = 1.5, 120, 30
EVENTS = pd.DataFrame({"onset": 6.0 + 9.0 * np.arange(18), "duration": 1.5})
ROWS = np.arange(18)


def make_bank(seed=0, n=N_STIMULI):
    rng = np.random.default_rng(seed)
    shapes = {"b4.conv": (48, 4, 4), "b8.conv2": (48, 8, 8), "b16.conv2": (48, 8, 8), "picture": (4, 8, 8)}
    return FeatureBank(tuple(shapes), tuple(rng.standard_normal((n, *s)).astype(np.float32) for s in shapes.values()))


@pytest.fixture(scope="module")
def subject():
    return simulate_subject(make_bank(), seed=1, voxel_size=6.0)


def run(subject, noise=0.0, seed=5, n_volumes=N_VOLUMES, events=EVENTS, rows=ROWS):
    return simulate_run(subject, events, rows, t_r=T_R, n_volumes=n_volumes, noise=noise, seed=seed)


def series(subject, image):
    return np.asarray(image.dataobj, np.float64)[subject.brain].T


def test_the_subject(subject):
    n = int(subject.brain.sum())
    assert subject.responses.shape == (N_STIMULI, n) and subject.layer.shape == (n,) and n > 500
    assert set(np.unique(subject.layer)) == {0, 1, 2, 3}
    mean, sd = subject.responses.mean(0), subject.responses.std(0)
    np.testing.assert_allclose(sd / mean, SELECTIVITY, rtol=1e-3)
    assert subject.spread == pytest.approx(sd.mean(), rel=1e-3)
    np.testing.assert_allclose(np.diag(subject.affine), [6, 6, 6, 1])


def test_early_layers_lie_in_front(subject):
    y = subject.affine[1, 1] * np.argwhere(subject.brain)[:, 1] + subject.affine[1, 3]
    centres = [y[subject.layer == layer].mean() for layer in range(4)]
    assert centres == sorted(centres, reverse=True) and centres[0] - centres[3] > 30


@pytest.mark.parametrize("layer", [0, 3])
def test_voxels_follow_their_layers_features_and_no_others(subject, layer):
    bank = make_bank()
    values = list(bank.values)
    values[layer] = make_bank(seed=9).values[layer]
    changed = simulate_subject(replace(bank, values=tuple(values)), seed=1, voxel_size=6.0)
    np.testing.assert_array_equal(changed.layer, subject.layer)
    mine = subject.layer == layer
    np.testing.assert_array_equal(changed.responses[:, ~mine], subject.responses[:, ~mine])
    correlation = [
        np.corrcoef(a, b)[0, 1] for a, b in zip(changed.responses[:, mine].T, subject.responses[:, mine].T, strict=True)
    ]
    assert abs(np.mean(correlation)) < 0.1 and np.max(correlation) < 0.9


def test_neighbours_are_tuned_alike(subject):
    where = np.argwhere(subject.brain)
    index = {tuple(p): i for i, p in enumerate(where)}
    near, far = [], []
    z = (subject.responses - subject.responses.mean(0)) / subject.responses.std(0)
    rng = np.random.default_rng(0)
    for i, p in enumerate(where):
        j = index.get((p[0] + 1, p[1], p[2]))
        for other, found in ((j, near), (int(rng.integers(len(where))), far)):
            if other is not None and subject.layer[i] == subject.layer[other] and other != i:
                found.append(float((z[:, i] * z[:, other]).mean()))
    assert np.mean(near) > np.mean(far) + 0.1


def test_seeds_make_subjects_and_runs(subject):
    again, other = (simulate_subject(make_bank(), seed=s, voxel_size=6.0) for s in (1, 2))
    np.testing.assert_array_equal(again.responses, subject.responses)
    assert not np.allclose(other.responses, subject.responses)
    one, two, three = (np.asarray(run(subject, 3.0, seed).dataobj) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, two)
    assert (one != three)[subject.brain].mean() > 0.5


def test_the_image(subject):
    image = run(subject)
    assert image.shape == (*subject.brain.shape, N_VOLUMES) and image.get_data_dtype() == np.int16
    assert image.header.get_zooms()[3] == T_R and image.header.get_xyzt_units() == ("mm", "sec")
    data = np.asarray(image.dataobj)
    assert (data[subject.brain].mean(-1) > 900).all() and (data[~subject.brain].mean(-1) < 400).all()
    assert (data.std(-1) > 0).all()


def test_planted_responses_come_back(subject):
    """Without noise but drift and rounding to integers, the GLM finds every trial's amplitude."""
    strong = replace(subject, responses=subject.responses * 10)
    bold = series(strong, run(strong))
    found = single_trial_zmaps(bold, EVENTS["onset"], EVENTS["duration"], T_R, method="lsa", slice_time_ref=0.5).beta
    expected = 1000 * strong.responses[ROWS]
    seen = expected.std(0) > 10
    assert seen.sum() > 200
    assert np.median(np.abs(found - expected)[:, seen] / expected[:, seen].std(0)) < 0.1
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(found[:, seen].T, expected[:, seen].T, strict=True)]
    assert min(correlations) > 0.95


def test_a_response_is_the_canonical_one(subject):
    one = EVENTS.iloc[:1]
    quiet = replace(subject, responses=np.zeros_like(subject.responses))
    loud = replace(subject, responses=np.full_like(subject.responses, 0.5))
    difference = series(loud, run(loud, events=one, rows=ROWS[:1])) - series(
        quiet, run(quiet, events=one, rows=ROWS[:1])
    )
    x = trial_regressors(one["onset"], one["duration"], frame_times(N_VOLUMES, T_R, slice_time_ref=0.5))[:, 0]
    np.testing.assert_allclose(difference, 500 * np.tile(x[:, None], (1, difference.shape[1])), atol=1.01)
    assert 500 * x.max() > 50


@pytest.mark.parametrize("noise", [2.0, 8.0])
def test_noise_has_the_size_and_memory_it_is_given(subject, noise):
    still = replace(subject, responses=np.zeros_like(subject.responses), spread=subject.spread * 8)
    kwargs = {"n_volumes": 400, "events": EVENTS, "rows": ROWS}
    e = (series(still, run(still, noise, **kwargs)) - series(still, run(still, 0.0, **kwargs))) / 1000
    assert e.std() == pytest.approx(noise * still.spread, rel=0.03)
    assert e.std(1).mean() == pytest.approx(noise * still.spread, rel=0.05)
    e = e - e.mean(0)
    lag1 = (e[1:] * e[:-1]).sum(0) / (e**2).sum(0)
    assert lag1.mean() == pytest.approx(AR1, abs=0.02)
    where = {tuple(p): i for i, p in enumerate(np.argwhere(subject.brain))}
    pairs = [(i, where[x, y, z + 1]) for (x, y, z), i in where.items() if (x, y, z + 1) in where]
    neighbours = np.mean([np.corrcoef(e[:, i], e[:, j])[0, 1] for i, j in pairs])
    rng = np.random.default_rng(0)
    strangers = np.mean([np.corrcoef(e[:, i], e[:, j])[0, 1] for i, j in rng.integers(e.shape[1], size=(300, 2))])
    assert 0.1 < neighbours < SHARED_NOISE**2 and strangers < neighbours / 2


def test_noise_hides_responses_in_proportion(subject):
    def z_of(noise):
        bold = series(subject, run(subject, noise))
        return single_trial_zmaps(bold, EVENTS["onset"], EVENTS["duration"], T_R, slice_time_ref=0.5).z.mean()

    clean, some, much = z_of(0.5), z_of(3.0), z_of(50.0)
    assert clean > 2 * some > 4 * abs(much)


def test_a_row_for_each_event(subject):
    with pytest.raises(UserError, match="18 events came with 17 stimulus rows"):
        run(subject, rows=ROWS[:-1])
