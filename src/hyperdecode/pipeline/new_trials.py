"""Trials that a decoder was not fitted on: z-maps in a NIfTI, or new runs taken the way of the study's own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.fmri.realign import align_to
from hyperdecode.pipeline.lock import study_lock
from hyperdecode.pipeline.records import Step, run_step
from hyperdecode.pipeline.sources import BoldSource, KeptBold, Progress
from hyperdecode.pipeline.spatial import Raw
from hyperdecode.pipeline.subjects import bold_source
from hyperdecode.pipeline.zmaps import EveryEvent, SingleTrials
from hyperdecode.study.bids import BoldRun, index_bids
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.fitted_decoder import FittedDecoder
from hyperdecode.study.images import iterate_volumes, open_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.reading import load_table, one_line, printable
from hyperdecode.study.transforms import write_matrices

__all__ = ["MapsFile", "NewRuns", "NewTrials", "TrialSource", "new_runs"]

MAX_TABLE_BYTES = 64 * 2**20
LONGEST_LIST = 500
"""Characters of a message that go to names out of a table."""
STRANGE = 10.0
"""How many times narrower or wider than in training z may be spread before a warning."""


@dataclass(frozen=True)
class NewTrials:
    """Responses at a decoder's voxels, and what is known of each trial.

    Attributes
    ----------
    z : ndarray of float32, (n_trials, n_voxels)
        Finite.
    table : pandas.DataFrame
        One row a trial, of text.
    """

    z: NDArray[np.float32]
    table: pd.DataFrame

    def only(self, trial_types: Sequence[str]) -> NewTrials:
        """Keep the trials of some types; all where none is named."""
        if not trial_types:
            return self
        self._require_column("trial_type")
        unknown = sorted(set(trial_types) - set(self.table["trial_type"].dropna()))
        if unknown:
            known = printable(", ".join(sorted(set(self.table["trial_type"].dropna().map(str)))), LONGEST_LIST)
            raise UserError(f"no trial has the trial_type {unknown[0]!r}: there are {known}")
        rows = np.flatnonzero(self.table["trial_type"].isin(list(trial_types)))
        return NewTrials(self.z[rows], self.table.iloc[rows].reset_index(drop=True))

    def averaged(self, column: str) -> NewTrials:
        """Average the z-maps of trials with one value in `column`, in order of first appearance.

        The table keeps the columns that do not vary within any group, and counts trials in ``n_averaged``.

        Raises
        ------
        UserError
            When there is no such column, or it is empty.

        Warns
        -----
        DataWarning
            When trials have no value there; they are left out.
        """
        self._require_column(column)
        groups: dict[str, list[int]] = {}
        for row, value in enumerate(self.table[column]):
            if not pd.isna(value):
                groups.setdefault(str(value), []).append(row)
        left_out = len(self.table) - sum(map(len, groups.values()))
        if not groups:
            raise UserError(f"no trial has a value in the column {column!r}: average over another column")
        if left_out:
            warnings.warn(
                f"{left_out} of {len(self.table)} trials have no {column} and are left out of the averages",
                DataWarning,
                stacklevel=2,
            )
        parts = [self.table.iloc[rows] for rows in groups.values()]
        steady = [name for name in self.table if all(part[name].nunique(dropna=False) == 1 for part in parts)]
        table = pd.concat([part[steady].iloc[:1] for part in parts], ignore_index=True)
        table["n_averaged"] = [len(rows) for rows in groups.values()]
        z = np.stack([self.z[rows].mean(axis=0, dtype=np.float64) for rows in groups.values()])
        return NewTrials(z.astype(np.float32), table)

    def _require_column(self, column: str) -> None:
        if column not in self.table:
            known = printable(", ".join(map(str, self.table.columns)), LONGEST_LIST)
            raise UserError(f"the table of trials has no column {column!r}: it has {known or 'none'}")


class TrialSource(Protocol):
    """Where new trials come from; `label` names the folder of what is made from them."""

    @property
    def label(self) -> str:
        """Part of a folder's name."""
        ...

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that `read` reads."""
        ...

    def prepare(self) -> list[str]:
        """Make what is not there yet, and return the names of the steps that ran."""
        ...

    def read(self, fitted: FittedDecoder, *, fill: bool) -> NewTrials:
        """Read all trials at the voxels of a decoder; `fill` puts the training mean where a voxel is missing."""
        ...


@dataclass(frozen=True)
class MapsFile:
    """One z-map a trial in a NIfTI, and perhaps a table with one row a trial."""

    maps: Path
    table: Path | None = None

    @property
    def label(self) -> str:
        """Name of the NIfTI without its ending."""
        return self.maps.name.removesuffix(".gz").removesuffix(".nii")

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Both files."""
        return (self.maps, self.table) if self.table else (self.maps,)

    def prepare(self) -> list[str]:
        """Nothing, but look whether the files are there."""
        for path in self.inputs:
            if not path.is_file():
                raise UserError(f"{path} does not exist: give --zmaps a NIfTI with one z-map a trial, --trials its TSV")
        return []

    def read(self, fitted: FittedDecoder, *, fill: bool) -> NewTrials:
        """Read volume by volume, keeping the decoder's voxels."""
        z = _masked(self.maps, fitted, fill)
        if self.table is None:
            return NewTrials(z, pd.DataFrame({"volume": [str(k) for k in range(len(z))]}))
        table = _read_table(self.table)
        if len(table) != len(z):
            raise UserError(
                f"{self.table} has {len(table)} rows and {self.maps} {len(z)} volumes: give one row a volume"
            )
        return NewTrials(z, table)


@dataclass(frozen=True)
class NewRuns:
    """BOLD runs of a subject of a study that its decoder was not fitted on.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
    own : tuple of BoldRun
        Those that the study was analysed with, in their order: the first is what all runs are brought to.
    new : tuple of BoldRun
        Every event of these is a trial.
    label : str
    say : callable, optional
    """

    layout: Layout
    config: StudyConfig
    own: tuple[BoldRun, ...]
    new: tuple[BoldRun, ...]
    label: str
    say: Progress | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """z-maps and tables of the new runs."""
        space = self._source().space
        return tuple(
            path for run in self.new for path in (self.layout.zmap(run, space), self.layout.trials(run, space))
        )

    def prepare(self) -> list[str]:
        """Bring the new runs to the study's grid and model their trials; nothing of the study is estimated again.

        Raises
        ------
        UserError
            When the study was not analysed, or another command works on it.
        """
        with study_lock(self.layout.study, self.layout.records):
            return self._prepare()

    def _prepare(self) -> list[str]:
        source = self._source()
        singles = SingleTrials(self.layout, self.config.bold, source, EveryEvent())
        steps = [*source.steps(), *singles.steps()]
        ran = []
        for _, step in steps:
            if not any(step.name.endswith(f"_{run.stem}") for run in self.new):
                continue
            missing = next((path for path in step.inputs if not path.exists()), None)
            if missing is not None:
                raise UserError(
                    f"{missing} is not there, which step {step.name} needs: analyse the study first, "
                    f"`hyperdecode run {self.layout.study}`"
                )
            if run_step(step, self.layout.study, self.layout.records):
                ran.append(step.name)
        return ran

    def read(self, fitted: FittedDecoder, *, fill: bool) -> NewTrials:
        """Read the z-maps of all new runs."""
        space = self._source().space
        z = np.concatenate([_masked(self.layout.zmap(run, space), fitted, fill) for run in self.new])
        tables = [_read_table(self.layout.trials(run, space)) for run in self.new]
        for run, table in zip(self.new, tables, strict=True):
            table.insert(0, "run", run.stem)
        return NewTrials(z, pd.concat(tables, ignore_index=True))

    def _source(self) -> BoldSource:
        source = bold_source(self.layout, self.config.bold, [*self.own, *self.new], self.say)
        inner = source.source if isinstance(source, KeptBold) else source
        if not isinstance(inner, Raw):
            return source
        joined = _JoiningRaw(inner.layout, inner.runs, inner.bold, inner.say, self.new)
        return KeptBold(joined, self.layout) if isinstance(source, KeptBold) else joined


@dataclass(frozen=True)
class _JoiningRaw(Raw):
    """Raw BOLD of which some runs join a subject whose registration stands."""

    new: tuple[BoldRun, ...] = ()

    def steps(self) -> list[tuple[str, Step]]:
        """Realign each new run and bring its mean to the study's reference."""
        realigned = [("realign", self._realign_step(run)) for run in self.new]
        return realigned + [("register", self._join_step(run)) for run in self.new]

    def _join_step(self, run: BoldRun) -> Step:
        inputs = (self._boldref(run), self._reference)
        return Step(f"join_{run.stem}", 1, {}, inputs, (self._run_matrix(run),), partial(self._join, run))

    def _join(self, run: BoldRun) -> None:
        mean, reference = (nib.load(path) for path in (self._boldref(run), self._reference))
        moving, still = (np.asarray(image.dataobj, dtype=np.float32) for image in (mean, reference))
        write_matrices(self._run_matrix(run), align_to(moving, still, mean.affine, reference.affine)[None])


def new_runs(
    layout: Layout,
    config: StudyConfig,
    subject: str,
    *,
    task: str | None = None,
    session: str | None = None,
    run: str | None = None,
    say: Progress | None = None,
) -> NewRuns:
    """Find runs of a subject that its analysis has not seen.

    Parameters
    ----------
    layout : Layout
    config : StudyConfig
    subject : str
    task, session, run : str, optional
        BIDS labels; the study's task where none is given.
    say : callable, optional
        Told of progress inside long steps.

    Raises
    ------
    UserError
        When there is no such run, one of them is the study's own, or the study has no BOLD.
    """
    if config.bold.source == "estimates":
        raise UserError("this study's z-maps were made elsewhere, and so must those of new trials be: give --zmaps")
    wanted = {"task": task or config.task, "session": session, "run": run}
    asked = {key: value for key, value in wanted.items() if value is not None}
    runs = [found for found in index_bids(layout.study).runs if found.subject == subject]
    chosen = [found for found in runs if all(getattr(found, key) == value for key, value in asked.items())]
    described = " ".join(f"{key} {value}" for key, value in asked.items())
    if not chosen:
        known = ", ".join(found.stem for found in runs) or "none"
        raise UserError(f"{layout.study} has no run of sub-{subject} with {described}: its runs are {known}")
    seen = _analysed(layout, subject)
    mine = [found for found in chosen if found.stem in seen]
    if mine:
        raise UserError(
            f"{mine[0].stem} is a run that the study was analysed with: `hyperdecode run` decodes its test faces; for "
            "its single trials give --zmaps the z-maps of that run"
        )
    own = tuple(found for found in runs if found.stem in seen)
    if not own:
        raise UserError(f"{layout.study} has none of the runs that sub-{subject} was analysed with: put them back")
    return NewRuns(layout, config, own, tuple(chosen), "_".join(f"{key}-{value}" for key, value in asked.items()), say)


def _analysed(layout: Layout, subject: str) -> set[str]:
    """Names of the runs whose trials the mask and the decoder were made from."""
    path = layout.subject(subject, "trials.tsv")
    if not path.is_file():
        raise UserError(f"{path} is not there: analyse the study first, `hyperdecode run {layout.study}`")
    table = _read_table(path)
    if "run" not in table:
        raise UserError(f"{path} does not say which runs the decoder was fitted on: give --zmaps instead")
    return set(table["run"])


def _read_table(path: Path) -> pd.DataFrame:
    """Read a TSV as text, so that it is carried along as it is."""
    try:
        return load_table(path, MAX_TABLE_BYTES, dtype=str)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not readable as a table ({one_line(error)}): give a TSV with one row a trial"
        ) from None


def _masked(path: Path, fitted: FittedDecoder, fill: bool) -> NDArray[np.float32]:
    """Read the decoder's voxels of every volume, one volume in memory at a time."""
    image = open_image(path)
    if len(image.shape) > 4:
        raise UserError(f"{path} has shape {image.shape}, expected a 4D NIfTI with one volume a trial")
    try:
        fitted.require_voxels(fitted.voxels, image.shape[:3], image.affine)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    places = np.unravel_index(fitted.voxels, fitted.shape)
    z = np.stack([np.asarray(volume[places], np.float32) for volume in iterate_volumes(path)])
    # Outside a run's brain its z is 0 in all trials.
    missing = ~np.isfinite(z) | (z == 0).all(axis=0)
    if missing.any():
        z = _filled(z, missing, path, fitted, fill)
    _warn_of_units(z, path, fitted)
    return z


def _filled(
    z: NDArray[np.float32], missing: NDArray[np.bool_], path: Path, fitted: FittedDecoder, fill: bool
) -> NDArray[np.float32]:
    count, total = int(missing.any(axis=0).sum()), z.shape[1]
    said = f"{path}: {count} of the decoder's {total} voxels have no value (NaN, or 0 in all trials) in some trial"
    mean = fitted.extra.get("x_mean_")
    if mean is None or mean.shape != (total,) or count > total // 2:
        raise UserError(f"{said}: give maps that cover its mask")
    if not fill:
        raise UserError(f"{said}: give maps that cover its mask, or --fill-missing to put their training mean there")
    warnings.warn(f"{said}: their training mean stands in", DataWarning, stacklevel=2)
    return np.where(missing, mean, z).astype(np.float32)


def _warn_of_units(z: NDArray[np.float32], path: Path, fitted: FittedDecoder) -> None:
    """Warn where values are so much wider or narrower than training's that they can hardly be z of the same model."""
    mean, scale = (fitted.extra.get(name) for name in ("x_mean_", "x_scale_"))
    if mean is None or scale is None or mean.shape != z.shape[1:] or scale.shape != mean.shape:
        return
    if (scale == 1).all():
        # Voxels that were not standardised: their spread is not known.
        return
    spread = float(np.median(np.abs(z - mean) / np.maximum(np.abs(scale), 1e-12)))
    usual = 0.6745  # median of |N(0, 1)|
    if not usual / STRANGE <= spread <= usual * STRANGE:
        warnings.warn(
            f"{path}: values lie {spread:.3g} training sd from the training mean (median), {usual:.2g} is usual: they "
            "may not be z of the study's own model",
            DataWarning,
            stacklevel=3,
        )
