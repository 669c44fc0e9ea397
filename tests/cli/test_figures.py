"""`hyperdecode figures`: what there can be is drawn, the rest says what it lacks, nobody else's file is touched."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from hyperdecode.cli import shared
from hyperdecode.files import sha256_file
from hyperdecode.pipeline.run import run_study
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.studies import new_study, settings, work

pytestmark = pytest.mark.filterwarnings("default::hyperdecode.errors.DataWarning")

BASE = settings()
CONFIG = BASE.model_copy(
    update={
        "bold": BASE.bold.model_copy(update={"n_voxels": 100}),
        "decoding": BASE.decoding.model_copy(update={"posterior": 0}),
        "evaluation": BASE.evaluation.model_copy(update={"baselines": ("eigenfaces",)}),
    }
)
DRAWN = {
    2: "figure-2_experiment_sub-01",
    3: "figure-3_mask_sub-01",
    4: "figure-4_reconstructions_sub-01",
    5: "figure-5_scores",
    7: "figure-7_methods_sub-01",
}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, tiny_generator):
    study = new_study(tmp_path_factory.mktemp("figures") / "study", CONFIG, tiny_generator)
    work(study, CONFIG, tiny_generator)
    run_study(study, CONFIG, read_stimuli(study), tiny_generator)
    return study


@pytest.fixture
def study(analysed, tmp_path):
    return Path(shutil.copytree(analysed, tmp_path / "study"))


def folder(study):
    return study / "derivatives" / "hyperdecode" / "figures"


def hashes(study):
    return {path.name: sha256_file(path) for path in folder(study).iterdir()}


def others(study):
    """Hashes of all files but the figures."""
    return {
        path: sha256_file(path) for path in study.rglob("*") if path.is_file() and folder(study) not in path.parents
    }


def test_all_that_the_study_has_files_for_is_drawn(called, study):
    before = others(study)
    code, out, err = called("figures", study, "--dpi", 300)
    assert code == 0, err
    expected = {f"{stem}.{ending}" for stem in DRAWN.values() for ending in ("pdf", "png", "txt")}
    assert set(hashes(study)) == expected | {"figures.json"}
    assert others(study) == before, "a figure changes nothing else"
    assert (
        "Figure 6, sub-01: left out, no attributes of mobilestylegan-ffhq are known: hyperdecode attributes fit" in out
    )
    assert f"Figure 8, sub-01: left out, no brain maps of sub-01: hyperdecode map {study}" in out
    for number, stem in DRAWN.items():
        text = (folder(study) / f"{stem}.txt").read_text(encoding="utf-8")
        assert text.startswith(f"Figure {number}. ") and text.count("\n") == 1
        assert "simulated: no brain was measured" in text
        assert (folder(study) / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(folder(study) / f"{stem}.png") as picture:
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    scores = (study / "table.tsv").read_text(encoding="utf-8").splitlines()
    row = dict(zip(scores[0].split("\t"), next(s for s in scores if "\tcosine\t" in s).split("\t"), strict=True))
    assert f"Cosine {float(row['decoder']):.3f}" in (folder(study) / "figure-5_scores.txt").read_text(encoding="utf-8")


def test_a_second_time_nothing_is_drawn_and_by_force_the_same_bytes(called, study):
    words = ("figures", study, "--only", 3, "--only", 4, "--only", 5, "--dpi", 300)
    called(*words)
    first = hashes(study)
    times = {path: path.stat().st_mtime_ns for path in folder(study).iterdir()}
    code, out, _ = called(*words)
    assert code == 0 and out.count("(up to date)") == 3
    assert times == {path: path.stat().st_mtime_ns for path in folder(study).iterdir()}
    code, out, _ = called(*words, "--force")
    assert code == 0 and "(up to date)" not in out and hashes(study) == first


def test_a_figure_is_drawn_again_when_what_it_shows_changes(called, study):
    words = ("figures", study, "--only", 5, "--format", "png", "--dpi", 300)
    called(*words)
    before = hashes(study)
    table = study / "derivatives" / "hyperdecode" / "sub-01" / "sub-01_desc-weightedridge_scores.tsv"
    lines = table.read_text(encoding="utf-8").splitlines()
    place = lines[0].split("\t").index("best_blind_score")
    altered = [line.split("\t") for line in lines]
    for line in altered[1:]:
        line[place] = "0.123"
    table.write_text("\n".join("\t".join(line) for line in altered) + "\n", encoding="utf-8")
    _, out, _ = called(*words)
    assert "(up to date)" not in out
    assert all(hashes(study)[name] != before[name] for name in ("figure-5_scores.png", "figure-5_scores.txt"))
    assert "without the brain 0.123" in (folder(study) / "figure-5_scores.txt").read_text(encoding="utf-8")


def test_what_was_changed_by_hand_is_not_replaced(called, study):
    words = ("figures", study, "--only", 3, "--format", "png", "--dpi", 300)
    called(*words)
    mine = folder(study) / "figure-3_mask_sub-01.png"
    mine.write_bytes(b"by hand")
    code, _, err = called(*words)
    assert code == 2 and "was changed since it was written: move it elsewhere, or give --force" in err
    assert err.count("\n") == 1 and mine.read_bytes() == b"by hand"
    assert called(*words, "--force")[0] == 0 and mine.read_bytes() != b"by hand"


def test_what_somebody_else_wrote_is_not_replaced(called, study):
    folder(study).mkdir(parents=True)
    theirs = folder(study) / "figure-3_mask_sub-01.txt"
    theirs.write_text("theirs", encoding="utf-8")
    code, _, err = called("figures", study, "--dpi", 300)
    assert code == 2 and f"{theirs} was not written by this command" in err
    assert set(hashes(study)) == {theirs.name}, "it is found out before anything is drawn"


def test_formats_asked_for_one_after_the_other_stay_ours(called, study):
    for form in ("pdf", "png", "pdf"):
        code, out, err = called("figures", study, "--only", 3, "--format", form, "--dpi", 300)
        assert code == 0, err
    assert "(up to date)" in out
    ledger = json.loads((folder(study) / "figures.json").read_text(encoding="utf-8"))
    assert sorted(ledger) == [f"figure-3_mask_sub-01.{ending}" for ending in ("pdf", "png", "txt")]


def test_the_generator_is_asked_only_for_faces_between(called, study, monkeypatch):
    def refuse(*_):
        raise AssertionError("the generator was loaded")

    monkeypatch.setattr(shared, "study_generator", refuse)
    numbers = [word for number in (2, 3, 5, 7) for word in ("--only", number)]
    assert called("figures", study, *numbers, "--format", "png", "--dpi", 300)[0] == 0


def test_the_answer_in_json(called, study):
    code, out, _ = called("figures", study, "-s", "sub-01", "--only", 3, "--only", 8, "--format", "png", "--json")
    mask, layers = json.loads(out)["figures"]
    assert code == 0 and (mask["number"], mask["subject"], mask["drawn"], mask["missing"]) == (3, "sub-01", True, "")
    assert [Path(file).name for file in mask["files"]] == [f"{DRAWN[3]}.png", f"{DRAWN[3]}.txt"]
    assert layers["files"] == [] and "hyperdecode map" in layers["missing"]


def test_what_a_study_lacks_is_said(called, study):
    shutil.rmtree(study / "derivatives" / "hyperdecode" / "sub-01")
    code, out, err = called("figures", study, "--only", 3, "--only", 4, "--only", 5)
    assert code == 0, err
    for number, what in ((3, "no voxel mask of sub-01"), (4, "no decoded faces of sub-01")):
        assert f"Figure {number}, sub-01: left out, {what}: hyperdecode run {study}" in out
    assert f"Figure 5: left out, not all decoders have scores: hyperdecode run {study}" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", 1), "no figure 1: choose among 2 (experiment), 3 (mask)"),
        (("--subject", "09"), "no subject '09' in study.toml: choose among 01"),
        (("--format", "svg"), "no format 'svg': choose among pdf, png"),
        (("--dpi", 72), "72 dpi: journals take 300 to 1200"),
        (("--faces", 1), "1 faces do not fit a page: give 2 to 16"),
    ],
)
def test_mistakes_are_one_line(called, study, words, said):
    code, _, err = called("figures", study, *words)
    assert code == 2 and said in err and err.count("\n") == 1 and not folder(study).exists()
