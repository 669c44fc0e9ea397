"""Simulated subjects into a study folder, as raw BIDS that the analysis cannot tell from a scanner's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.lock import Held, make_lock
from hyperdecode.pipeline.presented import presented_files
from hyperdecode.pipeline.records import Step, run_step
from hyperdecode.pipeline.schedule import plan_schedule
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.simulation.bold import simulate_run
from hyperdecode.simulation.features import FeatureBank, picture_features
from hyperdecode.simulation.head import Head, grow_head
from hyperdecode.simulation.motion import draw_motion
from hyperdecode.simulation.noise import NoiseSettings, noise_sd
from hyperdecode.simulation.responses import SimulatedSubject, grow_subject, truth_volumes
from hyperdecode.stimuli.schedule import scan_time
from hyperdecode.study.bids import read_events
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_json
from hyperdecode.study.layout import Layout
from hyperdecode.study.planned import plan_path, read_plan
from hyperdecode.study.raw import (
    Series,
    anat_path,
    bids_image,
    run_files,
    space_code,
    write_dataset,
    write_events,
    write_events_sidecar,
    write_series,
)
from hyperdecode.study.stimulus_set import StimulusSet
from hyperdecode.study.truth import Truth
from hyperdecode.weights.atlas import load_atlas

__all__ = ["StimulusBank", "simulate"]

Progress = Callable[[int, int], None]
ORIGIN = "The subjects are simulated."
MANUFACTURER = "simulated by hyperdecode"


def simulate(
    study: Path,
    config: StudyConfig,
    stimuli: StimulusSet,
    generator: Generator,
    *,
    bank: StimulusBank | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write what of every simulated subject is absent or out of date; a killed run goes on with the next run of BOLD.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    stimuli : StimulusSet
        The faces shown.
    generator : Generator
        The voxels read its activations.
    bank : StimulusBank, optional
        Features of these stimuli, when several studies share them.
    force : bool
        Write everything again.
    progress : callable, optional
        Called with (runs done, runs in all).

    Returns
    -------
    list of str
        Subjects of whom something was written now.

    Raises
    ------
    UserError
        When the folder holds BOLD of a real scanner, or events of runs that a scanner triggered, or when another
        command works on the study or shows a run of it.
    """
    bank = bank or StimulusBank(config, stimuli, generator)
    written = []
    with make_lock(study, Layout(study).records) as held:
        _refuse_real_data(study, config)
        write_dataset(study, config, ORIGIN)
        write_events_sidecar(study, config)
        n_runs, n_subjects = config.schedule.n_runs, len(config.subjects)
        for index, label in enumerate(config.subjects):
            plan_schedule(study, config, stimuli, label)
            steps = _Simulation(study, config, stimuli, bank, label).steps(generator)
            tell = partial(_tell, progress, index * n_runs, n_subjects * n_runs)
            if _simulate_subject(study, steps, held, force, tell):
                written.append(label)
    return written


def _simulate_subject(study: Path, steps: list[Step], held: Held, force: bool, tell: Callable[[int], None]) -> bool:
    ran = []
    for done, step in enumerate(steps):
        held.check()
        ran.append(run_step(step, study, Layout(study).records, force=force))
        tell(done)
    return any(ran)


def _tell(progress: Progress | None, before: int, total: int, done: int) -> None:
    if progress:
        progress(before + done, total)


class StimulusBank:
    """Features of the stimuli, made when the first voxel asks for them: most second runs never do."""

    def __init__(self, config: StudyConfig, stimuli: StimulusSet, generator: Generator) -> None:
        self._config, self._stimuli, self._generator = config, stimuli, generator

    @cached_property
    def features(self) -> FeatureBank:
        """What the generator's layers say of every stimulus, in the order of the manifest."""
        names = list(self._stimuli.manifest["stim_file"])
        return picture_features(
            self._generator,
            self._stimuli.latents(names, "w"),
            self._stimuli.pictures(names),
            seed=derived_seed(self._config.seed, "features"),
        )


@dataclass(frozen=True)
class _Simulation:
    """One subject: its head, its voxels and its runs, each made when a step needs it."""

    study: Path
    config: StudyConfig
    stimuli: StimulusSet
    bank: StimulusBank
    label: str

    def steps(self, generator: Generator) -> list[Step]:
        """Return the steps that write the subject: anatomy and truth, then run by run."""
        truth, made = self.truth, self.config.simulation
        # All settings for the person too: noise and motion shape nobody, but the truth beside the data names them.
        general = {"seed": self.config.seed, "task": self.config.task, "generator": generator.fingerprint}
        settings = general | made.model_dump()
        inputs = (self.stimuli.folder / "manifest.tsv", self.stimuli.folder / "latents.safetensors")
        person = (anat_path(self.study, self.label), truth.warp, truth.responses, truth.settings)
        steps = [Step(f"simulate_sub-{self.label}", 3, settings, inputs, person, self._write_person)]
        timing = self.config.timing.model_dump(exclude={"flash_hz", "flash_duty"})
        for run in range(1, self.config.schedule.n_runs + 1):
            files = run_files(self.study, self.config, self.label, run)
            outputs = [files.sidecar, files.bold, truth.motion(run), truth.motion_sidecar(run), truth.trials(run)]
            source = self._events(run)
            if source != files.events:
                outputs.append(files.events)
            name = f"simulate_sub-{self.label}_run-{run:02d}"
            work = partial(self._write_run, run, source)
            steps.append(Step(name, 2, settings | timing, (*inputs, source), tuple(outputs), work))
        return steps

    @property
    def truth(self) -> Truth:
        return Truth(self.study, self.config, self.label)

    @property
    def space(self) -> str:
        return space_code(self.config.simulation)

    @cached_property
    def head(self) -> Head:
        made = self.config.simulation
        return grow_head(
            load_atlas(),
            seed=derived_seed(self.config.seed, "head", self.label),
            voxel_size=made.voxel_size,
            coverage=made.coverage,
            shape=made.head,
        )

    @cached_property
    def subject(self) -> SimulatedSubject:
        return grow_subject(
            self.bank.features,
            self.head,
            seed=derived_seed(self.config.seed, "subject", self.label),
            noise_ceiling=self.config.simulation.noise_ceiling,
        )

    @cached_property
    def noise(self) -> NDArray[np.float32] | None:
        """Noise of each voxel, fixed by the design of the first planned run; None for subjects without noise."""
        if self.config.simulation.noise_ceiling == 1:
            return None
        events = read_plan(self.study, self.config, self.label, 1)
        t_r, n_volumes = self.config.timing.t_r, self._n_volumes(events)
        return noise_sd(self.subject, events, t_r=t_r, n_volumes=n_volumes, settings=self.noise_settings)

    @property
    def noise_settings(self) -> NoiseSettings:
        made = self.config.simulation
        return NoiseSettings(
            shared=made.shared_noise,
            own=max(0.0, 1 - made.shared_noise - made.physiology - made.thermal),
            physio=made.physiology,
            thermal=made.thermal,
            ar1=made.ar1,
            drift=made.drift,
        )

    def _events(self, run: int) -> Path:
        """Say what the subject saw: the events of a run that was presented, else the plan."""
        files = presented_files(self.study, self.config, self.label, run)
        if files.state in ("new", "foreign"):
            return plan_path(self.study, self.config, self.label, run)
        planned = list(read_plan(self.study, self.config, self.label, run)["stim_file"])
        shown = [Path(str(name)).name for name in read_events(files.events)["stim_file"]]
        if shown != planned[: len(shown)]:
            raise UserError(f"{files.events} was rehearsed by another plan: move it away, or rehearse the run again")
        return files.events

    def _n_volumes(self, events: pd.DataFrame) -> int:
        timing = self.config.timing
        return scan_time([events], off=timing.off, lead_out=timing.lead_out, t_r=timing.t_r).volumes[0]

    def _write_person(self) -> dict[str, Any]:
        subject, truth = self.subject, self.truth
        truth.prepare()
        with atomic_path(anat_path(self.study, self.label)) as temporary:
            nib.save(bids_image(self.head.t1w, self.space), temporary)
        for name, values in {**truth_volumes(subject), "mniposition_map": self.head.mni}.items():
            path = truth.warp if name == "mniposition_map" else truth.volume(name)
            with atomic_path(path) as temporary:
                nib.save(bids_image(nib.Nifti1Image(values, self.head.affine), self.space), temporary)
        fields = ("voxels", "region", "responses", "mix", "field_centre", "field_sd", "noise_ceiling", "hrf_delay")
        truth.write_tensors({name: getattr(subject, name) for name in fields})
        write_json(
            truth.settings,
            {
                "Layers": list(subject.layers),
                "Stimuli": list(self.stimuli.manifest["stim_file"]),
                "Regions": {str(label): load_atlas().names[label] for label in self.head.table},
                "Settings": self.config.simulation.model_dump(),
            },
        )
        return {"n_voxels": len(subject.voxels), "median_noise_ceiling": float(np.median(subject.noise_ceiling))}

    def _write_run(self, run: int, source: Path) -> dict[str, Any]:
        config, files = self.config, run_files(self.study, self.config, self.label, run)
        events = read_events(source)
        names = list(self.stimuli.manifest["stim_file"])
        row_of = {name: row for row, name in enumerate(names)}
        rows = np.array([row_of[Path(name).name] for name in events["stim_file"]])
        if config.simulation.null:
            # The voxels of a null subject respond to some face, never knowingly to the one that was shown.
            rng = np.random.default_rng(derived_seed(config.seed, "null", self.label, run))
            rows = rng.integers(len(names), size=len(rows))
        n_volumes = self._n_volumes(events)
        seed = derived_seed(config.seed, "noise", self.label, run)
        scale = config.simulation.motion
        moved = draw_motion(n_volumes, scale=scale, seed=derived_seed(seed, "motion")) if scale else None
        simulated = simulate_run(
            self.subject,
            events,
            rows,
            t_r=config.timing.t_r,
            n_volumes=n_volumes,
            noise=self.noise,
            motion=moved,
            settings=self.noise_settings,
            seed=seed,
        )
        if files.events != source:
            write_events(files.events, events)
        write_json(files.sidecar, self._sidecar())
        x, y, z = self.head.brain.shape
        t_r, pieces = config.timing.t_r, simulated.volumes()
        write_series(files.bold, Series(pieces, (x, y, z, n_volumes), self.head.affine, t_r, self.space))
        self.truth.write_motion(run, simulated.motion, simulated.centre)
        self.truth.write_trials(run, events, [names[row] for row in rows])
        return {"n_volumes": n_volumes, "n_trials": len(events)}

    def _sidecar(self) -> dict[str, Any]:
        return {
            "TaskName": self.config.task,
            "RepetitionTime": self.config.timing.t_r,
            "Manufacturer": MANUFACTURER,
        }


def _refuse_real_data(study: Path, config: StudyConfig) -> None:
    for bold in study.glob("sub-*/**/[!.]*_bold.nii*"):
        sidecar = bold.with_name(f"{bold.name[: bold.name.rindex('_bold.')]}_bold.json")
        try:
            ours = json.loads(sidecar.read_text(encoding="utf-8")).get("Manufacturer") == MANUFACTURER
        except (OSError, ValueError, AttributeError):
            ours = False
        if not ours:
            raise UserError(f"{study} holds BOLD that was not simulated here ({bold.name}): use a folder of its own")
    for label in config.subjects:
        for run in range(1, config.schedule.n_runs + 1):
            files = presented_files(study, config, label, run)
            if files.state.endswith("scanner"):
                raise UserError(f"{files.events} was shown in a scanner, to somebody real: simulate in another folder")
