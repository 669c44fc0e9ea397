"""What the report says first, on real, null and leaking studies; and the table that it rests on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hyperdecode.evaluation.summary import evaluate_latents
from hyperdecode.report.build import render_report
from hyperdecode.report.certificate import RED, Certificate, FittedOn, NearDuplicate
from hyperdecode.report.figures import Figure
from hyperdecode.report.scoretable import about_tests, score_rows
from hyperdecode.report.verdict import interval_text, subject_verdict, verdict
from tests.report.test_build import Page, data, table  # noqa: F401

HASH = "a" * 64


def evaluated(signal, seed=0, n=30):
    rng = np.random.default_rng(seed)
    true = rng.standard_normal((n, 16))
    predicted = signal * true + rng.standard_normal((n, 16))
    return evaluate_latents(predicted, true, np.zeros(16), n_permutations=199, seed=seed).table


def older(**options):
    """Return a table as versions before intervals wrote it."""
    return table(**options).drop(columns=["low", "high", "q_value", "null", "skill", "pool"])


def certificate(role="train", duplicates=()):
    return Certificate((FittedOn("mask", "mask_sub-01", role, 10, HASH, note="2 of 10"),), duplicates)


def test_a_real_subject_is_told_with_intervals_and_a_null_one_in_words():
    real, null = evaluated(0.8), evaluated(0.0, 3)
    row = real.set_index("metric").loc["identification"]
    found = verdict({"sub-01": real, "sub-02": null})
    assert found.sentence == "What was seen was decoded in 1 of 2 subjects only." and not found.decoded
    assert f"95% interval {row['low']:.1%} to {row['high']:.1%}, chance 50%" in found.details[0]
    tested = real[(real["metric"] != "identification") & real["p_value"].notna()]
    above = int(((tested["decoder"] > tested["best_blind_score"]) & (tested["p_value"] < 0.05)).sum())
    said = f"Of {len(tested)} other scores {above} lie above every blind predictor with p < 0.05."
    assert above > 0 and said in found.details[0]
    assert "sub-02: nothing was decoded, the pairing test does not reach p < 0.05" in found.details[1]
    assert "other scores" not in found.details[1]
    nothing = verdict({"sub-02": null, "sub-03": table(0.52, 0.4)})
    assert nothing.sentence == "Nothing was decoded." and not nothing.decoded
    assert nothing.details[2].startswith("Over subjects: Nothing is shown")


def test_subjects_are_taken_together_where_there_are_several():
    three = {f"sub-0{k}": evaluated(0.8, k) for k in range(3)}
    (*_, last) = verdict(three).details
    assert last.startswith("Over subjects: ") and "3 subjects" in last
    assert not any(text.startswith("Over subjects") for text in verdict({"sub-01": three["sub-01"]}).details)
    assert verdict(three, preset="Preset strict. All of it.").details[-1] == "Preset strict. All of it."


def test_tests_that_pass_without_a_brain_are_no_evidence():
    rows = pd.concat([table(), table(0.7, metric="lsim", null="random latents", p=0.001)]).assign(low=0.6, high=0.9)
    assert "other scores" not in subject_verdict("sub-01", rows).sentence
    assert "Of 1 other scores 1 lie" in subject_verdict("sub-01", rows.assign(null="pairing")).sentence


def test_a_score_without_interval_has_none():
    assert interval_text(older().iloc[0]) == "" and interval_text(table(low=0.7, high=np.nan).iloc[0]) == ""
    assert interval_text(table(low=0.7, high=0.9).iloc[0]) == "70.0% to 90.0%"


def test_a_study_that_fitted_on_test_trials_is_no_evidence(data):  # noqa: F811
    good = {"a": table()}
    leaking = verdict(good, certificate("test"))
    assert not leaking.decoded and leaking.sentence.startswith("Test trials were fitted on, so that no score here")
    html = render_report(replace(data, certificate=certificate("test")))
    assert 'class="verdict no leak" aria-label="Verdict"' in html and RED in html
    assert "touched test trials: 2 of 10" in html and "Test trials were fitted on" in html
    clean = render_report(replace(data, certificate=certificate()))
    assert 'class="verdict" aria-label="Verdict"' in clean and RED not in clean
    assert "The one fit on record was made on training trials only" in clean
    near = verdict(good, certificate("train", (NearDuplicate("t", "x", "latents", 0.1),)))
    assert near.decoded and "nearly the same as training faces" in near.details[-1]


def test_attributes_are_told_with_the_verdict():
    found = pd.DataFrame({"attribute": ["age", "smile"], "r": [0.5, 0.6], "q_value": [0.01, 0.2]})
    details = verdict({"a": table()}, attributes={"a": found}).details
    assert details[-1] == "a: attributes decoded with q < 0.05: age (r = 0.500), of 2 tested."


def test_rows_of_the_score_table():
    given = evaluated(0.8)
    rows = score_rows(given)
    assert rows[0].primary and rows[0].standing == "beats" and not rows[1].primary
    assert len({tuple(cell.label for cell in row.blind) for row in rows}) == 1
    assert [cell.label for cell in rows[0].blind if cell.best] != []
    assert "random faces" not in [cell.label for cell in rows[0].blind], "a predictor that no metric has takes a column"
    assert "95% bootstrap interval" in about_tests(given) and "199 random pairings" in about_tests(given)
    plain = score_rows(older(score=0.4))
    assert plain[0].standing == "loses" and plain[0].interval == "" and plain[0].q == ""
    unranked = score_rows(pd.concat([table(), table(metric="norm_ratio", p=np.nan, best_blind="", blind=np.nan)]))
    assert unranked[1].standing == "" and unranked[1].p == "\N{EN DASH}"
    papers = pd.concat([table(), table(metric="lsim", null="random latents")])
    assert score_rows(papers)[1].against == "random faces" and "the paper's own" in about_tests(papers)


def test_a_score_that_is_not_a_number_makes_no_mark(data):  # noqa: F811
    rows = pd.concat([table(), table(score=np.nan, metric="never heard of", best_blind="new one")])
    html = render_report(replace(data, subjects=[replace(s, table=rows) for s in data.subjects]))
    assert "never heard of" in html and Page(html).open == []


def test_sections_come_in_order_and_empty_ones_are_left_out(data):  # noqa: F811
    figure = Figure("A title", b"\x89PNG", "A caption", "An alt")
    attributes = pd.DataFrame(
        {
            "attribute": ["age"], "r": [0.5], "t": [2.0], "df": [4], "p_value": [0.01], "q_value": [0.01],
            "low": [0.1], "high": [0.8], "n_faces": [6], "p_permutation": [0.02], "alternative": ["greater"],
        }
    )  # fmt: skip
    full = replace(
        data,
        table1="<b>plain words</b>",
        comparisons=[figure],
        strips=[figure, figure],
        ceilings=[figure],
        figures=[figure],
        certificate=certificate(),
        subjects=[replace(s, attribute_scores=attributes, quality=[figure]) for s in data.subjects],
    )
    html = render_report(full)
    wanted = [
        "table1",
        "scores",
        "attributes",
        "faces",
        "strips",
        "comparisons",
        "ceilings",
        "experiment",
        "quality",
        "fitted",
    ]
    places = [html.index(f'<section id="{name}"') for name in wanted]
    assert places == sorted(places) and html.index('aria-label="Verdict"') < places[0]
    page = Page(html)
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    links = [a["href"][1:] for tag, a in page.tags if tag == "a"]
    assert links == [*wanted, "again"] and set(links) <= set(page.ids)
    assert "&lt;b&gt;plain words" in html, "a string that is not marked safe was not escaped"
    assert sum(a.get("alt") == "An alt" for tag, a in page.tags if tag == "img") == 7
    plain = render_report(data)
    assert not any(f'id="{name}"' in plain for name in ("table1", "attributes", "strips", "comparisons", "ceilings"))
    assert render_report(replace(data, fitted_words="The decoder alone.")).count("The decoder alone.") == 1


@pytest.mark.parametrize("role", ["train", "test"])
def test_the_verdict_comes_first(data, role):  # noqa: F811
    html = render_report(replace(data, certificate=certificate(role)))
    body = html[html.index("<main>") :]
    assert body.index('aria-label="Verdict"') < body.index("<h2")
