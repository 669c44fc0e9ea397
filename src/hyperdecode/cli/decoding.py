"""Commands on decoders: decode with one by name, compare several on simulated subjects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hyperdecode.cli import shared
from hyperdecode.cli.answer import AsJson, answer, rows, say, words
from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import Force, Scheduler, Slurm, StudyFolder, WorkerCount

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare", "decode"]

SHOWN = ("identification", "cosine", "lsim", "ssim_hyper-paper")


def decode(
    study: StudyFolder,
    model: Annotated[
        str | None,
        typer.Option(
            help="Decoder: weighted-ridge, ridge, ridge-per-latent, ridge-per-component, banded-ridge, inverted, "
            "dense, dense-no-decay, hyper-1 to hyper-5, activation-4, -9, -14, -19. Default: that of study.toml."
        ),
    ] = None,
    workers: WorkerCount = 1,
    scheduler: Scheduler = "",
    slurm: Slurm = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Decode an analysed study with another decoder: latents, faces, scores beside those of the study's own.

    A decoder that trains for long keeps its state; the same command goes on after an interruption. To have its faces in
    the report too, name it in `beside` of [decoding] in study.toml and run the study again.
    """
    from hyperdecode.decoding.models import MODELS
    from hyperdecode.errors import UserError
    from hyperdecode.pipeline.cluster import Where
    from hyperdecode.pipeline.run import decode_study
    from hyperdecode.study.config import read_config
    from hyperdecode.study.layout import Layout
    from hyperdecode.study.stimulus_set import read_stimuli

    console, config = words(as_json), read_config(study)
    name = model or config.decoding.model
    if name not in MODELS:
        raise UserError(f"no decoder {name!r}: choose among {', '.join(MODELS)}")
    made = read_stimuli(study)
    generator = shared.study_generator(config, console)
    with progress_bar("Decoding", console) as update:
        steps = (0, 1)

        def announce(step: str, done: int, total: int, ran: bool) -> None:
            nonlocal steps
            steps = (done, total)
            update(done, total, f"{step}{'' if ran else ' (up to date)'}")

        table = decode_study(
            study,
            config,
            made,
            generator,
            name,
            force=force,
            where=Where(workers, scheduler, slurm),
            announce=announce,
            progress=lambda what, done, total: update(*steps, f"{what}, {done} of {total}"),
        )
    console.print(_scores(table))
    layout = Layout(study)
    faces = {subject: layout.reconstruction(subject, name, "") for subject in config.subjects}
    say(console, *(f"Faces of sub-{subject}: {folder}" for subject, folder in faces.items()))
    if name != config.decoding.model:
        wanted = json.dumps([*config.decoding.beside, name])
        beside = f"beside = {wanted} in [decoding] of study.toml, then "
        say(console, f"Next: {'' if name in config.decoding.beside else beside}hyperdecode run {study}")
    if as_json:
        answer({"model": name, "faces": faces, "scores": rows(table)})


def compare(
    study: StudyFolder,
    ceiling: Annotated[
        list[float] | None,
        typer.Option(help="Noise ceiling of a single trial; give it again for more. Default: 0.01, 0.03, 0.1."),
    ] = None,
    space: Annotated[list[str] | None, typer.Option(help="Latent space, w or z. Default: all there are.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Decoder. Default: weighted-ridge, ridge and dense.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare decoders on simulated subjects at several noise levels: scores, time, a chart.

    Uses the stimuli of the study and simulates its subjects anew, in derivatives/comparison; data of the study itself
    are neither read nor changed. What was compared before is kept: give more models, ceilings or spaces to add to it.
    """
    from hyperdecode.pipeline.compare import CEILINGS
    from hyperdecode.pipeline.compare import compare as work
    from hyperdecode.study.config import read_config
    from hyperdecode.study.layout import Layout
    from hyperdecode.study.stimulus_set import read_stimuli

    console, config = words(as_json), read_config(study)
    made = read_stimuli(study)
    generator = shared.study_generator(config, console)
    with progress_bar("Comparison", console) as update:
        table = work(
            study,
            config,
            made,
            generator,
            ceilings=ceiling or CEILINGS,
            spaces=space or [s for s in ("w", "z") if s in generator.spaces],
            models=model or ("weighted-ridge", "ridge", "dense"),
            tell=lambda what, done, total: update(done, total, what),
        )
    console.print(_comparison(table))
    out = study / "derivatives" / "comparison"
    say(console, f"Table: {out / 'comparison.tsv'}", f"Chart: {out / 'comparison.png'}")
    if Layout(study).table.exists():
        say(console, f"Next: hyperdecode report {study}")
    if as_json:
        answer({"table": out / "comparison.tsv", "chart": out / "comparison.png", "comparison": rows(table)})


def _scores(table: pd.DataFrame) -> Table:
    from hyperdecode.report.words import metric_label, score_text

    shown = Table(box=None)
    for name in ("Subject", "Decoder", "Metric", "Score", "Best blind", "p"):
        shown.add_column(name, justify="left" if name in ("Subject", "Decoder", "Metric") else "right")
    for row in table[table["metric"].isin(SHOWN)].to_dict("records"):
        metric = str(row["metric"])
        scores = (score_text(metric, float(row[name])) for name in ("decoder", "best_blind_score"))
        words = (str(row["subject"]), str(row["model"]), metric_label(metric))
        shown.add_row(*words, *scores, f"{row['p_value']:.2g}")
    return shown


def _comparison(table: pd.DataFrame) -> Table:
    """Mean over subjects."""
    shown = Table(box=None)
    names = ("Ceiling", "Space", "Decoder", "2-way", "Cosine", "lsim", "Attributes r", "Seconds")
    for name in names:
        shown.add_column(name, justify="left" if name in ("Space", "Decoder") else "right")
    by, columns = ["noise_ceiling", "space", "model"], ["identification", "cosine", "lsim", "attribute_r", "seconds"]
    for row in table.groupby(by, sort=False)[columns].mean().reset_index().to_dict("records"):
        shown.add_row(
            f"{row['noise_ceiling']:g}",
            str(row["space"]),
            str(row["model"]),
            f"{row['identification']:.1%}",
            *(f"{row[name]:.3f}" for name in ("cosine", "lsim", "attribute_r")),
            f"{row['seconds']:.1f}",
        )
    return shown
