"""The examples of the docs still run, and their pages are as old as their scripts."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

from hyperdecode.pipeline.run import run_study
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.estimated import estimated_study, settings

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "examples"
LOCALIZER = ROOT / "../shared/data/studyforrest-localizer"


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_examples", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.matplotlib.use("agg")
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[!m]*.py")), ids=lambda path: path.stem)
def test_a_page_is_that_of_its_script(make, path):
    script, text = path.read_text(), path.with_suffix(".md").read_text()
    assert path.stem in make.NAMES and f"{path.name} {make.fingerprint(script)}" in text.splitlines()[0]
    for is_text, body in make.cells(script):
        assert (body if is_text else f"```python\n{body}\n```") in text
    pictures = re.findall(r"\]\((images/.*?)\)", text)
    assert pictures and all((FOLDER / picture).stat().st_size < 200_000 for picture in pictures)


def test_arrays(make, face_generator, tmp_path):
    text = make.page("arrays", tmp_path)
    assert re.search(r"identification 0\.[89]\d*, p 0\.0001", text) and (tmp_path / "arrays-2.jpg").exists()


def test_study(make, tiny_generator, tmp_path, monkeypatch):
    folder = estimated_study(tmp_path / "study", tiny_generator)
    run_study(folder, settings(), read_stimuli(folder), tiny_generator)
    monkeypatch.setenv("EXAMPLE_STUDY", str(folder))
    text = make.page("study", tmp_path)
    assert "24 train and 4 test faces" in text and text.count(" voxels: {") == 3
    assert (tmp_path / "study-1.jpg").exists()


@pytest.mark.parametrize(
    ("name", "variable", "said"),
    [("study", "EXAMPLE_STUDY", "no analysed study"), ("localizer", "STUDYFORREST_LOCALIZER", "no data at")],
)
def test_an_example_without_its_data_says_so_and_leaves_its_page(
    make, name, variable, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    before = (FOLDER / f"{name}.md").read_bytes()
    assert make.main([name]) == 0
    assert f"{name}: left as it is: {said}" in capsys.readouterr().out
    assert (FOLDER / f"{name}.md").read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(not LOCALIZER.is_dir(), reason="the studyforrest localizer is not beside this repository")
def test_localizer(make, tmp_path, monkeypatch):
    monkeypatch.setenv("STUDYFORREST_LOCALIZER", os.fspath(LOCALIZER))
    text = make.page("localizer", tmp_path)
    accuracy = float(re.search(r"accuracy (\d\.\d+)", text)[1])
    assert accuracy > 0.3 and len(list(tmp_path.glob("localizer-*.jpg"))) == 2
