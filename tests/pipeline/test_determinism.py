"""A study that is made twice has the same bytes: in another folder, on another day, with another order of sets."""

import base64
import io
import json
import math
import time

import nibabel as nib
import numpy as np
import pytest
import tomli_w
from PIL import Image
from safetensors.numpy import save_file

from benchmarks import determinism
from benchmarks.determinism import TOLERANCES, differing, distance, made_twice, measured

LIMIT = 300.0
RECORD = "derivatives/hyperdecode/records/step.toml"


@pytest.mark.slow  # `.ci/run` makes the small study twice
def test_a_study_made_twice_has_the_same_bytes(tmp_path):
    first, second = made_twice("tiny", tmp_path, (1, 1), LIMIT)[0]
    assert first.name != second.name and (first / "report.html").stat().st_size > 100_000
    assert len(list(first.rglob("records/*.toml"))) == 10
    assert differing(first, second) == []


def test_two_threads_give_nearly_what_one_gives(tmp_path):
    one, two = made_twice("tiny", tmp_path, (1, 2), LIMIT)[0]
    assert not [line for line in differing(one, two) if ": only in the " in line]
    found = measured(one, two)
    assert {kind: worst for kind, (worst, *_) in found.items() if worst.value > TOLERANCES.get(kind, 0.0)} == {}
    # Pictures of stimuli are the same bits: the first link of the chain.
    for path in sorted((one / "stimuli").glob("*.png")):
        assert path.read_bytes() == (two / "stimuli" / path.name).read_bytes()


def record(**changes):
    content = {"step": "step", "started": "10:00", "seconds": 1.5, "process": {"pid": 1}, "peak_memory_mb": 9}
    content |= {"key": "abc", "facts": {"alpha": 2.0, "fit_seconds": 0.1}, "outputs": {"table.tsv": "0" * 64}}
    return tomli_w.dumps(content | changes)


@pytest.fixture
def pair(tmp_path):
    """Two small folders with a file of each kind, the same in both."""
    folders = tmp_path / "one", tmp_path / "other"
    picture = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    png = io.BytesIO()
    picture.save(png, "PNG")
    for folder in folders:
        (folder / RECORD).parent.mkdir(parents=True)
        (folder / RECORD).write_text(record())
        (folder / "table.tsv").write_text("face\tscore\na\t0.5\nb\tn/a\n")
        (folder / "nothing.tsv").write_text("\n")
        (folder / "words.json").write_text(json.dumps({"n": [1, 2.5], "sha256": "ab" * 32, "said": "0.25 of 4"}))
        (folder / "page.png").write_bytes(png.getvalue())
        picture.save(folder / "strip.jpg")
        picture.save(folder / "sheet.webp")
        save_file({"latents": np.array([[1.0, -4.0]], np.float32)}, folder / "latents.safetensors")
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), folder / "map.nii.gz")
        save_surface([1, 2], folder / "map.func.gii")
        (folder / "report.html").write_text(f"<p>p = 0.012, {'cd' * 32}</p>{determinism_uri(png.getvalue())}")
    return folders


def save_surface(values, path):
    nib.save(nib.GiftiImage(darrays=[nib.gifti.GiftiDataArray(np.float32(values))]), path)


def determinism_uri(png):
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def test_what_is_equal_is_found_equal(pair):
    assert differing(*pair) == []
    assert all(worst.value == 0 and n_apart == 0 for worst, _, _, n_apart in measured(*pair).values())
    assert set(measured(*pair)) == set(determinism.TOLERANCES)


def test_times_of_a_record_may_differ_and_nothing_else_of_it(pair):
    times = {"started": "11:00", "seconds": 7.0, "process": {"pid": 2}, "peak_memory_mb": 8}
    (pair[1] / RECORD).write_text(record(**times, facts={"alpha": 2.0, "fit_seconds": 4.0}))
    assert differing(*pair) == []
    for change in ({"key": "abd"}, {"facts": {"alpha": 2.1}}, {"outputs": {"table.tsv": "1" * 64}}, {"step": "other"}):
        (pair[1] / RECORD).write_text(record(**change))
        assert [line.partition(":")[0] for line in differing(*pair)] == [RECORD]


def test_a_byte_and_a_file_more_are_found(pair):
    (pair[1] / "table.tsv").write_text("face\tscore\na\t0.5\nb\tn/a \n")
    (pair[0] / "more.txt").write_text("")
    assert [line.partition(":")[0] for line in differing(*pair)] == ["more.txt", "table.tsv"]


def test_distances_by_kind(pair):
    first, second = pair
    found = {name: (lambda name=name: distance(first / name, second / name)) for name in determinism.files_of(first)}
    save_file({"latents": np.array([[1.0, -4.1]], np.float32)}, second / "latents.safetensors")
    assert found["latents.safetensors"]().value == pytest.approx(0.025, rel=1e-4)
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), 1.5, np.float32), np.eye(4)), second / "map.nii.gz")
    assert found["map.nii.gz"]().value == 0.5
    save_surface([1, 1], second / "map.func.gii")
    assert found["map.func.gii"]() == determinism.Distance("images", 0.5, "0")
    Image.fromarray(np.full((10, 10, 3), 7, np.uint8)).save(second / "strip.jpg")
    one, other = (np.asarray(Image.open(folder / "strip.jpg"), float) for folder in pair)
    assert found["strip.jpg"]() == determinism.Distance("lossy pictures", float(np.sqrt(np.mean((one - other) ** 2))))
    assert 50 < found["strip.jpg"]().value < np.abs(one - other).max() - 20
    Image.fromarray(np.full((10, 10, 3), 7, np.uint8)).save(second / "sheet.webp")
    assert found["sheet.webp"]().kind == "lossy pictures" and found["sheet.webp"]().value > 50
    (second / "table.tsv").write_text("face\tscore\na\t0.75\nb\tn/a\n")
    assert found["table.tsv"]() == determinism.Distance("tables", 0.25, "score")
    (second / "words.json").write_text(json.dumps({"n": [1, 2.5], "sha256": "ac" * 32, "said": "0.5 of 4"}))
    assert found["words.json"]() == determinism.Distance("numbers in text", 0.25, "said")
    (second / "report.html").write_text((first / "report.html").read_text().replace("0.012", "0.5"))
    assert found["report.html"]().value == pytest.approx(0.488)
    Image.fromarray(np.full((10, 10, 3), 7, np.uint8)).save(second / "page.png")
    assert found["page.png"]().value == 255 - 7
    png = (second / "page.png").read_bytes()
    (second / "report.html").write_text(f"<p>p = 0.012, {'cd' * 32}</p>{determinism_uri(png)}")
    assert found["report.html"]() == determinism.Distance("pictures", 248.0)
    for folder in (first, second):
        sheet = base64.b64encode((folder / "sheet.webp").read_bytes()).decode()
        (folder / "report.html").write_text(f'<script type="text/plain" id="sheet-0-11">{sheet}</script>')
    assert found["report.html"]().kind == "lossy pictures" and found["report.html"]().value > 50


def test_the_rounding_of_zeros_is_no_difference(pair):
    for folder, mean in zip(pair, (4e-8, -4e-8), strict=True):
        save_file({"latents": np.full(3, 4.0, np.float32), "mean": np.full(3, mean)}, folder / "latents.safetensors")
    assert distance(*(folder / "latents.safetensors" for folder in pair)).value == pytest.approx(2e-8)
    for folder, mean in zip(pair, (4e-5, -4e-5), strict=True):
        save_file({"latents": np.full(3, 4.0, np.float32), "mean": np.full(3, mean)}, folder / "latents.safetensors")
    assert distance(*(folder / "latents.safetensors" for folder in pair)).value == pytest.approx(2)


def test_what_is_no_number_may_not_differ(pair):
    first, second = pair
    save_file({"others": np.array([[1.0, -4.0]], np.float32)}, second / "latents.safetensors")
    (second / "table.tsv").write_text("face\tscore\nc\t0.5\nb\tn/a\n")
    (second / "words.json").write_text(json.dumps({"n": [1, 2.5], "sha256": "ab" * 32, "said": "0.25 in 4"}))
    (second / "report.html").write_text((first / "report.html").read_text().replace("p =", "q ="))
    (second / RECORD).write_text(record(facts={"beta": 2.0}))
    for name in ("latents.safetensors", "table.tsv", "words.json", "report.html", RECORD):
        assert distance(first / name, second / name).value == math.inf
    (second / "table.tsv").write_text("face\tscore\na\t0.5\nb\t0.5\n")
    assert distance(first / "table.tsv", second / "table.tsv").value == math.inf


def test_a_run_that_hangs_is_ended(tmp_path, monkeypatch):
    start = time.monotonic()
    monkeypatch.setattr(determinism, "LATER", 0.0)
    with pytest.raises(SystemExit, match=r"not done in 0\.5 s"):
        made_twice("tiny", tmp_path, (1, 1), 0.5)
    assert time.monotonic() - start < 10
