import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hyperdecode.errors import UserError
from hyperdecode.files import sha256_file
from hyperdecode.stimuli.pictures import to_uint8
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.stimulus_set import check_stimuli, make_stimuli, read_picture, read_stimuli


def settings(seed=3, **stimuli):
    chosen = {"n_train": 20, "n_test": 4, "test_repeats": 2, "render": 64, "size": 32} | stimuli
    return StudyConfig.model_validate({"seed": seed, "stimuli": chosen})


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_generator):
    folder = tmp_path_factory.mktemp("made")
    make_stimuli(folder, settings(), tiny_generator)
    return folder


@pytest.fixture
def study(made, tmp_path):
    """Return a copy to harm."""
    return Path(shutil.copytree(made, tmp_path / "study"))


def contents(study):
    return {path.name: path.read_bytes() for path in (study / "stimuli").iterdir()}


def edit_manifest(study, edit):
    path = study / "stimuli" / "manifest.tsv"
    manifest = pd.read_csv(path, sep="\t")
    edit(manifest)
    manifest.to_csv(path, sep="\t", index=False)


def test_pictures_latents_and_manifest_belong_together(study, tiny_generator):
    stimuli = read_stimuli(study)
    assert list(stimuli.manifest.columns) == ["stim_file", "role", "latent", "sha256", "latent_sha256"]
    assert len(stimuli.names("train")) == 20 and len(stimuli.names("test")) == 4
    assert len(list((study / "stimuli").glob("*.png"))) == 24
    z = tiny_generator.sample(24, 3)
    torch.testing.assert_close(stimuli.z, z)
    torch.testing.assert_close(stimuli.w, tiny_generator.to_w(z, 0.7))
    name = stimuli.names("train")[4]
    assert stimuli.roles([name, stimuli.names("test")[0]]) == ["train", "test"]
    expected = torch.nn.functional.avg_pool2d(tiny_generator.images(stimuli.latents([name], "w")), 2)
    np.testing.assert_array_equal(stimuli.pictures([name]), to_uint8(expected))
    row = stimuli.manifest.set_index("stim_file").loc[name]
    assert row["sha256"] == sha256_file(study / "stimuli" / name)
    assert stimuli.settings["fingerprint"] == tiny_generator.fingerprint
    assert check_stimuli(stimuli, tiny_generator, n=24) == 0


def test_two_runs_are_byte_identical(study, tmp_path, tiny_generator):
    make_stimuli(tmp_path / "again", settings(), tiny_generator)
    assert contents(tmp_path / "again") == contents(study)
    make_stimuli(tmp_path / "other", settings(seed=4), tiny_generator)
    assert contents(tmp_path / "other")["train-0001.png"] != contents(study)["train-0001.png"]


def test_test_faces_do_not_depend_on_how_many_train(study, tmp_path, tiny_generator):
    make_stimuli(tmp_path / "more", settings(n_train=25), tiny_generator)
    assert contents(tmp_path / "more")["test-0003.png"] == contents(study)["test-0003.png"]


class KilledError(Exception):
    pass


def test_an_interrupted_run_goes_on(study, tmp_path, tiny_generator, monkeypatch):
    def kill(done, total):
        assert total == 24
        if done == 8:
            raise KilledError

    killed = tmp_path / "killed"
    with pytest.raises(KilledError):
        make_stimuli(killed, settings(), tiny_generator, progress=kill)
    with pytest.raises(UserError, match=r"no readable manifest.*hyperdecode stimuli"):
        read_stimuli(killed)
    finished = {p: p.stat().st_mtime_ns for p in (killed / "stimuli").glob("*.png")}
    assert len(finished) == 8
    counted = []
    make_stimuli(killed, settings(), tiny_generator, progress=lambda done, total: counted.append(done))
    assert counted == [16, 24]
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert contents(killed) == contents(study)


def test_nothing_is_made_twice(study, tiny_generator, monkeypatch):
    monkeypatch.setattr(type(tiny_generator), "images", lambda *_, **__: pytest.fail("made a picture again"))
    assert len(make_stimuli(study, settings(), tiny_generator).manifest) == 24


def test_other_settings_are_refused_without_force(study, tiny_generator, make_tiny):
    before = contents(study)
    for config, generator, words in (
        (settings(seed=4), tiny_generator, "seed = 3, not 4"),
        (settings(n_train=21), tiny_generator, "n_train = 20, not 21"),
        (settings(truncation=0.5), tiny_generator, r"truncation = 0\.7, not 0\.5"),
        (settings(), make_tiny(1), "fingerprint"),
    ):
        with pytest.raises(UserError, match=f"{words}.*--force"):
            make_stimuli(study, config, generator)
    assert contents(study) == before
    made = make_stimuli(study, settings(n_train=21, seed=4), tiny_generator, force=True)
    assert len(made.manifest) == 25 and check_stimuli(read_stimuli(study), tiny_generator, n=25) == 0


def test_crop_is_one_of_the_settings(study, tmp_path, tiny_generator):
    with pytest.raises(UserError, match=r"crop = 1\.0, not 0\.5.*--force"):
        make_stimuli(study, settings(crop=0.5), tiny_generator)
    cropped = make_stimuli(tmp_path / "cropped", settings(crop=0.5), tiny_generator)
    name = cropped.names("test")[1]
    whole = tiny_generator.images(cropped.latents([name], "w"))
    np.testing.assert_array_equal(cropped.pictures([name]), to_uint8(whole[..., 16:48, 16:48]))
    assert check_stimuli(read_stimuli(tmp_path / "cropped"), tiny_generator, n=24) == 0


def test_stimuli_from_before_there_was_a_crop(study, tiny_generator):
    note = study / "stimuli" / "manifest.json"
    old = json.loads(note.read_text())
    assert old.pop("crop") == 1.0
    note.write_text(json.dumps(old | {"test_repeats": 9}))
    before = contents(study)
    assert len(make_stimuli(study, settings(), tiny_generator).manifest) == 24
    assert check_stimuli(read_stimuli(study), tiny_generator, n=3) == 0
    with pytest.raises(UserError, match=r"crop = 1\.0, not 0\.6"):
        make_stimuli(study, settings(crop=0.6), tiny_generator)
    assert contents(study) == before


def test_faces_do_not_depend_on_how_often_they_are_shown(study, tiny_generator):
    before = contents(study)
    make_stimuli(study, settings(test_repeats=5), tiny_generator)
    assert contents(study) == before


def test_pictures_of_unknown_origin_are_not_taken_over(study, tiny_generator):
    for name in ("manifest.json", "manifest.tsv", "latents.safetensors"):
        (study / "stimuli" / name).unlink()
    before = contents(study)
    with pytest.raises(UserError, match=r"no manifest\.json"):
        make_stimuli(study, settings(), tiny_generator)
    assert contents(study) == before
    (study / "stimuli" / "test-0001.png").write_bytes(b"not a picture")
    make_stimuli(study, settings(), tiny_generator, force=True)
    assert check_stimuli(read_stimuli(study), tiny_generator, n=24) == 0


def test_another_early_exit_makes_other_stimuli(tmp_path, make_tiny):
    generator, other = make_tiny(), make_tiny()
    side = generator.resolutions[0]
    with torch.no_grad():
        other.head(side).colour.bias.add_(0.5)
    assert generator.picture_fingerprint(64) == other.picture_fingerprint(64) == generator.fingerprint
    assert generator.picture_fingerprint(side) != other.picture_fingerprint(side)


def test_settings_that_cannot_be_made_leave_nothing_behind(tmp_path, tiny_generator):
    with pytest.raises(UserError, match=r"render = 300, .*\(8, 16, 64\) px"):
        make_stimuli(tmp_path, settings(render=300), tiny_generator)
    assert not (tmp_path / "stimuli").exists()
    make_stimuli(tmp_path, settings(), tiny_generator)  # the mended study.toml is not held against the wrong one


def refused(study, words):
    with pytest.raises(UserError, match=words) as error:
        read_stimuli(study)
    assert "\n" not in str(error.value) and str(study) in str(error.value)


def test_a_changed_picture(study):
    path = study / "stimuli" / "train-0007.png"
    picture = read_picture(path).copy()
    picture[3, 3, 0] ^= 1
    Image.fromarray(picture).save(path)
    refused(study, r"train-0007\.png is absent or was changed.*--force")
    path.unlink()
    refused(study, r"train-0007\.png is absent")


def test_changed_latents(study):
    path = study / "stimuli" / "latents.safetensors"
    tensors = load_file(path)
    tensors["w"][5, 0] += 1e-6
    save_file(tensors, path)
    refused(study, r"latents\.safetensors was changed")
    path.write_bytes(b"")
    refused(study, r"latents\.safetensors was changed")
    path.unlink()
    refused(study, "no readable manifest and latents")


def test_changed_latents_with_a_new_hash(study):
    path = study / "stimuli" / "latents.safetensors"
    tensors = load_file(path)
    tensors["z"][5, 0] += 1e-6
    save_file(tensors, path)
    note = study / "stimuli" / "manifest.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"latents_sha256": sha256_file(path)}))
    refused(study, r"binds train-0002\.png to another latent")


def swap(manifest, columns, a=6, b=9):
    for column in columns:
        manifest.loc[[a, b], column] = manifest.loc[[b, a], column].to_numpy()


def test_a_swapped_latent(study):
    edit_manifest(study, lambda m: swap(m, ["latent"]))
    refused(study, r"binds train-0003\.png to another latent")


def test_a_swap_with_its_hashes_is_found_by_making_pictures_again(study, tiny_generator):
    edit_manifest(study, lambda m: swap(m, ["latent", "latent_sha256"]))
    with pytest.raises(UserError, match=r"train-00\d\d\.png differs by \d+ grey levels"):
        check_stimuli(read_stimuli(study), tiny_generator, n=24)


def test_a_picture_altered_with_its_hash_is_found_by_making_it_again(study, tiny_generator):
    path = study / "stimuli" / "test-0002.png"
    picture = read_picture(path).copy()
    picture[10, 11, 2] = np.clip(int(picture[10, 11, 2]) + (10 if picture[10, 11, 2] < 200 else -10), 0, 255)
    Image.fromarray(picture).save(path)

    def rewrite(manifest):
        manifest.loc[manifest["stim_file"] == "test-0002.png", "sha256"] = sha256_file(path)

    edit_manifest(study, rewrite)
    with pytest.raises(UserError, match=r"test-0002\.png differs by 10 grey levels"):
        check_stimuli(read_stimuli(study), tiny_generator, n=24)


def test_rounding_is_borne(study, tiny_generator):
    path = study / "stimuli" / "test-0002.png"
    picture = read_picture(path)
    Image.fromarray(np.where(picture < 128, picture + 2, picture - 2).astype(np.uint8)).save(path)
    edit_manifest(study, lambda m: m.__setitem__("sha256", [sha256_file(path.with_name(n)) for n in m["stim_file"]]))
    assert check_stimuli(read_stimuli(study), tiny_generator, n=24) == 2


def test_another_generator_is_named(study, make_tiny):
    with pytest.raises(UserError, match="use that version, or make the stimuli anew"):
        check_stimuli(read_stimuli(study), make_tiny(1))


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.pop("latent"),
        lambda m: m.pop("role"),
        lambda m: m.pop("stim_file"),
        lambda m: m.__setitem__("latent", m["latent"] + 100),
        lambda m: m.__setitem__("latent", [f"{i}x" for i in m["latent"]]),
        lambda m: m.__setitem__("role", "both"),
        lambda m: m.loc.__setitem__((3, "stim_file"), "../study.toml"),
        lambda m: m.loc.__setitem__(3, m.loc[4]),
    ],
)
def test_a_manifest_that_is_none(study, edit):
    edit_manifest(study, edit)
    refused(study, "manifest")


@pytest.mark.parametrize("text", ["[]", "{", "3", '{"latents_sha256": 3}'])
def test_settings_that_are_none(study, tiny_generator, text):
    (study / "stimuli" / "manifest.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_stimuli(study)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--force"):
        make_stimuli(study, settings(), tiny_generator)


def test_names_that_are_no_stimulus(study):
    with pytest.raises(UserError, match=r"'cat\.png' is no stimulus"):
        read_stimuli(study).latents(["cat.png"], "w")


def test_a_picture_that_claims_to_be_huge(tmp_path, monkeypatch):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr("hyperdecode.study.stimulus_set.MAX_PIXELS", 1000)
    with pytest.raises(UserError, match="claims 40 x 40 px"):
        read_picture(tmp_path / "a.png")


def test_a_picture_that_is_none(tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"a\.png is not a readable PNG"):
        read_picture(tmp_path / "a.png")
