import pytest

from hyperdecode.errors import UserError
from hyperdecode.study.config import StudyConfig, preset, read_config, write_config


@pytest.mark.parametrize("name", ["paper", "quick"])
def test_round_trip(tmp_path, name):
    config = preset(name, name='A "study" with ümlauts', seed=7)
    write_config(tmp_path / "new", config)
    assert read_config(tmp_path / "new") == config


def test_the_papers_numbers():
    config = preset("paper")
    assert config == StudyConfig()
    stimuli, timing = config.stimuli, config.timing
    assert (stimuli.n_train, stimuli.n_test, stimuli.test_repeats, stimuli.size) == (1050, 36, 14, 224)
    assert (timing.t_r, timing.on + timing.off, config.bold.n_voxels, len(config.subjects)) == (1.5, 4.5, 4096, 2)
    assert config.bold.glm == "lss" and config.decoding.space == "w"


def test_an_empty_file_is_the_paper(tmp_path):
    (tmp_path / "study.toml").write_text("")
    assert read_config(tmp_path) == StudyConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 'many'", r"seed = 'many': .*integer"),
        ("seed = -1", "seed = -1"),
        ("sed = 1", "sed = 1: extra inputs are not permitted"),
        ("[stimuli]\nn_trian = 5", r"stimuli\.n_trian = 5"),
        ("[bold]\nglm = 'glm'", r"bold\.glm = 'glm': .*'lss' or 'lsa'"),
        ("[timing]\nt_r = 0", r"timing\.t_r = 0"),
        ("[timing]\nt_r = nan", r"timing\.t_r = nan"),
        ("task = '../../x'", "task = "),
        ("subjects = []", "subjects = "),
        ("subjects = ['../01']", r"subjects\.0 = '\.\./01'"),
        ("subjects = ['01', '01']", "subjects = "),
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
