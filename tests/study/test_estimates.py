from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from hyperdecode.errors import UserError
from hyperdecode.study import estimates as module
from hyperdecode.study.estimate_files import kind_of, read_array
from hyperdecode.study.estimates import find_estimates

SHAPE, N = (4, 3, 2), 6
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -7], [0, 0, 2, 3], [0, 0, 0, 1]])
TYPED = "TYPED_FITHRF_GLMDENOISE_RR"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub-01").mkdir()
    return tmp_path


def responses(n=N, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (*SHAPE, n)).astype(np.float32)


def save_nifti(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return path


def table(path, n=N, **columns):
    content = {"stim_file": [f"faces/f{k:03d}.png" for k in range(n)]} | columns
    pd.DataFrame(content).to_csv(path, sep="\t", index=False, na_rep="n/a")
    return path


def refused(folder, words, *names):
    with pytest.raises(UserError, match=words) as error:
        find_estimates(folder, "01")
    assert "\n" not in str(error.value)
    for name in names:
        assert name in str(error.value)


# Maps


def maps(folder, values, stem="sub-01_task-faces_run-1_stat-z_statmap", extension=".nii.gz", **columns):
    path = save_nifti(folder / "sub-01" / f"{stem}{extension}", values)
    table(path.with_name(f"{stem}.tsv"), values.shape[3], **columns)
    return path


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
def test_maps_of_runs(folder, extension):
    # Written in an order that is not that of the runs; run 10 comes after run 2.
    parts = {run: responses(n, run) for run, n in ((10, 3), (2, 5))}
    for run, values in parts.items():
        values[0, 0, 0] = 0  # outside of the brain by one habit
        values[1, 1, 1, 0] = np.nan  # and by the other, in one trial alone
        values[2, 2, 1, 1] = 0  # a zero in one trial is a value
        maps(folder, values, f"sub-01_task-faces_run-{run}_stat-z_statmap", extension)
    found = find_estimates(folder, "01")
    expected = np.concatenate([parts[2], parts[10]], axis=3)
    inside = np.ones(SHAPE, dtype=bool)
    inside[0, 0, 0] = inside[1, 1, 1] = False
    assert found.kind == "z" and found.shape == SHAPE and found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, expected[inside].T)
    np.testing.assert_array_equal(found.voxels, np.flatnonzero(inside))
    np.testing.assert_array_equal(found.affine, AFFINE)
    assert found.trials["stim_file"].tolist() == [f"f{k:03d}.png" for k in (*range(5), *range(3))]
    assert [run.count("run-2_") for run in found.trials["run"]] == [1] * 5 + [0] * 3
    assert found.trials["trial"].tolist() == [*"01234", *"012"]


def test_one_map_of_a_subject_with_other_events(folder):
    values = responses(5)
    path = save_nifti(folder / "sub-01_stat-beta_statmap.nii.gz", values)
    kinds = ["train", "repeat", "test", "train", "train"]
    stimuli = ["a.png", "a.png", "b.png", None, "c.png"]
    table(path.with_name("sub-01_stat-beta_statmap.tsv"), 5, stim_file=stimuli, trial_type=kinds, run=[1, 1, 1, 2, 2])
    found = find_estimates(folder, "01")
    assert found.kind == "beta" and found.n_left_out == 2
    np.testing.assert_array_equal(found.values, values[..., [0, 2, 4]].reshape(-1, 3).T)
    assert found.trials["stim_file"].tolist() == ["a.png", "b.png", "c.png"]
    assert found.trials["run"].tolist() == ["1", "1", "2"]


def test_runs_of_one_name_in_two_sessions_stay_apart(folder):
    for session in "ab":
        stem = f"sub-01_ses-{session}_stat-z_statmap"
        path = save_nifti(folder / "sub-01" / f"ses-{session}" / f"{stem}.nii.gz", responses())
        table(path.with_name(f"{stem}.tsv"), run=[1] * N, onset=np.arange(N))
    assert find_estimates(folder, "01").trials["run"].nunique() == 2


def test_other_subjects_are_not_read(folder):
    maps(folder, responses())
    for name in ("sub-010/sub-010_stat-z_statmap", "sub-02/sub-02_stat-z_statmap", "sub-010_stat-z_statmap"):
        path = save_nifti(folder / f"{name}.nii.gz", responses())
        table(path.parent / f"{Path(name).name}.tsv")
    assert len(find_estimates(folder, "01").trials) == N


def test_maps_that_do_not_fit(folder):
    path = maps(folder, responses())
    listed = path.with_name("sub-01_task-faces_run-1_stat-z_statmap.tsv")
    table(listed, N - 1)
    refused(folder, r"has 5 rows, .* holds 6 trials", listed.name, path.name)
    table(listed, trial=[1, 2, 3, 4, 5, 5])
    refused(folder, "trial 5 of run .* stands there twice", listed.name)
    table(listed, onset=[0, 3, 6, 9, 9, 12])
    refused(folder, "onset 9 of run .* stands there twice", listed.name)
    table(listed, stim_file=[None] * N)
    refused(folder, "names no picture", listed.name)
    pd.DataFrame({"onset": range(N)}).to_csv(listed, sep="\t", index=False)
    refused(folder, "lacks the column stim_file", listed.name)
    listed.write_text("")
    refused(folder, "not a tab-separated table", listed.name)
    listed.unlink()
    refused(folder, "has no table", path.name, listed.name)


def test_maps_without_values(folder):
    values = responses()
    values[..., 3] = np.nan
    path = maps(folder, values)
    refused(folder, "volume 4 holds no value", path.name)
    table(path.with_name("sub-01_task-faces_run-1_stat-z_statmap.tsv"), stim_file=["a", "b", "c", None, "e", "f"])
    assert find_estimates(folder, "01").values.shape == (5, np.prod(SHAPE))
    values = responses()
    values[:2, ..., 0] = values[2:, ..., 1] = np.nan
    maps(folder, values)
    refused(folder, "no voxel has a value in every trial", path.name)
    path.write_bytes(path.read_bytes()[:-60])
    refused(folder, "truncated", path.name)


def test_maps_of_two_grids_or_kinds(folder):
    one = maps(folder, responses())
    other = maps(folder, responses()[:, :, :1], "sub-01_task-faces_run-2_stat-z_statmap")
    refused(folder, "lies on another grid", one.name, other.name)
    other.unlink()
    other = maps(folder, responses(), "sub-01_task-faces_run-3_stat-effect_statmap")
    refused(folder, "holds z, .* holds beta", one.name, other.name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sub-z_stat-effect_statmap.nii.gz", "beta"),
        ("sub-01_task-z_betas.npy", "beta"),
        ("sub-01_zmaps.nii", "z"),
        ("zstat.nii.gz", "z"),
        ("sub-01_stat-z_trials.npy", "z"),
        ("sub-01_stat-t_statmap.nii.gz", None),
        ("sub-01_statmap.nii.gz", None),
        ("sub-01_stat-z_betas.nii.gz", None),
    ],
)
def test_kinds_by_name(name, kind):
    if kind is not None:
        assert kind_of(Path(name)) == kind
        return
    with pytest.raises(UserError, match="put stat-z or stat-beta into it") as error:
        kind_of(Path(name))
    assert name in str(error.value) and "\n" not in str(error.value)


# GLMsingle


def glmsingle(betas):
    """What GLMsingle's Python program keeps of its last model."""
    shape = betas.shape[:-1]
    return {
        "HRFindex": np.zeros(shape), "HRFindexrun": np.zeros((*shape, 2)), "glmbadness": np.zeros((24, 11)),
        "pcvoxels": np.ones(shape, bool), "pcnum": np.int64(3), "xvaltrend": None, "noisepool": np.ones(shape, bool),
        "pcregressors": [np.ones((20, 10), np.float32)] * 2, "betasmd": betas, "R2": np.zeros(shape, np.float32),
        "FRACvalue": np.ones(shape), "scaleoffset": np.array([]), "meanvol": np.ones(shape, np.float32),
    }  # fmt: skip


def save_glmsingle(folder, betas, name=TYPED, extension=".npy", **columns):
    path = folder / f"{name}{extension}"
    if extension == ".npy":
        np.save(path, glmsingle(betas))
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for key, value in glmsingle(betas).items():
                if value is None:
                    file.create_dataset(key, data=h5py.Empty("f"))
                elif isinstance(value, np.integer):
                    file.attrs[key] = value
                else:
                    file.create_dataset(key, data=np.stack(value) if isinstance(value, list) else value)
    table(folder / "trials.tsv", betas.shape[-1], **columns)
    return path


@pytest.mark.parametrize("extension", [".npy", ".hdf5"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_glmsingle(folder, extension, order):
    betas = np.array(responses(), order=order)
    betas[0, 1, 0] = np.nan
    save_glmsingle(folder / "sub-01", betas, extension=extension)
    save_glmsingle(folder / "sub-01", betas + 1, "TYPEC_FITHRF_GLMDENOISE", extension)
    save_glmsingle(folder / "sub-01", betas + 2, "TYPEB_FITHRF", extension)
    (folder / "sub-01" / "DESIGNINFO.npy").write_bytes(b"anything")
    found = find_estimates(folder, "01")
    inside = np.isfinite(betas).all(-1)
    assert found.kind == "beta" and found.shape == SHAPE and found.affine is None
    np.testing.assert_array_equal(found.values, betas[inside].T)
    np.testing.assert_array_equal(found.voxels, np.flatnonzero(inside))
    mask = np.ones(SHAPE, np.uint8)
    mask[1] = 0
    save_nifti(folder / "sub-01" / "mask.nii.gz", mask)
    found = find_estimates(folder, "01")
    np.testing.assert_array_equal(found.values, betas[inside & (mask > 0)].T)
    np.testing.assert_array_equal(found.affine, AFFINE)


def test_glmsingle_with_other_events(folder):
    betas = responses()
    save_glmsingle(
        folder / "sub-01", betas, stim_file=["a", None, "b", "c", "c", "d"], trial_type=[*"aaaa", "repeat", "a"]
    )
    found = find_estimates(folder, "01")
    assert found.trials["stim_file"].tolist() == [*"abcd"] and found.n_left_out == 2
    np.testing.assert_array_equal(found.values, betas.reshape(-1, N).T[[0, 2, 3, 5]])


def test_glmsingle_without_the_better_models(folder):
    betas = responses()
    path = save_glmsingle(folder / "sub-01", betas, "TYPEB_FITHRF")
    np.testing.assert_array_equal(find_estimates(folder, "01").values, betas.reshape(-1, N).T)
    assert find_estimates(folder, "01").files == (path, path.with_name("trials.tsv"))


@pytest.mark.parametrize("shape", [(9, 1, 1), (9,)])
def test_glmsingle_of_voxels_taken_by_a_mask(folder, shape):
    mask = np.zeros(SHAPE, np.uint8)
    mask.ravel()[[1, 2, 5, 7, 11, 13, 17, 19, 23]] = 1
    volume = responses()
    betas = volume[mask > 0].reshape(*shape, N).copy()
    betas[4] = np.nan
    save_glmsingle(folder / "sub-01", betas)
    found = find_estimates(folder, "01")
    assert found.shape is None and found.voxels.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    where = save_nifti(folder / "sub-01" / "mask.nii.gz", mask)
    found = find_estimates(folder, "01")
    assert found.shape == SHAPE and found.voxels.tolist() == [1, 2, 5, 7, 13, 17, 19, 23]
    np.testing.assert_array_equal(found.values, volume.reshape(-1, N)[found.voxels].T)
    mask.ravel()[0] = 1
    save_nifti(where, mask)
    refused(folder, "has 10 voxels", "mask.nii.gz", TYPED)
    save_nifti(where, np.where(mask, 1.0, np.nan))
    refused(folder, "NaN or infinite", "mask.nii.gz")


def test_glmsingle_of_two_sessions(folder):
    parts = [responses(4, seed) for seed in (1, 2)]
    parts[0][0, 0, 0], parts[1][3, 2, 1] = np.nan, np.nan
    for session, betas in zip("ab", parts, strict=True):
        (folder / "sub-01" / f"ses-{session}").mkdir()
        save_glmsingle(folder / "sub-01" / f"ses-{session}", betas, run=[1, 1, 2, 2])
    found = find_estimates(folder, "01")
    assert found.voxels.tolist() == list(range(1, 23)) and found.trials["run"].nunique() == 4
    np.testing.assert_array_equal(found.values, np.concatenate([p.reshape(-1, 4)[1:23].T for p in parts]))
    save_glmsingle(folder / "sub-01" / "ses-b", parts[1][:3])
    refused(folder, "has other voxels than", TYPED)


class Hostile:
    """What a malicious pickle is: loading it would run a command."""

    def __reduce__(self):
        return os.system, ("touch stolen",)


def test_glmsingle_files_run_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    path = save_glmsingle(folder / "sub-01", responses())
    np.save(path, {"betasmd": Hostile()}, allow_pickle=True)
    assert b"touch stolen" in path.read_bytes()
    refused(folder, r"cannot be used as GLMsingle's output .*system", path.name, "np.save")
    with path.open("rb+") as stream:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        stream.truncate()
        pickle.dump(Hostile(), stream)
    refused(folder, "nothing in it was run", path.name)
    assert not (folder / "stolen").exists()


def test_unusable_glmsingle_files(folder):
    path = save_glmsingle(folder / "sub-01", responses())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(folder, "cannot be used as GLMsingle's output", path.name)
    path.write_bytes(b"no numpy file")
    refused(folder, "is no NumPy file", path.name)
    np.save(path, {"R2": np.ones(3)})
    refused(folder, "no dictionary with the array betasmd", path.name)
    np.save(path, responses())
    refused(folder, "not a dictionary", path.name)
    np.save(path, {"betasmd": np.ones((2, 3, 4))})
    refused(folder, r"betasmd has shape \(2, 3, 4\)", path.name)
    np.save(path, {"betasmd": np.full((2, 1, 1, N), np.nan)})
    refused(folder, "no voxel has a value in every trial", path.name)
    save_glmsingle(folder / "sub-01", responses())
    table(folder / "sub-01" / "trials.tsv", N + 1)
    refused(folder, r"has 7 rows, .* holds 6 trials", "trials.tsv", path.name)
    (folder / "sub-01" / "trials.tsv").unlink()
    refused(folder, "trials.tsv does not exist", path.name)
    path.rename(path.with_suffix(".mat"))
    refused(folder, "MATLAB's compressed HDF5", f"{TYPED}.mat")


def test_unusable_glmsingle_hdf5(folder):
    path = folder / "sub-01" / f"{TYPED}.hdf5"
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("betasmd", data=responses(), compression="gzip")
    table(folder / "sub-01" / "trials.tsv")
    refused(folder, "cannot be used as GLMsingle's output .*chunks", path.name)
    with h5py.File(path, "w") as file:
        file.create_dataset("R2", data=responses())
    refused(folder, "no dataset betasmd", path.name)
    path.write_bytes(b"")
    refused(folder, "cannot be used as GLMsingle's output", path.name)


# Plain arrays


def arrays(folder, content, name="sub-01_stat-beta_trials.npy", n=N, **columns):
    path = folder / "sub-01" / name
    if path.suffix == ".npy":
        np.save(path, content)
    else:
        save_file(content, path)
    table(path.with_suffix(".tsv"), n, **columns)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, ">f4"])
def test_arrays(folder, dtype):
    values = (10 * responses()).reshape(-1, N).T.astype(dtype)
    arrays(folder, values, run=[1, 1, 1, 2, 2, 2], stim_file=["a", None, "b", "c", "d", "e"])
    found = find_estimates(folder, "01")
    assert found.values.dtype == np.float32 and found.values.flags["C_CONTIGUOUS"] and found.values.dtype.isnative
    np.testing.assert_array_equal(found.values, values[[0, 2, 3, 4, 5]].astype(np.float32))
    assert (found.shape, found.affine, found.voxels, found.kind) == (None, None, None, "beta")


def test_large_ones_are_handed_on_in_blocks(folder, monkeypatch):
    monkeypatch.setattr(module, "N_ROWS", 2)
    values = np.ascontiguousarray((10 * responses()).reshape(-1, N).T)
    path = arrays(folder, values)
    chosen = np.array([1, 5, 7])

    def whole():
        found = find_estimates(folder, "01")
        assert all(len(block) <= 2 for block in found.rows(chosen))
        np.testing.assert_array_equal(np.concatenate(list(found.rows(chosen))), found.values[:, chosen])
        return found.values

    np.testing.assert_array_equal(whole(), values)
    assert isinstance(read_array(path)[0], np.memmap), "left on the disk"
    for file in folder.rglob("*"):
        file.unlink() if file.is_file() else None
    maps(folder, responses())
    assert whole().shape[0] == N


def test_arrays_with_a_mask(folder):
    mask = np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8)
    volume = responses()
    path = arrays(folder, volume[mask > 0].T)
    for name in ("sub-01_stat-beta_trials_mask.nii.gz", "mask.nii"):
        where = save_nifti(path.with_name(name), mask)
        found = find_estimates(folder, "01")
        np.testing.assert_array_equal(found.values, volume.reshape(-1, N)[found.voxels].T)
        assert found.shape == SHAPE
        mask.ravel()[np.flatnonzero(mask)[0]] = 0
        save_nifti(where, mask)
        refused(folder, f"{mask.sum()} voxels, .* has {mask.sum() + 1} columns", name, path.name)
        where.unlink()
        mask = np.zeros(SHAPE, np.uint8)
        mask.ravel()[found.voxels] = 1


def test_safetensors(folder):
    z, voxels = responses().reshape(-1, N).T[:, :3].copy(), np.array([4, 2, 9])
    path = arrays(folder, {"z": z, "voxels": voxels}, "sub-01_trials.safetensors")
    found = find_estimates(folder, "01")
    assert found.kind == "z" and found.voxels.tolist() == [4, 2, 9] and found.shape is None
    np.testing.assert_array_equal(found.values, z)
    save_nifti(path.with_name("mask.nii.gz"), np.ones(SHAPE, np.uint8))
    assert find_estimates(folder, "01").shape == SHAPE
    for bad in ([4, 2, 24], [4, 2, -1], [4, 2, 2]):
        arrays(folder, {"z": z, "voxels": np.array(bad)}, path.name)
        refused(folder, "no different indices into the 24 voxels", path.name, "mask.nii.gz")
    for bad in (np.array([1, 2]), np.array([1.0, 2, 3])):
        arrays(folder, {"z": z, "voxels": bad}, path.name)
        refused(folder, "expected one integer for each of the 3 columns", path.name)
    arrays(folder, {"z": z, "beta": z}, path.name)
    refused(folder, "expected one of z, beta, betas, values", path.name)
    arrays(folder, {"values": z}, path.name)
    refused(folder, "put stat-z or stat-beta into it", path.name)
    path.write_bytes(path.read_bytes()[:-9])
    refused(folder, "not readable as safetensors", path.name)


def test_unusable_arrays(folder, monkeypatch):
    monkeypatch.chdir(folder)
    values = responses().reshape(-1, N).T.copy()
    path = arrays(folder, values)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    refused(folder, "is cut off: 5 bytes", path.name)
    path.write_bytes(whole[:30])
    refused(folder, "is no NumPy file", path.name)
    values[2, 1] = np.inf
    arrays(folder, values)
    refused(folder, "row 3, column 2 is no finite number", path.name)
    arrays(folder, responses())
    refused(folder, r"shape \(4, 3, 2, 6\), expected real numbers, trials x voxels", path.name)
    arrays(folder, np.zeros((N, 0)))
    refused(folder, "expected real numbers, trials x voxels", path.name)
    arrays(folder, np.ones((N, 2), complex))
    refused(folder, "expected real numbers, trials x voxels", path.name)
    np.save(path, np.array([Hostile()], dtype=object), allow_pickle=True)
    refused(folder, "holds pickled Python objects", path.name)
    assert not (folder / "stolen").exists()
    arrays(folder, responses().reshape(-1, N).T, n=N - 2)
    refused(folder, r"has 4 rows, .* holds 6 trials", path.name)
    path.unlink()
    path.symlink_to(folder / "annex" / "object")
    refused(folder, "get the file's content first", path.name)


def test_absurd_sizes_are_not_allocated(folder):
    path = arrays(folder, np.zeros((N, 3), np.float32))
    with path.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (6_000_000, 3_000_000)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(bytes(200))
    refused(folder, "is cut off: 71999999999800 bytes", path.name)


@pytest.mark.parametrize("kind", ["glmsingle.npy", "glmsingle.hdf5", "array.npy", "array.safetensors", "map.nii"])
def test_damaged_files_end_in_one_line(folder, kind):
    what, _, extension = kind.partition(".")
    if what == "glmsingle":
        path = save_glmsingle(folder / "sub-01", responses(), extension=f".{extension}")
    elif what == "map":
        path = maps(folder, responses(), extension=".nii")
    else:
        matrix = responses().reshape(-1, N).T.copy()
        path = arrays(folder, matrix if extension == "npy" else {"beta": matrix}, f"sub-01_stat-beta_x.{extension}")
    whole, rng, refusals = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        harmed = bytearray(whole)
        for _ in range(rng.choice([1, 2, 10])):
            # Mostly where the structure is, at the front.
            harmed[rng.randrange(min(len(harmed), rng.choice([400, len(harmed)])))] = rng.randrange(256)
        path.write_bytes(bytes(harmed[: rng.randrange(len(harmed))] if rng.random() < 0.1 else harmed))
        try:
            find_estimates(folder, "01")
        except UserError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > 40


def test_nothing_or_two_layouts(folder):
    refused(folder, "holds no estimates of sub-01", str(folder))
    path = arrays(folder, responses().reshape(-1, N).T)
    maps(folder, responses())
    refused(folder, "keep one", path.name, "stat-z_statmap.nii.gz")
    with pytest.raises(UserError, match="no such folder"):
        find_estimates(folder / "nowhere", "01")
    path.with_suffix(".tsv").unlink()
    for other in (folder / "sub-01").glob("*statmap*"):
        other.unlink()
    refused(folder, "has no table", path.name)
