"""Table 1: means, standard errors and p-values, beside what the paper printed."""

import re

import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.report.published import CITATION, METHOD_WORDS, paper_metric, published_table
from hyperdecode.report.table1 import TABLE1_COLUMNS, mean_text, p_text, table1, table1_html
from hyperdecode.report.words import METRICS, metric_label, score_text
from tests.report.test_build import Page

DASH = "\N{EN DASH}"


def scores(*rows):
    return pd.DataFrame(
        [(*key, value) for *key, values in rows for value in values],
        columns=["method", "subject", "metric", "score"],
    )


def p_values_of(*rows, **more):
    return pd.DataFrame(rows, columns=["method", "subject", "metric", "p_value"]).assign(test="pairing", **more)


@pytest.fixture
def given():
    return scores(
        ("hyper", "sub-02", "lsim", [0.5, 0.7]),
        ("hyper", "sub-01", "lsim", [0.4, 0.5, 0.6]),
        ("vae-gan", "sub-01", "ssim_hyper-paper", [0.2]),
        ("hyper", "sub-01", "ssim_hyper-paper", [0.6, 0.8]),
    )


def test_the_published_numbers_are_those_of_the_paper():
    table = published_table().set_index(["metric", "method", "subject"])["score"]
    assert len(table) == 14
    assert table["lsim", "hyper", "S1"] == 0.4521 and table["lsim", "hyper", "S2"] == 0.4447
    assert table["fsim", "vae-gan", "S2"] == 0.1461 and table["ssim", "eigenfaces", "S1"] == 0.5877
    assert table["ssim", "hyper", "S1"] == 0.6663 and ("lsim", "vae-gan", "S1") not in table
    assert set(published_table()["method"]) == set(METHOD_WORDS)
    assert set(published_table()["source"]) == {CITATION} and "s41598-021-03938-w" in CITATION
    assert paper_metric("ssim_hyper-code") == "ssim" and paper_metric("lsim") == "lsim"
    assert paper_metric("fsim_dlib") == "fsim_dlib" and paper_metric("lsim_raw") == "lsim_raw"


def test_means_and_standard_errors_by_hand(given):
    table = table1(given, p_values_of(("hyper", "sub-01", "lsim", 0.01)))
    assert list(table.columns) == list(TABLE1_COLUMNS)
    rows = table.set_index(["method", "subject", "metric"])
    first = rows.loc["hyper", "sub-01", "lsim"]
    assert first["mean"] == pytest.approx(0.5) and first["se"] == pytest.approx(0.1 / np.sqrt(3))
    assert first["n_faces"] == 3 and first["p_value"] == 0.01 and first["test"] == "pairing"
    one = rows.loc["vae-gan", "sub-01", "ssim_hyper-paper"]
    assert np.isnan(one["se"]) and np.isnan(one["p_value"]) and one["test"] == "not tested"


def test_rows_keep_the_order_in_which_they_were_given(given):
    table = table1(given)
    found = list(zip(table["metric"], table["method"], table["subject"], strict=True))
    assert found == [
        ("lsim", "hyper", "sub-02"),
        ("lsim", "hyper", "sub-01"),
        ("ssim_hyper-paper", "hyper", "sub-01"),
        ("ssim_hyper-paper", "vae-gan", "sub-01"),
    ]


def test_bad_scores_and_p_values_are_refused(given):
    with pytest.raises(UserError, match="lack the column 'score'"):
        table1(given.drop(columns="score"))
    with pytest.raises(UserError, match="at least one score"):
        table1(given.iloc[:0])
    with pytest.raises(UserError, match="hyper, sub-02, lsim is nan"):
        table1(given.assign(score=np.nan))
    with pytest.raises(UserError, match="given more than once"):
        table1(given, p_values_of(*[("hyper", "sub-01", "lsim", 0.1)] * 2))
    with pytest.raises(UserError, match=r"between 0 and 1, got 1\.5"):
        table1(given, p_values_of(("hyper", "sub-01", "lsim", 1.5)))
    with pytest.raises(UserError, match="p-values lack the column 'test'"):
        table1(given, p_values_of(("hyper", "sub-01", "lsim", 0.5)).drop(columns="test"))


def test_numbers_as_text():
    assert [p_text(p) for p in (0.0123456, 0.00001, 1.0, np.nan)] == ["0.0123", "< 0.0001", "1.0000", "not tested"]
    assert mean_text("lsim", 0.60312, 0.0119) == "0.603 ± 0.012" and mean_text("lsim", 0.6, np.nan) == "0.600"


def cells(html):
    """Text of each cell, row by row."""
    table = html[html.index("<tbody>") : html.index("</tbody>")]
    rows = [re.findall(r"<(?:td|th)[^>]*>(.*?)</(?:td|th)>", row, re.DOTALL) for row in table.split("<tr>")[1:]]
    return [["".join(Page(f"<p>{part}</p>").text) for part in row] for row in rows]


def test_the_table_shows_ours_and_the_papers_side_by_side(given):
    p_values = p_values_of(("hyper", "sub-01", "lsim", 0.02), ("hyper", "sub-02", "lsim", 0.2), best_blind_score=0.55)
    html = table1_html(table1(given, p_values))
    page = Page(html)
    assert page.open == []
    first, second, third = cells(html)
    assert first[1:] == [
        "HYPER",
        "0.600 ± 0.100blind 0.550",
        "0.2000",
        "0.500 ± 0.058blind 0.550",
        "0.0200",
        "0.4521",
        "0.4447",
    ]
    assert second[1:] == ["HYPER", DASH, DASH, "0.700 ± 0.100", "not tested", "0.6663", "0.6035"]
    assert third == ["", "VAE-GAN", DASH, DASH, "0.200", "not tested", "0.5598", "0.5832"]
    text = " ".join(page.text)
    assert "s own data" in text and "were not computed here" in text and CITATION in text
    assert 'class="score beats">0.600' in html and 'class="score loses">0.500' in html
    ours = table1_html(table1(given), published=False)
    assert "0.4521" not in ours and "Dado" not in ours and "nothing was tested" in ours


def test_one_method_makes_a_table_of_one_method_and_names_are_escaped():
    html = table1_html(table1(scores(("a<b>", "sub-<i>", "m&m", [0.1, 0.3]))))
    assert cells(html)[0][1] == "a<b>" and len(cells(html)) == 1
    assert "a&lt;b&gt;" in html and "sub-&lt;i&gt;" in html and "m&amp;m" in html and "<b>" not in html


def test_a_method_of_another_name_stands_beside_the_papers():
    given = scores(("dense", "sub-01", "lsim", [0.4, 0.5]), ("dense", "sub-01", "fsim_dlib", [0.4, 0.5]))
    rows = cells(table1_html(table1(given), published_as={"dense": "hyper"}))
    assert [row[1:2] + row[-2:] for row in rows] == [["dense", "0.4521", "0.4447"], ["dense", DASH, DASH]]
    assert cells(table1_html(table1(given)))[0][-2:] == [DASH, DASH]


def test_metrics_without_words_keep_their_names():
    assert metric_label("never-heard-of") == "never-heard-of" and metric_label("lsim") == METRICS["lsim"][0]
    assert score_text("never-heard-of", -0.0004) == "0.000" and score_text("identification", 0.8) == "80.0%"
