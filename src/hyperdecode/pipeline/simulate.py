"""Simulated subjects into a study folder, as raw BIDS that the analysis cannot tell from a scanner's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.records import Step, run_step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.simulation.features import FeatureBank, picture_features
from hyperdecode.simulation.subject import simulate_run, simulate_subject
from hyperdecode.stimuli.schedule import schedule_runs
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.raw import run_files, run_stem, write_dataset, write_run
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["simulate"]

Progress = Callable[[int, int], None]
ORIGIN = "The subjects are simulated."
MANUFACTURER = "simulated by hyperdecode"


def simulate(
    study: Path,
    config: StudyConfig,
    stimuli: StimulusSet,
    generator: Generator,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write the runs of every simulated subject whose data are absent or out of date.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    stimuli : StimulusSet
        The faces shown.
    generator : Generator
        The voxels read its activations.
    force : bool
        Write all runs again.
    progress : callable, optional
        Called with (runs done, runs in all).

    Returns
    -------
    list of str
        Subjects written now.

    Raises
    ------
    UserError
        When the folder holds BOLD of a real scanner.
    """
    _refuse_real_data(study)
    write_dataset(study, config, ORIGIN)
    layout = Layout(study)
    settings = {
        key: value for key, value in config.model_dump().items() if key in ("seed", "task", "timing", "simulation")
    }
    settings |= {"generator": generator.fingerprint, "repeats": config.stimuli.test_repeats}
    bank: FeatureBank | None = None

    def write(index: int, subject: str) -> None:
        nonlocal bank
        if bank is None:
            bank = _features(config, stimuli, generator)
        for run in _write_subject(study, config, stimuli, bank, subject):
            if progress:
                progress(index * config.schedule.n_runs + run, len(config.subjects) * config.schedule.n_runs)

    written = []
    for index, subject in enumerate(config.subjects):
        outputs = _outputs(study, config, subject)
        inputs = (stimuli.folder / "manifest.tsv", stimuli.folder / "latents.safetensors")
        step = Step(f"simulate_sub-{subject}", 1, settings, inputs, outputs, partial(write, index, subject))
        if run_step(step, study, layout.records, force=force):
            written.append(subject)
    return written


def _refuse_real_data(study: Path) -> None:
    for bold in study.glob("sub-*/**/*_bold.nii*"):
        sidecar = bold.with_name(f"{bold.name[: bold.name.rindex('_bold.')]}_bold.json")
        try:
            ours = json.loads(sidecar.read_text(encoding="utf-8")).get("Manufacturer") == MANUFACTURER
        except (OSError, ValueError, AttributeError):
            ours = False
        if not ours:
            raise UserError(f"{study} holds BOLD that was not simulated here ({bold.name}): use a folder of its own")


def _features(config: StudyConfig, stimuli: StimulusSet, generator: Generator) -> FeatureBank:
    names = list(stimuli.manifest["stim_file"])
    return picture_features(
        generator, stimuli.latents(names, "w"), stimuli.pictures(names), seed=derived_seed(config.seed, "features")
    )


def _outputs(study: Path, config: StudyConfig, subject: str) -> tuple[Path, ...]:
    stems = [run_stem(study, config, subject, run + 1) for run in range(config.schedule.n_runs)]
    return tuple(path for stem in stems for path in run_files(stem))


def _write_subject(
    study: Path, config: StudyConfig, stimuli: StimulusSet, bank: FeatureBank, subject: str
) -> Iterator[int]:
    """Write a subject's runs one by one, yielding how many are done."""
    timing = config.timing
    person = simulate_subject(
        bank, seed=derived_seed(config.seed, "subject", subject), voxel_size=config.simulation.voxel_size
    )
    latent = stimuli.manifest.set_index("stim_file")["latent"]
    schedule = schedule_runs(
        stimuli.names("train"),
        stimuli.names("test"),
        config.stimuli.test_repeats,
        config.schedule.n_runs,
        on=timing.on,
        off=timing.off,
        lead_in=timing.lead_in,
        seed=derived_seed(config.seed, "schedule", subject),
    )
    sidecar = {"TaskName": config.task, "RepetitionTime": timing.t_r, "Manufacturer": MANUFACTURER}
    for run, events in enumerate(schedule, start=1):
        last = float(events["onset"].iloc[-1] + timing.on + timing.off)
        bold = simulate_run(
            person,
            events,
            latent.loc[events["stim_file"]].to_numpy(),
            t_r=timing.t_r,
            n_volumes=math.ceil((last + timing.lead_out) / timing.t_r),
            noise=(1 / config.simulation.noise_ceiling - 1) ** 0.5,
            seed=derived_seed(config.seed, "noise", subject, run),
        )
        write_run(run_stem(study, config, subject, run), bold, events, sidecar)
        yield run
