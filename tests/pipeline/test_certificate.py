"""The certificate of a small study: it says what records and tables say, and finds a test trial that was fitted on."""

import hashlib
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w

from hyperdecode.errors import UserError
from hyperdecode.pipeline.certificate import study_certificate, training_hashes
from hyperdecode.pipeline.fitted_on import fitted_on, trials_sha256
from hyperdecode.pipeline.near_duplicates import check_stimuli_apart
from hyperdecode.pipeline.run import run_study
from hyperdecode.report.certificate import certificate_html
from hyperdecode.stimuli.duplicates import nearest_neighbours
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, read_stimuli
from tests.pipeline.masked import load_masked, save_masked
from tests.pipeline.studies import new_study, settings, work

CONFIG = settings().model_copy(update={"bold": settings().bold.model_copy(update={"n_voxels": 100, "hrf": "library"})})
MODELS = ("weighted-ridge",)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory, tiny_generator):
    study = new_study(tmp_path_factory.mktemp("certificate") / "study", CONFIG, tiny_generator)
    work(study, CONFIG, tiny_generator)
    return study


@pytest.fixture(scope="module")
def analysed(simulated, tmp_path_factory, tiny_generator):
    study = Path(shutil.copytree(simulated, tmp_path_factory.mktemp("analysed") / "study"))
    run_study(study, CONFIG, read_stimuli(study), tiny_generator)
    return study


@pytest.fixture
def study(analysed, tmp_path):
    """Return a copy to tamper with."""
    return Path(shutil.copytree(analysed, tmp_path / "study"))


def certificate(study, config=CONFIG, **options):
    return study_certificate(Layout(study), config, read_stimuli(study), MODELS, **options)


def by_name(found):
    return {record.what: record for record in found.records}


def record_of(study, step):
    return study / "derivatives" / "hyperdecode" / "records" / f"{step}.toml"


def edit(path, change):
    content = tomllib.loads(path.read_text())
    change(content)
    path.write_text(tomli_w.dumps(content))


def trials_of(study):
    return study / "derivatives" / "hyperdecode" / "sub-01" / "sub-01_trials.tsv"


def test_every_fit_of_a_study_is_on_record_and_kept_to_training_trials(analysed):
    found = certificate(analysed, axes="shipped", checks={})
    assert [(record.what, record.role) for record in found.records] == [
        ("choice of the HRF", "train"),
        ("voxel mask, most active", "train"),
        ("weighted-ridge: scaling, weights, penalty", "train"),
        ("stretch of averages", "scatter"),
        ("posterior", "train"),
        ("noise of the posterior", "scatter"),
        ("learning curve", "train"),
        ("attribute axes", "outside"),
    ]
    assert found.clean and not found.leaked
    table = pd.read_csv(trials_of(analysed), sep="\t")
    manifest = pd.read_csv(analysed / "stimuli" / "manifest.tsv", sep="\t").set_index("stim_file")["role"]
    roles = manifest.loc[table["stim_file"]].to_numpy()
    expected = {
        role: hashlib.sha256(
            "".join(f"{row}\t{table['stim_file'][row]}\n" for row in np.flatnonzero(roles == role)).encode()
        ).hexdigest()
        for role in ("train", "test")
    }
    for record in found.records[:-1]:
        which = "test" if record.role == "scatter" else "train"
        assert record.trials_sha256 == expected[which] and record.n_trials == (roles == which).sum()
    assert found.test_sha256 == (expected["test"],)
    assert training_hashes(Layout(analysed), read_stimuli(analysed), "01") == expected


def test_a_step_that_was_handed_a_test_face_is_red(simulated, tmp_path, tiny_generator, monkeypatch):
    """The steps are told that one test face is a training face: the certificate asks the manifest."""
    study = Path(shutil.copytree(simulated, tmp_path / "leak"))
    honest = StimulusSet.roles

    def lying(self, names):
        return [
            "train" if name == "test-0001.png" else role for name, role in zip(names, honest(self, names), strict=True)
        ]

    monkeypatch.setattr(StimulusSet, "roles", lying)
    for step in ("hrf", "zmaps", "mask"):
        run_study(study, CONFIG, read_stimuli(study), tiny_generator, only=step)
    monkeypatch.undo()
    found = certificate(study)
    for what in ("choice of the HRF", "voxel mask, most active"):
        record = by_name(found)[what]
        assert record.role == "test" and record.n_trials == 22
        assert record.note == "2 of 22 are trials of test faces"
    assert found.leaked and found.sentence.startswith("2 of 2 fits on record touched test trials")
    assert "touched test trials: 2 of 22" in certificate_html(found)


@pytest.mark.parametrize(
    ("rows", "role", "note"), [("all", "test", "8 of 28"), ("test", "test", "8 of 8"), ("some", "unknown", "none that")]
)
def test_a_record_of_other_trials_is_judged_by_them(study, rows, role, note):
    table = pd.read_csv(trials_of(study), sep="\t")
    chosen = {"all": range(len(table)), "test": np.flatnonzero(table["role"] == "test"), "some": range(5)}[rows]
    path = record_of(study, "mask_sub-01")
    edit(path, lambda record: record["facts"].update(fitted_on=[fitted_on("mask", chosen, list(table["stim_file"]))]))
    record = by_name(certificate(study))["mask"]
    assert record.role == role and note in record.note


def test_what_no_record_says_is_not_recorded(study):
    edit(record_of(study, "mask_sub-01"), lambda record: record["facts"].pop("fitted_on"))
    record_of(study, "posterior_sub-01").unlink()
    found = certificate(study)
    names = by_name(found)
    assert names["voxel mask, most active"].note == "the record does not say on which trials"
    assert names["posterior"].note == "there is no record of this step"
    assert not found.clean and not found.leaked and "2 are not recorded" in found.sentence


def test_a_table_that_was_changed_proves_nothing(study):
    table = pd.read_csv(trials_of(study), sep="\t")
    table.assign(onset=0.0).to_csv(trials_of(study), sep="\t", index=False)
    notes = [record.note for record in certificate(study).records if record.role == "unknown"]
    assert len(notes) == 5 and set(notes) == {"the table of trials was changed since"}
    trials_of(study).unlink()
    assert all(record.role in ("unknown", "outside") for record in certificate(study).records)
    with pytest.raises(UserError, match="no table of trials"):
        training_hashes(Layout(study), read_stimuli(study), "01")


def test_a_decoder_of_other_numbers_is_found_out(study):
    path = trials_of(study).with_name("sub-01_desc-masked_zmaps.zarr.zip")
    arrays = load_masked(path)
    arrays["z"] = arrays["z"] + np.float32(0.001)
    save_masked(arrays, path)
    record = by_name(certificate(study))["weighted-ridge: scaling, weights, penalty"]
    assert record.role == "unknown" and "fingerprint of other numbers" in record.note


def test_baselines_are_listed_with_what_their_records_say(study):
    table = pd.read_csv(trials_of(study), sep="\t")
    fact = fitted_on("decoder of eigenfaces", np.flatnonzero(table["role"] == "train"), list(table["stim_file"]))
    mask = tomllib.loads(record_of(study, "mask_sub-01").read_text())
    record = {"key": "k", "facts": {"fitted_on": [fact]}, "inputs": mask["outputs"]}
    record_of(study, "decode_sub-01_eigenfaces").write_text(tomli_w.dumps(record))
    record_of(study, "baseline_eigenfaces").write_text(tomli_w.dumps({"facts": {"training_faces": 20}}))
    asked = CONFIG.evaluation.model_copy(update={"baselines": ("eigenfaces", "vaegan")})
    names = by_name(certificate(study, CONFIG.model_copy(update={"evaluation": asked})))
    assert names["decoder of eigenfaces"].role == "train" and names["decoder of eigenfaces"].n_trials == 20
    assert names["decoder of vaegan"].note == "there is no record of this step"
    assert names["components of eigenfaces"].note == "pictures of 20 training faces"
    assert "decoder of eigenfaces" not in by_name(certificate(study)), "the study has no baselines"


def test_near_duplicates_and_runs_left_out_are_named(analysed):
    stimuli = read_stimuli(analysed)
    test, train = (stimuli.latents(stimuli.names(role), "w").numpy().copy() for role in ("test", "train"))
    test[2] = train[7] + 1e-3 * (train[8] - train[7])
    near = nearest_neighbours(test, train)
    found = certificate(analysed, checks={"latent space": near}, skipped={"sub-01_run-02": "it is damaged"})
    pairs = {pair.test: pair for pair in found.duplicates}
    assert pairs["test-0003.png"].train == "train-0008.png" and pairs["test-0003.png"].distance < 0.01
    assert set(pairs) == {stimuli.names("test")[row] for row in near.flagged} and not found.clean
    looked = certificate(analysed)
    flagged = [(space, row) for space, check in check_stimuli_apart(stimuli).items() for row in check.flagged]
    assert len(looked.duplicates) == len(flagged)
    assert found.overrides == ("a run that cannot be used (sub-01_run-02: it is damaged)",)


def test_maps_made_elsewhere_and_anatomical_masks_are_said_to_be_so(analysed):
    bold = CONFIG.bold.model_copy(update={"source": "estimates", "voxels": "all"})
    names = by_name(certificate(analysed, CONFIG.model_copy(update={"bold": bold})))
    assert names["single-trial maps"].role == "unknown" and "made elsewhere" in names["single-trial maps"].note
    assert names["voxel mask"].role == "outside" and names["voxel mask"].note == "all voxels of the brain"


def test_lists_depend_on_rows_and_faces_and_not_on_order():
    names = ["a", "b", "c"]
    assert trials_sha256([2, 0], names) == trials_sha256([0, 2], names)
    assert len({trials_sha256(rows, names) for rows in ([0], [1], [0, 1])} | {trials_sha256([0], ["x"])}) == 4
    with pytest.raises(UserError, match="row 3 lies outside"):
        trials_sha256([3], names)
    with pytest.raises(UserError, match="got 0 trials"):
        fitted_on("mask", [], names)
    assert json.dumps(fitted_on("mask", np.array([0]), names, note="n"))
