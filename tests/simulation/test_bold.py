import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times, trial_regressors
from hyperdecode.fmri.realign import realign, rigid_parameters
from hyperdecode.fmri.singletrial import single_trial_zmaps
from hyperdecode.simulation import bold
from hyperdecode.simulation.bold import head_centre, simulate_run
from hyperdecode.simulation.hrf import delayed_response, volume_times
from hyperdecode.simulation.motion import draw_motion
from hyperdecode.simulation.noise import NoiseSettings, noise_sd

T_R, N_VOLUMES, N_STIMULI = 1.5, 120, 30
EVENTS = pd.DataFrame({"onset": 6.0 + 9.0 * np.arange(18), "duration": 1.5})
ROWS = np.arange(18)
SHAPE = (16, 18, 14)
AR_ONLY = NoiseSettings(shared=0.5, own=0.5, physio=0, thermal=0, drift=0)
THERMAL_ONLY = NoiseSettings(shared=0, own=0, physio=0, thermal=1, drift=0)


def make_head(shape=SHAPE, size=3.0):
    rng = np.random.default_rng(7)
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = [-20.0, -60.0, -15.0]
    middle = (np.array(shape) - 1) / 2
    radius = np.sqrt((((np.indices(shape).T - middle) / (0.42 * np.array(shape))) ** 2).sum(-1)).T
    brain = radius < 0.9
    texture = gaussian_filter(rng.standard_normal(shape), 1.2)
    csf = np.where(brain & (texture > 1.5 * texture.std()), 1, 0).astype(np.float32)
    grey = np.where(brain, 1 - csf, 0).astype(np.float32)
    epi = gaussian_filter(np.where(brain, 1000 + 100 * texture / texture.std(), 0), 0.5).astype(np.float32)
    return SimpleNamespace(affine=affine, brain=brain, csf=csf, grey=grey, epi=epi)


def make_subject(n_voxels=300, ceiling=0.2, head=None, n_stimuli=N_STIMULI):
    rng = np.random.default_rng(1)
    head = head or make_head()
    voxels = np.sort(rng.choice(np.flatnonzero((head.grey > 0) & (head.epi > 700)), n_voxels, replace=False))
    return SimpleNamespace(
        head=head,
        voxels=voxels,
        responses=(0.02 + 0.01 * rng.standard_normal((n_stimuli, n_voxels))).astype(np.float32),
        noise_ceiling=np.full(n_voxels, ceiling, np.float32),
        hrf_delay=np.zeros(n_voxels, np.float32),
    )


def changed(subject, **values):
    return SimpleNamespace(**{**vars(subject), **values})


def constant(subject, value):
    return np.full(subject.head.epi.shape, value, np.float32)


def run(subject, events=EVENTS, rows=ROWS, n_volumes=N_VOLUMES, noise=None, motion=None, seed=5, **more):
    return simulate_run(
        subject, events, rows, t_r=T_R, n_volumes=n_volumes, noise=noise, motion=motion, seed=seed, **more
    )


def volumes(*args, **kwargs):
    return np.concatenate(list(run(*args, **kwargs).volumes()), axis=-1)


def series(subject, data):
    return data.reshape(-1, data.shape[-1])[subject.voxels].T.astype(np.float64)


@pytest.fixture(scope="module")
def subject():
    return make_subject()


@pytest.mark.parametrize("delay", [0.0, 1.2])
def test_a_response_is_the_canonical_one_delayed(subject, delay):
    loud = changed(
        subject,
        responses=np.full_like(subject.responses, 0.5),
        hrf_delay=np.where(np.arange(300) < 100, 0, delay).astype(np.float32),
    )
    change = series(loud, volumes(loud, events=EVENTS[:1], rows=ROWS[:1])) / loud.head.epi.ravel()[loud.voxels] - 1
    x = trial_regressors(EVENTS["onset"][:1], EVENTS["duration"][:1], frame_times(N_VOLUMES, T_R, slice_time_ref=0.5))
    np.testing.assert_allclose(change[:, :100], 0.5 * np.tile(x, (1, 100)), atol=0.001)
    late = change[:, 100:].mean(axis=1)
    assert x.max() > 0.05
    expected = delayed_response(EVENTS["onset"][:1], EVENTS["duration"][:1], volume_times(N_VOLUMES, T_R), delay)[:, 0]
    np.testing.assert_allclose(late, 0.5 * expected, atol=0.0005)
    assert (np.abs(expected - x[:, 0]).max() > 0.01) == (delay > 0)


def test_only_voxels_that_respond_respond(subject):
    data = volumes(subject)
    quiet = np.ones(data[..., 0].size, bool)
    quiet[subject.voxels] = False
    flat = data.reshape(-1, N_VOLUMES)
    assert (flat[quiet] == np.rint(subject.head.epi.ravel()[quiet])[:, None]).all()
    assert (flat[subject.voxels].std(axis=1) > 0).all()


def test_planted_responses_come_back(subject):
    """Without noise the GLM finds every trial's amplitude, up to rounding to integers."""
    strong = changed(subject, responses=subject.responses * 10)
    courses = series(strong, volumes(strong))
    found = single_trial_zmaps(courses, EVENTS["onset"], EVENTS["duration"], T_R, method="lsa", slice_time_ref=0.5).beta
    expected = strong.head.epi.ravel()[strong.voxels] * strong.responses[ROWS]
    np.testing.assert_allclose(found, expected, atol=12)
    assert np.abs(found - expected).std() < 0.03 * expected.std(axis=0).mean()


def test_rows_say_which_stimulus_was_seen(subject):
    rows = np.array([4] * 9 + [17] * 9)
    strong = changed(subject, responses=subject.responses * 10)
    courses = series(strong, volumes(strong, rows=rows))
    found = single_trial_zmaps(courses, EVENTS["onset"], EVENTS["duration"], T_R, method="lsa", slice_time_ref=0.5).beta
    expected = strong.head.epi.ravel()[strong.voxels] * strong.responses[rows]
    assert np.corrcoef(found[:9].mean(0), expected[0])[0, 1] > 0.99
    assert np.corrcoef(found[9:].mean(0), expected[17])[0, 1] > 0.99


@pytest.mark.parametrize("moving", [False, True])
def test_the_same_seed_makes_the_same_bytes_whatever_the_chunk(subject, moving):
    motion = draw_motion(20, scale=0.3, seed=1) if moving else None
    kwargs = {"n_volumes": 20, "events": EVENTS[:1], "rows": ROWS[:1], "noise": constant(subject, 0.02)}
    whole = volumes(subject, motion=motion, chunk=20, **kwargs)
    for chunk in (1, 3, 8):
        simulated = run(subject, motion=motion, chunk=chunk, **kwargs)
        pieces = list(simulated.volumes())
        assert [p.shape[-1] for p in pieces[:-1]] == [chunk] * (len(pieces) - 1)
        np.testing.assert_array_equal(np.concatenate(pieces, axis=-1), whole)
        np.testing.assert_array_equal(next(simulated.volumes()), pieces[0])
    other = volumes(subject, motion=motion, seed=6, **kwargs)
    assert (other != whole)[subject.head.brain].mean() > 0.5


def test_threads_make_no_difference(subject, monkeypatch):
    kwargs = {"n_volumes": 9, "events": EVENTS[:1], "rows": ROWS[:1], "noise": constant(subject, 0.02)}
    made = []
    for threads in (1, 3):
        monkeypatch.setattr(bold, "default_threads", lambda n=threads: n)
        made.append(volumes(subject, motion=draw_motion(9, scale=0.3, seed=1), **kwargs))
    np.testing.assert_array_equal(*made)


def test_the_run(subject):
    simulated = run(subject, noise=constant(subject, 0.02))
    assert simulated.n_volumes == N_VOLUMES and simulated.shape == SHAPE
    np.testing.assert_array_equal(simulated.affine, subject.head.affine)
    assert (simulated.motion == 0).all() and (simulated.matrices == np.eye(4)).all()
    assert {name: phase.shape for name, phase in simulated.physiology.items()} == {
        "cardiac": (N_VOLUMES,),
        "respiratory": (N_VOLUMES,),
    }
    assert run(subject).physiology == {}
    first = next(simulated.volumes())
    assert first.dtype == np.int16 and first.shape[:3] == SHAPE and first.flags.f_contiguous
    assert first.min() >= 0 and first[subject.head.brain].mean() == pytest.approx(1000, rel=0.1)


def noise_alone(subject, settings, sd, n_volumes=600, seed=5):
    """Time courses of the brain's voxels, as fractions of the baseline, (n_volumes, n_voxels)."""
    still = changed(subject, responses=np.zeros_like(subject.responses))
    noise = constant(subject, sd)
    data = volumes(still, n_volumes=n_volumes, noise=noise, settings=settings, seed=seed)
    mask = subject.head.brain & (subject.head.epi > 700)
    return mask, data[mask].T / subject.head.epi[mask] - 1


@pytest.mark.parametrize("settings", [NoiseSettings(drift=0), AR_ONLY, THERMAL_ONLY], ids=["all", "ar", "thermal"])
def test_noise_has_the_size_it_is_given(subject, settings):
    _, e = noise_alone(subject, settings, 0.03)
    assert np.sqrt((e**2).mean()) == pytest.approx(0.03, rel=0.02)
    assert np.sqrt((e**2).mean(axis=0)).std() < 0.004  # every voxel has it, not only their mean


def test_noise_has_memory_and_neighbours(subject):
    mask, e = noise_alone(subject, AR_ONLY, 0.03)
    lags = [(e[k:] * e[:-k]).sum() / (e**2).sum() for k in (1, 2, 3)]
    np.testing.assert_allclose(lags, AR_ONLY.ar1 ** np.arange(1, 4), atol=0.02)
    where = {tuple(p): i for i, p in enumerate(np.argwhere(mask))}
    pairs = [(i, where[x, y, z + 1]) for (x, y, z), i in where.items() if (x, y, z + 1) in where]
    neighbours = np.mean([np.corrcoef(e[:, i], e[:, j])[0, 1] for i, j in pairs])
    sigma = AR_ONLY.shared_mm / 2.3548 / 3
    assert neighbours == pytest.approx(0.5 * np.exp(-1 / (4 * sigma**2)), abs=0.03)
    _, white = noise_alone(subject, THERMAL_ONLY, 0.03)
    assert abs((white[1:] * white[:-1]).sum() / (white**2).sum()) < 0.01


def test_runs_differ_in_noise_and_share_a_distribution(subject):
    _, one = noise_alone(subject, NoiseSettings(), 0.03, n_volumes=200)
    _, two = noise_alone(subject, NoiseSettings(), 0.03, n_volumes=200, seed=6)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.05


def test_drift_is_slow_and_smooth(subject):
    settings = replace(NoiseSettings(), drift=0.05)
    _, e = noise_alone(subject, settings, 1e-6, n_volumes=300)
    assert e.std() == pytest.approx(0.05, rel=0.35)  # few waves of few independent fields
    times = frame_times(300, T_R)
    cut = np.fft.rfftfreq(600, T_R)
    spectrum = (np.abs(np.fft.rfft(np.vstack([e, e[::-1]]), axis=0)) ** 2).sum(axis=1)
    assert spectrum[cut > 0.0101].sum() < 1e-3 * spectrum[1:].sum() and times.size == 300


def test_physiology_oscillates_at_aliased_rates(subject):
    settings = NoiseSettings(shared=0, own=0, physio=1, thermal=0, drift=0)
    _, e = noise_alone(subject, settings, 0.05, n_volumes=600)
    power = (np.abs(np.fft.rfft(e - e.mean(0), axis=0)) ** 2).sum(axis=1)
    at = np.fft.rfftfreq(600, T_R)
    heart, breath, second = 2 / 1.5 - 1.1, 0.3, 2.2 - 2 / 1.5 - 1 / 1.5
    near = np.min([np.abs(at - f) for f in (heart, breath, second)], axis=0) < 0.05
    assert power[near].sum() > 0.75 * power.sum() and near.mean() < 0.65
    away = (at > 0.03) & (at < 0.12)
    assert power[away].mean() < 0.05 * power[near].mean()


def test_background_is_rician(subject):
    noise = constant(subject, 0.05)
    data = volumes(changed(subject, responses=0 * subject.responses), noise=noise, settings=THERMAL_ONLY)
    empty = data[subject.head.epi < 0.01].astype(np.float64)
    sigma = 0.05 * np.median(subject.head.epi.ravel()[subject.voxels])
    assert empty.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh
    assert empty.std() == pytest.approx(sigma * np.sqrt(2 - np.pi / 2), rel=0.02)


CEILING_EVENTS = pd.DataFrame({"onset": 4.5 + 4.5 * np.arange(40), "duration": 1.5})
"""Each of 40 stimuli once a run, in an order of its own: repeats lie in runs whose noise is independent."""


def lss_ceiling(subject, noise, settings, *, n_runs):
    """Measure the noise ceiling of single trials from repeats.

    Signal is the covariance over stimuli of the betas of two runs, noise the variance of a stimulus's betas over runs;
    both are unbiased, also where the errors of one run's betas go together.
    """
    rng = np.random.default_rng(11)
    betas = np.empty((n_runs, 40, len(subject.voxels)))
    for k in range(n_runs):
        rows = rng.permutation(40)
        data = volumes(subject, CEILING_EVENTS, rows, noise=noise, n_volumes=135, settings=settings, seed=k)
        found = single_trial_zmaps(
            series(subject, data), CEILING_EVENTS["onset"], CEILING_EVENTS["duration"], T_R, slice_time_ref=0.5
        )
        betas[k, rows] = found.beta / subject.head.epi.ravel()[subject.voxels]
    noise_variance = betas.var(axis=0, ddof=1).mean()
    centred = betas - betas.mean(axis=1, keepdims=True)
    total, own = (centred.sum(axis=0) ** 2).sum(axis=0), (centred**2).sum(axis=(0, 1))
    signal = ((total - own) / (n_runs * (n_runs - 1) * 40)).mean()
    return signal / (signal + noise_variance)


def ceiling_subject(target, delay=0.0):
    subject = make_subject(ceiling=target, n_stimuli=40)
    return changed(subject, hrf_delay=np.full_like(subject.hrf_delay, delay))


@pytest.mark.parametrize("target", [0.05, 0.3])
@pytest.mark.parametrize("settings", [NoiseSettings(), AR_ONLY], ids=["all", "ar"])
def test_single_trials_have_the_noise_ceiling_asked_for(target, settings):
    """300 voxels, 40 stimuli, 12 repeats each: over seeds the measured ceiling has a standard error of 3 % or 1 %."""
    subject = ceiling_subject(target)
    noise = noise_sd(subject, CEILING_EVENTS, t_r=T_R, n_volumes=135, settings=settings)
    assert lss_ceiling(subject, noise, settings, n_runs=12) == pytest.approx(target, rel=0.08 if target < 0.1 else 0.04)


def test_a_late_response_lowers_what_the_canonical_model_finds():
    found = []
    for delay in (0.0, 0.75, 1.5):
        subject = ceiling_subject(0.3, delay)
        noise = noise_sd(subject, CEILING_EVENTS, t_r=T_R, n_volumes=135)
        found.append(lss_ceiling(subject, noise, NoiseSettings(), n_runs=6))
    assert found[0] > found[1] > found[2]
    assert 0.5 < found[2] / found[0] < 0.75


def test_a_moved_head_is_the_head_moved():
    subject = make_subject()
    subject.responses[:] = 0
    motion = draw_motion(6, scale=1.0, seed=2)
    simulated = run(subject, events=EVENTS[:1], rows=ROWS[:1], n_volumes=6, motion=motion)
    data = np.concatenate(list(simulated.volumes()), axis=-1)
    np.testing.assert_array_equal(simulated.centre, head_centre(subject.head))
    np.testing.assert_allclose(data[..., 0], subject.head.epi, atol=0.51)
    affine = subject.head.affine
    for k in (2, 5):
        back = np.linalg.inv(affine) @ np.linalg.inv(simulated.matrices[k]) @ affine
        places = back[:3, :3] @ np.indices(SHAPE).reshape(3, -1) + back[:3, 3:]
        expected = map_coordinates(subject.head.epi.astype(np.float64), places, order=3, mode="mirror").reshape(SHAPE)
        error = data[..., k] - np.maximum(expected, 0)
        assert error.std() < 0.05 * (expected - subject.head.epi).std()
        assert np.abs(expected - subject.head.epi).max() > 50


def test_realignment_recovers_the_planted_motion_from_noisy_bold():
    head = make_head((40, 52, 26))
    subject = make_subject(head=head)
    motion = draw_motion(16, scale=0.5, seed=4)
    simulated = run(
        subject, events=EVENTS[:1], rows=ROWS[:1], n_volumes=16, motion=motion, noise=constant(subject, 0.01)
    )
    data = np.concatenate(list(simulated.volumes()), axis=-1)
    found = realign(data, head.affine)
    truth = np.stack([rigid_parameters(m, found.centre) for m in simulated.matrices])
    error = (found.parameters - found.parameters[0]) - truth
    assert np.abs(error[:, :3]).max() < 0.06 and np.abs(error[:, 3:]).max() < 0.0015
    assert np.abs(truth[:, :3]).max() > 0.3 and np.abs(truth[:, 3:]).max() > 0.005


def test_responses_move_with_the_head(subject):
    """A shift by exactly one voxel: every voxel's time course is that of the voxel before it."""
    motion = np.zeros((N_VOLUMES, 6))
    motion[1:, 0] = 3.0
    strong = changed(subject, responses=subject.responses * 10)
    still, moved = volumes(strong), volumes(strong, motion=motion)
    inner = np.zeros(SHAPE, bool)
    inner[2:-2, 2:-2, 2:-2] = True
    shifted = np.roll(still[..., 1:], 1, axis=0)
    assert np.abs(moved[inner][:, 1:].astype(int) - shifted[inner]).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": ROWS[:-1]}, "18 events came with 17 stimulus rows"),
        ({"rows": ROWS + 20}, "stimulus rows 20 to 37"),
        ({"noise": np.zeros((3, 3, 3), np.float32)}, r"the noise has shape \(3, 3, 3\)"),
        ({"motion": np.zeros((5, 6))}, r"motion has shape \(5, 6\)"),
        ({"chunk": 0}, "chunk is a number of volumes"),
        ({"n_volumes": 1}, "at least 2 volumes"),
    ],
)
def test_what_is_refused(subject, arguments, message):
    with pytest.raises(UserError, match=message):
        run(subject, **arguments)


def test_a_run_is_never_whole_in_memory():
    subject = make_subject(head=make_head((32, 36, 32)))
    n_volumes = 400
    motion = draw_motion(n_volumes, scale=0.2, seed=0)
    simulated = run(subject, n_volumes=n_volumes, noise=constant(subject, 0.02), motion=motion, chunk=4)
    tracemalloc.start()
    n = sum(chunk.shape[-1] for chunk in simulated.volumes())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == n_volumes
    assert peak < 0.25 * 2 * subject.head.epi.size * n_volumes  # bytes of the run as int16


def test_moving_a_head_does_not_blur_its_noise(subject):
    """Linear interpolation by half a voxel would halve the variance of white noise."""
    motion = np.zeros((N_VOLUMES, 6))
    motion[:, 0] = np.resize([0.0, 1.5], N_VOLUMES)
    still = changed(subject, responses=np.zeros_like(subject.responses))
    settings = replace(AR_ONLY, shared=0.0, own=1.0, ar1=0.0)
    kwargs = {"motion": motion, "settings": settings}
    noisy = volumes(still, noise=constant(subject, 0.03), **kwargs).astype(float)
    clean = volumes(still, **kwargs).astype(float)
    mask = subject.head.epi > 700
    e = (noisy - clean)[mask] / subject.head.epi[mask][:, None]
    np.testing.assert_allclose([e[:, ::2].std(), e[:, 1::2].std()], 0.03, rtol=0.02)
