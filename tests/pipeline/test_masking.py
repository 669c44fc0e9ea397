"""The mask step reads runs volume by volume and writes a store; it must find what reading all at once would."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.fmri.mask import reliability_mask, voxel_mask
from hyperdecode.pipeline.masking import Masking
from hyperdecode.pipeline.trial_maps import MappedTrials
from hyperdecode.study.bids import BoldRun
from hyperdecode.study.derivatives import write_image, write_table
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.trial_store import open_store

GRID = (7, 6, 5)
LENGTHS = (70, 11, 33)


class Stimuli:
    def __init__(self, folder):
        self.folder = folder

    def require(self, shown):
        assert all(name.startswith("s") for name in shown)

    def roles(self, shown):
        return ["test" if int(name[1:]) % 5 == 0 else "train" for name in shown]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masking")
    layout, rng = Layout(folder), np.random.default_rng(0)
    runs = [
        BoldRun("01", None, "t", str(k), folder / f"r{k}.nii.gz", folder / f"r{k}.tsv", {}, None, f"r{k}")
        for k in range(3)
    ]
    shown = [f"s{k % 40}" for k in range(sum(LENGTHS))]
    face = rng.standard_normal((40, *GRID)) * (np.arange(7) / 4)[:, None, None]
    first, volumes = 0, []
    for length in LENGTHS:
        names = shown[first : first + length]
        z = np.stack([face[int(name[1:])] for name in names], -1) + rng.standard_normal((*GRID, length))
        volumes.append(z.astype(np.float32))
        first += length
    volumes[0][0, 0, 0] = 0  # outside of the brain of one run
    volumes[1][1:3, 0, 0, 4] = np.nan  # a voxel that was constant in a run
    volumes[2][6, :, 0] = 0
    for z in volumes:
        z[0, 5, 4] = 0  # outside of all
        z[2, 2, 2] = z[3, 3, 3]  # a tie
    for run, z, first in zip(runs, volumes, np.cumsum((0, *LENGTHS)), strict=False):
        write_image(layout.zmap(run), z, np.diag([2, 2, 2, 1]), space="scanner")
        write_table(layout.trials(run), pd.DataFrame({"run": run.stem, "stim_file": shown[first : first + z.shape[3]]}))
    write_image(layout.mean_functional(runs[0]), np.ones(GRID, np.float32), np.diag([2, 2, 2, 1]), space="scanner")
    (folder / "manifest.tsv").touch()
    return SimpleNamespace(
        layout=layout, runs=runs, shown=shown, z=np.concatenate([v.reshape(-1, v.shape[3]).T for v in volumes])
    )


def masking(study, **bold):
    source = SimpleNamespace(runs=study.runs, space="", in_mni=False)
    settings = BoldSettings(space="native", **bold)
    return Masking(study.layout, settings, Stimuli(study.layout.study), "01", MappedTrials(study.layout, source))


def all_at_once(study, kind, n):
    """What the step found when it held all trials in one array."""
    in_run = [part for part in np.split(study.z, np.cumsum(LENGTHS)[:-1])]
    seen = np.all([(part != 0).any(0) & np.isfinite(part).all(0) for part in in_run], axis=0)
    voxels = np.flatnonzero(seen)
    roles = np.array(Stimuli(None).roles(study.shown))
    training, names = study.z[roles == "train"][:, voxels], list(np.array(study.shown)[roles == "train"])
    if kind == "all":
        return voxels
    found = (
        voxel_mask(training, ["train"] * len(names), n)
        if kind == "active"
        else reliability_mask(training, ["train"] * len(names), names, n)
    )
    return voxels[found.selected]


@pytest.mark.parametrize(("kind", "n"), [("active", 50), ("active", 2), ("reliable", 50), ("all", None)])
def test_voxels_and_values_are_those_of_all_at_once(study, kind, n, monkeypatch):
    monkeypatch.setattr("hyperdecode.pipeline.trial_maps.N_ROWS", 9)
    step = masking(study, voxels=kind, **({"n_voxels": n} if n else {}))
    facts = step.step().work()
    store, expected = open_store(study.layout.masked("01")), all_at_once(study, kind, n)
    np.testing.assert_array_equal(store.voxels, expected)
    np.testing.assert_array_equal(store[:], study.z[:, expected])
    assert facts["n_voxels"] == len(expected) and facts["n_training_trials"] + facts["n_test_trials"] == 114
    assert len(expected) < study.z.shape[1] - 7
    trials = pd.read_csv(study.layout.subject("01", "trials.tsv"), sep="\t")
    assert trials["stim_file"].tolist() == study.shown
    assert trials["role"].tolist() == Stimuli(None).roles(study.shown)
    mask = np.asarray(nib.load(step.files["mask"]).dataobj)
    np.testing.assert_array_equal(np.flatnonzero(mask), expected)
    left = [path.name for path in study.layout.masked("01").parent.iterdir() if path.name.startswith(".")]
    assert not left


def test_a_second_time_makes_the_same_bytes(study):
    path, made = study.layout.masked("01"), []
    for _ in range(2):
        masking(study, voxels="reliable", n_voxels=20).step().work()
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_test_trials_move_no_voxel(study, monkeypatch):
    """Test trials a hundred times as large leave every chosen voxel where it was."""
    from hyperdecode.pipeline import trial_maps

    chosen = {}
    for kind in ("active", "reliable"):
        masking(study, voxels=kind, n_voxels=40).step().work()
        chosen[kind] = open_store(study.layout.masked("01")).voxels
    roles, plain = np.array(Stimuli(None).roles(study.shown)), trial_maps.iterate_volumes
    paths = [study.layout.zmap(run) for run in study.runs]

    def louder(path):
        first = int(np.cumsum((0, *LENGTHS))[paths.index(path)])
        for k, volume in enumerate(plain(path)):
            yield 100 * volume if roles[first + k] == "test" else volume

    monkeypatch.setattr(trial_maps, "iterate_volumes", louder)
    for kind in ("active", "reliable"):
        masking(study, voxels=kind, n_voxels=40).step().work()
        store = open_store(study.layout.masked("01"))
        np.testing.assert_array_equal(store.voxels, chosen[kind])
        assert np.abs(store[np.flatnonzero(roles == "test")]).max() > 100


def test_a_table_of_other_length_is_refused(study):
    table = study.layout.trials(study.runs[1])
    was = table.read_text()
    try:
        table.write_text(was + "r1\ts3\n")
        with pytest.raises(UserError, match="its table 12 trials: run zmaps again"):
            masking(study, voxels="all").step().work()
    finally:
        table.write_text(was)


def test_reliability_needs_training_repeats(study, monkeypatch):
    monkeypatch.setattr(Stimuli, "roles", lambda self, shown: ["train" if name == "s1" else "test" for name in shown])
    with pytest.raises(UserError, match="1 of 1 training stimuli stand in more than one trial"):
        masking(study, voxels="reliable", n_voxels=20).step().work()
