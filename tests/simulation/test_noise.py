from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times, nuisance_matrix, trial_regressors
from hyperdecode.simulation.hrf import volume_times
from hyperdecode.simulation.noise import (
    CSF_EXTRA,
    MOST_PHYSIO,
    WANDER_SECONDS,
    WAVES,
    NoiseSettings,
    Smoother,
    noise_sd,
    physio_share,
    volume_generator,
    wave_phase,
)

T_R, N_VOLUMES = 1.5, 140
EVENTS = pd.DataFrame({"onset": 4.5 + 4.5 * np.arange(42), "duration": 1.5})
WHITE = NoiseSettings(shared=0, own=0, physio=0, thermal=1)


def make_subject(n_stimuli=60, ceiling=0.2, n_voxels=200):
    rng = np.random.default_rng(0)
    shape = (12, 14, 10)
    csf = np.zeros(shape, np.float32)
    csf[5:7, 6:8, 4:6] = 1
    brain = np.ones(shape, bool)
    brain[0] = False
    grey = np.where(brain, 1 - csf, 0).astype(np.float32)
    epi = np.where(brain, 1000 + 500 * csf, 0).astype(np.float32)
    head = SimpleNamespace(affine=np.diag([3.0, 3.0, 3.0, 1.0]), brain=brain, csf=csf, grey=grey, epi=epi)
    voxels = np.sort(rng.choice(np.flatnonzero(grey > 0.5), n_voxels, replace=False))
    responses = (0.01 + 0.005 * rng.standard_normal((n_stimuli, n_voxels))).astype(np.float32)
    return SimpleNamespace(
        head=head,
        voxels=voxels,
        responses=responses,
        noise_ceiling=np.full(n_voxels, ceiling, np.float32),
        hrf_delay=np.zeros(n_voxels, np.float32),
    )


def sd_of(subject, events=EVENTS, settings=WHITE):
    return noise_sd(subject, events, t_r=T_R, n_volumes=N_VOLUMES, settings=settings)


@pytest.mark.parametrize("fwhm", [6.0, 9.0])
def test_smooth_fields_are_standard_normal_everywhere(fwhm):
    smoother = Smoother((14, 11, 12), fwhm, np.array([2.0, 2.0, 3.0]))
    fields = np.stack([smoother.draw(np.random.default_rng(seed)) for seed in range(600)])
    np.testing.assert_allclose(fields.std(axis=0), 1, atol=0.15)
    np.testing.assert_allclose(fields.mean(axis=0), 0, atol=0.2)
    # Two white fields under one Gaussian of sd s correlate as a Gaussian of sd sqrt(2) s does.
    sigma = fwhm / 2.3548
    for axis, size in enumerate((2.0, 2.0, 3.0)):
        near, far = (np.take(fields, i, axis=axis + 1) for i in (5, 6))
        assert (near * far).mean() == pytest.approx(np.exp(-(size**2) / (4 * sigma**2)), abs=0.03)


def test_no_width_leaves_noise_white():
    fields = np.stack([Smoother((8, 8, 8), 0.0, np.ones(3) * 2).draw(np.random.default_rng(s)) for s in range(50)])
    assert fields.std() == pytest.approx(1, abs=0.02) and abs((fields[:, 1:] * fields[:, :-1]).mean()) < 0.02


def test_each_volume_has_numbers_of_its_own():
    one, same, other, later = (
        volume_generator(seed, volume).standard_normal(5) for seed, volume in ((1, 2), (1, 2), (2, 2), (1, 3))
    )
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other) and not np.allclose(one, later)


@pytest.mark.parametrize("wave", WAVES, ids=lambda w: w.name)
def test_physiology_has_its_rate_and_wanders(wave):
    times = volume_times(4000, 0.1)
    phases = np.stack([wave_phase(wave, times, seed) for seed in range(40)])
    rates = np.diff(phases, axis=1) / (2 * np.pi * 0.1)
    assert rates.mean() == pytest.approx(wave.rate, rel=0.01)
    assert rates.std() == pytest.approx(wave.rate_sd, rel=0.1)
    lag = round(WANDER_SECONDS / 0.1)
    centred = rates - wave.rate
    assert (centred[:, lag:] * centred[:, :-lag]).mean() / wave.rate_sd**2 == pytest.approx(np.exp(-1), abs=0.15)
    assert 0 < np.abs(np.exp(1j * phases[:, 0]).mean()) < 0.4  # starts anywhere
    np.testing.assert_array_equal(wave_phase(wave, times, 3), phases[3])


def test_the_repetition_time_aliases_the_heart():
    """A steady 1.1 Hz sampled every 1.5 s shows at |1.1 - 2/1.5| = 0.233 Hz."""
    times = volume_times(512, 1.5)
    power = np.zeros(257)
    for seed in range(20):
        power += np.abs(np.fft.rfft(np.cos(wave_phase(WAVES[0], times, seed)))) ** 2
    assert np.fft.rfftfreq(512, 1.5)[power.argmax()] == pytest.approx(2 / 1.5 - 1.1, abs=0.03)


def test_physiology_lies_near_fluid():
    head = make_subject().head
    share = physio_share(head, NoiseSettings())
    grey = np.where(head.brain, head.grey, 0)
    assert (share * grey).sum() / grey.sum() == pytest.approx(NoiseSettings().physio, rel=1e-3)
    assert share[head.csf == 1].min() > 2 * np.median(share[head.grey == 1])
    assert share.max() <= MOST_PHYSIO and share.min() > 0
    np.testing.assert_array_equal(share, physio_share(head, NoiseSettings()))
    assert (physio_share(head, WHITE) == 0).all()


@pytest.mark.parametrize("ceiling", [0.05, 0.3])
def test_noise_makes_the_ceiling_by_ordinary_least_squares(ceiling):
    """White noise: the variance of each LSS beta from models fitted one by one with `lstsq`."""
    subject = make_subject(ceiling=ceiling)
    times = frame_times(N_VOLUMES, T_R, slice_time_ref=0.5)
    x = trial_regressors(EVENTS["onset"], EVENTS["duration"], times)
    variances, leaks = [], []
    for i in range(x.shape[1]):
        model = np.column_stack([x[:, i], np.delete(x, i, axis=1).sum(axis=1), nuisance_matrix(times)])
        weights = np.linalg.pinv(model)[0]
        variances.append(weights @ weights)
        leaks.append((np.delete(weights @ x, i) ** 2).sum())
    signal = subject.responses.var(axis=0)
    sd = sd_of(subject).ravel()[subject.voxels]
    noise = sd**2 * np.mean(variances) + signal * np.mean(leaks)
    np.testing.assert_allclose(signal / (signal + noise), ceiling, rtol=1e-4)
    assert np.mean(leaks) > 0.1


def test_voxels_that_do_not_respond_have_the_usual_noise():
    subject = make_subject()
    sd = sd_of(subject)
    quiet = np.ones(sd.size, bool)
    quiet[subject.voxels] = False
    usual = np.median(sd.ravel()[subject.voxels])
    np.testing.assert_allclose(sd.ravel()[quiet & (subject.head.csf.ravel() == 0)], usual, rtol=1e-6)
    np.testing.assert_allclose(sd.ravel()[subject.head.csf.ravel() == 1], (1 + CSF_EXTRA) * usual, rtol=1e-6)
    subject.noise_ceiling[3] = 0
    subject.responses[:, 4] = 0.01
    assert sd_of(subject).ravel()[subject.voxels[[3, 4]]] == pytest.approx(usual, rel=0.05)


def test_autocorrelated_noise_need_be_smaller():
    """Slow noise looks like a response: for the same ceiling there must be less of it."""
    subject = make_subject()
    coloured = NoiseSettings(shared=0.5, own=0.5, physio=0, thermal=0, ar1=0.6)
    assert 1.2 < np.median(sd_of(subject) / sd_of(subject, settings=coloured)) < 2.5


def test_ceilings_that_cannot_be_reached():
    with pytest.raises(UserError, match=r"a noise ceiling of 0\.90 cannot be reached"):
        sd_of(make_subject(ceiling=0.9))
    far = pd.DataFrame({"onset": 4.0 + 30 * np.arange(7), "duration": 1.5})
    assert np.isfinite(sd_of(make_subject(ceiling=0.9), events=far)).all()
    subject = make_subject()
    subject.responses[:] = 0.01
    with pytest.raises(UserError, match="no voxel responds"):
        sd_of(subject)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"own": 0.5}, "must sum to 1"), ({"shared": -0.1, "own": 0.65}, "must sum to 1"), ({"ar1": 1.0}, "ar1 must lie")],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        NoiseSettings(**changes)


def test_kernels_do_what_a_filter_does():
    white = np.random.default_rng(5).standard_normal((20, 20, 20), np.float32)
    field = Smoother((20, 20, 20), 4.0, np.full(3, 2.0)).draw(np.random.default_rng(5))
    filtered = gaussian_filter(white, 4.0 / 2.3548 / 2, truncate=8)
    inner = (slice(6, -6),) * 3
    assert np.corrcoef(field[inner].ravel(), filtered[inner].ravel())[0, 1] > 0.9999
