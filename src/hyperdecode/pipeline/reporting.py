"""The last step of a study: what its files say, put into the report."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

import hyperdecode
from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, sha256_bytes
from hyperdecode.pipeline.analyse import Analysis
from hyperdecode.pipeline.near_duplicates import check_stimuli_apart
from hyperdecode.pipeline.records import Step, read_facts
from hyperdecode.pipeline.schedule import efficiency_of
from hyperdecode.pipeline.simulate import MANUFACTURER
from hyperdecode.report.build import Figure, ReportData, SubjectReport, write_report
from hyperdecode.report.duplicatesfigure import duplicates_caption, duplicates_figure
from hyperdecode.report.schedulefigure import schedule_caption, schedule_figure
from hyperdecode.report.strips import reconstruction_strip
from hyperdecode.stimuli.schedule import REPEAT, scan_time
from hyperdecode.study.bids import BoldRun, read_events
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_table
from hyperdecode.study.stimulus_set import read_picture

__all__ = ["report_step"]

STRIP_FACES = 8
PACKAGES = ("numpy", "scipy", "torch", "himalaya", "nilearn", "nibabel", "scikit-image")


def report_step(analysis: Analysis, runs: dict[str, list[BoldRun]]) -> Step:
    """Return the step that writes the report; it depends on what the earlier steps noted, so ask for it after them."""
    layout, names = analysis.layout, analysis.stimuli.names("test")
    inputs = [layout.full_stimulus(name) for name in names]
    inputs += [analysis.stimuli.folder / "manifest.tsv", *(run.events for mine in runs.values() for run in mine)]
    for subject in runs:
        inputs += [
            layout.subject(subject, name)
            for name in ("scores.tsv", "faces.tsv", "desc-mostactive_mask.png", "trials.tsv")
        ]
        inputs += [layout.reconstruction(subject, name) for name in names]
    names_of_steps = [f"zmaps_{run.stem}" for mine in runs.values() for run in mine]
    names_of_steps += [f"{step}_sub-{subject}" for step in ("mask", "decode") for subject in runs]
    settings = {
        "config": analysis.config.model_dump(mode="json"),
        "version": hyperdecode.__version__,
        "facts": {name: read_facts(layout.records, name) for name in names_of_steps},
    }
    outputs = (layout.report, layout.table, layout.strip)
    return Step("report", 2, settings, tuple(inputs), outputs, lambda: _write_report(analysis, runs))


def _write_report(analysis: Analysis, runs: dict[str, list[BoldRun]]) -> None:
    layout, config, names = analysis.layout, analysis.config, analysis.stimuli.names("test")
    stimuli = np.stack([read_picture(layout.full_stimulus(name)) for name in names])
    subjects = [_subject_report(analysis, subject, mine) for subject, mine in runs.items()]
    data = ReportData(
        title=config.name,
        summary=_summary(analysis, runs),
        stimuli=stimuli,
        stimulus_names=[Path(name).stem for name in names],
        subjects=subjects,
        notes=_study_notes(config),
        versions={"hyperdecode": hyperdecode.__version__, "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        commands=[f"hyperdecode run {layout.study.name}"],
        seed=config.seed,
        figures=[_schedule(analysis, runs), _duplicates(analysis)],
    )
    write_report(layout.report, data)
    write_table(layout.table, pd.concat([pd.read_csv(layout.subject(s, "scores.tsv"), sep="\t") for s in runs]))
    # The faces that the first subject's decoder identified best, stated as such wherever the sheet is shown.
    best = np.argsort(-subjects[0].per_face["cosine"].to_numpy(), kind="stable")[:STRIP_FACES]
    strip = reconstruction_strip(stimuli[best], {s.label: s.reconstructions[best] for s in subjects})
    with atomic_path(layout.strip) as temporary:
        strip.convert("RGB").save(temporary, format="JPEG", quality=88)


def _schedule(analysis: Analysis, runs: dict[str, list[BoldRun]]) -> Figure:
    """Picture of what the first subject was shown, and how well its trials can be told apart."""
    subject, mine = next(iter(runs.items()))
    config, timing = analysis.config, analysis.config.timing
    shown = [_faces(analysis, read_events(run.events)) for run in mine]
    time = scan_time(shown, off=timing.off, lead_out=timing.lead_out, t_r=timing.t_r)
    caption = f"What sub-{subject} was shown. {schedule_caption(shown)} {efficiency_of(config, shown, time).words}"
    return Figure("Order of the faces", schedule_figure(shown), caption)


def _faces(analysis: Analysis, events: pd.DataFrame) -> pd.DataFrame:
    """Events that show a face, by its role: a data set may call its trials as it likes."""
    faces = events[events["stim_file"].notna()]
    names = [Path(str(name)).name for name in faces["stim_file"]]
    roles = np.where(faces["trial_type"] == REPEAT, REPEAT, analysis.stimuli.roles(names))
    return faces.assign(stim_file=names, trial_type=roles)


def _duplicates(analysis: Analysis) -> Figure:
    checks = check_stimuli_apart(analysis.stimuli)
    caption = duplicates_caption(checks, analysis.stimuli.names("test"))
    return Figure("Test faces are no training faces", duplicates_figure(checks), caption)


def _subject_report(analysis: Analysis, subject: str, runs: list[BoldRun]) -> SubjectReport:
    layout, names = analysis.layout, analysis.stimuli.names("test")
    masked, decoded = (read_facts(layout.records, f"{step}_sub-{subject}") for step in ("mask", "decode"))
    per_run = [read_facts(layout.records, f"zmaps_{run.stem}") for run in runs]
    if not masked or not decoded:
        raise UserError(f"the mask or the decoder of sub-{subject} was not finished: run the earlier steps first")
    trials = pd.read_csv(layout.subject(subject, "trials.tsv"), sep="\t")
    notes = [f"{masked['n_dropped_nan']} voxels without usable values (NaN or constant) were left out of the mask."]
    n_nan = sum(int(facts.get("n_nan_voxels", 0)) for facts in per_run)
    if n_nan:
        notes.append(f"{n_nan} voxel series with NaN, summed over {len(runs)} runs.")
    notes += [text for facts in (*per_run, decoded) for text in facts.get("warnings", [])]
    return SubjectReport(
        label=f"sub-{subject}",
        table=pd.read_csv(layout.subject(subject, "scores.tsv"), sep="\t").drop(columns="subject"),
        per_face=pd.read_csv(layout.subject(subject, "faces.tsv"), sep="\t").drop(columns="stim_file"),
        reconstructions=np.stack([read_picture(layout.reconstruction(subject, name)) for name in names]),
        n_voxels=int(masked["n_voxels"]),
        n_training_trials=int(masked["n_training_trials"]),
        n_test_trials=int(masked["n_test_trials"]),
        training_hash=_trials_hash(trials, "train"),
        test_hash=_trials_hash(trials, "test"),
        mask_png=layout.subject(subject, "desc-mostactive_mask.png").read_bytes(),
        facts={
            "Ridge penalty": f"{decoded['alpha']:.4g}, by {analysis.config.decoding.n_folds}-fold cross-validation "
            "on training trials"
        },
        notes=notes,
    )


def _trials_hash(trials: pd.DataFrame, role: str) -> str:
    mine = trials.loc[trials["role"] == role, ["run", "trial", "stim_file"]]
    return sha256_bytes(mine.to_csv(index=False).encode())


def _summary(analysis: Analysis, runs: dict[str, list[BoldRun]]) -> dict[str, str]:
    config, faces = analysis.config, analysis.config.stimuli
    n_trials = sum(len(pd.read_csv(analysis.layout.subject(s, "trials.tsv"), sep="\t")) for s in runs)
    return {
        "Stimuli": (
            f"{faces.n_train} training faces and {faces.n_test} test faces, planned to be shown {faces.test_repeats} "
            f"times each, made by {config.generator} (truncation {faces.truncation}), {faces.size} px."
        ),
        "Experiment": (
            f"{n_trials} trials in {sum(map(len, runs.values()))} runs of {len(runs)} "
            f"{'subject' if len(runs) == 1 else 'subjects'}.{_simulated(runs)}"
        ),
        "BOLD to z-maps": (
            f"One z-map a trial by {config.bold.glm.upper()} with the canonical SPM response; repeats of test faces "
            f"averaged; the {config.bold.n_voxels} voxels of highest mean z over training trials."
        ),
        "Decoder": f"Ridge regression from voxels to latents in {config.decoding.space}; penalty by training trials.",
    }


def _simulated(runs: dict[str, list[BoldRun]]) -> str:
    """Say so where the BOLD came from no scanner."""
    made = [s for s, mine in runs.items() if any(run.sidecar.get("Manufacturer") == MANUFACTURER for run in mine)]
    if not made:
        return ""
    return (
        " The subjects are simulated: no brain was measured."
        if len(made) == len(runs)
        else (f" Simulated, not measured: {', '.join(f'sub-{s}' for s in made)}.")
    )


def _study_notes(config: StudyConfig) -> list[str]:
    space = "where it is" if config.bold.space == "native" else "motionless in MNI space"
    notes = [f"The BOLD was taken to lie {space}; nothing was realigned or normalised here."]
    if config.decoding.match_norm:
        notes.append(
            "Pictures and their scores are of decoded latents stretched to the mean length of training latents (ridge "
            "regression shrinks them towards the average face); scores of latents are of the latents as decoded."
        )
    return notes
