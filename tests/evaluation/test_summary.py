import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import blind_predictions
from hyperdecode.evaluation.metrics import lsim_scores, standardise
from hyperdecode.evaluation.pictures import resized, ssim_pairs, ssim_scores
from hyperdecode.evaluation.summary import TABLE_COLUMNS, evaluate_latents, evaluate_pictures


@pytest.fixture
def study():
    rng = np.random.default_rng(0)
    mean, sd = rng.standard_normal(64), rng.uniform(0.1, 0.5, 64)
    true = mean + sd * rng.standard_normal((36, 64))
    training_mean = mean + 0.02 * rng.standard_normal(64)
    return rng, true, training_mean, mean, sd


def test_a_decoder_that_decodes_beats_the_blind_in_every_metric(study):
    rng, true, training_mean, mean, sd = study
    predicted = training_mean + 0.6 * (true - training_mean) + 0.2 * sd * rng.standard_normal(true.shape)
    result = evaluate_latents(predicted, true, training_mean, mean=mean, sd=sd, n_permutations=999)
    table = result.table.set_index("metric")
    assert list(table.index) == ["lsim", "cosine", "r_squared", "identification", "lsim_raw"]
    assert tuple(result.table.columns) == TABLE_COLUMNS
    assert (table["decoder"] > table["best_blind_score"]).all()
    assert (table["p_value"] == 0.001).all()
    assert (table["n_faces"] == 36).all()
    assert table.loc["lsim", "decoder"] == pytest.approx(
        np.diagonal(lsim_scores(standardise(predicted, mean, sd), standardise(true, mean, sd))).mean()
    )
    assert table.loc["lsim_raw", "decoder"] == pytest.approx(np.diagonal(lsim_scores(predicted, true)).mean())
    assert np.allclose(result.per_face.mean(), table["decoder"][result.per_face.columns])


def test_blind_scores_are_those_of_predictors_that_know_nothing(study):
    _, true, training_mean, mean, sd = study
    table = evaluate_latents(true, true, training_mean, mean=mean, sd=sd, n_permutations=99).table.set_index("metric")
    assert table.loc["lsim", "blind_zero"] == pytest.approx(0.5, abs=0.02)
    assert table.loc["lsim", "blind_noise"] == pytest.approx(1 / 3, abs=0.02)
    assert table.loc["lsim", "blind_shuffled"] == pytest.approx(1 / 3, abs=0.02)
    assert table.loc["r_squared", "blind_mean"] == pytest.approx(0)
    assert table.loc["cosine", "blind_mean"] == 0
    assert table.loc["identification", "blind_mean"] == 0.5
    assert table.loc["identification", "blind_noise"] == pytest.approx(0.5, abs=0.05)
    assert table.loc["lsim", "best_blind"] in ("mean", "zero")


def test_a_blind_decoder_with_a_good_lsim_has_a_large_p(study):
    rng, true, training_mean, mean, sd = study
    predicted = training_mean + 0.05 * sd * rng.standard_normal(true.shape)
    table = evaluate_latents(predicted, true, training_mean, mean=mean, sd=sd, n_permutations=999).table
    assert table.set_index("metric").loc["lsim", "decoder"] > 0.48
    assert (table["p_value"] > 0.05).all()


def test_without_the_generators_scale_latents_are_taken_as_they_are(study):
    _, true, training_mean, mean, _ = study
    result = evaluate_latents(true, true, training_mean, n_permutations=9)
    assert list(result.table["metric"]) == ["lsim", "cosine", "r_squared", "identification"]
    with pytest.raises(UserError, match="both mean and sd"):
        evaluate_latents(true, true, training_mean, mean=mean)
    with pytest.raises(UserError, match="one prediction a stimulus"):
        evaluate_latents(true[:-1], true, training_mean)


@pytest.fixture
def pictures():
    rng = np.random.default_rng(1)
    true = resized(rng.integers(0, 256, (8, 5, 5, 3)).astype(np.uint8), 48)
    average = true.mean(axis=0, keepdims=True)
    halfway = (0.5 * true + 0.5 * average).astype(np.uint8)
    return true, halfway, average.astype(np.uint8)


def test_pictures_beside_blind_pictures(pictures):
    true, blurry, average = pictures
    result = evaluate_pictures(blurry, true, {"mean": average, "noise": np.roll(true, 3, axis=2)}, n_permutations=499)
    table = result.table.set_index("metric")
    assert list(table.index) == ["ssim_hyper-paper", "ssim_hyper-code", "pixcorr"]
    scores = ssim_scores(blurry, true, "hyper-paper")
    assert table.loc["ssim_hyper-paper", "decoder"] == pytest.approx(np.trace(scores) / 8)
    assert table.loc["ssim_hyper-paper", "blind_mean"] == pytest.approx(ssim_pairs(average, true, "hyper-paper").mean())
    assert table["blind_zero"].isna().all()
    assert (table["decoder"] > table["best_blind_score"]).all()
    assert (table["p_value"] < 0.02).all()
    assert result.per_face.shape == (8, 3)


def test_large_pictures_have_no_test_by_the_code_protocol(pictures):
    true, blurry, average = (resized(p[:3], 260) for p in pictures)
    table = evaluate_pictures(blurry, true, {"mean": average}, n_permutations=99).table.set_index("metric")
    assert np.isnan(table.loc["ssim_hyper-code", "p_value"])
    assert table.loc["ssim_hyper-code", "n_permutations"] == 0
    assert table.loc["ssim_hyper-code", "blind_shuffled"] < table.loc["ssim_hyper-code", "decoder"]
    assert table.loc["ssim_hyper-paper", "p_value"] > 0


def test_pictures_that_do_not_fit(pictures):
    true, blurry, average = pictures
    with pytest.raises(UserError, match="7 reconstructions of 8"):
        evaluate_pictures(blurry[:-1], true)
    with pytest.raises(UserError, match="unknown blind predictor 'guess'"):
        evaluate_pictures(blurry, true, {"guess": average})


def test_join(study, pictures):
    _, true, training_mean, *_ = study
    latent = evaluate_latents(true[:8], true[:8], training_mean, n_permutations=9)
    joined = latent.joined(evaluate_pictures(pictures[1], pictures[0], n_permutations=9))
    assert len(joined.table) == 7
    assert joined.per_face.shape == (8, 7)
    assert set(blind_predictions(true, training_mean)) < {"mean", "zero", "noise", "shuffled"}
    with pytest.raises(UserError, match="cannot be joined"):
        latent.joined(evaluate_latents(true, true, training_mean, n_permutations=9))
