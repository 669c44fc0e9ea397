"""A small BIDS reader: which runs a folder holds, and one run with its events, checked before use.

Only what this package needs is read: BOLD runs, their events and sidecars (with the inheritance rule), and each
subject's T1w. Every way in which such a folder may be unusable ends in one `UserError` line that names the file.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.study.bids_names import FileIndex, parse_entities, read_json
from hyperdecode.study.events import check_events, read_events
from hyperdecode.study.images import image_space, iterate_volumes, read_image, repetition_time
from hyperdecode.study.reading import said

__all__ = [
    "BidsDataset",
    "BoldRun",
    "LoadedRun",
    "image_space",
    "index_bids",
    "iterate_volumes",
    "load_run",
    "parse_entities",
    "read_events",
    "read_image",
    "resolve_repetition_time",
]

NIFTI = (".nii.gz", ".nii")
MAGNITUDE = "mag"
LONGEST_T_R = 3600.0
"""Seconds; beyond, a number is no repetition time."""


@dataclass(frozen=True)
class BoldRun:
    """One BOLD run and the files that belong to it.

    Attributes
    ----------
    subject, task : str
        Entity values, without ``sub-`` and ``task-``.
    session, run : str or None
        Entity values where the name has them.
    bold : pathlib.Path
        The 4D NIfTI; of a multi-echo run the first echo.
    events : pathlib.Path
        The events table by BIDS naming or inheritance; `load_run` says so when it does not exist.
    sidecar : mapping
        JSON sidecars merged by the inheritance rule, the nearest file winning.
    t1w : pathlib.Path or None
        The subject's T1w: of the same session where there is one, else the first.
    stem : str
        The BOLD's name up to the suffix, ``sub-02_task-oneback_run-1``; of a multi-echo run without ``echo-``.
    echoes : tuple of pathlib.Path
        The series of a multi-echo run; empty for any other.
    """

    subject: str
    session: str | None
    task: str
    run: str | None
    bold: Path
    events: Path
    sidecar: Mapping[str, Any]
    t1w: Path | None
    stem: str
    echoes: tuple[Path, ...] = ()


@dataclass(frozen=True)
class BidsDataset:
    """A raw BIDS folder.

    Attributes
    ----------
    root : pathlib.Path
    name : str
    runs : tuple of BoldRun
        In natural order of their paths: run 2 before run 10.
    skipped : tuple of pathlib.Path
        BOLD series that are no runs: the phase, real or imaginary part beside the magnitude.
    """

    root: Path
    name: str
    runs: tuple[BoldRun, ...]
    skipped: tuple[Path, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects with at least one run, sorted."""
        return tuple(sorted({run.subject for run in self.runs}))


@dataclass(frozen=True)
class LoadedRun:
    """One run, read through once, so that a damaged file cannot fail later.

    Attributes
    ----------
    image : nibabel spatial image
        4D; its data are in memory, or on the disk when `load_run` was told to leave them there.
    events : pandas.DataFrame
        Sorted by onset, ``onset`` and ``duration`` in seconds, ``trial_type`` str; other columns as they are.
    t_r : float
        Repetition time in seconds: the sidecar's where it has one, else the header's.
    """

    image: Any
    events: pd.DataFrame
    t_r: float


def index_bids(bids_dir: str | os.PathLike[str]) -> BidsDataset:
    """List the BOLD runs of a raw BIDS folder; derivatives are not looked at.

    Parameters
    ----------
    bids_dir : path-like
        Folder with a ``dataset_description.json``.

    Returns
    -------
    BidsDataset

    Raises
    ------
    UserError
        When the folder does not exist, is not BIDS, holds no BOLD run, or holds one run twice; when a JSON file cannot
        be read, or two files in one folder apply to one run by inheritance.
    """
    root = Path(bids_dir)
    if not root.is_dir():
        raise UserError(f"no such folder: {root}: give the folder of a BIDS data set")
    description = root / "dataset_description.json"
    if not description.is_file():
        raise UserError(
            f"{root} is not a BIDS folder: it has no dataset_description.json, give the folder that has one"
        )
    name = str(read_json(description).get("Name", root.name))
    index = FileIndex(root)
    groups, skipped = _grouped(index, root)
    if not groups:
        found = f"only {skipped[0].name} and the like, no magnitude" if skipped else "holds no BOLD run"
        raise UserError(f"{root} {found}: expected sub-*/[ses-*/]func/sub-*_task-*_bold.nii.gz")
    anatomies = [(parse_entities(path.name), path) for path in index.named("T1w", *NIFTI)]
    return BidsDataset(root, name, tuple(_run(series, index, anatomies) for series in groups), skipped)


def load_run(run: BoldRun, *, in_memory: bool = True) -> LoadedRun:
    """Read and check one run.

    Parameters
    ----------
    run : BoldRun
        From `index_bids`.
    in_memory : bool
        Keep the data in memory. Otherwise they are read through once, a volume at a time, and stay on the disk.

    Returns
    -------
    LoadedRun

    Raises
    ------
    UserError
        When the run is multi-echo; when the NIfTI is truncated, not 4D or all zeros; when the events are missing, lack
        a column, hold a trial twice or an onset past the run's end; when no repetition time is known.

    Warns
    -----
    DataWarning
        When header and sidecar give different repetition times (the sidecar wins), or events overlap.
    """
    if run.echoes:
        raise UserError(
            f"{run.bold} is one of {len(run.echoes)} echoes of {run.stem}: combine them first, as fMRIPrep and tedana "
            'do, and give its output as source = "fmriprep"'
        )
    image = read_image(run.bold, n_dimensions=4, in_memory=in_memory)
    t_r = resolve_repetition_time(run.bold, image, run.sidecar)
    events = read_events(run.events)
    check_events(events, run.events, image.shape[3], t_r)
    return LoadedRun(image=image, events=events, t_r=t_r)


def resolve_repetition_time(bold: Path, image: Any, sidecar: Mapping[str, Any]) -> float:
    """Return a run's repetition time in s: the sidecar's where it has one, else the header's.

    Raises
    ------
    UserError
        When neither states one above 0.

    Warns
    -----
    DataWarning
        When they differ by more than a thousandth.
    """
    header = repetition_time(image)
    stated = sidecar.get("RepetitionTime")
    if stated is None:
        if not np.isfinite(header) or header <= 0:
            raise UserError(f"{bold}: no repetition time in header or sidecar: add RepetitionTime (s) to the JSON")
        return header
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 < stated <= LONGEST_T_R:
        raise UserError(f"{bold}: RepetitionTime in the sidecar must be seconds above 0, got {said(stated)}: mend it")
    if header > 0 and abs(header - stated) > 1e-3 * stated:
        warnings.warn(
            f"{bold}: the header says TR {header:g} s, the sidecar {stated:g} s: using the sidecar's",
            DataWarning,
            stacklevel=3,
        )
    return float(stated)


def _grouped(index: FileIndex, root: Path) -> tuple[list[tuple[Path, ...]], tuple[Path, ...]]:
    """Return the series of each run (several where there are echoes), and those that are no runs."""
    groups: dict[tuple[object, ...], dict[str | None, Path]] = {}
    skipped: list[Path] = []
    for path in index.named("bold", *NIFTI):
        entities = parse_entities(path.name)
        if not {"sub", "task"} <= entities.keys():
            raise UserError(
                f"{path} is not named as BIDS asks: expected sub-<label>[_ses-<label>]_task-<label>_bold.nii.gz"
            )
        top = path.relative_to(root).parts[0]
        if top != f"sub-{entities['sub']}":
            raise UserError(f"{path} is named sub-{entities['sub']} and lies in {top}: rename or move it")
        if entities.get("part", MAGNITUDE) != MAGNITUDE:
            skipped.append(path)
            continue
        key = (path.parent, *sorted((k, v) for k, v in entities.items() if k not in ("echo", "extension")))
        series = groups.setdefault(key, {})
        echo = entities.get("echo")
        if echo in series:
            raise UserError(f"{series[echo]} and {path.name} are one run twice: remove one of them")
        series[echo] = path
    return [tuple(series.values()) for series in groups.values()], tuple(skipped)


def _run(series: tuple[Path, ...], index: FileIndex, anatomies: list[tuple[dict[str, str], Path]]) -> BoldRun:
    bold = series[0]
    entities = parse_entities(bold.name)
    stem = bold.name[: bold.name.rindex("_bold.")]
    if len(series) > 1:
        stem = "_".join(part for part in stem.split("_") if not part.startswith("echo-"))
    events = index.applying(bold, "events", ".tsv")
    return BoldRun(
        subject=entities["sub"],
        session=entities.get("ses"),
        task=entities["task"],
        run=entities.get("run"),
        bold=bold,
        events=events[-1] if events else bold.with_name(f"{stem}_events.tsv"),
        sidecar=index.metadata(bold, "bold"),
        t1w=_t1w(entities, anatomies),
        stem=stem,
        echoes=series if len(series) > 1 else (),
    )


def _t1w(bold: Mapping[str, str], anatomies: list[tuple[dict[str, str], Path]]) -> Path | None:
    mine = [(own.get("ses") != bold.get("ses"), path) for own, path in anatomies if own.get("sub") == bold["sub"]]
    return min(mine)[1] if mine else None
