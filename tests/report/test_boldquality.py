from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import cosine_drift, frame_times, trial_regressors
from hyperdecode.report.boldquality import carpet_figure, design_figure, motion_figure, z_figure
from hyperdecode.report.qualitymaps import reliability_figure, tsnr_figure
from hyperdecode.report.slices import brain_of

RUST, SKY = (213, 94, 0), (0, 114, 178)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def count(figure, colour, part=np.s_[:, :]):
    """Pixels of about that colour."""
    return int((np.abs(pixels(figure.png)[part] - np.array(colour)).max(axis=-1) < 20).sum())


def check(figure):
    assert pixels(figure.png).shape[1] == 900
    assert len(figure.png) < 300_000
    assert figure.title and "Good:" in figure.caption and "Bad:" in figure.caption


def runs(n_runs=3, n=80, seed=0):
    rng = np.random.default_rng(seed)
    parameters = [np.cumsum(rng.normal(0, [0.01] * 3 + [1e-4] * 3, (n, 6)), axis=0) for _ in range(n_runs)]
    return parameters, [np.full(n, 0.1) for _ in range(n_runs)]


def test_motion_marks_what_moves_and_says_where():
    parameters, displacement = runs()
    still = motion_figure(parameters, displacement, 1.5)
    check(still)
    assert "0 of 240 volumes (0.0 %)" in still.caption and "little motion" in still.caption
    displacement[1][[10, 40, 60, 70]] = 0.7
    moved = motion_figure(parameters, displacement, 1.5)
    check(moved)
    assert "4 of 240 volumes (1.7 %)" in moved.caption and "run 2 has the largest share (5.0 %)" in moved.caption
    below = np.s_[360:, :]
    assert count(moved, RUST, below) > count(still, RUST, below) + 4 * 15, "a mark for each"
    strict = motion_figure(parameters, displacement, 1.5, threshold=0.05)
    assert "240 of 240 volumes" in strict.caption and "strong motion" in strict.caption


def test_spikes_of_the_signal_are_marked_too():
    parameters, displacement = runs()
    outliers = [np.zeros(80, bool) for _ in parameters]
    outliers[2][5] = True
    figure = motion_figure(parameters, displacement, 1.5, outliers=outliers)
    assert "1 of 240 volumes" in figure.caption and "run 3 has the largest share" in figure.caption


def test_motion_of_many_runs_of_different_length():
    parameters, displacement = runs(n_runs=20, n=300)
    parameters[3], displacement[3] = parameters[3][:50], displacement[3][:50]
    displacement[0][0] = np.nan
    check(motion_figure(parameters, displacement, 1.5))
    with pytest.raises(UserError, match="one row a volume"):
        motion_figure(parameters, [d[:-1] for d in displacement], 1.5)
    with pytest.raises(UserError, match="same runs"):
        motion_figure([], [], 1.5)


def head(shape=(20, 24, 16)):
    """A ball of a head, brighter to the right so that left and right differ, and tSNR that grows upwards."""
    index = np.indices(shape)
    centre = (np.array(shape) - 1) / 2
    inside = (((index - centre[:, None, None, None]) / centre[:, None, None, None]) ** 2).sum(axis=0) < 0.8
    mean = np.where(inside, 900.0 + 10 * index[0], 10.0)
    tsnr = np.where(inside, 40.0 + index[2], np.nan)
    affine = np.diag([3.0, 3.0, 3.5, 1.0])
    affine[:3, 3] = (-28, -40, -20)
    return tsnr, mean, inside, affine


def test_tsnr_map_and_its_median():
    tsnr, mean, inside, affine = head()
    figure = tsnr_figure(tsnr, mean, inside, affine)
    check(figure)
    assert f"Median in the brain {np.median(tsnr[inside]):.0f}," in figure.caption
    assert "3 x 3 x 3.5 mm" in figure.caption
    with pytest.raises(UserError, match="finite values inside a mask"):
        tsnr_figure(tsnr, mean, ~inside, affine)
    with pytest.raises(UserError, match="same shape"):
        tsnr_figure(tsnr, mean, inside[:-1], affine)
    with pytest.raises(UserError, match="share one 3D grid"):
        tsnr_figure(tsnr, mean[:-1], inside, affine)


def test_maps_look_the_same_however_the_axes_are_stored():
    tsnr, mean, inside, affine = head()
    drawn = pixels(tsnr_figure(tsnr, mean, inside, affine).png)
    las = affine.copy()
    las[:3, 3] += affine[:3, 0] * (tsnr.shape[0] - 1)
    las[:3, 0] *= -1
    np.testing.assert_array_equal(pixels(tsnr_figure(tsnr[::-1], mean[::-1], inside[::-1], las).png), drawn)
    turned = affine[:, [2, 0, 1, 3]]
    volumes = [volume.transpose(2, 0, 1) for volume in (tsnr, mean, inside)]
    again = tsnr_figure(*volumes, turned)
    np.testing.assert_array_equal(pixels(again.png), drawn)
    mirrored = pixels(tsnr_figure(np.where(np.indices(tsnr.shape)[0] > 9, tsnr, 5), mean, inside, affine).png)
    assert (mirrored != drawn).any()


def test_brain_of_a_mean_is_its_largest_bright_piece():
    _, mean, inside, _ = head()
    mean[0, 0, 0] = 2000
    found = brain_of(mean)
    assert not found[0, 0, 0] and (found & inside).sum() > 0.95 * inside.sum() and not (found & ~inside).any()


def test_reliability_counts_what_exceeds_noise():
    _, mean, inside, affine = head()
    rng = np.random.default_rng(0)
    noise = np.where(inside, rng.normal(0, 0.2, inside.shape), np.nan)
    figure = reliability_figure(noise, mean, inside, affine)
    check(figure)
    assert abs(float(figure.caption.split("voxels ")[1].split(",")[0])) < 0.03
    signal = np.where(np.indices(inside.shape)[1] < 12, 0.8, noise)
    better = reliability_figure(signal, mean, inside, affine)
    check(better)
    share = float(better.caption.split("about ")[1].split(" %")[0])
    # Half of the voxels are reliable, and of the other half as many lie below 0 as above.
    assert share == pytest.approx(50, abs=4)
    above = np.s_[:200, :]
    assert count(better, (38, 134, 189), above) > count(figure, (38, 134, 189), above) + 500, "blue beyond the grey"
    with pytest.raises(UserError, match="finite values inside a mask"):
        reliability_figure(np.full(inside.shape, np.nan), mean, inside, affine)


def design(n_trials, n_volumes, spacing=4.5, t_r=1.5):
    times = frame_times(n_volumes, t_r)
    trials = trial_regressors(12 + spacing * np.arange(n_trials), np.full(n_trials, 1.5), times)
    motion = np.random.default_rng(0).standard_normal((n_volumes, 24)).cumsum(axis=0)
    return {"trials": trials, "motion": motion, "drift": cosine_drift(times, 0.01), "constant": np.ones((n_volumes, 1))}


@pytest.mark.parametrize(("n_trials", "n_volumes"), [(150, 460), (3, 40), (1, 30)])
def test_design_of_many_and_few_trials(n_trials, n_volumes):
    blocks = design(n_trials, n_volumes)
    figure = design_figure(blocks, 1.5, ["train"] * n_trials)
    check(figure)
    k = sum(columns.shape[1] for columns in blocks.values())
    assert f"{n_trials} trials and {k - n_trials} nuisance columns in {n_volumes} volumes" in figure.caption
    assert f"{n_volumes - k} degrees of freedom" in figure.caption


def test_design_shows_kinds_of_trials_and_how_near_they_are():
    plain = design_figure(design(40, 200), 1.5, ["train"] * 40)
    mixed = design_figure(design(40, 200), 1.5, ["train", "test"] * 20)
    strip = np.s_[:45, :450]
    assert count(mixed, RUST, strip) > count(plain, RUST, strip) + 500
    correlation = [
        float(design_figure(design(20, 300, spacing), 1.5).caption.split("correlate at ")[1].split(" ")[0])
        for spacing in (1.5, 15.0)
    ]
    assert correlation[0] > 0.7 > 0.1 > correlation[1]
    with pytest.raises(UserError, match="40 trials and 3 trial types"):
        design_figure(design(40, 200), 1.5, ["train"] * 3)
    with pytest.raises(UserError, match="one row a volume"):
        design_figure({"trials": np.ones((5, 2)), "constant": np.ones((4, 1))}, 1.5)


def test_distribution_of_z_in_numbers():
    rng = np.random.default_rng(0)
    figure = z_figure(rng.normal(0.5, 1.2, (100, 3000)), rng.normal(0, 1, (40, 3000)))
    check(figure)
    assert "training trials: mean 0.50, sd 1.20" in figure.caption
    assert "test trials: mean 0.00, sd 1.00, |z| > 3.1 in 0.2" in figure.caption
    assert count(figure, SKY) > 200 and count(figure, RUST) > 200
    alone = z_figure(rng.normal(0, 1, (100, 30)))
    check(alone)
    assert "; test trials" not in alone.caption and count(alone, RUST) == 0


def test_z_of_a_whole_brain_is_sampled_and_nan_left_out():
    z = np.broadcast_to(np.linspace(-2, 2, 401)[:, None], (401, 230_000))
    figure = z_figure(z)
    assert "mean 0.00, sd 1.1" in figure.caption
    gappy = np.random.default_rng(0).standard_normal((10, 100))
    gappy[:, 3] = np.nan
    check(z_figure(gappy))
    with pytest.raises(UserError, match="finite values of training"):
        z_figure(np.full((3, 3), np.nan))


def test_carpet_shows_a_stripe_where_all_voxels_jump():
    rng = np.random.default_rng(0)
    series = 500 + rng.normal(0, 5, (150, 4000)).astype(np.float32)
    series[:, 7] = np.nan
    quiet = pixels(carpet_figure(series, 2.0).png)
    series[100] += 40
    figure = carpet_figure(series, 2.0)
    check(figure)
    bright = pixels(figure.png)[40:200, 100:880].mean(axis=(0, 2))
    assert bright.max() == 255 > 180 > quiet[40:200, 100:880].mean(axis=(0, 2)).max()
    # Volume 100 of 150, in a panel that begins 20 to 60 pixels from the left.
    assert 600 < 100 + np.flatnonzero(bright == 255).mean() < 625
    displacement = np.zeros(150)
    full = carpet_figure(series, 2.0, displacement=displacement, dvars=np.append(np.nan, np.ones(149)))
    check(full)
    assert pixels(full.png).shape[0] > pixels(figure.png).shape[0]
    with pytest.raises(UserError, match="150 volumes"):
        carpet_figure(series, 2.0, displacement=displacement[1:])
    with pytest.raises(UserError, match="volumes x voxels"):
        carpet_figure(series[0], 2.0)
