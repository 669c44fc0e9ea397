"""The scene of a study: what is drawn at both ends of the way is what lies on disk."""

import json
import shutil

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.explorer.asked import read_asked
from hyperdecode.generators.pggan import PGGAN
from hyperdecode.pipeline.explore import generator_scene, study_scene
from hyperdecode.pipeline.run import run_study
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_picture, read_stimuli
from tests.pipeline.studies import new_study, settings, work

BASE = settings()


def config(space):
    return BASE.model_copy(
        update={
            "bold": BASE.bold.model_copy(update={"n_voxels": 100}),
            "decoding": BASE.decoding.model_copy(update={"posterior": 0, "space": space}),
        }
    )


@pytest.fixture(scope="module", params=["w", "z"])
def analysed(request, tmp_path_factory, tiny_generator):
    made = config(request.param)
    study = new_study(tmp_path_factory.mktemp("explored") / "study", made, tiny_generator)
    work(study, made, tiny_generator)
    run_study(study, made, read_stimuli(study), tiny_generator)
    return study, made


def test_both_ends_of_the_way_are_the_pictures_on_disk(analysed, tiny_generator):
    study, made = analysed
    there, layout = study_scene(study, made, tiny_generator), Layout(study)
    assert list(there.subjects) == ["sub-01"]
    for face, name in enumerate(read_stimuli(study).names("test")):
        asked = {"subject": "sub-01", "face": face, "side": 64}
        decoded, _ = there.picture(read_asked(json.dumps(asked).encode()))
        on_disk = read_picture(layout.reconstruction("01", made.decoding.model, name))
        # One z alone is mapped to w in another order of sums than all of them at once.
        np.testing.assert_allclose(decoded.astype(int), on_disk, atol=0 if made.decoding.space == "w" else 1)
        faces = there.subjects["sub-01"]
        np.testing.assert_array_equal(faces.look(face, "decoded"), on_disk)
        np.testing.assert_array_equal(faces.look(face, "shown"), read_picture(layout.full_stimulus(name)))
        if made.decoding.space == "w":
            true, _ = there.picture(read_asked(json.dumps(asked | {"share": 1.0}).encode()))
            np.testing.assert_array_equal(true, faces.look(face, "shown"))


def test_a_study_without_what_is_asked_for_is_refused(analysed, tiny_generator, make_tiny, tmp_path):
    study, made = analysed
    with pytest.raises(UserError, match=r"no subject '07' in study.toml: choose among 01"):
        study_scene(study, made, tiny_generator, ["07"])
    with pytest.raises(UserError, match="the stimuli were made by"):
        study_scene(study, made, make_tiny(1))
    bare = tmp_path / "study"
    shutil.copytree(study, bare, ignore=shutil.ignore_patterns("derivatives"))
    for subjects in ((), ("01",)):
        with pytest.raises(UserError, match=r"nothing was decoded .* run `hyperdecode run"):
            study_scene(bare, made, tiny_generator, subjects)


def test_a_generator_without_a_w_has_no_directions(make_tiny_pggan_tensors):
    there = generator_scene(PGGAN(make_tiny_pggan_tensors()))
    said = there.description()
    assert (said["space"], said["truncates"], said["directions"], said["attributes"]) == ("z", False, 0, [])
    asked = {"seed": 3, "truncation": 0.5, "dimensions": [[2, 1.0]], "side": said["resolution"]}
    assert there.picture(read_asked(json.dumps(asked).encode()))[0].shape == (16, 16, 3)
