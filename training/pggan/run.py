"""A run in a folder: train until a number of images or minutes, logging and saving along the way."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, write_text
from hyperdecode.stimuli.pictures import to_uint8
from training.pggan.checkpoint import exists, resume, save
from training.pggan.data import Pictures
from training.pggan.loop import Figures, Machine, Trainer
from training.pggan.settings import Settings

__all__ = ["LOG", "Pace", "sheet", "train"]

LOG = "log.jsonl"
SHEET = 8
SMALLEST_SHOWN = 64


@dataclass(frozen=True)
class Pace:
    """How long to train, and how often to tell. None of it changes the parameters.

    Attributes
    ----------
    images : int, optional
        Real images to have shown in all. Default: until the full side has been stabilised once.
    minutes : float, optional
        Stop earlier, after so many minutes; the run can be resumed.
    log_every, save_every : int
        Images between two lines of the log, and between two saved states with their sheets of samples.
    """

    images: int | None = None
    minutes: float | None = None
    log_every: int = 10_000
    save_every: int = 200_000


def train(run: Path, settings: Settings, pictures: Pictures, pace: Pace, machine: Machine | None = None) -> Trainer:
    """Begin a run, or go on with the one that the folder holds.

    Parameters
    ----------
    run : pathlib.Path
        Folder for ``state.json``, tensors, ``log.jsonl``, ``reals.png`` and ``samples-*.png``.
    settings, pictures
        Equal to those of the run that the folder holds, if any.
    pace : Pace
    machine : Machine, optional
        Default: the CPU in float32.

    Returns
    -------
    Trainer

    Raises
    ------
    UserError
        When the folder holds another run, or the losses are no longer finite.
    """
    trainer = Trainer(settings, pictures, machine)
    if exists(run):
        resume(trainer, run)
    else:
        _save_sheet(pictures.values[: SHEET**2].float() / 127.5 - 1, run / "reals.png")
    log = Log(run / LOG, trainer)
    end = settings.total_images if pace.images is None else pace.images
    stop = time.monotonic() + 60 * pace.minutes if pace.minutes is not None else float("inf")
    logged = saved = trainer.shown
    while trainer.shown < end and time.monotonic() < stop:
        log.add(trainer.step())
        if trainer.shown - logged >= pace.log_every:
            log.write()
            logged = trainer.shown
        if trainer.shown - saved >= pace.save_every:
            _save(trainer, run, log)
            logged = saved = trainer.shown
    if trainer.shown > saved or not exists(run):
        _save(trainer, run, log)
    return trainer


class Log:
    """Lines of means since the line before; lines behind the resumed state are taken out."""

    def __init__(self, path: Path, trainer: Trainer) -> None:
        self.path, self.trainer = path, trainer
        kept = [row for row in _rows(path) if row["images"] <= trainer.shown]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.seconds = float(kept[-1]["seconds"]) if kept else 0.0
        self.since = time.monotonic()
        self.figures: list[Figures] = []

    def add(self, figures: Figures) -> None:
        """Keep what a step had to say."""
        self.figures.append(figures)

    def write(self) -> None:
        """Append one line, unless nothing happened since the last."""
        if not self.figures:
            return
        means = {name: _mean(getattr(f, name) for f in self.figures) for name in vars(self.figures[0])}
        phase, trainer = self.trainer.trained, self.trainer
        if not np.isfinite(list(means.values())).all():
            raise UserError(
                f"losses are no longer finite at {trainer.shown} images: resume from the last state with "
                "--precision float32, or start anew with a lower --rate"
            )
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        row = {"images": trainer.shown, "steps": trainer.steps, "side": phase.side, "alpha": round(phase.alpha, 4)}
        row |= {name: round(value, 5) for name, value in means.items()} | {"seconds": round(self.seconds, 2)}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        self.figures.clear()


def _rows(path: Path) -> list[dict[str, float]]:
    """Lines of a log; a last one that was cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _mean(values: object) -> float:
    return float(torch.stack(list(values)).float().mean())  # type: ignore[call-overload]


def _save(trainer: Trainer, run: Path, log: Log) -> None:
    # The log first: it refuses figures that are not finite, so that a state that is good stays the last one.
    log.write()
    save(trainer, run)
    z = torch.randn(
        SHEET**2, trainer.settings.latent_dim, generator=torch.Generator().manual_seed(trainer.settings.seed)
    )
    _save_sheet(trainer.samples(z), run / f"samples-{trainer.shown:010d}.png")


def sheet(pictures: Tensor) -> NDArray[np.uint8]:
    """Lay pictures (n, 3, side, side) out row by row, 8 a row; small ones are enlarged without smoothing."""
    values = to_uint8(pictures)
    factor = max(1, SMALLEST_SHOWN // values.shape[1])
    values = values.repeat(factor, 1).repeat(factor, 2)
    side = values.shape[1]
    rows = -(-len(values) // SHEET)
    canvas = np.zeros((rows, side, SHEET, side, 3), np.uint8)
    for k, value in enumerate(values):
        canvas[k // SHEET, :, k % SHEET] = value
    return canvas.reshape(rows * side, SHEET * side, 3)


def _save_sheet(pictures: Tensor, path: Path) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(sheet(pictures)).save(temporary)
