"""A small BIDS reader: which runs a folder holds, and one run with its events, checked before use.

Only what this package needs is read: BOLD runs, their events and sidecars (with the inheritance rule), and each
subject's T1w. Every way in which such a folder may be unusable ends in one `UserError` line that names the file.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError

from hyperdecode.errors import DataWarning, UserError

__all__ = [
    "BidsDataset",
    "BoldRun",
    "LoadedRun",
    "index_bids",
    "load_run",
    "parse_entities",
    "read_events",
    "read_image",
]

EVENT_COLUMNS = ("onset", "duration", "trial_type")
NOT_RAW = ("derivatives", "sourcedata", "code", "stimuli")
NAME = re.compile(r"(?P<entities>(?:[a-z]+-[A-Za-z0-9]+_)+)(?P<suffix>[A-Za-z0-9]+)(?P<extension>\.[A-Za-z.]+)")
SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}


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
        The 4D NIfTI.
    events : pathlib.Path
        The events table by BIDS naming or inheritance; `load_run` says so when it does not exist.
    sidecar : mapping
        JSON sidecars merged by the inheritance rule, the nearest file winning.
    t1w : pathlib.Path or None
        The subject's T1w: of the same session where there is one, else the first.
    stem : str
        The BOLD's name up to the suffix, ``sub-02_task-oneback_run-1``.
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


@dataclass(frozen=True)
class BidsDataset:
    """A raw BIDS folder: its root, its name and its runs in the order of their paths."""

    root: Path
    name: str
    runs: tuple[BoldRun, ...]

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects with at least one run, sorted."""
        return tuple(sorted({run.subject for run in self.runs}))


@dataclass(frozen=True)
class LoadedRun:
    """One run in memory.

    Attributes
    ----------
    image : nibabel spatial image
        4D; its data array has been read once, so a damaged file cannot fail later.
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
        When the folder does not exist, is not BIDS, holds no BOLD run, or a JSON file cannot be read.
    """
    root = Path(bids_dir)
    if not root.is_dir():
        raise UserError(f"no such folder: {root}: give the folder of a BIDS data set")
    description = root / "dataset_description.json"
    if not description.is_file():
        raise UserError(
            f"{root} is not a BIDS folder: it has no dataset_description.json, give the folder that has one"
        )
    name = str(_read_json(description).get("Name", root.name))
    files = _raw_files(root)
    runs = tuple(_run(path, root, files) for path in files if path.name.endswith(("_bold.nii.gz", "_bold.nii")))
    if not runs:
        raise UserError(f"{root} holds no BOLD run: expected sub-*/[ses-*/]func/sub-*_task-*_bold.nii.gz")
    return BidsDataset(root, name, runs)


def load_run(run: BoldRun) -> LoadedRun:
    """Read and check one run.

    Parameters
    ----------
    run : BoldRun
        From `index_bids`.

    Returns
    -------
    LoadedRun

    Raises
    ------
    UserError
        When the NIfTI is truncated, not 4D or all zeros; when the events are missing, lack a column, or have an
        onset past the run's end; when no repetition time is known.

    Warns
    -----
    DataWarning
        When header and sidecar give different repetition times; the sidecar wins.
    """
    image = read_image(run.bold, n_dimensions=4)
    t_r = _repetition_time(run, image)
    events = read_events(run.events)
    end = image.shape[3] * t_r
    late = events["onset"] >= end
    if late.any():
        raise UserError(
            f"{run.events}: {int(late.sum())} onsets lie past the run's end (last {events['onset'].max():g} s, the run "
            f"has {image.shape[3]} volumes of {t_r:g} s = {end:g} s): check the events and RepetitionTime"
        )
    return LoadedRun(image=image, events=events, t_r=t_r)


def parse_entities(name: str) -> dict[str, str]:
    """Return the entities of a BIDS file name, with ``suffix`` and ``extension``; empty when it is none.

    Examples
    --------
    >>> parse_entities("sub-02_task-oneback_run-1_bold.nii.gz")["run"]
    '1'
    """
    found = NAME.fullmatch(name)
    if found is None:
        return {}
    entities = dict(part.split("-", 1) for part in found["entities"].rstrip("_").split("_"))
    return entities | {"suffix": found["suffix"], "extension": found["extension"]}


def read_image(path: Path, n_dimensions: int) -> Any:
    """Load a NIfTI with its data, or say in one line why it cannot be used.

    Parameters
    ----------
    path : pathlib.Path
        ``.nii`` or ``.nii.gz``.
    n_dimensions : int
        3 or 4; a last axis of length 1 counts as absent.

    Returns
    -------
    nibabel.Nifti1Image
        With its data in memory (its own data type where no scaling is set, else float32).
    """
    try:
        image = nib.load(path)
        values = np.asanyarray(image.dataobj)
        if values.dtype == np.float64:
            values = values.astype(np.float32)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: for git-annex or DataLad data, get the file's content first"
        ) from error
    except (EOFError, zlib.error, OSError, ImageFileError, ValueError) as error:
        raise UserError(f"{path} is truncated or not a NIfTI file ({_one_line(error)}): copy it again") from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != n_dimensions:
        kind = "a 4D series (one volume a repetition)" if n_dimensions == 4 else "one 3D volume"
        raise UserError(f"{path} has shape {values.shape}, expected {kind}: look for the right file")
    if not np.nan_to_num(values).any():
        raise UserError(f"{path} holds nothing but zeros: convert or copy it again")
    return type(image)(values, image.affine, image.header)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:120] if text else type(error).__name__


def _raw_files(root: Path) -> list[Path]:
    """Files of the raw data set, sorted by path."""

    def walk() -> Iterator[Path]:
        for folder, below, names in os.walk(root, followlinks=True):
            if Path(folder) == root:
                below[:] = [b for b in below if b.startswith("sub-") and b not in NOT_RAW]
            below[:] = [b for b in below if not b.startswith(".") and b != "derivatives"]
            yield from (Path(folder) / name for name in names if not name.startswith("."))

    return sorted(walk())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not readable JSON ({_one_line(error)}): mend or re-create it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content


def _run(bold: Path, root: Path, files: list[Path]) -> BoldRun:
    entities = parse_entities(bold.name)
    if not {"sub", "task"} <= entities.keys():
        raise UserError(
            f"{bold} is not named as BIDS asks: expected sub-<label>[_ses-<label>]_task-<label>_bold.nii.gz"
        )
    events = _inherited(bold, "events", ".tsv", root, files)
    stem = bold.name[: bold.name.rindex("_bold.")]
    sidecar: dict[str, Any] = {}
    for path in _inherited(bold, "bold", ".json", root, files):
        sidecar |= _read_json(path)
    return BoldRun(
        subject=entities["sub"],
        session=entities.get("ses"),
        task=entities["task"],
        run=entities.get("run"),
        bold=bold,
        events=events[-1] if events else bold.with_name(f"{stem}_events.tsv"),
        sidecar=sidecar,
        t1w=_t1w(entities, files),
        stem=stem,
    )


def _inherited(bold: Path, suffix: str, extension: str, root: Path, files: list[Path]) -> list[Path]:
    """Files that apply to a BOLD by inheritance, from the root down to its own folder.

    A file applies when it lies in the BOLD's folder or above, and each of its entities is one of the BOLD's.
    """
    own = {k: v for k, v in parse_entities(bold.name).items() if k not in ("suffix", "extension")}
    above = [*reversed([p for p in bold.parents if p == root or root in p.parents])]
    found: list[Path] = []
    for folder in above:
        here = files if folder != root else [*root.glob(f"*{suffix}{extension}")]
        level: list[tuple[int, Path]] = []
        for path in here:
            if path.parent != folder or not path.name.endswith(f"{suffix}{extension}"):
                continue
            entities = parse_entities(path.name)
            if not entities and path.name != f"{suffix}{extension}":
                continue
            theirs = {k: v for k, v in entities.items() if k not in ("suffix", "extension")}
            if entities.get("suffix", suffix) == suffix and theirs.items() <= own.items():
                level.append((len(theirs), path))
        found += [path for _, path in sorted(level)]
    return found


def _t1w(bold: Mapping[str, str], files: list[Path]) -> Path | None:
    same_subject = [
        (entities.get("ses") != bold.get("ses"), path)
        for path in files
        if path.name.endswith(("_T1w.nii.gz", "_T1w.nii"))
        and (entities := parse_entities(path.name)).get("sub") == bold["sub"]
    ]
    return min(same_subject)[1] if same_subject else None


def _repetition_time(run: BoldRun, image: Any) -> float:
    header = float(image.header.get_zooms()[3]) * SECONDS_PER_UNIT.get(image.header.get_xyzt_units()[1], 1.0)
    stated = run.sidecar.get("RepetitionTime")
    if stated is None:
        if not np.isfinite(header) or header <= 0:
            raise UserError(f"{run.bold}: no repetition time in header or sidecar: add RepetitionTime (s) to the JSON")
        return header
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not np.isfinite(stated) or stated <= 0:
        raise UserError(f"{run.bold}: RepetitionTime in the sidecar must be seconds above 0, got {stated!r}: mend it")
    if header > 0 and abs(header - stated) > 1e-3 * stated:
        warnings.warn(
            f"{run.bold}: the header says TR {header:g} s, the sidecar {stated:g} s: using the sidecar's",
            DataWarning,
            stacklevel=3,
        )
    return float(stated)


def read_events(path: Path) -> pd.DataFrame:
    """Read an events table: sorted by onset, ``onset`` and ``duration`` in seconds, ``trial_type`` str.

    Raises
    ------
    UserError
        When the file is missing, no table, or lacks a column or a value.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give each BOLD run an events table with {', '.join(EVENT_COLUMNS)}")
    try:
        table = pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=True, dtype={"trial_type": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is not a tab-separated table ({_one_line(error)}): mend it") from error
    missing = [column for column in EVENT_COLUMNS if column not in table.columns]
    if missing:
        raise UserError(
            f"{path} lacks the column {missing[0]!r}: expected {', '.join(EVENT_COLUMNS)}, got {list(table.columns)}"
        )
    if table.empty:
        raise UserError(f"{path} has no rows: expected one a trial")
    for column in ("onset", "duration"):
        values = pd.to_numeric(table[column], errors="coerce")
        bad = ~np.isfinite(values.to_numpy(dtype=float))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"{path}: row {row + 1} has {column} {table[column].iloc[row]!r}, expected seconds: mend it"
            )
        table[column] = values.astype(float)
    if (table["duration"] < 0).any():
        raise UserError(f"{path}: a duration is negative ({table['duration'].min():g} s): mend it")
    if table["trial_type"].isna().any():
        row = int(np.flatnonzero(table["trial_type"].isna())[0])
        raise UserError(f"{path}: row {row + 1} has no trial_type: name the condition of every trial")
    return table.sort_values("onset", kind="stable").reset_index(drop=True)
