"""What the report takes from files that a study may have: Table 1, decoders, methods, strips, ceilings, attributes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hyperdecode.evaluation.attribute_scores import attribute_table
from hyperdecode.generators import attribute_store
from hyperdecode.pipeline import latents as latents_module
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.report_parts import Parts
from hyperdecode.pipeline.run import run_study
from hyperdecode.pipeline.strips import Strips, attribute_scores
from hyperdecode.report.figures import Figure
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_picture, read_stimuli, write_picture
from tests.pipeline.studies import new_study, settings, work

CONFIG = settings().model_copy(
    update={
        "bold": settings().bold.model_copy(update={"n_voxels": 100}),
        "decoding": settings().decoding.model_copy(update={"beside": ("ridge",), "posterior": 0}),
    }
)
WITH_BASELINES = CONFIG.model_copy(
    update={"evaluation": CONFIG.evaluation.model_copy(update={"baselines": ("eigenfaces", "vaegan")})}
)
MODELS = ("weighted-ridge", "ridge")
SECTIONS = ("table1", "attributes", "strips", "comparisons", "ceilings", "fitted")


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, tiny_generator):
    study = new_study(tmp_path_factory.mktemp("parts") / "study", CONFIG, tiny_generator)
    work(study, CONFIG, tiny_generator)
    run_study(study, CONFIG, read_stimuli(study), tiny_generator)
    return study


@pytest.fixture
def study(analysed, tmp_path):
    return Path(shutil.copytree(analysed, tmp_path / "study"))


def parts(study, models=MODELS):
    return Parts(Layout(study), WITH_BASELINES, models, tuple(read_stimuli(study).names("test")))


def names_of(study):
    return read_stimuli(study).names("test")


def add_baseline(study, name):
    """Let a baseline have decoded what the second decoder did."""
    layout = Layout(study)
    for file in ("scores.tsv", "faces.tsv"):
        shutil.copy(layout.decoded("01", "ridge", file), layout.decoded("01", name, file))
    for face in names_of(study):
        picture = read_picture(layout.full_stimulus(face))
        for path in (layout.reconstruction("01", name, face), layout.best_possible(name, face)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_picture(path, picture[::-1])


def sections(html):
    return [name for name in SECTIONS if f'<section id="{name}"' in html]


def test_sections_come_in_order_after_the_verdict(analysed):
    html = (analysed / "report.html").read_text()
    assert sections(html) == list(SECTIONS)
    shown = ("table1", "scores", "attributes", "faces", "strips", "comparisons", "ceilings", "fitted")
    places = [html.index(f'<section id="{name}"') for name in shown]
    assert html.index('aria-label="Verdict"') < places[0] and places == sorted(places)
    assert "fits on record" in html and "not recorded" not in html and "Preset strict" in html
    assert "Models side by side" in html and "Methods beside each other" not in html


def test_absent_files_hide_their_section_and_nothing_else(study, tiny_generator):
    layout = Layout(study)
    for name in ("attributescores.tsv", "dimensions.tsv", "repeats.tsv"):
        layout.decoded("01", MODELS[0], name).unlink(missing_ok=True)
    layout.subject("01", "desc-ceiling_scores.tsv").unlink()
    layout.subject("01", "desc-learning_scores.tsv").unlink()
    assert run_study(study, CONFIG, read_stimuli(study), tiny_generator, only="report").ran == ["report"]
    html = (study / "report.html").read_text()
    assert sections(html) == ["table1", "strips", "comparisons", "fitted"]


def test_table1_holds_every_method_with_the_tables_numbers(study):
    add_baseline(study, "vaegan")
    html = parts(study).table1()
    faces = pd.read_csv(Layout(study).decoded("01", "weighted-ridge", "faces.tsv"), sep="\t")
    scores = pd.read_csv(Layout(study).decoded("01", "weighted-ridge", "scores.tsv"), sep="\t").set_index("metric")
    for metric in ("lsim", "ssim_hyper-paper"):
        mean, se = faces[metric].mean(), faces[metric].std(ddof=1) / np.sqrt(len(faces))
        assert f"{mean:.3f} ± {se:.3f}" in html
        assert f"{scores.loc[metric, 'p_value']:.4f}" in html
    metrics = [name for name in scores.index if name == "lsim" or name.startswith(("fsim", "ssim_"))]
    pictures = [name for name in metrics if name != "lsim"]
    assert len(pictures) >= 2 and html.count(">weighted-ridge<") == len(metrics)
    assert html.count(">VAE-GAN<") == len(pictures), "its latents are its own"
    assert "0.4521" in html and "0.5598" in html and "own data" in html
    alone = Parts(Layout(study), CONFIG, MODELS[:1], tuple(names_of(study)))
    assert ">ridge<" not in alone.table1()


def test_methods_are_shown_once_all_their_pictures_are_there(study):
    add_baseline(study, "eigenfaces")
    shown = np.stack([read_picture(Layout(study).full_stimulus(name)) for name in names_of(study)])
    models, methods = parts(study).comparisons(shown, [shown])
    assert models.title == "Models side by side" and "eigenfaces, best possible" in methods.alt
    Layout(study).best_possible("eigenfaces", names_of(study)[0]).unlink()
    assert "best possible" not in parts(study).comparisons(shown, [shown])[1].alt
    Layout(study).reconstruction("01", "eigenfaces", names_of(study)[1]).unlink()
    assert len(parts(study).comparisons(shown, [shown])) == 1
    assert parts(study, MODELS[:1]).comparisons(shown, [shown]) == []


def test_a_comparison_on_simulated_subjects_is_named_so(study):
    path = study / "derivatives" / "comparison" / "comparison.tsv"
    path.parent.mkdir(parents=True)
    row = {"noise_ceiling": 0.1, "space": "w", "subject": "sub-01", "identification": 0.8, "cosine": 0.4, "lsim": 0.5}
    rows = [row | {"model": model, "lsim_blind": 0.4, "attribute_r": np.nan} for model in MODELS]
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    assert path in parts(study).inputs
    found = parts(study, MODELS[:1]).comparisons(np.zeros((4, 8, 8, 3), np.uint8), [np.zeros((4, 8, 8, 3), np.uint8)])
    assert [figure.title for figure in found] == ["Decoders on simulated subjects"]
    assert "not this study's data" in found[0].caption and "weighted-ridge 80.0%" in found[0].alt


def test_ceilings_and_attributes_are_read_with_each_other(study):
    layout = Layout(study)
    rng = np.random.default_rng(0)
    table = attribute_table(
        rng.standard_normal((9, 2)), rng.standard_normal((9, 2)), ["age", "smile"], n_permutations=99
    )
    table.insert(0, "subject", "sub-01")
    table.to_csv(layout.decoded("01", MODELS[0], "attributescores.tsv"), sep="\t", index=False)
    pd.DataFrame({"dimension": [0, 1], "r": [0.5, 0.1], "p_value": 0.1, "q_value": 0.2}).to_csv(
        layout.decoded("01", MODELS[0], "dimensions.tsv"), sep="\t", index=False
    )
    curve = pd.DataFrame({"subject": "sub-01", "metric": "identification", "n_repeats": [1, 2], "score": [0.6, 0.7]})
    curve.assign(low=0.5, high=0.8).to_csv(layout.decoded("01", MODELS[0], "repeats.tsv"), sep="\t", index=False)
    limits = [("voxels", 0.2, 0.1, 0.3, 9), ("identification", 0.9, 0.8, 1.0, 9), ("smile", 0.7, 0.5, 0.8, 9)]
    pd.DataFrame(limits, columns=["what", "ceiling", "low", "high", "n"]).assign(subject="sub-01").to_csv(
        layout.subject("01", "desc-ceiling_scores.tsv"), sep="\t", index=False
    )
    curve.rename(columns={"n_repeats": "n_trials"}).assign(low=0.5, high=0.8, n_trials=[30, 60]).to_csv(
        layout.subject("01", "desc-learning_scores.tsv"), sep="\t", index=False
    )
    figure, learning = parts(study).ceilings()
    assert "from 0.600 at 30 to 0.700 at 60" in learning.alt
    assert "from 0.600 at 1 to 0.700 at 2, ceiling 0.900" in figure.alt
    assert "sub-01, ceilings with 95% intervals: voxels 0.200 (0.100 to 0.300)." in figure.caption
    assert "sub-01: The power of the test is not known: a pilot needs at least 8 test faces" in figure.caption
    np.testing.assert_array_equal(parts(study).attributes("01")["ceiling"], [np.nan, 0.7])
    assert len(parts(study).dimensions("01")) == 2
    names = {path.name for path in parts(study).inputs}
    assert {"sub-01_desc-weightedridge_repeats.tsv", "sub-01_desc-ceiling_scores.tsv"} <= names


def test_new_files_make_the_report_anew_with_their_sections(study, tiny_generator):
    stimuli = read_stimuli(study)
    assert run_study(study, CONFIG, stimuli, tiny_generator).ran == []
    add_baseline(study, "vaegan")
    assert run_study(study, CONFIG, stimuli, tiny_generator).ran == [], "not asked for"
    assert run_study(study, WITH_BASELINES, stimuli, tiny_generator, only="report").ran == ["report"]
    html = (study / "report.html").read_text()
    assert "Methods beside each other of sub-01" in html and ">VAE-GAN<" in html


def test_strips_go_from_the_reconstruction_to_the_stimulus(analysed):
    strips = Strips(Layout(analysed), tuple(names_of(analysed)))
    (page,) = strips.read("01", MODELS[0])
    assert isinstance(page, Figure) and page.title == "From decoded to true of sub-01"
    assert page.png[:2] == b"\xff\xd8" and len(page.png) < 4 * 45_000
    assert "4 faces, test-0001 to test-0004, each in 5 steps" in page.alt
    words = json.loads(Layout(analysed).decoded("01", MODELS[0], "strips.json").read_text())
    assert words["pages"][0]["caption"] == page.caption


def test_attribute_scores_are_in_standard_deviations_from_the_mean_face(tiny_generator, monkeypatch):
    import torch

    d = tiny_generator.latent_dim
    normals = torch.eye(d)[:2]
    known = attribute_store.AttributeNormals(("age", "smile"), normals, torch.zeros(2), torch.ones(2), "w")
    monkeypatch.setattr(latents_module, "attribute_spaces", lambda name: {"w": known})
    space = LatentSpace(tiny_generator, "w", 0.5)
    with torch.inference_mode():
        w = tiny_generator.to_w(tiny_generator.sample(4000, 7), 0.5).double().numpy()
    names, scores = attribute_scores(space, w)
    assert names == ("age", "smile") and scores.shape == (4000, 2)
    np.testing.assert_allclose(scores.mean(0), 0, atol=0.06)
    np.testing.assert_allclose(scores.std(0), 1, atol=0.05)
    monkeypatch.setattr(latents_module, "attribute_spaces", lambda name: {})
    names, scores = attribute_scores(space, w[:3])
    assert names == () and scores.shape == (3, 0)
