import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperdecode.stimuli.target import draw_target
from hyperdecode.study import shown
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.shown import write_contact_sheet, write_shown
from hyperdecode.study.stimulus_set import make_stimuli, read_picture, read_stimuli


def settings(seed=3, n_train=20, **viewing):
    stimuli = {"n_train": n_train, "n_test": 4, "test_repeats": 2, "render": 64, "size": 64}
    return StudyConfig.model_validate({"seed": seed, "stimuli": stimuli, "viewing": {"target_deg": 2.0} | viewing})


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_generator):
    folder = tmp_path_factory.mktemp("made")
    write_shown(folder, settings(), make_stimuli(folder, settings(), tiny_generator))
    return folder


@pytest.fixture
def study(made, tmp_path):
    """Return a copy to harm."""
    return Path(shutil.copytree(made, tmp_path / "study"))


def times(study):
    return {path.name: path.stat().st_mtime_ns for path in (study / "stimuli" / "shown").iterdir()}


def test_the_target_stands_on_every_copy(study):
    stimuli = read_stimuli(study)
    names = list(stimuli.manifest["stim_file"])
    assert sorted(times(study)) == sorted(names)
    for name in names:
        clean, seen = (read_picture(study / "stimuli" / part / name) for part in (".", "shown"))
        np.testing.assert_array_equal(seen, draw_target(clean, 64 / 15, 2.0, 128))
        assert (seen != clean).any() and (seen != clean).any(-1).sum() < 100
    alone = read_picture(study / "stimuli" / "fixation.png")
    np.testing.assert_array_equal(alone, draw_target(np.full((64, 64, 3), 128, np.uint8), 64 / 15, 2.0, 128))


def test_nothing_is_drawn_twice(study):
    before = times(study)
    sheet = (study / "stimuli" / "contact-sheet.jpg").stat().st_mtime_ns
    assert write_shown(study, settings(), read_stimuli(study), progress=lambda *_: pytest.fail("drew again")) == 0
    assert times(study) == before and (study / "stimuli" / "contact-sheet.jpg").stat().st_mtime_ns == sheet


def test_copies_are_byte_identical(study, tmp_path, tiny_generator):
    write_shown(tmp_path, settings(), make_stimuli(tmp_path, settings(), tiny_generator))
    for name in ("shown/train-0003.png", "fixation.png", "contact-sheet.jpg"):
        assert (tmp_path / "stimuli" / name).read_bytes() == (study / "stimuli" / name).read_bytes()


@pytest.mark.parametrize("viewing", [{"target_deg": 1.5}, {"picture_deg": 20.0}, {"background": 90}])
def test_other_viewing_settings_draw_all_again(study, viewing):
    counted = []
    config = settings(**viewing)
    assert write_shown(study, config, read_stimuli(study), progress=lambda *n: counted.append(n)) == 25
    assert counted == [(k, 24) for k in range(1, 25)]
    view = config.viewing
    clean = read_picture(study / "stimuli" / "test-0002.png")
    expected = draw_target(clean, 64 / view.picture_deg, view.target_deg, view.background)
    np.testing.assert_array_equal(read_picture(study / "stimuli" / "shown" / "test-0002.png"), expected)


def test_the_screen_does_not_matter(study):
    assert write_shown(study, settings(pixels_per_deg=70.0), read_stimuli(study)) == 0


def test_only_what_is_missing_or_old_is_drawn(study):
    folder = study / "stimuli" / "shown"
    before = times(study)
    (folder / "train-0004.png").unlink()
    (folder / "train-0005.png").write_bytes(b"torn")
    shutil.copy(folder / "train-0007.png", folder / "train-0006.png")
    shutil.copy(study / "stimuli" / "train-0009.png", folder / "train-0009.png")
    (folder / "train-0099.png").write_bytes(b"a picture that is no stimulus any more")
    (study / "stimuli" / "fixation.png").unlink()
    assert write_shown(study, settings(), read_stimuli(study)) == 5
    changed = {name for name, when in times(study).items() if before.get(name) != when}
    assert changed == {"train-0004.png", "train-0005.png", "train-0006.png", "train-0009.png"}
    clean = read_picture(study / "stimuli" / "train-0006.png")
    np.testing.assert_array_equal(read_picture(folder / "train-0006.png"), draw_target(clean, 64 / 15, 2.0, 128))


def test_new_stimuli_take_their_copies_along(study, tiny_generator):
    other = settings(seed=4, n_train=21)
    stimuli = make_stimuli(study, other, tiny_generator, force=True)
    assert not times(study) and not (study / "stimuli" / "contact-sheet.jpg").exists()
    assert not (study / "stimuli" / "fixation.png").exists()
    assert write_shown(study, other, stimuli) == 27
    assert len(times(study)) == 25


def test_copies_do_not_count_as_stimuli(study, tiny_generator):
    assert len(make_stimuli(study, settings(), tiny_generator).manifest) == 24


def test_the_sheet_says_which_faces_it_shows(study, monkeypatch):
    sections = []
    monkeypatch.setattr(shown, "MAX_FACES", 10)
    monkeypatch.setattr(shown, "MAX_TEST", 3)
    monkeypatch.setattr(shown, "contact_sheet", lambda parts: sections.extend(parts) or Image.new("RGB", (8, 8)))
    path = study / "stimuli" / "contact-sheet.jpg"
    path.unlink()
    stimuli = read_stimuli(study)
    assert write_contact_sheet(stimuli, 2)
    test, train = sections
    assert test.title == "The first 3 of 4 test faces, each shown 2 times"
    assert train.title == "The first 7 of 20 training faces, each shown once"
    assert test.labels == ["test-0001", "test-0002", "test-0003"] and train.labels[-1] == "train-0007"
    np.testing.assert_array_equal(list(train.pictures)[1], read_picture(study / "stimuli" / "train-0002.png"))
    assert not write_contact_sheet(stimuli, 2) and write_contact_sheet(stimuli, 3)
