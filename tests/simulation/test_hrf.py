import numpy as np
import pytest
from nilearn.glm.first_level import compute_regressor

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times, trial_regressors
from hyperdecode.simulation.hrf import delayed_response, volume_times

T_R, N_VOLUMES = 1.5, 80
ONSETS, DURATIONS = np.array([0.0, 6.1, 10.6, 47.3, 112.0]), np.array([1.5, 1.5, 0.0, 6.0, 1.5])


def test_volumes_are_taken_in_the_middle():
    np.testing.assert_array_equal(volume_times(3, 2.0), [1.0, 3.0, 5.0])
    np.testing.assert_array_equal(volume_times(N_VOLUMES, T_R), frame_times(N_VOLUMES, T_R, slice_time_ref=0.5))


@pytest.mark.parametrize("t_r", [0.8, 1.5, 2.0])
def test_no_delay_is_nilearns_canonical_response(t_r):
    times = volume_times(90, t_r)
    onsets, durations = ONSETS[:4], DURATIONS[:4]
    found = delayed_response(onsets, durations, times, 0.0)
    for k, (on, length) in enumerate(zip(onsets, durations, strict=True)):
        expected = compute_regressor(np.array([[on], [length], [1.0]]), "spm", times, oversampling=50)[0][:, 0]
        np.testing.assert_allclose(found[:, k], expected, atol=1e-12)
    np.testing.assert_allclose(found, trial_regressors(onsets, durations, times), atol=1e-12)


@pytest.mark.parametrize("delay", [-1.5, -0.4, 0.7, 2.0])
def test_the_peak_comes_late_and_the_area_stays(delay):
    times = volume_times(3000, 0.1)
    plain, late = (delayed_response([20.0], [0.1], times, d)[:, 0] for d in (0.0, delay))
    assert times[late.argmax()] - times[plain.argmax()] == pytest.approx(delay, abs=0.1)
    assert late.sum() == pytest.approx(plain.sum(), rel=1e-3)

    def width(x):
        return (x > x.max() / 2).sum() * 0.1

    assert width(late) / width(plain) == pytest.approx((5 + delay) / 5, rel=0.05)
    assert (late[times < 20] == 0).all()


def test_a_long_trial_is_the_sum_of_its_parts():
    times = volume_times(N_VOLUMES, T_R)
    whole, first, second = (
        delayed_response([a], [b], times, 0.9)[:, 0] for a, b in ((9.0, 6.0), (9.0, 3.0), (12.0, 3.0))
    )
    np.testing.assert_allclose(whole, first + second, atol=1e-12)


@pytest.mark.parametrize(
    ("onsets", "durations", "delay", "message"),
    [
        ([1.0, 2.0], [1.0], 0.0, "2 onsets and 1 durations"),
        ([np.nan], [1.0], 0.0, "finite onset"),
        ([1.0], [1.0], -6.0, "delay must be above"),
        ([1.0], [1.0], np.nan, "delay must be above"),
    ],
)
def test_what_is_refused(onsets, durations, delay, message):
    with pytest.raises(UserError, match=message):
        delayed_response(onsets, durations, volume_times(N_VOLUMES, T_R), delay)


def test_a_run_has_volumes():
    with pytest.raises(UserError, match="at least 2 volumes"):
        volume_times(1, 1.5)
