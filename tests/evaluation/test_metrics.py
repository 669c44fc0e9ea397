import numpy as np
import pytest
from scipy.stats import pearsonr
from skimage.metrics import structural_similarity

from hyperdecode.errors import UserError
from hyperdecode.evaluation.metrics import (
    correlation_scores,
    cosine_scores,
    lsim_scores,
    norm_ratios,
    r_squared_scores,
    standardise,
)
from hyperdecode.evaluation.pictures import pixel_correlation_scores, prepare, resized, ssim_pairs, ssim_scores


@pytest.fixture
def latents():
    rng = np.random.default_rng(0)
    return rng.standard_normal((500, 512))


def test_lsim_of_blind_predictors_has_the_closed_form_values(latents):
    rng = np.random.default_rng(1)
    values = {
        sd: np.diagonal(lsim_scores(sd * rng.standard_normal(latents.shape), latents)).mean() for sd in (0, 0.46, 1)
    }
    # E[1 / (1 + MSE)] with MSE about 1 + sd^2, spread 2 (1 + sd^2)^2 / 512
    for sd, value in values.items():
        mse = 1 + sd**2
        assert value == pytest.approx(1 / (1 + mse) + (2 * mse**2 / 512) / (1 + mse) ** 3, abs=2e-3)
    assert values[0] == pytest.approx(0.5007, abs=2e-3)
    assert values[0.46] == pytest.approx(0.453, abs=2e-3)
    assert values[1] == pytest.approx(0.334, abs=2e-3)


def test_each_entry_compares_that_prediction_with_that_stimulus(latents):
    p, t = latents[:4], latents[4:9] + 0.3
    centre = np.linspace(-1, 1, 512)
    for i in range(4):
        for j in range(5):
            a, b = p[i] - centre, t[j] - centre
            assert lsim_scores(p, t)[i, j] == pytest.approx(1 / (1 + np.mean((p[i] - t[j]) ** 2)))
            assert cosine_scores(p, t, centre)[i, j] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
            assert correlation_scores(p, t, centre)[i, j] == pytest.approx(pearsonr(a, b).statistic)


def test_r_squared_is_pooled_and_zero_for_the_training_mean(latents):
    t, p, mean = latents[:10], latents[:10] + 0.5, np.full(512, 0.2)
    pooled = 1 - np.sum((t - p) ** 2) / np.sum((t - mean) ** 2)
    assert np.diagonal(r_squared_scores(p, t, mean)).mean() == pytest.approx(pooled)
    assert np.diagonal(r_squared_scores(np.tile(mean, (10, 1)), t, mean)).mean() == pytest.approx(0)
    with pytest.raises(UserError, match="differ from the training mean"):
        r_squared_scores(p, np.tile(mean, (3, 1)), mean)


def test_a_prediction_without_direction_scores_zero(latents):
    mean = latents.mean(axis=0)
    assert np.all(cosine_scores(np.tile(mean, (2, 1)), latents[:3], mean) == 0)
    assert np.all(correlation_scores(np.full((2, 512), 3.3), latents[:3]) == 0)


def test_standardise_gives_the_generators_samples_unit_scale(latents):
    raw = latents * np.linspace(0.1, 4, 512) + 7
    z = standardise(raw, raw.mean(axis=0), raw.std(axis=0))
    assert np.allclose(z.mean(axis=0), 0)
    assert np.allclose(z.std(axis=0), 1)
    with pytest.raises(UserError, match="1 latent dimensions have no spread"):
        standardise(raw, np.zeros(512), np.where(np.arange(512) == 5, 0, 1.0))
    with pytest.raises(UserError, match=r"\(512,\)"):
        standardise(raw, 0.0, 1.0)


def test_bad_pairs_are_named(latents):
    with pytest.raises(UserError, match="rows of one length"):
        lsim_scores(latents, latents[:, :5])
    with pytest.raises(UserError, match="predictions hold 512 values"):
        lsim_scores(np.full((1, 512), np.nan), latents)


@pytest.fixture
def pictures():
    rng = np.random.default_rng(2)
    small = rng.uniform(0, 255, (4, 9, 9, 3)).astype(np.uint8)
    return resized(small, 60), resized(np.roll(small, 1, axis=1), 60)


@pytest.mark.parametrize("protocol", ["hyper-paper", "hyper-code"])
def test_ssim_equals_scikit_image_on_the_same_preparation(pictures, protocol):
    p, t = pictures
    a, b = prepare(p, protocol), prepare(t, protocol)
    assert a.shape[1:3] == ((224, 224) if protocol == "hyper-paper" else (60, 60))
    expected = [[structural_similarity(x, y, channel_axis=-1, data_range=255) for y in b[:3]] for x in a]
    assert np.allclose(ssim_scores(p, t[:3], protocol), expected, atol=1e-10)
    assert np.allclose(ssim_pairs(p[:3], t[:3], protocol), np.diagonal(expected), atol=1e-10)
    assert np.allclose(ssim_pairs(p[1:2], t[:3], protocol), expected[1], atol=1e-10)
    assert ssim_scores(p, p, protocol)[2, 2] == pytest.approx(1)


def test_hyper_code_is_skimage_on_the_raw_bytes(pictures):
    p, t = pictures
    assert ssim_pairs(p, t, "hyper-code")[0] == pytest.approx(structural_similarity(p[0], t[0], channel_axis=-1))


def test_paper_filter_keeps_flat_colour_and_has_kernel_three():
    dot = np.zeros((1, 224, 224, 3), np.uint8)
    dot[0, 100, 100] = 160
    blurred = prepare(dot, "hyper-paper")[0, :, :, 0]
    assert np.allclose(blurred[99:102, 99:102], np.outer([1, 2, 1], [1, 2, 1]) * 10)
    assert blurred.sum() == pytest.approx(160)
    assert np.all(prepare(np.full((1, 224, 224, 3), 77, np.uint8), "hyper-paper") == 77)


def test_pixel_correlation(pictures):
    p, t = pictures
    expected = pearsonr(resized(p, 224)[1].ravel().astype(float), resized(t, 224)[2].ravel().astype(float)).statistic
    assert pixel_correlation_scores(p, t)[1, 2] == pytest.approx(expected)


def test_bad_pictures_are_named(pictures):
    p, t = pictures
    with pytest.raises(UserError, match="uint8"):
        ssim_pairs(p / 255.0, t, "hyper-code")
    with pytest.raises(UserError, match="resize one"):
        ssim_pairs(p[:, :50], t, "hyper-code")
    with pytest.raises(UserError, match="2 pictures for 4 stimuli"):
        ssim_pairs(p[:2], t, "hyper-code")
    with pytest.raises(UserError, match="unknown SSIM protocol"):
        ssim_scores(p, t, "mine")


def test_norm_ratio_is_the_shrinkage_in_any_direction():
    rng = np.random.default_rng(4)
    mean, true = rng.standard_normal(16), rng.standard_normal((5, 16))
    ratios = norm_ratios(mean + 0.3 * (true - mean), true, mean)
    assert np.allclose(np.diagonal(ratios), 0.3)
    assert np.allclose(np.diagonal(norm_ratios(mean - 2 * (true - mean), true, mean)), 2)
    assert ratios[1, 2] == pytest.approx(0.3 * np.linalg.norm(true[1] - mean) / np.linalg.norm(true[2] - mean))
    with pytest.raises(UserError, match="1 do not"):
        norm_ratios(true, np.vstack([true, mean]), mean)
