"""fMRIPrep's output: the preprocessed series, brain mask and confounds of each run.

What is looked for, below ``sub-*/[ses-*/]func/`` of the derivatives folder (``space-`` and ``res-`` may be absent: then
the series lies on the grid of the raw one, space ``"func"``)::

    sub-01_task-faces_run-1[_space-MNI152NLin2009cAsym][_res-2]_desc-preproc_bold.nii.gz   and .json
    sub-01_task-faces_run-1[_space-MNI152NLin2009cAsym][_res-2]_desc-brain_mask.nii.gz
    sub-01_task-faces_run-1_desc-confounds_timeseries.tsv   and .json   (before fMRIPrep 20.2: _regressors)

The events are the raw data set's; subject, session, task, run and every other entity of the raw name must agree.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hyperdecode.errors import UserError
from hyperdecode.study.bids import BoldRun, LoadedRun, resolve_repetition_time
from hyperdecode.study.bids_names import FileIndex, parse_entities, same_run
from hyperdecode.study.events import check_events, read_events
from hyperdecode.study.fmriprep_confounds import Confounds, load_fmriprep_confounds
from hyperdecode.study.images import check_grid, open_image, read_image
from hyperdecode.study.reading import said

__all__ = [
    "NATIVE",
    "Confounds",
    "FmriprepRun",
    "find_fmriprep_runs",
    "intersect_masks",
    "load_fmriprep_confounds",
    "load_fmriprep_run",
]

NATIVE = "func"
"""Space of a series without ``space-``, by the word that fMRIPrep's ``--output-spaces`` has for it."""
NO_RES = "none"
"""Resolution of a series without ``res-``."""
OUTPUT_ENTITIES = frozenset({"space", "res", "cohort", "desc", "den", "hemi", "echo", "part"})
MID_VOLUME = 0.5
NIFTI = (".nii.gz", ".nii")
Named = tuple[Path, dict[str, str]]
"""A file and the entities of its name."""


@dataclass(frozen=True)
class FmriprepRun:
    """One run as fMRIPrep left it.

    Attributes
    ----------
    bold : pathlib.Path
        ``*_desc-preproc_bold.nii.gz``.
    mask : pathlib.Path
        ``*_desc-brain_mask.nii.gz`` of the same space.
    confounds : pathlib.Path or None
        The table; `load_fmriprep_confounds` says so when there is none.
    t_r : float
        Repetition time in s: the derivative's sidecar, else the raw one's, else the header's.
    slice_time_ref : float
        Moment of a volume as a share of the repetition time: ``StartTime / RepetitionTime`` of the sidecar; 0.5 where
        it has no StartTime (no slice-time correction, or fMRIPrep before 21, which corrects to the middle).
    space, res : str
        Labels; ``"func"`` and ``"none"`` where the name has none.
    raw : BoldRun or None
        The raw run; None when the folder was read on its own.
    stem : str
        Name of the run without what fMRIPrep added: ``sub-01_task-faces_run-1``.
    """

    bold: Path
    mask: Path
    confounds: Path | None
    t_r: float
    slice_time_ref: float
    space: str
    res: str
    raw: BoldRun | None
    stem: str


def find_fmriprep_runs(
    folder: str | os.PathLike[str],
    runs: Sequence[BoldRun] | None,
    space: str | None = None,
    res: str | None = None,
) -> list[FmriprepRun]:
    """Find the preprocessed series of each run.

    Parameters
    ----------
    folder : path-like
        The derivatives folder: it, or its folder ``fmriprep``, holds ``sub-*``.
    runs : sequence of BoldRun, or None
        Raw runs to find the series of. None: all runs of the folder.
    space : str, optional
        Label of ``space-``, with the cohort as fMRIPrep spells it (``MNIPediatricAsym:cohort-2``); ``"func"`` for the
        series without one. May be left out (or empty) when the folder has one space only.
    res : str, optional
        Label of ``res-``; ``"none"`` for the series without one. May be left out (or empty) when the space has one
        only.

    Returns
    -------
    list of FmriprepRun
        In the order of `runs`, else in natural order of the paths.

    Raises
    ------
    UserError
        When the folder or a run's series or mask is not there; when several spaces or resolutions are and none was
        asked for, or the one asked for is not (the line lists those that are); when a sidecar cannot be used.

    Warns
    -----
    DataWarning
        When header and sidecar give different repetition times.
    """
    root, space, res = _root(Path(folder)), space or None, res or None
    index = FileIndex(root)
    series = [
        (path, entities)
        for path in index.named("desc-preproc_bold", *NIFTI)
        if "sub" in (entities := parse_entities(path.name))
    ]
    if not series:
        raise UserError(f"{root} holds no *_desc-preproc_bold.nii.gz: give the folder of fMRIPrep's output")
    if runs is None:
        matched: list[tuple[BoldRun | None, str, list[Named]]] = [
            (None, stem, mine) for stem, mine in _by_run(series).items()
        ]
    else:
        by_task: dict[tuple[str, str | None, str | None], list[Named]] = {}
        for path, entities in series:
            by_task.setdefault((entities["sub"], entities.get("ses"), entities.get("task")), []).append(
                (path, entities)
            )
        matched = [
            (run, run.stem, _of_run(run, by_task.get((run.subject, run.session, run.task), []), root)) for run in runs
        ]
    return [_found(index, raw, stem, _chosen(stem, mine, space, res, root)) for raw, stem, mine in matched]


def load_fmriprep_run(run: FmriprepRun, *, in_memory: bool = True) -> LoadedRun:
    """Read the preprocessed series of a run, and the raw run's events.

    Parameters
    ----------
    run : FmriprepRun
        Found with its raw run.
    in_memory : bool
        As in `hyperdecode.study.bids.load_run`.

    Returns
    -------
    LoadedRun

    Raises
    ------
    UserError
        When the series is damaged or zero everywhere; when there is no raw run, or its events do not fit.

    Warns
    -----
    DataWarning
        When events overlap.
    """
    if run.raw is None:
        raise UserError(f"{run.bold} was found without its raw run: events are the raw data set's, give its runs, too")
    image = read_image(run.bold, n_dimensions=4, in_memory=in_memory)
    events = read_events(run.raw.events)
    check_events(events, run.raw.events, image.shape[3], run.t_r)
    return LoadedRun(image=image, events=events, t_r=run.t_r)


def intersect_masks(masks: Sequence[Path]) -> Any:
    """Return the voxels that lie in every mask.

    Parameters
    ----------
    masks : sequence of pathlib.Path
        Masks of one grid, such as those of a subject's runs. A voxel belongs to a mask where it is above 0.5.

    Returns
    -------
    nibabel.Nifti1Image
        uint8, 1 inside.

    Raises
    ------
    UserError
        When there is no mask; when one is damaged, has more than one volume, NaN, or lies on another grid than the
        first; when no voxel lies in all.
    """
    if not masks:
        raise UserError("no mask to intersect: give at least one")
    images = [read_image(path, n_dimensions=3) for path in masks]
    inside = np.ones(images[0].shape, dtype=bool)
    for path, image in zip(masks, images, strict=True):
        check_grid(images[0], masks[0], image, path)
        values = np.asarray(image.dataobj)
        if not np.isfinite(values).all():
            raise UserError(f"{path} holds NaN or infinite values: a mask has 0 and 1, make it anew")
        inside &= values > 0.5
        if not inside.any():
            raise UserError(f"no voxel is left inside once {path} is intersected with the masks before it: look at it")
    return nib.Nifti1Image(inside.astype(np.uint8), images[0].affine)


def _root(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}: give the folder of fMRIPrep's output")
    for root in (folder, folder / "fmriprep"):
        if any(root.glob("sub-*/")):
            return root
    raise UserError(f"{folder} holds no sub-* folder: give the folder of fMRIPrep's output")


def _by_run(series: list[Named]) -> dict[str, list[Named]]:
    """Group the series of a folder by the run that they come from; single echoes are left out."""
    groups: dict[str, list[Named]] = {}
    for path, entities in series:
        if "echo" not in entities:
            parts = path.name.partition("_desc-preproc_bold")[0].split("_")
            stem = "_".join(part for part in parts if part.partition("-")[0] not in OUTPUT_ENTITIES)
            groups.setdefault(stem, []).append((path, entities))
    return groups


def _of_run(run: BoldRun, series: list[Named], root: Path) -> list[Named]:
    raw = parse_entities(run.bold.name)
    mine = [(path, entities) for path, entities in series if same_run(raw, entities, OUTPUT_ENTITIES)]
    # Of a multi-echo run the combination of its echoes is wanted, and of one with a single echo that one.
    combined = [(path, entities) for path, entities in mine if "echo" not in entities]
    mine = combined or ([] if run.echoes else mine)
    if not mine:
        raise UserError(
            f"{root} has no preprocessed series of {run.stem}: expected {run.stem}_[space-*_][res-*_]"
            "desc-preproc_bold.nii.gz, run fMRIPrep on it or take the run out of the study"
        )
    return mine


def _space(entities: Mapping[str, str]) -> str:
    label = entities.get("space", NATIVE)
    return f"{label}:cohort-{entities['cohort']}" if "cohort" in entities else label


def _res(entities: Mapping[str, str]) -> str:
    return entities.get("res", NO_RES)


def _chosen(stem: str, series: list[Named], space: str | None, res: str | None, root: Path) -> Named:
    """Return the one series of the space and resolution asked for."""
    for what, of, wanted, absent in (("space", _space, space, NATIVE), ("res", _res, res, NO_RES)):
        there = sorted({of(entities) for _, entities in series})
        key = f"bold.fmriprep_{what}"
        listed = f"{', '.join(there)}" + (f' ("{absent}": none in the name)' if absent in there else "")
        if wanted is None and len(there) > 1:
            raise UserError(f"{stem} has several {what}- in {root}: choose one by {key} among {listed}")
        if wanted is not None and wanted not in there:
            raise UserError(f"{stem} has no {what}-{wanted} in {root}: set {key} to one of {listed}")
        series = [(path, entities) for path, entities in series if wanted is None or of(entities) == wanted]
    if len(series) > 1:
        raise UserError(f"{series[0][0]} and {series[1][0].name} are one series twice: remove one of them")
    return series[0]


def _found(index: FileIndex, raw: BoldRun | None, stem: str, chosen: Named) -> FmriprepRun:
    bold, entities = chosen
    image = open_image(bold)
    if len(image.shape) != 4 or image.shape[3] < 2:
        raise UserError(f"{bold} has shape {tuple(image.shape)}, expected a 4D series (one volume a repetition)")
    sidecar = index.metadata(bold, "bold", strict=False)
    timing = {"RepetitionTime": raw.sidecar.get("RepetitionTime")} if raw is not None else {}
    t_r = resolve_repetition_time(bold, image, timing | sidecar)
    return FmriprepRun(
        bold=bold,
        mask=_mask(bold, image),
        confounds=_confounds(bold, entities, index),
        t_r=t_r,
        slice_time_ref=_slice_time_ref(bold, sidecar, t_r),
        space=_space(entities),
        res=_res(entities),
        raw=raw,
        stem=stem,
    )


def _mask(bold: Path, image: Any) -> Path:
    stem = bold.name.partition("_desc-preproc_bold")[0]
    candidates = [bold.with_name(f"{stem}_desc-brain_mask{extension}") for extension in NIFTI]
    mask = next((path for path in candidates if path.exists()), None)
    if mask is None:
        raise UserError(f"{bold} has no brain mask beside it: expected {candidates[0].name}, copy it there")
    check_grid(image, bold, open_image(mask), mask)
    return mask


def _confounds(bold: Path, entities: Mapping[str, str], index: FileIndex) -> Path | None:
    found = [
        path
        for suffix in ("timeseries", "regressors")
        for theirs, path in index.in_folder(bold.parent, suffix, ".tsv")
        if theirs.get("desc") == "confounds" and same_run(theirs, entities, OUTPUT_ENTITIES)
    ]
    if "echo" not in entities:
        found = [path for path in found if "echo" not in parse_entities(path.name)]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1].name} are confounds of one run: remove one of them")
    return found[0] if found else None


def _slice_time_ref(bold: Path, sidecar: Mapping[str, Any], t_r: float) -> float:
    start = sidecar.get("StartTime")
    if start is None or sidecar.get("SliceTimingCorrected") is False:
        return MID_VOLUME
    if isinstance(start, bool) or not isinstance(start, int | float) or not 0 <= start <= t_r:
        raise UserError(
            f"{bold}: StartTime in the sidecar must lie between 0 and the TR ({t_r:g} s), got {said(start)}"
        )
    return float(start) / t_r
