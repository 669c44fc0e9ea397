"""Every reader of files that come from outside: the sound files that it reads, and what it must make of them."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import safetensors.numpy
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hyperdecode.errors import UserError
from hyperdecode.files import sha256_bytes
from hyperdecode.generators.attribute_store import attribute_spaces
from hyperdecode.mapping.regions import RegionSet
from hyperdecode.pipeline.checkpoints import FileCheckpoint
from hyperdecode.pipeline.map_regions import map_regions
from hyperdecode.pipeline.new_trials import NewTrials, _read_table
from hyperdecode.pipeline.presented import next_run, presented_files, require_free
from hyperdecode.pipeline.records import Step, read_facts, refuse_other_settings, run_step
from hyperdecode.study.bids import image_space, index_bids, iterate_volumes, load_run, read_events, read_image
from hyperdecode.study.config import StudyConfig, read_config, write_config
from hyperdecode.study.derivatives import Derivatives
from hyperdecode.study.estimates import find_estimates
from hyperdecode.study.events import check_events
from hyperdecode.study.fitted_decoder import FittedDecoder
from hyperdecode.study.fmriprep import find_fmriprep_runs, intersect_masks, load_fmriprep_confounds, load_fmriprep_run
from hyperdecode.study.images import repetition_time
from hyperdecode.study.planned import read_plan, write_plan
from hyperdecode.study.raw import write_dataset
from hyperdecode.study.saved_decoder import read_decoder, write_decoder
from hyperdecode.study.settings import MappingSettings
from hyperdecode.study.shown import _mark_of
from hyperdecode.study.stimulus_set import StimulusSet, read_picture, read_stimuli
from hyperdecode.study.transforms import read_matrices, read_warp, write_matrices, write_warp
from hyperdecode.study.trial_store import open_store, write_store
from hyperdecode.weights.boundaries import read_attribute_tensors, read_boundary, write_attribute_tensors
from hyperdecode.weights.contents import WeightContents, Weights
from hyperdecode.weights.hyper_data import read_hyper_data
from hyperdecode.weights.imported import imported_names, imported_summary, load_imported, save_imported
from hyperdecode.weights.importing import convert, read_weights
from hyperdecode.weights.limits import read_bytes
from hyperdecode.weights.safetensors_files import read_header
from tests.weights import file_makers

Files = Mapping[str, bytes]
SHAPE, N_TRIALS, T_R = (4, 3, 2), 6, 1.5
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -7], [0, 0, 2, 3], [0, 0, 0, 1]])
CONFIG = StudyConfig.model_validate(
    {"stimuli": {"n_train": 20, "n_test": 3, "test_repeats": 2, "render": 64, "size": 16}, "schedule": {"n_runs": 2}}
)
CANARY = "canary"


class Program:
    """What must never run, in a pickle."""

    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes
    ----------
    make : callable
        Writes sound files into a folder.
    read : callable
        Reads them from the folder and asserts that what comes out is what the reader promises.
    kinds : mapping of str to str
        End of a file's name -> its kind (`mutators.STRUCTURED`); a file of no such end is left alone.
    mend : callable, optional
        Puts hashes right after the harm, so that it passes them.
    renames : bool
        Whether names of files are harmed, too.
    writes : bool
        Whether the reader may write into the folder.
    sound : bool
        Whether the files are read when nothing was harmed; MATLAB's are refused always.
    share : float
        Relative number of inputs.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    kinds: Mapping[str, str]
    mend: Callable[[dict[str, bytes]], dict[str, bytes]] | None = None
    renames: bool = False
    writes: bool = False
    sound: bool = True
    share: float = 1.0


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tsv(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False, na_rep="n/a")


def nifti(path: Path, values: Any, t_r: float | None = None, slope: float | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    if t_r:
        image.header.set_zooms((2, 2, 2, t_r))
    if slope:
        image.header.set_slope_inter(slope, 1.0)
    nib.save(image, path)


def whole(frame: pd.DataFrame, *columns: str) -> None:
    assert len(frame) and set(columns) <= set(frame.columns)


# study.toml


def _config(folder: Path) -> None:
    write_config(folder, CONFIG)


def _read_config(folder: Path) -> None:
    found = read_config(folder)
    assert isinstance(found, StudyConfig)
    assert all(label.isalnum() and label.isascii() for label in (*found.subjects, found.task))
    assert np.isfinite([found.timing.t_r, found.timing.on, found.stimuli.truncation]).all()
    assert read_config(folder) == found


# Stimuli


def _stimuli(folder: Path) -> None:
    root = folder / "stimuli"
    root.mkdir()
    z, w = rng().normal(size=(5, 8)).astype(np.float32), rng(1).normal(size=(5, 8)).astype(np.float32)
    names = ["test-0001.png", "test-0002.png", "train-0001.png", "train-0002.png", "train-0003.png"]
    for k, name in enumerate(names):
        Image.fromarray(rng(k).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / name)
    (root / "latents.safetensors").write_bytes(safetensors.numpy.save({"z": z, "w": w}))
    tsv(
        root / "manifest.tsv",
        stim_file=names,
        role=["test", "test", "train", "train", "train"],
        latent=range(5),
        sha256=[sha256_bytes((root / name).read_bytes()) for name in names],
        latent_sha256=[sha256_bytes(z[k].tobytes() + w[k].tobytes()) for k in range(5)],
    )
    said = {"generator": "g", "fingerprint": "f" * 64, "seed": 1, "render": 64, "size": 8, "crop": 1.0}
    said |= {"latents_sha256": sha256_bytes((root / "latents.safetensors").read_bytes())}
    (root / "manifest.json").write_text(json.dumps(said, indent=2))


def _mend_stimuli(files: dict[str, bytes]) -> dict[str, bytes]:
    """Name the harmed latents and pictures by the hashes that they now have."""
    mended = dict(files)
    root = "stimuli/"
    if isinstance(latents := files.get(root + "latents.safetensors"), bytes):
        said = re.sub(
            rb'"latents_sha256": "[0-9a-f]*"',
            f'"latents_sha256": "{sha256_bytes(latents)}"'.encode(),
            files[root + "manifest.json"],
        )
        mended[root + "manifest.json"] = said
        try:
            found = safetensors.numpy.load(latents)
            hashes = [sha256_bytes(found["z"][k].tobytes() + found["w"][k].tobytes()) for k in range(5)]
        except Exception:
            hashes = []
    else:
        hashes = []
    rows = [row.split(b"\t") for row in files[root + "manifest.tsv"].split(b"\n")]
    for k, row in enumerate(rows[1:]):
        name = root + row[0].decode("utf-8", "replace") if row else ""
        if len(row) == 5 and isinstance(files.get(name), bytes):
            row[3] = sha256_bytes(files[name]).encode()
            if k < len(hashes):
                row[4] = hashes[k].encode()
    mended[root + "manifest.tsv"] = b"\n".join(b"\t".join(row) for row in rows)
    return mended


def _read_stimuli(folder: Path) -> None:
    found = read_stimuli(folder)
    assert isinstance(found, StimulusSet)
    whole(found.manifest, "stim_file", "role", "latent")
    names = list(found.manifest["stim_file"])
    for name in names:
        assert isinstance(name, str) and (folder / "stimuli" / name).resolve().parent == (folder / "stimuli").resolve()
    assert set(found.roles(names)) <= {"train", "test"}
    for space in ("z", "w"):
        latents = found.latents(names, space)
        assert latents.ndim == 2 and len(latents) == len(names) and bool(latents.isfinite().all())
    for name in names:
        assert read_picture(folder / "stimuli" / name).ndim == 3
    for odd in ("../secret.png", "..", "/etc/passwd", "test-0001.png\0"):
        try:
            found.require([odd])
        except UserError:
            continue
        raise AssertionError(f"{odd} was taken for a stimulus")


def _picture(folder: Path) -> None:
    note = PngInfo()
    note.add_text("hyperdecode", "mark")
    for name, mode in (("a.png", "RGB"), ("b.png", "P"), ("c.png", "LA"), ("d.png", "I;16")):
        values = rng().integers(0, 255, (9, 7, 3), dtype=np.uint8)
        picture = Image.fromarray(values).convert("L" if mode == "I;16" else mode)
        picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture
        picture.save(folder / name, pnginfo=note)


def _read_pictures(folder: Path) -> None:
    problem = None
    for name in "abcd":
        _mark_of(folder / f"{name}.png")
        try:
            values = read_picture(folder / f"{name}.png")
        except UserError as error:
            problem = error
            continue
        assert values.dtype == np.uint8 and values.ndim == 3 and values.shape[2] == 3 and values.size
    if problem:
        raise problem


# BIDS

STEM = "sub-01_task-faces_run-1"


def _events(path: Path) -> None:
    tsv(
        path,
        onset=[0.0, 3.0, 6.0, 9.0, 12.0],
        duration=[1.5] * 5,
        trial_type=["train", "test", "train", "repeat", "test"],
        stim_file=["train-0001.png", "test-0001.png", "train-0002.png", "train-0002.png", "test-0002.png"],
        trial=list("abcde"),
    )


def _bids(folder: Path) -> None:
    func = folder / "sub-01" / "func"
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "tiny", "BIDSVersion": "1.10.0"}))
    (folder / "task-faces_bold.json").parent.mkdir(exist_ok=True)
    (folder / "task-faces_bold.json").write_text(json.dumps({"RepetitionTime": T_R, "SliceTiming": [0.0, 0.7]}))
    nifti(func / f"{STEM}_bold.nii.gz", rng().integers(0, 900, (*SHAPE, 12), dtype=np.int16), T_R)
    (func / f"{STEM}_bold.json").write_text(json.dumps({"EchoTime": 0.03, "IntendedFor": ["ses-1/func/x.nii.gz"]}))
    _events(func / f"{STEM}_events.tsv")
    nifti(folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz", rng().integers(0, 900, SHAPE, dtype=np.int16))


def _read_bids(folder: Path) -> None:
    found = index_bids(folder)
    assert found.runs and all(isinstance(name, str) for name in found.subjects)
    for run in found.runs:
        assert folder in run.bold.parents and folder in run.events.parents
        loaded = load_run(run)
        assert loaded.image.ndim == 4 and np.isfinite(loaded.t_r) and loaded.t_r > 0
        whole(loaded.events, "onset", "duration", "trial_type")
        if run.t1w is not None:
            read_image(run.t1w, 3)


def _read_events(folder: Path) -> None:
    path = folder / "events.tsv"
    table = read_events(path)
    check_events(table, path, 12, T_R)
    whole(table, "onset", "duration", "trial_type")
    assert np.isfinite(table[["onset", "duration"]].to_numpy(float)).all() and table["onset"].is_monotonic_increasing


def _participants(folder: Path) -> None:
    write_dataset(folder, CONFIG, "From here.")
    path = folder / "participants.tsv"
    path.write_text(path.read_text().replace("\n", "\tage\n", 1).replace("sub-01\n", "sub-01\t33\n"))


def _read_participants(folder: Path) -> None:
    write_dataset(folder, CONFIG, "From here.")
    text = (folder / "participants.tsv").read_text(encoding="utf-8", errors="replace")
    assert all(f"sub-{label}" in text for label in CONFIG.subjects)


def _derivatives(folder: Path) -> None:
    (folder / "raw").mkdir()
    (folder / "raw" / "dataset_description.json").write_text('{"Name": "tiny"}')
    Derivatives(folder / "out", folder / "raw").prepare()


def _read_derivatives(folder: Path) -> None:
    Derivatives(folder / "out", folder / "raw").prepare()
    Derivatives(folder / "new", folder / "raw").prepare()
    assert json.loads((folder / "new" / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    for path in sorted((folder / "new").iterdir()):
        path.unlink()
    (folder / "new").rmdir()


def _plan(folder: Path) -> None:
    manifest = pd.DataFrame({"stim_file": [f"{k}.png" for k in range(23)], "role": ["test"] * 3 + ["train"] * 20})
    stimuli = StimulusSet(folder / "stimuli", manifest, None, None, {})  # type: ignore[arg-type]
    write_plan(folder, CONFIG, stimuli, "01", 5)


def _read_plan(folder: Path) -> None:
    for run in (1, 2):
        events = read_plan(folder, CONFIG, "01", run)
        whole(events, "onset", "duration", "trial_type", "stim_file")
        assert np.isfinite(events[["onset", "duration"]].to_numpy()).all()
        assert all(Path(name).name == name and name != ".." for name in events["stim_file"])


# What was presented

LOG = {"outcome": "complete", "trigger": "scanner", "trigger_times": [0.0, 1.5, 3.0], "responses": [["1", 2.5]]}


def _presented(folder: Path) -> None:
    for run in (1, 2):
        files = presented_files(folder, CONFIG, "01", run)
        files.events.parent.mkdir(parents=True, exist_ok=True)
        _events(files.events)
        files.log.parent.mkdir(parents=True, exist_ok=True)
        files.log.write_text(json.dumps(LOG | {"run": run}))


def _read_presented(folder: Path) -> None:
    states = ("new", "foreign", "complete scanner", "complete simulated", "aborted scanner", "aborted simulated")
    assert next_run(folder, CONFIG, "01", simulated=False) in (1, 2, None)
    refused = None
    for run in (1, 2):
        files = presented_files(folder, CONFIG, "01", run)
        assert files.state in states
        try:
            require_free(files, simulated=False, force=False)
        except UserError as error:
            # What was shown to its end is refused by rights.
            refused = error if files.state == "foreign" else refused
        kept = files.set_aside()
        assert kept is None or kept.parent == files.log.parent
    if refused:
        raise refused


def _new_trials(folder: Path) -> None:
    tsv(folder / "trials.tsv", run=["1", "1", "2"], trial_type=["a", "b", "a"], stim_file=["x.png", "n/a", "y.png"])


def _read_new_trials(folder: Path) -> None:
    table = _read_table(folder / "trials.tsv")
    trials = NewTrials(np.zeros((len(table), 2), np.float32), table)
    assert trials.only(()).z.shape == (len(table), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        averaged = trials.averaged("run")
    assert averaged.z.dtype == np.float32 and len(averaged.z) == len(averaged.table) > 0


# NIfTI


def _volumes(folder: Path) -> None:
    nifti(folder / "a.nii", rng().normal(size=SHAPE))
    nifti(folder / "b.nii.gz", rng().integers(0, 90, SHAPE, dtype=np.int16), slope=0.5)
    nifti(folder / "c.nii.gz", rng().normal(size=(*SHAPE, 5)).astype(np.float32), T_R)
    nifti(folder / "d.nii", rng().integers(0, 2, (*SHAPE, 5), dtype=np.uint8), T_R)


def _read_volumes(folder: Path) -> None:
    problem = None
    for name, n in (("a.nii", 3), ("b.nii.gz", 3), ("c.nii.gz", 4), ("d.nii", 4)):
        try:
            for kept in (True, False):
                image = read_image(folder / name, n, in_memory=kept)
                assert len(image.shape) in (n, n + 1) and min(image.shape) > 0 and np.isfinite(image.affine).all()
            assert image_space(folder / name) in ("mni", "talairach", "aligned", "scanner", "other", "unknown")
            if n == 4:
                assert isinstance(repetition_time(image), float)
                assert all(volume.ndim == 3 for volume in iterate_volumes(folder / name))
        except UserError as error:
            problem = error
    if problem:
        raise problem


def _masks(folder: Path) -> None:
    for name in "ab":
        nifti(folder / f"{name}.nii.gz", np.ones(SHAPE, np.uint8))


def _read_masks(folder: Path) -> None:
    found = intersect_masks([folder / "a.nii.gz", folder / "b.nii.gz"])
    assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1} and np.asarray(found.dataobj).any()


def _transforms(folder: Path) -> None:
    write_matrices(folder / "motion.json", np.stack([np.eye(4)] * 3))
    write_warp(folder / "warp.nii.gz", rng().normal(size=(*SHAPE, 3)).astype(np.float32), AFFINE)


def _read_transforms(folder: Path) -> None:
    matrices = read_matrices(folder / "motion.json")
    assert matrices.dtype == np.float64 and matrices.shape[1:] == (4, 4) and np.isfinite(matrices).all()
    values, affine = read_warp(folder / "warp.nii.gz")
    assert values.dtype == np.float32 and values.ndim == 4 and np.isfinite(values).all() and affine.shape == (4, 4)


# Decoders


def _decoder(folder: Path) -> None:
    fitted = FittedDecoder(
        model="ridge",
        coef=rng().normal(size=(4, 6)).astype(np.float32),
        intercept=np.zeros(4, np.float32),
        latent_space="w",
        latent_mean=np.ones(4, np.float32),
        training_norm=2.0,
        generator="g",
        generator_fingerprint="a" * 64,
        truncation=0.7,
        voxels=np.arange(6, dtype=np.int64),
        shape=SHAPE,
        affine=AFFINE,
        space="mni",
        training_fingerprint="b" * 64,
        n_training_trials=20,
        settings={"alphas": [1.0, 2.0], "seed": 3},
        extra={"alpha_": np.array([1.0])},
    )
    write_decoder(folder / "decoder", fitted)


def _mend_decoder(files: dict[str, bytes]) -> dict[str, bytes]:
    arrays = files["decoder.safetensors"]
    if not isinstance(arrays, bytes) or not isinstance(files["decoder.json"], bytes):
        return files
    said = re.sub(
        rb'"arrays_sha256": "[0-9a-f]*"', f'"arrays_sha256": "{sha256_bytes(arrays)}"'.encode(), files["decoder.json"]
    )
    return {**files, "decoder.json": said}


def _read_decoder(folder: Path) -> None:
    found = read_decoder(folder / "decoder")
    responses = np.zeros((2, found.coef.shape[1]), np.float32)
    assert np.isfinite(found.predict(responses)).all() and np.isfinite(found.affine).all()
    found.require_voxels(found.voxels, found.shape, found.affine)


# Trials x voxels


def _store(folder: Path) -> None:
    with write_store(folder / "z.zarr.zip", 70, np.arange(3, 15)) as writer:
        for k in range(7):
            writer.add(rng(k).normal(size=(10, 12)).astype(np.float32))


def _read_store(folder: Path) -> None:
    found = open_store(folder / "z.zarr.zip")
    n_trials, n_voxels = found.shape
    assert found.voxels.shape == (n_voxels,) and found.voxels.min() >= 0
    rows = np.array([0, n_trials - 1])
    assert found[rows].shape == (2, n_voxels) and found[:, : min(n_voxels, 5)].dtype == np.float32
    if n_trials * n_voxels < 1_000_000:
        assert found[:].shape == found.shape


# Single-trial estimates


def _stimuli_table(path: Path) -> None:
    names = [f"faces/f{k}.png" for k in range(N_TRIALS)]
    tsv(path, stim_file=names, trial_type=["train"] * 5 + ["repeat"], run=["1"] * 3 + ["2"] * 3, onset=range(N_TRIALS))


def _maps(folder: Path) -> None:
    for run in (1, 2):
        stem = folder / "sub-01" / f"sub-01_task-faces_run-{run}_stat-z_statmap"
        nifti(stem.with_name(f"{stem.name}.nii.gz"), rng(run).normal(size=(*SHAPE, N_TRIALS)).astype(np.float32))
        _stimuli_table(stem.with_name(f"{stem.name}.tsv"))


def _glmsingle_npy(folder: Path) -> None:
    (folder / "sub-01").mkdir()
    betas = rng().normal(size=(*SHAPE, N_TRIALS)).astype(np.float32)
    content = {"betasmd": betas, "R2": betas[..., 0], "note": Program()}
    np.save(folder / "sub-01" / "TYPED_FITHRF_GLMDENOISE_RR.npy", content | {"note": 1}, allow_pickle=True)
    np.save(folder / "other.npy", content, allow_pickle=True)
    _stimuli_table(folder / "sub-01" / "trials.tsv")
    nifti(folder / "sub-01" / "mask.nii.gz", np.ones(SHAPE, np.uint8))


def _glmsingle_hdf5(folder: Path) -> None:
    import h5py

    (folder / "sub-01").mkdir()
    with h5py.File(folder / "sub-01" / "TYPED_FITHRF_GLMDENOISE_RR.hdf5", "w") as file:
        file["betasmd"] = rng().normal(size=(*SHAPE, N_TRIALS)).astype(np.float32)
        file["meanvol"] = np.ones(SHAPE)
    _stimuli_table(folder / "sub-01" / "trials.tsv")


def _glmsingle_mat(folder: Path) -> None:
    import scipy.io

    (folder / "sub-01").mkdir()
    betas = rng().normal(size=(*SHAPE, N_TRIALS))
    scipy.io.savemat(folder / "sub-01" / "TYPED_FITHRF_GLMDENOISE_RR.mat", {"betasmd": betas})
    _stimuli_table(folder / "sub-01" / "trials.tsv")


def _arrays_npy(folder: Path) -> None:
    stem = folder / "sub-01" / "sub-01_stat-beta_trials"
    stem.parent.mkdir()
    np.save(stem.with_suffix(".npy"), rng().normal(size=(N_TRIALS, 24)).astype(np.float32))
    _stimuli_table(stem.with_suffix(".tsv"))
    nifti(folder / "sub-01" / "mask.nii.gz", np.ones(SHAPE, np.uint8))


def _arrays_safetensors(folder: Path) -> None:
    stem = folder / "sub-01" / "sub-01_trials"
    stem.parent.mkdir()
    tensors = {"z": rng().normal(size=(N_TRIALS, 7)).astype(np.float32), "voxels": np.arange(7)}
    stem.with_suffix(".safetensors").write_bytes(safetensors.numpy.save(tensors))
    _stimuli_table(stem.with_suffix(".tsv"))
    nifti(folder / "sub-01" / "mask.nii.gz", np.ones(SHAPE, np.uint8))


def _read_estimates(folder: Path) -> None:
    found = find_estimates(folder, "01")
    assert found.values.dtype == np.float32 and np.isfinite(found.values).all() and found.values.size
    assert len(found.values) == len(found.trials) and found.kind in ("z", "beta")
    if found.voxels is not None:
        assert found.voxels.shape == found.values.shape[1:]
        if found.shape is not None:
            assert found.voxels.min() >= 0 and found.voxels.max() < np.prod(found.shape)
    assert all(isinstance(name, str) and "/" not in name for name in found.trials["stim_file"])


# fMRIPrep

PREP = f"{STEM}_space-MNI152NLin2009cAsym_res-2"


def _fmriprep(folder: Path) -> None:
    (folder / "raw").mkdir()
    _bids(folder / "raw")
    func, n = folder / "fmriprep" / "sub-01" / "func", 12
    nifti(func / f"{PREP}_desc-preproc_bold.nii.gz", rng().uniform(100, 200, (*SHAPE, n)).astype(np.float32), T_R)
    nifti(func / f"{PREP}_desc-brain_mask.nii.gz", np.ones(SHAPE, np.uint8))
    (func / f"{PREP}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": T_R, "StartTime": 0.7}))
    columns = {f"{kind}_{axis}": rng(k).normal(size=n) for k, (kind, axis) in enumerate(_motion())}
    columns |= {"csf": rng().normal(size=n), "white_matter": rng(1).normal(size=n), "cosine00": np.linspace(1, -1, n)}
    columns |= {"framewise_displacement": [np.nan] + [0.1] * (n - 1), "std_dvars": [np.nan] + [1.0] * (n - 1)}
    columns |= {f"a_comp_cor_{k:02d}": rng(k).normal(size=n) for k in range(3)}
    columns |= {"non_steady_state_outlier00": [1.0] + [0.0] * (n - 1)}
    tsv(func / f"{STEM}_desc-confounds_timeseries.tsv", **columns)
    about = {f"a_comp_cor_{k:02d}": {"Mask": "combined", "Retained": True, "Method": "aCompCor"} for k in range(3)}
    (func / f"{STEM}_desc-confounds_timeseries.json").write_text(json.dumps(about))


def _motion():
    return [(kind, axis) for kind in ("trans", "rot") for axis in "xyz"]


def _read_fmriprep(folder: Path) -> None:
    (run,) = find_fmriprep_runs(folder / "fmriprep", index_bids(folder / "raw").runs)
    for strategy, options in (
        (("motion", "high_pass", "wm_csf"), {"motion": "basic"}),
        (("compcor", "high_pass", "scrub"), {}),
    ):
        found = load_fmriprep_confounds(run, strategy, **options)
        assert np.isfinite(found.values).all() and found.values.shape[1] == len(found.names)
    loaded = load_fmriprep_run(run)
    assert loaded.t_r > 0 and 0 <= run.slice_time_ref <= 1
    assert len(found.values) == loaded.image.shape[3]
    intersect_masks([run.mask])


# Regions that a user draws


def _regions(folder: Path) -> None:
    labels = np.arange(int(np.prod(SHAPE)), dtype=np.int16).reshape(SHAPE) % 5
    nifti(folder / "labels.nii.gz", labels)
    nifti(folder / "other" / "mask.nii.gz", np.ones(SHAPE, np.uint8))


def _read_regions(folder: Path) -> None:
    mask = nib.load(folder / "other" / "mask.nii.gz")
    where = np.argwhere(np.asarray(mask.dataobj) > 0)
    found = map_regions(folder, MappingSettings(region_image="labels.nii.gz"), mask, where, "areas")
    assert isinstance(found, RegionSet) and len(found.names) > 0
    assert all(isinstance(name, str) for name in found.names)


# Records


def _records(folder: Path) -> None:
    (folder / "out.txt").write_text("made")
    run_step(_step(folder), folder, folder / "records")


def _step(folder: Path) -> Step:
    return Step("step", 1, {"a": 1, "b": [1.5, "x"]}, (folder / "in.txt",), (folder / "out.txt",), lambda: {"n": 3})


def _read_records(folder: Path) -> None:
    assert isinstance(read_facts(folder / "records", "step"), dict)
    refuse_other_settings(_step(folder), folder / "records")
    assert isinstance(run_step(_step(folder), folder, folder / "records"), bool)


# Weights


def _weights(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        filename, good = file_makers.small_files()[name]
        (folder / filename).write_bytes(good)
        (folder / "other").write_bytes(file_makers.small_files(Program())[name][1])

    return make


def _read_weights(folder: Path) -> None:
    path = next((path for path in folder.iterdir() if path.name != "other"), folder / "gone.pth")
    if path.suffix == ".dat":
        found = read_hyper_data(path)
        for values in (found.x_train, found.t_train, found.x_test, found.t_test):
            assert values.dtype == np.float32 and values.ndim == 2 and np.isfinite(values).all()
        return
    contents = read_weights(path)
    assert isinstance(contents, WeightContents)
    for name, value in contents.tensors.items():
        assert name.isprintable() and value.dtype == np.float32 and np.isfinite(value).all()
    if path.suffix == ".safetensors":
        assert all(isinstance(text, str) for text in read_header(path).values())
    try:
        convert(contents)
    except UserError as error:
        if "no network known here" not in str(error):
            raise


def _imported(folder: Path) -> None:
    contents = {"conv.1.weight": np.ones((2, 3), np.float32), "conv.1.bias": np.zeros(2, np.float32)}
    weights = Weights("pggan", "a layout", contents, {"size": 4}, "a licence")
    with _cache(folder):
        save_imported(weights, "mine", "mine.pkl", "a" * 64)


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("HYPERDECODE_CACHE")
    os.environ["HYPERDECODE_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("HYPERDECODE_CACHE")
        if before is not None:
            os.environ["HYPERDECODE_CACHE"] = before


def _read_imported(folder: Path) -> None:
    with _cache(folder):
        assert set(imported_names()) <= {"mine"}
        assert all(isinstance(text, str) for text in imported_summary("mine").values())
        found = load_imported("mine")
    assert all(np.isfinite(value).all() and value.dtype == np.float32 for value in found.tensors.values())


def _zip_bomb(folder: Path) -> None:
    _weights("torch zip")(folder)
    state = (folder / "a.pth").read_bytes()
    import zipfile

    (folder / "a.pth").write_bytes(file_makers.repacked(state, zipfile.ZIP_DEFLATED))


def _boundaries(folder: Path) -> None:
    np.save(folder / "pggan_celebahq_age_boundary.npy", rng().normal(size=(1, 24)).astype(np.float32))
    one = {"normal": np.ones(4, np.float32), "bias": np.float32(0), "scale": np.float32(1)}
    write_attribute_tensors(folder / "attributes.safetensors", {"z": {"age": one}, "w": {"smile": one}}, {"a": "b"})


def _checkpoint(folder: Path) -> None:
    FileCheckpoint(folder / "checkpoint.safetensors").save(
        {"weights": np.ones((3, 2), np.float32), "losses": np.array([1.0, 0.5]), "steps": np.array(3)}
    )


def _read_checkpoint(folder: Path) -> None:
    found = FileCheckpoint(folder / "checkpoint.safetensors").load()
    assert found is None or all(isinstance(value, np.ndarray) for value in found.values())


def _attributes(folder: Path) -> None:
    one = {"normal": np.ones(4, np.float32), "bias": np.float32(0), "scale": np.float32(1)}
    write_attribute_tensors(
        folder / "attributes" / "mine.safetensors", {"z": {"age": one}, "w": {"smile": one, "age": one}}, {"a": "b"}
    )


def _read_attributes(folder: Path) -> None:
    with _cache(folder):
        for space, found in attribute_spaces("mine").items():
            assert (
                found.space == space and bool(found.normals.isfinite().all()) and len(found.names) == len(found.biases)
            )


def _read_boundaries(folder: Path) -> None:
    vector = read_boundary(folder / "pggan_celebahq_age_boundary.npy")
    assert vector.ndim == 1 and np.isfinite(vector).all() and abs(np.linalg.norm(vector) - 1) < 1e-3
    path = folder / "attributes.safetensors"
    for attributes in read_attribute_tensors(read_bytes(path), path.name).values():
        for parts in attributes.values():
            assert all(np.isfinite(value).all() for value in parts.values())


BIDS_KINDS = {"bold.nii.gz": "nii", "T1w.nii.gz": "nii", ".json": "json", "events.tsv": "tsv"}
ESTIMATES = {
    ".nii.gz": "nii",
    ".tsv": "tsv",
    ".npy": "npy",
    ".hdf5": "bytes",
    ".mat": "bytes",
    ".safetensors": "safetensors",
}
IN_ONE = {
    ".pth": "bytes",
    ".pkl": "bytes",
    ".params": "bytes",
    ".h5": "bytes",
    ".dat": "bytes",
    "h.safetensors": "safetensors",
}

TARGETS: dict[str, Target] = {
    "study.toml": Target(_config, _read_config, {"study.toml": "toml"}),
    "stimuli": Target(
        _stimuli,
        _read_stimuli,
        {"manifest.tsv": "tsv", "manifest.json": "json", "latents.safetensors": "safetensors", ".png": "png"},
        _mend_stimuli,
        share=2,
    ),
    "pictures": Target(_picture, _read_pictures, {".png": "png"}),
    "bids": Target(_bids, _read_bids, BIDS_KINDS, renames=True, share=2),
    "events": Target(lambda folder: _events(folder / "events.tsv"), _read_events, {"events.tsv": "tsv"}),
    "participants": Target(_participants, _read_participants, {"participants.tsv": "tsv"}, writes=True, share=0.5),
    "derivatives": Target(_derivatives, _read_derivatives, {".json": "json"}, writes=True, share=0.5),
    "plan": Target(_plan, _read_plan, {".json": "json", ".tsv": "tsv"}),
    "presented": Target(_presented, _read_presented, {"_presentation.json": "json"}, writes=True, share=0.5),
    "new trials": Target(_new_trials, _read_new_trials, {"trials.tsv": "tsv"}, share=0.5),
    "nifti": Target(_volumes, _read_volumes, {".nii": "nii", ".nii.gz": "nii"}, share=2),
    "masks": Target(_masks, _read_masks, {".nii.gz": "nii"}, share=0.5),
    "transforms": Target(_transforms, _read_transforms, {".json": "json", ".nii.gz": "nii"}),
    "decoder": Target(_decoder, _read_decoder, {".json": "json", ".safetensors": "safetensors"}, _mend_decoder),
    "trial store": Target(_store, _read_store, {".zarr.zip": "bytes"}),
    "estimates: maps": Target(_maps, _read_estimates, ESTIMATES, renames=True),
    "estimates: GLMsingle .npy": Target(_glmsingle_npy, _read_estimates, ESTIMATES),
    "estimates: GLMsingle .hdf5": Target(_glmsingle_hdf5, _read_estimates, ESTIMATES),
    "estimates: GLMsingle .mat": Target(_glmsingle_mat, _read_estimates, {".mat": "bytes"}, sound=False, share=0.2),
    "estimates: .npy": Target(_arrays_npy, _read_estimates, ESTIMATES),
    "estimates: .safetensors": Target(_arrays_safetensors, _read_estimates, ESTIMATES),
    "fmriprep": Target(
        _fmriprep, _read_fmriprep, {".json": "json", ".tsv": "tsv", "preproc_bold.nii.gz": "nii", "mask.nii.gz": "nii"}
    ),
    "region image": Target(_regions, _read_regions, {"labels.nii.gz": "nii"}, share=0.5),
    "records": Target(_records, _read_records, {".toml": "toml"}, writes=True, share=0.5),
    "weights: torch zip": Target(_weights("torch zip"), _read_weights, IN_ONE),
    "weights: torch zip, deflated": Target(_zip_bomb, _read_weights, IN_ONE, share=0.5),
    "weights: torch legacy": Target(_weights("torch legacy"), _read_weights, IN_ONE),
    "weights: NVIDIA pickle": Target(_weights("nvidia"), _read_weights, IN_ONE),
    "weights: TensorFlow pickle": Target(_weights("dnnlib"), _read_weights, IN_ONE),
    "weights: MXNet": Target(_weights("mxnet"), _read_weights, IN_ONE),
    "weights: Keras HDF5": Target(_weights("keras"), _read_weights, IN_ONE),
    "weights: safetensors": Target(_weights("safetensors"), _read_weights, IN_ONE),
    "weights: imported": Target(_imported, _read_imported, {".safetensors": "safetensors"}, share=0.5),
    "released .dat": Target(_weights("hyper data"), _read_weights, IN_ONE),
    "attributes": Target(_attributes, _read_attributes, {".safetensors": "safetensors"}, share=0.5),
    "checkpoint": Target(_checkpoint, _read_checkpoint, {".safetensors": "safetensors"}, writes=True, share=0.5),
    "boundaries": Target(_boundaries, _read_boundaries, {".npy": "npy", ".safetensors": "safetensors"}),
}
