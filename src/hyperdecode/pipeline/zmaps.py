"""One z-map a trial from clean series of any source, and what tells how good the series were."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.files import atomic_path
from hyperdecode.fmri.design import cosine_drift, frame_times
from hyperdecode.fmri.hrf import LIBRARY, best_hrf, choose_hrf
from hyperdecode.fmri.quality import dvars, tsnr
from hyperdecode.fmri.singletrial import single_trial_zmaps
from hyperdecode.pipeline.fitted_on import FITTED_ON, fitted_on
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.sources import BoldSource, CleanSeries, KeptBold
from hyperdecode.report.boldquality import carpet_figure
from hyperdecode.stimuli.schedule import REPEAT
from hyperdecode.study.bids import BoldRun
from hyperdecode.study.derivatives import write_image, write_json, write_table, write_volumes
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["EveryEvent", "FaceTrials", "SingleTrials", "TrialChoice", "noting_warnings"]

MODEL = {"glm", "noise_model", "hrf", "high_pass", "slice_time_ref"}
TRIAL_COLUMNS = ["run", "trial", "onset", "duration", "trial_type", "stim_file"]


class TrialChoice(Protocol):
    """Which events of a run are decoding trials, and which of those may be fitted on; `kind` names the choice."""

    kind: str

    def trials(self, run: BoldRun, events: pd.DataFrame) -> tuple[NDArray[np.bool_], pd.DataFrame]:
        """Return which events are trials, and the table of those."""
        ...

    def training(self, events: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which events are training trials."""
        ...


@dataclass(frozen=True)
class FaceTrials:
    """Events of a study: those that show one of its faces; catch trials and events without a face are only modelled."""

    stimuli: StimulusSet
    kind = "faces"

    def trials(self, run: BoldRun, events: pd.DataFrame) -> tuple[NDArray[np.bool_], pd.DataFrame]:
        """Return which events show a face, and the table of those."""
        if "stim_file" not in events:
            raise UserError(f"{run.events} has no column stim_file: name the stimulus of each trial there")
        faces = self._faces(events)
        if not faces.any():
            raise UserError(f"{run.events} shows no face: name the stimulus of each trial in stim_file")
        shown = [Path(str(name)).name for name in events["stim_file"][faces]]
        self.stimuli.require(shown)
        table = events[faces].assign(run=run.stem, trial=np.arange(len(shown)), stim_file=shown)[TRIAL_COLUMNS]
        return faces, table

    def training(self, events: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which events show a training face."""
        faces = self._faces(events)
        shown = [Path(str(name)).name for name in events["stim_file"][faces]]
        training = np.zeros(len(events), dtype=bool)
        training[faces] = np.asarray(self.stimuli.roles(shown)) == "train"
        return training

    @staticmethod
    def _faces(events: pd.DataFrame) -> NDArray[np.bool_]:
        return np.asarray(events["stim_file"].notna() & (events["trial_type"] != REPEAT))


@dataclass(frozen=True)
class EveryEvent:
    """Events of any data set, each a training trial: nothing is tested on them here."""

    kind = "every event"

    def trials(self, run: BoldRun, events: pd.DataFrame) -> tuple[NDArray[np.bool_], pd.DataFrame]:
        """Return all."""
        table = events.copy()
        table.insert(0, "volume", np.arange(len(table)))
        return np.ones(len(events), dtype=bool), table

    def training(self, events: pd.DataFrame) -> NDArray[np.bool_]:
        """Return all."""
        return np.ones(len(events), dtype=bool)


@dataclass(frozen=True)
class SingleTrials:
    """The single-trial model of every run of one subject.

    Attributes
    ----------
    layout : Layout
    bold : BoldSettings
    source : BoldSource
    choice : TrialChoice
    """

    layout: Layout
    bold: BoldSettings
    source: BoldSource
    choice: TrialChoice

    def steps(self) -> list[tuple[str, Step]]:
        """Choose the HRF where it comes from the library, then z-maps run by run."""
        steps = [("zmaps", self._step(run)) for run in self.source.runs]
        return [("hrf", self._hrf_step()), *steps] if self.bold.hrf == "library" else steps

    def files(self, run: BoldRun) -> dict[str, Path]:
        """Return the outputs of a run."""
        space = self.source.space
        own = {"brain": f"{space}desc-brain_mask.nii.gz", "nuisance": f"{space}desc-nuisance_timeseries.tsv"}
        if isinstance(self.source, KeptBold):
            # Its own step has written them.
            own = {}
        return {key: self.layout.func(run, name) for key, name in own.items()} | {
            "zmap": self.layout.zmap(run, space),
            "trials": self.layout.trials(run, space),
            "sidecar": self.layout.zmap(run, space).with_name(
                self.layout.zmap(run, space).name.replace(".nii.gz", ".json")
            ),
            "mean": self.layout.mean_functional(run, space),
            "tsnr": self.layout.tsnr(run, space),
            "quality": self.layout.func(run, f"{space}desc-quality_timeseries.tsv"),
            "carpet": self.layout.func(run, f"{space}desc-carpet_bold.png"),
        }

    def model(self, run: BoldRun) -> dict[str, Any]:
        """Return what the model of a run was, as its sidecar says."""
        content: dict[str, Any] = json.loads(self.files(run)["sidecar"].read_text(encoding="utf-8"))
        return content

    def nuisance(self, run: BoldRun) -> pd.DataFrame:
        """Return the confounds that the model of a run had; without columns where it had none."""
        if not self.model(run)["Confounds"]:
            return pd.DataFrame(index=range(self.model(run)["Volumes"]))
        kept = self.source.files(run) if isinstance(self.source, KeptBold) else self.files(run)
        return pd.read_csv(kept["nuisance"], sep="\t")

    @property
    def hrf_map(self) -> Path:
        """Which response of the library each voxel has, counted from 1."""
        return self.layout.subject(self.source.runs[0].subject, f"{self.source.space}desc-hrf_dseg.nii.gz")

    def _step(self, run: BoldRun) -> Step:
        settings = self.source.settings(run) | self.bold.model_dump(include=MODEL) | {"trials": self.choice.kind}
        inputs = (*self.source.inputs(run), *((self.hrf_map,) if self.bold.hrf == "library" else ()))
        return Step(
            f"zmaps_{self.source.space}{run.stem}",
            3,
            settings,
            inputs,
            tuple(self.files(run).values()),
            partial(self._work, run),
        )

    def _work(self, run: BoldRun) -> dict[str, Any]:
        with noting_warnings() as noted:
            clean = self.source.clean(run)
            chosen, table = self.choice.trials(run, clean.events)
            maps = single_trial_zmaps(
                clean.values,
                clean.events["onset"],
                clean.events["duration"],
                clean.t_r,
                method=self.bold.glm,
                noise_model=self.bold.noise_model,
                hrf=self.bold.hrf,
                hrf_index=self._hrf_index(clean) if self.bold.hrf == "library" else None,
                high_pass=clean.high_pass,
                confounds=clean.confounds,
                slice_time_ref=clean.slice_time_ref,
            )
        files, affine, space = self.files(run), clean.affine, self._code
        volumes = (clean.volume(maps.z[row], 0.0) for row in np.flatnonzero(chosen))
        x, y, depth = clean.inside.shape
        write_volumes(files["zmap"], volumes, (x, y, depth, int(chosen.sum())), affine, space)
        write_table(files["trials"], table)
        write_image(files["mean"], clean.volume(clean.values.mean(axis=0), 0.0), affine, space=space)
        drift = cosine_drift(frame_times(len(clean.values), clean.t_r), self.bold.high_pass)
        ratio = tsnr(clean.values, drift)
        write_image(files["tsnr"], clean.volume(ratio, 0.0), affine, space=space)
        finite = np.isfinite(clean.values).all(axis=0)
        if "brain" in files:
            write_image(files["brain"], clean.volume(np.asarray(finite, dtype=np.uint8), 0), affine, space=space)
            write_table(files["nuisance"], pd.DataFrame(clean.confounds, columns=list(clean.names)))
        jumps = dvars(clean.values)
        write_table(files["quality"], pd.DataFrame({"std_dvars": jumps}))
        carpet = carpet_figure(clean.values, clean.t_r, dvars=jumps)
        with atomic_path(files["carpet"]) as temporary:
            temporary.write_bytes(carpet.png)
        write_json(files["sidecar"], self._sidecar(clean, maps.dof) | {"Carpet": carpet.caption})
        return {
            "n_trials": len(table),
            "n_events_without_trial": int((~chosen).sum()),
            "n_volumes": len(clean.values),
            "n_voxels": int(clean.inside.sum()),
            "n_nan_voxels": int((~finite).sum()),
            "median_tsnr": float(np.nanmedian(ratio)),
            "dof": maps.dof,
            "warnings": [*noted, *clean.notes],
        }

    @property
    def _code(self) -> str:
        return "mni" if self.source.in_mni else "scanner"

    def _sidecar(self, clean: CleanSeries, dof: int) -> dict[str, Any]:
        return {
            "Description": "One z value a trial (volume) and voxel; the table of the same name lists the trials.",
            "RepetitionTime": clean.t_r,
            "Volumes": len(clean.values),
            "Model": self.bold.model_dump(include={"glm", "noise_model", "hrf"}),
            "HighPass": clean.high_pass,
            "SliceTimeRef": clean.slice_time_ref,
            "Confounds": list(clean.names),
            "DegreesOfFreedom": dof,
        }

    def _hrf_step(self) -> Step:
        runs = self.source.runs
        inputs = tuple(path for run in runs for path in self.source.inputs(run))
        settings = {run.stem: self.source.settings(run) for run in runs}
        settings |= self.bold.model_dump(include={"high_pass", "slice_time_ref"})
        return Step(f"hrf_sub-{runs[0].subject}", 1, settings, inputs, (self.hrf_map,), self._choose_hrf)

    def _choose_hrf(self) -> dict[str, Any]:
        scores: NDArray[np.float64] | None = None
        first: CleanSeries | None = None
        shown: list[str] = []
        rows: list[int] = []
        with noting_warnings() as noted:
            for run in self.source.runs:
                clean = self.source.clean(run)
                training = self.choice.training(clean.events)
                chosen, table = self.choice.trials(run, clean.events)
                rows += [len(shown) + int(row) for row in np.flatnonzero(training[chosen])]
                shown += list(table["stim_file"]) if "stim_file" in table else [""] * len(table)
                scored = choose_hrf(
                    clean.values,
                    clean.events["onset"],
                    clean.events["duration"],
                    clean.t_r,
                    training,
                    high_pass=clean.high_pass,
                    confounds=clean.confounds,
                    slice_time_ref=clean.slice_time_ref,
                )
                # A voxel may lie inside the brain of one run and outside that of another.
                placed = clean.volume(scored.T, 0.0).reshape(-1, len(scored))
                scores, first = placed if scores is None else scores + placed, first or clean
        assert scores is not None and first is not None
        index = best_hrf(scores.T).reshape(first.inside.shape)
        values = np.where(scores.any(axis=1).reshape(index.shape), index + 1, 0).astype(np.int16)
        write_image(self.hrf_map, values, first.affine, space=self._code)
        share = np.bincount(index[values > 0], minlength=len(LIBRARY)) / max(int((values > 0).sum()), 1)
        return {
            "share_of_voxels": [round(float(part), 4) for part in share],
            "warnings": noted,
            FITTED_ON: [fitted_on("choice of the HRF", rows, shown)],
        }

    def _hrf_index(self, clean: CleanSeries) -> NDArray[np.intp]:
        chosen = np.asarray(nib.load(self.hrf_map).dataobj)[clean.inside].astype(np.intp)
        # Where no run told anything, any response does: such a voxel is constant.
        return np.maximum(chosen - 1, 0)


@contextmanager
def noting_warnings() -> Iterator[list[str]]:
    """Collect the `DataWarning` of a block for the report, and let them out when it ends."""
    noted: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        yield noted
    for warning in caught:
        if issubclass(warning.category, DataWarning):
            noted.append(str(warning.message))
            warnings.warn(str(warning.message), DataWarning, stacklevel=3)
