"""The index of runs, sidecars and events gives what pybids gives, on layouts made to try the inheritance rule."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hyperdecode.study.bids import index_bids

bids = pytest.importorskip("bids")

ELSEWHERE = ["suffix", "extension", "datatype"]
EVENTS = "onset\tduration\ttrial_type\n1\t1\tface\n"


def write(root, name, content=None):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith((".nii.gz", ".nii")):
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2, 3), np.int16), np.eye(4)), path)
    elif name.endswith(".tsv"):
        path.write_text(EVENTS)
    else:
        path.write_text(json.dumps(content))


def dataset(tmp_path, bolds, sidecars, events=()):
    root = tmp_path / "study"
    write(root, "dataset_description.json", {"Name": "tiny", "BIDSVersion": "1.10.0", "DatasetType": "raw"})
    for name in (*bolds, *events):
        write(root, name)
    for name, content in sidecars.items():
        write(root, name, content)
    return root


def nearest(layout, bold):
    # Asked for one file, pybids 0.22 gives up at the first folder that holds tables of others.
    every = layout.get_nearest(bold, ignore_strict_entities=ELSEWHERE, all_=True, suffix="events", extension=".tsv")
    return Path(every[0]) if every else None


FLAT = [f"sub-{s}/func/sub-{s}_task-{t}_run-{r}_bold.nii.gz" for s in ("01", "02") for t in "ab" for r in (1, 2)]
SESSIONS = [
    f"sub-{s}/ses-{n}/func/sub-{s}_ses-{n}_task-faces_acq-{a}_dir-{d}_bold.nii"
    for s in ("01", "02")
    for n in ("x", "y")
    for a in ("mb", "sb")
    for d in ("AP", "PA")
]

LAYOUTS = {
    # A root-level sidecar's keys survive where a subject-level one exists (some indexers drop them).
    "root and subject": (
        FLAT,
        {
            "task-a_bold.json": {"RepetitionTime": 1.5, "EchoTime": 0.03, "TaskName": "a"},
            "task-b_bold.json": {"RepetitionTime": 2.0, "TaskName": "b"},
            "sub-01/sub-01_task-a_bold.json": {"EchoTime": 0.05, "FlipAngle": 70},
            "sub-02/sub-02_bold.json": {"EchoTime": 0.07},
        },
        ["task-a_events.tsv", "sub-01/sub-01_task-b_events.tsv", "sub-02/func/sub-02_task-b_run-1_events.tsv",
         "sub-02/func/sub-02_task-b_run-2_events.tsv"],
    ),
    "every level down to the run": (
        FLAT,
        {
            "bold.json": {"Manufacturer": "any", "RepetitionTime": 1.0},
            "sub-01/sub-01_bold.json": {"RepetitionTime": 1.25, "MagneticFieldStrength": 3},
            "sub-01/func/sub-01_task-a_run-1_bold.json": {"RepetitionTime": 1.5, "FlipAngle": 60},
            "sub-01/func/sub-01_task-a_run-2_bold.json": {"SliceTiming": [0.0, 0.5]},
            "sub-01/func/sub-01_task-b_run-2_bold.json": {"FlipAngle": None},
        },
        ["events.tsv", "sub-01/func/sub-01_task-a_run-2_events.tsv"],
    ),
    "sessions, acquisitions, directions": (
        SESSIONS,
        {
            "task-faces_bold.json": {"RepetitionTime": 2.0, "EchoTime": 0.03},
            "sub-01/ses-x/sub-01_ses-x_bold.json": {"RepetitionTime": 1.25},
            "sub-01/sub-01_acq-mb_bold.json": {"MultibandAccelerationFactor": 4},
            "sub-02/ses-y/func/sub-02_ses-y_task-faces_acq-sb_dir-PA_bold.json": {"PhaseEncodingDirection": "j-"},
            "sub-02/ses-y/func/sub-02_ses-y_task-faces_acq-mb_bold.json": {"PhaseEncodingDirection": "j"},
        },
        ["task-faces_acq-mb_events.tsv", "sub-01/ses-x/sub-01_ses-x_acq-sb_events.tsv",
         "sub-01/ses-y/func/sub-01_ses-y_task-faces_acq-sb_dir-AP_events.tsv",
         "sub-01/ses-y/func/sub-01_ses-y_task-faces_acq-sb_dir-PA_events.tsv",
         "sub-02/sub-02_acq-sb_events.tsv"],
    ),
    "what must not apply": (
        FLAT,
        {
            "task-a_bold.json": {"RepetitionTime": 1.5},
            "task-b_bold.json": {"RepetitionTime": 2.0},
            "task-c_bold.json": {"EchoTime": 9.0},
            "task-a_acq-mb_bold.json": {"EchoTime": 9.0},
            "task-a_sbref.json": {"EchoTime": 9.0},
            "sub-02/sub-02_task-a_run-3_bold.json": {"EchoTime": 9.0},
            "sub-01/func/sub-01_task-a_run-1_events.json": {"EchoTime": {"Units": "none"}},
        },
        ["task-a_events.tsv", "task-b_events.tsv", "task-c_events.tsv", "sub-01/sub-01_task-a_acq-mb_events.tsv"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_runs_sidecars_and_events(tmp_path, layout):
    bolds, sidecars, events = LAYOUTS[layout]
    root = dataset(tmp_path, bolds, sidecars, events)
    # What stands in derivatives is no raw run, for neither.
    write(root, f"derivatives/other/{bolds[0]}")
    # pybids associates only tables that have a sidecar.
    write(root, "events.json", {"trial_type": {"Description": "condition"}})
    theirs = bids.BIDSLayout(root, validate=False)
    ours = {run.bold: run for run in index_bids(root).runs}
    files = theirs.get(suffix="bold", extension=[".nii", ".nii.gz"])
    assert sorted(ours) == sorted(Path(file.path) for file in files) and len(ours) == len(bolds)
    for file in files:
        run = ours[Path(file.path)]
        entities = file.get_entities()
        assert run.subject == entities["subject"] and run.task == entities["task"]
        assert run.session == entities.get("session")
        assert run.run == (None if "run" not in entities else str(entities["run"]))
        assert dict(run.sidecar) == file.get_metadata()
        # pybids associates every table that applies; BIDS takes the one that lies nearest.
        associated = [Path(other.path) for other in file.get_associations("InformedBy") if "events" in other.filename]
        assert run.events == max(associated, key=lambda path: len(path.parts))
        # Its `get_nearest` takes tables with entities that the BOLD lacks.
        if layout != "what must not apply":
            assert run.events == nearest(theirs, file.path)


def test_no_sidecar_and_no_events(tmp_path):
    root = dataset(tmp_path, FLAT, {"task-b_bold.json": {"RepetitionTime": 2.0}})
    theirs = bids.BIDSLayout(root)
    for run in index_bids(root).runs:
        assert dict(run.sidecar) == theirs.get_metadata(str(run.bold))
        assert nearest(theirs, run.bold) is None
        assert run.events == run.bold.with_name(f"{run.stem}_events.tsv") and not run.events.exists()
