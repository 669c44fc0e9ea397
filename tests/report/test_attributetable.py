"""Attributes and latent dimensions of a subject as the report tells them."""

import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.attribute_scores import attribute_table
from hyperdecode.report.attributetable import attributes_html, attributes_words, dimensions_words
from tests.report.test_build import Page


@pytest.fixture
def table():
    """Age is decoded, smile is not, pose is the same for all decoded faces."""
    rng = np.random.default_rng(0)
    true = rng.standard_normal((36, 3))
    predicted = np.c_[true[:, 0] + 0.3 * rng.standard_normal(36), rng.standard_normal(36), np.ones(36)]
    return attribute_table(predicted, true, ["age", "smile <b>", "pose"], n_permutations=200)


def test_a_row_an_attribute_with_all_that_was_computed(table):
    page = Page(attributes_html(table))
    text = " ".join(page.text)
    age = table.iloc[0]
    assert page.open == [] and f"{age['r']:.3f} ({age['low']:.3f} to {age['high']:.3f})" in text
    assert f"{age['t']:.2f}" in text and f"{age['p_permutation']:.4f}" in text and "36 test faces" in text
    html = attributes_html(table)
    assert html.count("score beats") == 1 and "smile &lt;b&gt;" in html and "<b>" not in html
    assert "nan" not in text and "not tested" in text and "Ceiling" not in text
    assert attributes_words(table) == f"attributes decoded with q < 0.05: age (r = {age['r']:.3f}), of 3 tested."
    assert "Ceiling" in attributes_html(table.assign(ceiling=[0.9, np.nan, 0.8]))


def test_a_negative_correlation_is_nothing_decoded(table):
    turned = table.assign(r=-table["r"], q_value=0.001)
    assert "age" not in attributes_words(turned)
    assert attributes_words(table.assign(q_value=0.5)) == "none of 3 attributes was decoded (q < 0.05)."
    assert attributes_html(turned).count("score beats") <= 1


def test_dimensions_are_a_sentence():
    r = pd.DataFrame(
        {"dimension": range(4), "r": [0.5, 0.1, -0.6, np.nan], "p_value": 0.1, "q_value": [0.01, 0.5, 0.01, np.nan]}
    )
    words = "Of 3 latent dimensions 1 correlate with the true ones with q < 0.05; median r 0.100, largest 0.500."
    assert dimensions_words(r) == words and words.replace("<", "&lt;") in attributes_html(None, r)
    assert "none was tested" in dimensions_words(r.assign(r=np.nan))
    assert attributes_html(None) == ""


def test_tables_without_their_columns_are_refused(table):
    with pytest.raises(UserError, match="lack the column 'q_value'"):
        attributes_html(table.drop(columns="q_value"))
    with pytest.raises(UserError, match="lack the column 'r'"):
        dimensions_words(pd.DataFrame({"dimension": [1]}))
    with pytest.raises(UserError, match="no row"):
        dimensions_words(pd.DataFrame(columns=["dimension", "r", "p_value", "q_value"]))
