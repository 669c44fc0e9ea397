import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.evaluation.summary import TABLE_COLUMNS, evaluate_latents, evaluate_pictures
from hyperdecode.report.build import ReportData, SubjectReport, render_report, write_report
from hyperdecode.report.figures import Figure
from hyperdecode.report.verdict import subject_verdict, verdict

N = 6


def table(score=0.8, p=0.001, blind=0.5, **changes):
    row = dict.fromkeys(TABLE_COLUMNS, 0.1) | {
        "metric": "identification",
        "space": "latent",
        "decoder": score,
        "best_blind": "noise",
        "best_blind_score": blind,
        "p_value": p,
        "n_faces": N,
        "n_permutations": 99,
    }
    return pd.DataFrame([row | changes])


def solid(colour, size=40):
    return np.tile(np.array(colour, np.uint8), (size, size, 1))


@pytest.fixture
def data():
    stimuli = np.stack([solid((40 * i, 10, 10)) for i in range(N)])
    subjects = [
        SubjectReport(
            label=f"sub-0{s}",
            table=table(),
            per_face=pd.DataFrame({"identification": np.linspace(0.2, 1, N), "cosine": np.linspace(-0.5, 0.5, N)}),
            reconstructions=np.stack([solid((10, 40 * i, 60 * s)) for i in range(N)]),
            n_voxels=4096,
            n_training_trials=1050,
            n_test_trials=504,
            training_hash="ab" * 32,
            mask_png=b"\x89PNG fake",
            facts={"Ridge penalty": "1000"},
            notes=["12 NaN voxels dropped"],
        )
        for s in (1, 2)
    ]
    return ReportData(
        title="A <b>study</b> & more",
        summary={"Stimuli": "faces <script>alert(1)</script>"},
        stimuli=stimuli,
        stimulus_names=[f'face "{i}"' for i in range(N)],
        subjects=subjects,
        notes=["TR differs"],
        versions={"hyperdecode": "0.1.0"},
        commands=["hyperdecode demo OUT --seed 3"],
        seed=3,
    )


class Page(HTMLParser):
    VOID = frozenset({"meta", "img", "br", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def test_one_file_holds_every_face_and_fetches_nothing(data, tmp_path):
    path = write_report(tmp_path / "new" / "report.html", data)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    sources = [a["src"] for t, a in page.tags if t == "img" and "src" in a]
    assert len(sources) == 2 + 3 * N
    assert all(s.startswith("data:image/") for s in sources)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", text)
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert all(a.get("alt") is not None for t, a in page.tags if t == "img")
    assert all(a["alt"] for t, a in page.tags if t == "img" and "src" in a)


def test_pictures_stand_beside_their_stimulus(data):
    page = Page(render_report(data))
    uris = [
        a["src"].split(",")[1] for t, a in page.tags if t == "img" and a.get("src", "").startswith("data:image/jpeg")
    ]
    colours = [np.asarray(Image.open(io.BytesIO(base64.b64decode(u))))[20, 20].astype(int) for u in uris]
    for i in range(N):
        expected = [data.stimuli[i, 0, 0], *(s.reconstructions[i, 0, 0] for s in data.subjects)]
        assert np.abs(np.array(colours[3 * i : 3 * i + 3]) - expected).max() <= 6


def test_pictures_are_scaled_down_and_never_up(data):
    big = replace(data, stimuli=np.stack([solid((i, 0, 0), 200) for i in range(N)]))
    page = Page(render_report(big, picture_size=100))
    jpegs = [a["src"].split(",")[1] for t, a in page.tags if t == "img" and "jpeg" in a.get("src", "")]
    sizes = [Image.open(io.BytesIO(base64.b64decode(u))).size for u in jpegs]
    assert sizes[0] == (100, 100)
    assert sizes[1] == (40, 40)


def test_users_words_are_escaped(data):
    text = render_report(data)
    assert "<b>study</b>" not in text
    assert "alert(1)</script>" not in text
    page = Page(text)
    assert any(a.get("alt") == 'Stimulus face "2"' for t, a in page.tags if t == "img")


def test_everything_a_reviewer_asks_for_is_in_the_text(data):
    words = " ".join(Page(render_report(data)).text)
    for expected in (
        "4,096", "1,050", "504", "ab" * 32, "Ridge penalty", "12 NaN voxels dropped", "TR differs", "0.1.0",
        "hyperdecode demo OUT --seed 3", "Every test face", "2-way identification", "decoded from the responses",
    ):  # fmt: skip
        assert expected in words


def test_faces_carry_the_scores_that_sort_them(data):
    page = Page(render_report(data))
    scores = [json.loads(a["data-scores"]) for t, a in page.tags if t == "li" and "data-scores" in a]
    assert [s["identification"] for s in scores] == pytest.approx(list(np.linspace(0.2, 1, N)))
    each = [json.loads(a["data-each"]) for t, a in page.tags if t == "li" and "data-each" in a]
    assert [s["cosine"] for s in each] == [[x, x] for x in np.linspace(-0.5, 0.5, N)]
    missing = data.subjects[0].per_face.assign(cosine=np.nan)
    page_with_nan = Page(render_report(replace(data, subjects=[replace(data.subjects[0], per_face=missing)])))
    first = next(a["data-scores"] for t, a in page_with_nan.tags if "data-scores" in a)
    assert json.loads(first, parse_constant=pytest.fail)["cosine"] is None
    options = [a["value"] for t, a in page.tags if t == "option"]
    assert options == ["shown", "best", "worst", "identification", "cosine", "", "0", "1"]


@pytest.mark.parametrize(
    ("score", "p", "blind", "decoded", "phrase"),
    [
        (0.8, 0.001, 0.5, True, "right one of two faces in 80.0%"),
        (0.8, 0.05, 0.5, False, "nothing was decoded, the pairing test"),
        (0.52, 0.3, 0.5, False, "nothing was decoded"),
        (0.6, 0.01, 0.6, False, "a predictor that never saw the brain does as well"),
    ],
)
def test_verdict_needs_both_the_test_and_the_blind(score, p, blind, decoded, phrase):
    found = subject_verdict("sub-01", table(score, p, blind))
    assert found.decoded is decoded
    assert phrase in found.sentence
    assert bool(found.caveats) is (score <= blind)


def test_study_verdict_counts_subjects(data):
    good, bad = table(), table(0.5, 0.6)
    assert verdict({"a": bad, "b": bad}).sentence == "Nothing was decoded."
    assert verdict({"a": good, "b": bad}).sentence == "What was seen was decoded in 1 of 2 subjects only."
    assert not verdict({"a": good, "b": bad}).decoded
    assert verdict({"a": good, "b": good}).decoded
    text = render_report(replace(data, subjects=[replace(s, table=bad) for s in data.subjects]))
    assert "<p>Nothing was decoded.</p>" in text
    assert 'class="verdict no"' in text


def test_verdict_needs_a_tested_primary_metric():
    with pytest.raises(UserError, match="one tested row"):
        subject_verdict("sub-01", table(metric="lsim"))
    with pytest.raises(UserError, match="one tested row"):
        subject_verdict("sub-01", table(p=np.nan))


def test_real_evaluations_render(data):
    rng = np.random.default_rng(0)
    true = rng.standard_normal((N, 20))
    scores = evaluate_latents(true + 0.1, true, np.zeros(20), n_permutations=99)
    scores = scores.joined(evaluate_pictures(data.stimuli, data.stimuli, n_permutations=99))
    subjects = [replace(s, table=scores.table, per_face=scores.per_face, mask_png=None) for s in data.subjects]
    text = render_report(replace(data, subjects=subjects, seed=None, notes=()))
    assert "SSIM (paper)" in text
    assert "100.0%" in text
    assert "nan" not in text.lower().replace("nan voxels", "")


def test_faces_that_do_not_fit_are_refused(data):
    with pytest.raises(UserError, match="stimuli must be uint8"):
        replace(data, stimuli=data.stimuli[:-1])
    with pytest.raises(UserError, match="sub-01: reconstructions"):
        replace(data, subjects=[replace(data.subjects[0], reconstructions=data.stimuli / 255.0)])
    with pytest.raises(UserError, match="scores of 5 faces"):
        replace(data, subjects=[replace(data.subjects[0], per_face=data.subjects[0].per_face[:5])])
    with pytest.raises(UserError, match="at least one subject"):
        replace(data, subjects=[])


def test_figures_of_the_experiment(data):
    assert 'id="experiment"' not in render_report(data)
    png = b"\x89PNG of the schedule"
    html = render_report(replace(data, figures=[Figure("Order & time", png, "Each tick <is> a trial.")]))
    section = html[html.index('id="experiment"') : html.index('id="quality"')]
    assert base64.b64encode(png).decode() in section
    assert "Order &amp; time" in section and "Each tick &lt;is&gt; a trial." in section
