"""Other decoders beside the default, and the credible set of each face, as the report shows them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.report.build import ModelReport, ReportData, SubjectReport, render_report
from hyperdecode.report.comparisonfigure import comparison_figure
from hyperdecode.report.credible import coverage_words, more_view
from hyperdecode.report.models import beside_view, faces_won
from tests.report.test_build import N, solid, table


def faces(*scores):
    return pd.DataFrame({"identification": scores, "cosine": np.linspace(-0.5, 0.5, len(scores))})


@pytest.fixture
def subject():
    ours, theirs = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.1, 0.2, 0.7, 0.9, 0.4, 0.3]
    other = ModelReport("dense", "the paper's layer", table(0.6), faces(*theirs), np.stack([solid((9, 9, 9))] * N))
    attributes = pd.DataFrame(
        [
            (f"face-{i}.png", name, 0.5, -1.0, 2.0, 2.5 if i == 3 else 0.0, i != 3)
            for i in range(N)
            for name in ("age", "smile")
        ],
        columns=["stim_file", "attribute", "decoded", "low", "high", "true", "inside"],
    )
    return SubjectReport(
        label="sub-01",
        model="ridge",
        table=table(0.8),
        per_face=faces(*ours),
        reconstructions=np.stack([solid((10, 40 * i, 60)) for i in range(N)]),
        n_voxels=10,
        n_training_trials=20,
        n_test_trials=30,
        beside=[other],
        draws=np.stack([np.stack([solid((i, k, 0), 20) for k in range(3)]) for i in range(N)]),
        attributes=attributes,
    )


def report(*subjects):
    stimuli = np.stack([solid((40 * i, 10, 10)) for i in range(N)])
    return ReportData("study", {}, stimuli, [f"face {i}" for i in range(N)], subjects)


def test_the_better_decoder_of_each_metric_is_marked(subject):
    view = beside_view(subject)
    assert view["names"] == ["ridge", "dense"]
    assert view["rows"] == [("2-way identification", [("80.0%", True), ("60.0%", False)])]


def test_faces_are_counted_with_ties_apart(subject):
    assert faces_won(subject, "dense") == [
        "2-way: ridge is ahead of dense on 4 of 6 test faces, 1 tied.",
        "Cosine: ridge is ahead of dense on 0 of 6 test faces, 6 tied.",
    ]


def test_the_report_shows_both_decoders_and_the_credible_set(subject):
    html = render_report(report(subject))
    for text in ("sub-01, ridge", "sub-01, dense", "other decoders of the same trials", "How sure is it"):
        assert text in html
    assert html.count("A face that the responses of sub-01 allow") == 3 * N
    assert "10 of 12 true attribute scores (83%) lie inside their 90% credible intervals." in html
    plain = render_report(report(replace(subject, beside=(), draws=None, attributes=None)))
    for text in ("sub-01, ridge", "other decoders", "How sure is it", "credible interval"):
        assert text not in plain


def test_intervals_stand_where_their_numbers_say(subject):
    (row, _) = more_view(subject, 3)["intervals"]
    assert row["attribute"] == "age" and row["text"] == "0.500 (\N{MINUS SIGN}1.000 to 2.000), true 2.500"
    assert [round(row[key], 2) for key in ("low", "decoded", "high", "true")] == [33.33, 58.33, 83.33, 91.67]
    assert coverage_words(subject.attributes.iloc[:0]) == ""


def test_pictures_of_another_number_are_refused(subject):
    with pytest.raises(UserError, match="draws of 5 faces came with 6 stimuli"):
        report(replace(subject, draws=subject.draws[:5]))
    other = replace(subject.beside[0], reconstructions=subject.reconstructions[:4])
    with pytest.raises(UserError, match="sub-01, dense: reconstructions must be"):
        report(replace(subject, beside=[other]))


def fits(**changes):
    rows = [
        {
            "noise_ceiling": ceiling,
            "space": space,
            "subject": subject,
            "model": model,
            "identification": 0.9,
            "cosine": 0.4,
            "lsim": 0.55,
            "lsim_blind": 0.5,
            "attribute_r": np.nan,
        }
        | changes
        for ceiling in (0.03, 0.1)
        for space in ("w", "z")
        for subject in ("sub-01", "sub-02")
        for model in ("ridge", "dense")
    ]
    return pd.DataFrame(rows)


def test_bars_are_as_high_as_the_scores(tmp_path):
    """A metric that nobody has makes no panel; a lower score makes less colour."""

    def coloured(rows):
        path = tmp_path / "figure.png"
        path.write_bytes(comparison_figure(rows, dpi=60))
        pixels = np.asarray(Image.open(path).convert("RGB"), float)
        return Image.open(path).size, int((np.ptp(pixels, axis=2) > 60).sum())

    (_, high), full = coloured(fits()), coloured(fits(attribute_r=0.3))[0]
    low = coloured(fits(cosine=0.05, identification=0.55))[1]
    assert full[1] > coloured(fits())[0][1], "attributes make no panel"
    assert low < 0.75 * high
    with pytest.raises(UserError, match="nothing to draw"):
        comparison_figure(fits().iloc[:0])
