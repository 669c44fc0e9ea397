import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation import summary
from hyperdecode.evaluation.blind import blind_predictions
from hyperdecode.evaluation.bootstrap import bootstrap_interval
from hyperdecode.evaluation.corrections import benjamini_hochberg, max_statistic_test
from hyperdecode.evaluation.identification import n_way_rates, win_rates
from hyperdecode.evaluation.metrics import (
    correlation_scores,
    cosine_scores,
    feature_scores,
    lsim_scores,
    r_squared_scores,
    standardise,
)
from hyperdecode.evaluation.pictures import pixel_correlation_scores, resized, ssim_pairs, ssim_scores
from hyperdecode.evaluation.presets import PRESETS
from hyperdecode.evaluation.random_null import random_latents_test
from hyperdecode.evaluation.summary import TABLE_COLUMNS, evaluate_features, evaluate_latents, evaluate_pictures
from hyperdecode.evaluation.whitening import Whitening


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


def test_large_pictures_have_no_test_by_the_code_protocol(pictures, monkeypatch):
    true, blurry, average = (resized(p[:3], 260) for p in pictures)
    monkeypatch.setattr(summary, "LARGEST_FULL", 3 * 3 * 260 * 260 - 1)
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


@pytest.fixture
def strict(study):
    """Everything that a study has; the latents of its generator are not white."""
    rng, _, _, mean, _ = study
    mixing = rng.standard_normal((64, 64)) * np.linspace(2, 0.2, 64)
    true = mean + rng.standard_normal((36, 64)) @ mixing
    covariance = mixing.T @ mixing
    return {
        "true": true,
        "training_mean": mean + 0.01 * rng.standard_normal(64),
        "mean": mean,
        "sd": np.sqrt(np.diagonal(covariance)),
        "whitening": Whitening.of(mean, covariance, floor=1e-9),
        "blind": {"random": mean + rng.standard_normal((200, 64)) @ mixing, "nearest": mean + 0.5 * mixing[0]},
        "attributes": true[:, :5],
        "preset": PRESETS["strict"],
    }


def half_decoded(rng, strict):
    shrunk = strict["training_mean"] + 0.5 * (strict["true"] - strict["training_mean"])
    return shrunk + 0.2 * strict["sd"] * rng.standard_normal(shrunk.shape)


def test_strict_preset_of_latents(study, strict):
    predicted = half_decoded(study[0], strict)
    result = evaluate_latents(predicted, n_permutations=499, **strict)
    table = result.table.set_index("metric")
    assert tuple(table.index) == PRESETS["strict"].latent_metrics == tuple(result.per_face.columns)
    white, m = strict["whitening"], strict["training_mean"]
    own = {
        "lsim_white": lsim_scores(white(predicted), white(strict["true"])),
        "cosine_white": cosine_scores(white(predicted), white(strict["true"]), white(m)),
    }
    p, t, c = (standardise(a, strict["mean"], strict["sd"]) for a in (predicted, strict["true"], m))
    own["identification_10"] = n_way_rates(correlation_scores(p, t, c), 10)
    for name, scores in own.items():
        assert table.loc[name, "decoder"] == pytest.approx(np.diagonal(scores).mean())
        assert table.loc[name, "blind_shuffled"] == pytest.approx((scores.sum() - np.trace(scores)) / (36 * 35))
    assert table.loc["lsim_white", "blind_zero"] == pytest.approx(0.5, abs=0.02)
    assert table.loc["lsim_white", "blind_random"] == pytest.approx(1 / 3, abs=0.02)
    assert table.loc["lsim_white", "blind_nearest"] == pytest.approx(
        lsim_scores(white(strict["blind"]["nearest"])[None], white(strict["true"])).mean()
    )
    for name, n in (("identification", 2), ("identification_10", 10), ("identification_36", 36)):
        assert table.loc[name, ["blind_mean", "blind_random"]].tolist() == pytest.approx([1 / n, 1 / n])
        assert table.loc[name, "pool"] == "35 other test faces"
    assert table.loc["identification_matched", "pool"].startswith("12 of 35 other")
    assert table["blind_average"].isna().all()
    assert set(table["null"].drop("norm_ratio")) == {"pairing"}


def test_skill_interval_and_q(study, strict):
    predicted = half_decoded(study[0], strict) + 1.5 * strict["sd"] * study[0].standard_normal((36, 64))
    result = evaluate_latents(predicted, n_permutations=499, seed=4, **strict)
    table = result.table.set_index("metric").drop("norm_ratio")
    best = table[[f"blind_{name}" for name in ("mean", "zero", "noise", "random", "nearest", "shuffled")]].max(axis=1)
    assert np.allclose(table["skill"], (table["decoder"] - best) / (1 - best))
    for metric, row in table.iterrows():
        assert (row["low"], row["high"]) == bootstrap_interval(result.per_face[metric], seed=4)
        assert row["low"] < row["decoder"] < row["high"]
    assert np.allclose(table["q_value"], benjamini_hochberg(table["p_value"]))
    assert (table["p_family"] >= table["p_value"] - 1e-12).all(), "the largest of all metrics is no smaller"
    assert table["p_family"].min() < 0.05
    perfect = evaluate_latents(strict["true"], n_permutations=99, **strict).table.set_index("metric")
    assert np.allclose(perfect["skill"].drop(["norm_ratio"]), 1)


def test_family_wise_p_is_that_of_the_matrices(study, strict):
    """Two metrics whose matrices are known: identification (win rates) and lsim alone."""
    predicted = half_decoded(study[0], strict) + 1.5 * strict["sd"] * study[0].standard_normal((36, 64))
    arguments = {key: strict[key] for key in ("true", "training_mean")}
    table = evaluate_latents(predicted, n_permutations=499, seed=4, **arguments).table
    true, mean = strict["true"], strict["training_mean"]
    matrices = [
        cosine_scores(predicted, true, mean),
        win_rates(correlation_scores(predicted, true, mean)),
        lsim_scores(predicted, true),
        r_squared_scores(predicted, true, mean),
    ]
    found = max_statistic_test(np.stack(matrices), 499, 4)
    by = table.set_index("metric")["p_family"]
    names = ["cosine", "identification", "lsim", "r_squared"]
    np.testing.assert_allclose(by[names], found)


def test_norm_ratio_describes_and_does_not_compete(study, strict):
    row = evaluate_latents(half_decoded(study[0], strict), n_permutations=99, **strict).table.set_index("metric")
    row = row.loc["norm_ratio"]
    assert 0.45 < row["decoder"] < 0.7
    assert row["blind_random"] == pytest.approx(1, abs=0.15)
    assert row["blind_mean"] == 0
    assert row["best_blind"] == ""
    assert row[["best_blind_score", "skill", "p_value", "q_value", "p_family"]].isna().all()


def test_metrics_whose_ingredients_are_missing_are_left_out(study, strict):
    few = {"true": strict["true"][:8], "training_mean": strict["training_mean"], "preset": strict["preset"]}
    table = evaluate_latents(few["true"], n_permutations=9, **few).table
    assert list(table["metric"]) == ["identification", "cosine", "r_squared", "lsim", "norm_ratio"]
    with pytest.raises(UserError, match="unknown blind predictor 'average'"):
        evaluate_latents(few["true"], blind={"average": few["true"]}, **few)
    with pytest.raises(UserError, match="5 faces for 8 stimuli"):
        evaluate_latents(few["true"], attributes=few["true"][:5], **few)


def test_the_papers_preset_tests_against_random_latents_but_not_the_verdict(study, strict):
    rng = study[0]
    blind = strict["mean"] + 0.1 * strict["sd"] * rng.standard_normal((36, 64))
    table = evaluate_latents(blind, n_permutations=999, **strict | {"preset": PRESETS["hyper-paper"]}).table
    table = table.set_index("metric")
    assert list(table.index) == ["identification", "lsim", "lsim_raw"]
    assert table.loc["lsim", "null"] == "random latents"
    assert table.loc["lsim", "p_value"] == 0.001
    assert table.loc["identification", "null"] == "pairing"
    assert table.loc["identification", "p_value"] > 0.05
    assert table[["q_value", "p_family"]].isna().all(axis=None)
    without = {key: value for key, value in strict.items() if key != "blind"} | {"preset": PRESETS["hyper-code"]}
    table = evaluate_latents(blind, n_permutations=99, **without).table.set_index("metric")
    assert np.isnan(table.loc["lsim", "p_value"])
    assert table.loc["lsim", "null"] == ""


def test_features(study):
    rng = study[0]
    true = rng.standard_normal((12, 30))
    made, average = true + rng.standard_normal(true.shape), true.mean(0, keepdims=True)
    result = evaluate_features(made, true, {"mean": average, "random": np.roll(true, 1, axis=0)}, identification=True)
    table = result.table.set_index("metric")
    assert list(table.index) == ["fsim_dlib", "identification_features"]
    scores = feature_scores(made, true)
    assert table.loc["fsim_dlib", "decoder"] == pytest.approx(np.diagonal(scores).mean())
    assert table.loc["fsim_dlib", "blind_mean"] == pytest.approx(feature_scores(average, true).mean())
    wins = [(scores[i, i] > np.delete(scores[i], i)).mean() for i in range(12)]
    assert table.loc["identification_features", "decoder"] == pytest.approx(np.mean(wins))
    assert table.loc["identification_features", "blind_mean"] == 0.5
    random = rng.standard_normal((50, 30))
    preset = PRESETS["hyper-paper"]
    paper = evaluate_features(made, true, {"random": random}, name="fsim", identification=True, preset=preset).table
    assert list(paper["metric"]) == ["fsim"]
    assert list(paper["null"]) == ["random latents"]
    assert paper["blind_random"][0] == pytest.approx(feature_scores(random, true).mean())
    with pytest.raises(UserError, match="11 reconstructions and 12"):
        evaluate_features(made[:-1], true)


def test_strict_preset_of_pictures(pictures):
    true, blurry, average = (resized(p, 128) for p in pictures)
    blind = {"average": average, "random": true[::-1], "nearest": true[:1]}
    table = evaluate_pictures(blurry, true, blind, preset=PRESETS["strict"], n_permutations=499).table.set_index(
        "metric"
    )
    assert tuple(table.index) == PRESETS["strict"].picture_metrics
    assert (table["decoder"] > table["best_blind_score"]).all()
    assert (table["p_value"] < 0.02).all()
    scores = pixel_correlation_scores(blurry, true)
    wins = [(scores[i, i] > np.delete(scores[i], i)).mean() for i in range(8)]
    assert table.loc["identification_pixels", "decoder"] == pytest.approx(np.mean(wins))
    assert table.loc["ms_ssim", "blind_random"] < table.loc["ms_ssim", "decoder"]
    assert table["blind_average"].notna().all()
    small = evaluate_pictures(pictures[1], pictures[0], preset=PRESETS["strict"], n_permutations=9).table
    assert "ms_ssim" not in list(small["metric"])
    assert len(small) == 4


def test_pictures_by_the_papers_null(pictures):
    true, blurry, _ = pictures
    random = np.roll(true, 9, axis=2)[:5]
    table = evaluate_pictures(
        blurry, true, {"random": random}, preset=PRESETS["hyper-code"], n_permutations=999, seed=1
    )
    row = table.table.set_index("metric").loc["ssim_hyper-code"]
    scores = ssim_scores(random, true, "hyper-code")
    assert row["p_value"] == random_latents_test(scores, row["decoder"], 999, 1)
    assert row["blind_random"] == pytest.approx(scores.mean())
    assert row["null"] == "random latents"
