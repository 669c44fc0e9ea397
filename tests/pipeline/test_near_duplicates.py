"""Test faces that are training faces again: seen in the space in which they are."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist

from hyperdecode.files import sha256_file
from hyperdecode.pipeline.near_duplicates import check_stimuli_apart
from hyperdecode.report.duplicatesfigure import duplicates_caption
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.studies import new_study, settings


@pytest.fixture
def study(tmp_path, tiny_generator):
    return new_study(tmp_path / "study", settings(), tiny_generator)


def rebind(study, name):
    """Make the manifest say what the files hold now."""
    path = study / "stimuli" / "manifest.tsv"
    lines = path.read_text().splitlines()
    columns = lines[0].split("\t")
    for k, line in enumerate(lines):
        if line.startswith(f"{name}\t"):
            cells = line.split("\t")
            cells[columns.index("sha256")] = sha256_file(study / "stimuli" / name)
            lines[k] = "\t".join(cells)
    path.write_text("\n".join(lines) + "\n")


def flagged(found):
    return {space: set(check.flagged.tolist()) for space, check in found.items()}


def test_test_faces_are_held_against_training_faces_in_both_spaces(study):
    stimuli = read_stimuli(study)
    test, train = stimuli.names("test"), stimuli.names("train")
    found = check_stimuli_apart(stimuli)
    values = {
        "latent space": [stimuli.latents(names, "w").numpy() for names in (test, train)],
        "picture space": [
            np.array([np.asarray(Image.open(study / "stimuli" / name)).ravel() for name in names], float)
            for names in (test, train)
        ],
    }
    assert found.keys() == values.keys()
    for space, check in found.items():
        between, among = cdist(*values[space]), cdist(values[space][1], values[space][1])
        np.testing.assert_allclose(check.distance * check.scale, between.min(axis=1), rtol=1e-5)
        np.testing.assert_array_equal(check.index, between.argmin(axis=1))
        nearest = np.sort(among, axis=1)[:, 1]
        assert flagged(found)[space] == set(np.flatnonzero(between.min(axis=1) < 0.5 * np.median(nearest)))


def test_a_copied_picture_is_seen_in_picture_space_alone(study):
    stimuli = read_stimuli(study)
    before = flagged(check_stimuli_apart(stimuli))
    test, train = stimuli.names("test")[2], stimuli.names("train")[7]
    picture = np.asarray(Image.open(study / "stimuli" / train)).astype(int)
    # Not the same file: every pixel is a little off, as after compression.
    noisy = np.clip(picture + np.random.default_rng(0).integers(-2, 3, picture.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(study / "stimuli" / test)
    rebind(study, test)
    found = check_stimuli_apart(read_stimuli(study))
    assert 2 not in before["picture space"] and flagged(found)["picture space"] == before["picture space"] | {2}
    assert found["picture space"].flagged[0] == 2 and found["picture space"].index[2] == 7
    assert flagged(found)["latent space"] == before["latent space"] and 2 not in before["latent space"]
    assert f"Near-duplicates: {test} in picture space" in duplicates_caption(
        {"picture space": found["picture space"]}, stimuli.names("test")
    )


def test_a_copied_latent_is_seen_in_latent_space(study):
    stimuli = read_stimuli(study)
    before = flagged(check_stimuli_apart(stimuli))
    row = {name: int(at) for name, at in zip(stimuli.manifest["stim_file"], stimuli.manifest["latent"], strict=True)}
    w = stimuli.w.clone()
    w[row[stimuli.names("test")[1]]] = w[row[stimuli.names("train")[3]]] + 0.01 * w.std()
    found = check_stimuli_apart(replace(stimuli, w=w))
    assert 1 not in before["latent space"] and flagged(found)["latent space"] == before["latent space"] | {1}
    assert found["latent space"].flagged[0] == 1 and found["latent space"].index[1] == 3
    assert flagged(found)["picture space"] == before["picture space"]
