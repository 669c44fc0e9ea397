import re

import pytest
from pydantic import BaseModel

from hyperdecode.errors import UserError
from hyperdecode.study.config import PRESETS, StudyConfig, preset, read_config, write_config


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(tmp_path, name):
    config = preset(name, name='A "study" with ümlauts', seed=7, subjects=("01", "A2"))
    write_config(tmp_path / "new", config)
    assert read_config(tmp_path / "new") == config


def test_the_papers_numbers():
    config = preset("paper")
    assert config.evaluation.baselines == ("eigenfaces", "vaegan")
    assert config.mapping.readout == "linear"
    plain = StudyConfig()
    assert config.model_copy(update={"evaluation": plain.evaluation, "mapping": plain.mapping}) == plain
    stimuli, timing, viewing = config.stimuli, config.timing, config.viewing
    assert (stimuli.n_train, stimuli.n_test, stimuli.test_repeats, stimuli.size) == (1050, 36, 14, 224)
    assert (timing.t_r, timing.on + timing.off, config.bold.n_voxels, len(config.subjects)) == (1.5, 4.5, 4096, 2)
    assert (viewing.picture_deg, viewing.target_deg, timing.on, timing.flash_hz) == (15, 0.6, 1.5, 3.33)
    assert config.bold.glm == "lss" and config.decoding.space == "w"


def test_a_pggan_is_decoded_in_z():
    config = preset("pggan")
    assert config.decoding.space == "z" and config.stimuli.render == 1024


def every_key(section=StudyConfig, prefix=()):
    for key, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from every_key(info.annotation, (*prefix, key))
        else:
            yield (*prefix, key), info


def test_every_key_stands_below_its_own_comment(tmp_path):
    text = write_config(tmp_path, preset("paper")).read_text()
    for path, info in every_key():
        part = text.split(f"\n[{path[0]}]\n")[1] if len(path) > 1 else text
        comment = re.search(rf"((?:^#.*\n)+){path[-1]} = ", part, re.MULTILINE)[1]
        words = comment.replace("\n# ", " ").removeprefix("# ").strip()
        assert info.description and words.startswith(" ".join(info.description.split())), path
    assert max(map(len, text.splitlines())) <= 120


def test_a_comment_says_what_is_allowed(tmp_path):
    text = write_config(tmp_path, preset("paper")).read_text()
    for words in ("Allowed: 20 to 100000.\nn_train", "one of ventral, whole.\ncoverage", "above 0 to 60.\non ="):
        assert words in text


def test_an_empty_file_is_the_paper(tmp_path):
    (tmp_path / "study.toml").write_text("")
    assert read_config(tmp_path) == StudyConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 'many'", r"seed = 'many': expected a valid integer, 0 to 2147483647; change that line"),
        ("seed = -1", "seed = -1: expected 0 to 2147483647;"),
        ("seed = true", "seed = True: expected a valid integer"),
        ("sed = 1", "sed = 1: no such key, did you mean seed?"),
        ("[stimuli]\nn_trian = 5", r"stimuli\.n_trian = 5: no such key, did you mean n_train?"),
        ("[stimuli]\nqqqq = 5", r"stimuli\.qqqq = 5: no such key, \[stimuli\] knows n_train, n_test"),
        ("[stimuli]\nn_train = 5", r"stimuli\.n_train = 5: expected 20 to 100000"),
        ("[stimuli]\ncrop = 0.01", r"stimuli\.crop = 0\.01: expected above 0\.1 to 1"),
        ("[simulatoin]\nhead = 1", "simulatoin = .*did you mean simulation?"),
        ("stimuli = 3", "stimuli = 3: expected a section of keys"),
        ("[bold]\nglm = 'glm'", r"bold\.glm = 'glm': expected one of lss, lsa"),
        ("[presentation]\nfullscreen = 1", r"presentation\.fullscreen = 1: expected a valid boolean"),
        ("[timing]\nt_r = 0", r"timing\.t_r = 0: expected above 0\.1 to 10"),
        ("[timing]\nt_r = nan", r"timing\.t_r = nan: expected"),
        ("[timing]\non = 0.2", r"timing\.flash_hz = 3\.33 makes no whole flash in timing\.on = 0\.2"),
        ("[stimuli]\nrender = 256\ncrop = 0.8", r"stimuli\.size = 224 is more than the 204 px"),
        ("[viewing]\ntarget_deg = 9\npicture_deg = 8", r"viewing\.target_deg = 9 would hide the picture of 8"),
        ("[stimuli]\nn_train = 20\ntest_repeats = 1\n[schedule]\nn_runs = 99", r"56 trials cannot fill .*n_runs = 99"),
        ("[simulation]\nthermal = 0.9", r"shared_noise, physiology and thermal are shares .* sum to 1\.3, more than 1"),
        ("task = '../../x'", r"task = '\.\./\.\./x': expected letters and digits"),
        ("subjects = []", "subjects = .*expected at least one"),
        ("subjects = ['../01']", r"subjects\.0 = '\.\./01': expected letters and digits"),
        ("subjects = ['01', '01']", "subjects = .*named twice"),
        ("seed = ", "not readable as TOML"),
        ("seed = 1\nseed = 2", "not readable as TOML"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path, text, words):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_config(tmp_path)
    assert str(tmp_path / "study.toml") in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "study.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not readable as TOML"):
        read_config(tmp_path)


def test_folders_that_are_no_study(tmp_path):
    with pytest.raises(UserError, match=r"no study at .*hyperdecode init"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no study\.toml"):
        read_config(tmp_path)
    with pytest.raises(UserError, match="no preset 'huge'"):
        preset("huge")


def test_choices_of_the_model_are_those_that_the_model_has():
    """The settings name them again, so that reading a study.toml does not load the GLM."""
    from typing import get_args

    from hyperdecode.fmri.confounds import MotionModel
    from hyperdecode.fmri.hrf import Hrf
    from hyperdecode.fmri.mask import MaskKind
    from hyperdecode.fmri.singletrial import Method, NoiseModel
    from hyperdecode.study.settings import BoldSettings

    kinds = {"motion": MotionModel, "hrf": Hrf, "voxels": MaskKind, "glm": Method, "noise_model": NoiseModel}
    for name, kind in kinds.items():
        assert get_args(BoldSettings.model_fields[name].annotation) == get_args(kind), name
