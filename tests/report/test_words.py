"""Every metric and blind predictor has words, and what is no score or no test of decoding stays out of the verdict."""

import numpy as np
import pytest

from hyperdecode.evaluation.blind import BLIND_PREDICTORS
from hyperdecode.evaluation.presets import PRESETS
from hyperdecode.evaluation.summary import evaluate_latents
from hyperdecode.report.verdict import subject_verdict
from hyperdecode.report.words import BLIND_WORDS, METRICS, metric_label, score_text


def test_every_metric_and_blind_predictor_has_words():
    for preset in PRESETS.values():
        assert set(preset.latent_metrics + preset.feature_metrics + preset.picture_metrics) <= set(METRICS)
    assert set(BLIND_WORDS) == set(BLIND_PREDICTORS)
    assert len({label for label, _ in METRICS.values()}) == len(METRICS)


def test_identifications_are_per_cent():
    assert score_text("identification_36", 1 / 36) == "2.8%"
    assert score_text("lsim_white", 0.5) == "0.500"


@pytest.fixture
def decoded():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((12, 40))
    return 0.5 * true + 0.5 * rng.standard_normal(true.shape), true, np.zeros(40)


def test_the_norm_ratio_is_no_caveat(decoded):
    table = evaluate_latents(*decoded, preset=PRESETS["strict"], n_permutations=199).table
    assert "norm_ratio" in set(table["metric"])
    found = subject_verdict("sub-01", table)
    assert found.decoded
    assert not any(metric_label("norm_ratio") in caveat for caveat in found.caveats)


def test_p_against_random_latents_is_no_evidence_in_the_verdict(decoded):
    random = {"random": np.random.default_rng(1).standard_normal((50, 40))}
    words = {}
    for name in ("strict", "hyper-paper"):
        table = evaluate_latents(*decoded, blind=random, preset=PRESETS[name], n_permutations=199).table
        assert table.set_index("metric").loc["lsim", "p_value"] == 0.005
        words[name] = subject_verdict("sub-01", table).sentence
    assert "other scores" in words["strict"] and "p < 0.05." in words["strict"]
    assert "other scores" not in words["hyper-paper"], "its p-values of lsim are against random latents"
