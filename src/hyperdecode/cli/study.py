"""Commands on a study folder: init, simulate, run, report, and the demo that does it all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hyperdecode.cli import shared
from hyperdecode.cli.answer import AsJson, answer, rows, say, words
from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import Force, Scheduler, SkipFailed, Slurm, StudyFolder, WorkerCount
from hyperdecode.cli.status import show_plan

if TYPE_CHECKING:
    from hyperdecode.generators.base import Generator
    from hyperdecode.pipeline.cluster import Where
    from hyperdecode.study.config import StudyConfig
    from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["demo", "init", "report", "run", "simulate"]

Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of everything random in the study.")]


def init(
    study: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    preset: Annotated[str, typer.Option(help="Where values come from: paper, quick, pggan, whole-brain.")] = "paper",
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing study.toml.")] = False,
) -> None:
    """Make a study folder with a study.toml to edit, a comment above each key.

    Presets: paper (the published counts and timing), quick (a third of the trials), pggan (the paper with its own
    generator, once imported), whole-brain (simulated subjects with heads of their own that move).
    """
    from hyperdecode.errors import UserError
    from hyperdecode.study.config import CONFIG_NAME, PRESETS, write_config
    from hyperdecode.study.config import preset as settings

    if (study / CONFIG_NAME).exists() and not force:
        raise UserError(f"{study / CONFIG_NAME} exists: edit it, or give --force to replace it")
    path = write_config(study, settings(preset, name=study.resolve().name, seed=seed))
    typer.echo(f"Wrote {path}: {PRESETS[preset][0]}. Next: look it through, then hyperdecode stimuli {study}")


def simulate(
    study: StudyFolder,
    coverage: Annotated[
        str | None, typer.Option(help="Field of view, ventral or whole. Default: as study.toml says.")
    ] = None,
    voxel_size: Annotated[float | None, typer.Option(help="In mm. Default: as study.toml says.")] = None,
    null: Annotated[
        bool, typer.Option("--null", help="Subjects whose voxels know nothing of the faces, to test tests on.")
    ] = False,
    force: Force = False,
) -> None:
    """Make simulated subjects that saw the stimuli, as raw BIDS, and beside them what was planted.

    Options win over [simulation] in study.toml. Runs that `hyperdecode present` has shown are simulated as they were
    shown, the others as they are planned. What was planted lies in derivatives/simulation; no analysis reads it.
    """
    from hyperdecode.study.config import read_config, with_simulation

    console = Console()
    config = with_simulation(read_config(study), coverage=coverage, voxel_size=voxel_size, null=null or None)
    generator = shared.study_generator(config, console)
    made = shared.study_stimuli(study, config, generator, console, False)
    _simulate(study, config, made, generator, console, force)
    say(console, f"Next: hyperdecode run {study}")


def run(
    study: StudyFolder,
    step: Annotated[
        str | None,
        typer.Option(
            help="Only this step: realign, anatomy, register, bold, hrf, zmaps, mask, decode, posterior, ceiling, "
            "reconstruct, evaluate, baselines, map, moves or report."
        ),
    ] = None,
    skip_failed: SkipFailed = False,
    workers: WorkerCount = 1,
    scheduler: Scheduler = "",
    slurm: Slurm = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which steps would run, in which order and why; do nothing.")
    ] = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Analyse a study: z-maps, voxel mask, decoded latents, faces, scores, report. Redoes only what is out of date.

    What the BOLD is (raw, fMRIPrep's output, z-maps made elsewhere) and how it is modelled stands in [bold] of
    study.toml. Raw BOLD is realigned and registered first.
    """
    from hyperdecode.pipeline.cluster import Where
    from hyperdecode.study.config import read_config
    from hyperdecode.study.stimulus_set import read_stimuli

    console, config = words(as_json), read_config(study)
    made = read_stimuli(study)
    generator = shared.study_generator(config, console)
    if dry_run:
        show_plan(study, config, made, generator, console, step=step, force=force, as_json=as_json)
        return
    where = Where(workers, scheduler, slurm)
    found = _run(study, config, made, generator, console, step=step, force=force, skip_failed=skip_failed, where=where)
    if as_json:
        answer(found)


def report(study: StudyFolder, as_json: AsJson = False, force: Force = False) -> None:
    """Write the report of an analysed study again, from what `run` left: verdict, scores, Table 1, figures.

    It holds what is there: other decoders ([decoding] beside), eigenfaces and VAE-GAN ([evaluation] baselines), the
    comparison on simulated subjects (`hyperdecode compare`). Nothing is fitted.
    """
    run(study, "report", as_json=as_json, force=force)


def demo(
    out: Annotated[Path, typer.Argument(help="Folder to make the demo study in.", show_default=False)],
    quick: Annotated[bool, typer.Option("--quick", help="A third of the trials: minutes.")] = False,
    seed: Seed = 0,
    workers: WorkerCount = 1,
    scheduler: Scheduler = "",
    slurm: Slurm = None,
    force: Force = False,
) -> None:
    """Run the whole chain on simulated subjects: faces, BOLD, z-maps, decoded latents, faces again, report."""
    from hyperdecode.errors import UserError
    from hyperdecode.pipeline.cluster import Where
    from hyperdecode.study.config import CONFIG_NAME, preset, read_config, write_config

    console = Console()
    name = f"hyperdecode demo ({'quick' if quick else 'the trial counts of the paper'})"
    config = preset("quick" if quick else "paper", name=name, seed=seed)
    if (out / CONFIG_NAME).exists() and not force:
        if read_config(out) != config:
            raise UserError(f"{out} holds a study with other settings: give --force, or another folder")
    elif out.is_dir() and any(out.iterdir()) and not (out / CONFIG_NAME).exists():
        raise UserError(f"{out} is not empty and is no study: give a new folder")
    write_config(out, config)
    generator = shared.study_generator(config, console)
    where = Where(workers, scheduler, slurm)
    made = shared.study_stimuli(out, config, generator, console, force, where)
    shared.check_pictures(made, generator, 8, console)
    _simulate(out, config, made, generator, console, force)
    _run(out, config, made, generator, console, force=force, where=where)


def _simulate(
    study: Path, config: StudyConfig, made: StimulusSet, generator: Generator, console: Console, force: bool
) -> None:
    from hyperdecode.pipeline.simulate import simulate as work

    with progress_bar("Simulated runs", console) as update:
        written = work(study, config, made, generator, force=force, progress=update)
    done = f"simulated {', '.join(f'sub-{s}' for s in written)}" if written else "simulated subjects are up to date"
    console.print(f"BOLD: {done}.")
    for line in _remarks(config):
        console.print(line, soft_wrap=True, highlight=False)


def _remarks(config: StudyConfig) -> list[str]:
    """Say what one should know of these subjects before analysing them."""
    made, lines = config.simulation, []
    if made.null:
        lines.append("These are null subjects: their voxels respond, and know nothing of the faces that were shown.")
    if made.motion or made.head == "own":
        what = " and ".join(
            [*(["they move"] if made.motion else []), *(["their heads are not MNI's"] if made.head == "own" else [])]
        )
        lines.append(f"`hyperdecode run` will realign and normalise them, since {what}.")
    return lines


def _run(
    study: Path,
    config: StudyConfig,
    made: StimulusSet,
    generator: Generator,
    console: Console,
    *,
    step: str | None = None,
    force: bool = False,
    skip_failed: bool = False,
    where: Where | None = None,
) -> dict[str, Any]:
    """Analyse, say what came of it, and return that: the verdict where there is one, files, steps."""
    from hyperdecode.pipeline.cluster import HERE
    from hyperdecode.pipeline.run import run_study
    from hyperdecode.report.verdict import verdict

    with progress_bar("Analysis", console) as update:
        steps = (0, 1)

        def announce(name: str, done: int, total: int, ran: bool) -> None:
            nonlocal steps
            steps = (done, total)
            update(done, total, f"{name}{'' if ran else ' (up to date)'}")

        result = run_study(
            study,
            config,
            made,
            generator,
            only=step,
            force=force,
            skip_failed=skip_failed,
            where=where or HERE,
            announce=announce,
            progress=lambda what, done, total: update(*steps, f"{what}, {done} of {total}"),
        )
    answered: dict[str, Any] = {"study": study, "ran": result.ran, "left_out": result.skipped}
    say(console, *(f"Left out {stem}: {reason}" for stem, reason in result.skipped.items()))
    if not result.ran:
        console.print("Everything was up to date; nothing was done again.")
    if result.report.exists() and step in (None, "report"):
        import pandas as pd

        table = pd.read_csv(result.table, sep="\t")
        table = table[table["model"] == config.decoding.model]
        found = verdict({str(label): rows for label, rows in table.groupby("subject")})
        console.print(f"\n{found.sentence}", soft_wrap=True)
        say(console, *(f"  {line}" for line in found.details))
        say(console, f"\nScores: {result.table}", f"Report: {result.report}")
        say(console, f"Open it with: python -m webbrowser {result.report.resolve().as_uri()}")
        say(console, f"Next: hyperdecode figures {study} for a journal, hyperdecode explore {study} to move faces live")
        answered |= {"verdict": found, "report": result.report, "table": result.table, "scores": rows(table)}
    elif step is not None:
        say(console, f"Next: hyperdecode status {study}, or hyperdecode run {study} for what hangs on it")
    return answered
