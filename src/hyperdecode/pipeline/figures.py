"""Figures for a journal from what a study left on disk: which there can be, what the others lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import hyperdecode
from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.figure_data import NUMBERS, Missing, StudyFigures
from hyperdecode.pipeline.figure_files import FigureFiles, figure_key
from hyperdecode.pipeline.lock import study_lock
from hyperdecode.report.publication.style import FORMATS, written
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout

__all__ = ["FACES", "FigureOutcome", "write_figures"]

VERSION = 1
"""Raise it when the same files give other figures than before."""
FACES = 10
LEAST_DPI, MOST_DPI = 300, 1200

Announce = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FigureOutcome:
    """What became of one figure.

    Attributes
    ----------
    number : int
        As the paper counts its figures.
    subject : str
        ``"sub-01"``; empty for all of them.
    files : tuple of pathlib.Path
        Where it lies; empty where it was left out.
    drawn : bool
        Whether it was drawn now.
    missing : str
        What it lacks, and which command makes that.
    """

    number: int
    subject: str
    files: tuple[Path, ...] = ()
    drawn: bool = False
    missing: str = ""


def write_figures(
    study: Path,
    config: StudyConfig,
    load: Callable[[], Generator],
    *,
    only: Sequence[int] = (),
    subjects: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
    dpi: int = 600,
    faces: int = FACES,
    force: bool = False,
    announce: Announce = lambda what, done, total: None,
) -> list[FigureOutcome]:
    """Write the figures that a study has files for, with a caption beside each.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    load : callable
        Gives the study's generator; called only where a figure needs faces that are not on disk.
    only : sequence of int
        Numbers, 2 to 8; none for all.
    subjects : sequence of str
        Labels; none for all.
    formats : sequence of str
        Among ``pdf`` and ``png``.
    dpi : int
        Of PNGs, and of what PDFs hold as pixels.
    faces : int
        Test faces of a figure that shows faces.
    force : bool
        Draw all again, also over files that are not ours.
    announce : callable
        Called with (what is drawn, figures done, figures in all).

    Returns
    -------
    list of FigureOutcome
        Those that were left out say what they lack.

    Raises
    ------
    UserError
        When an option is out of range, or a file that is not ours stands where one would be written.
    """
    _check(config, only, subjects, formats, dpi, faces)
    layout = Layout(study)
    wanted = [number for number in NUMBERS if not only or number in only]
    data = StudyFigures(layout, config, load, tuple(subjects or config.subjects), faces)
    with study_lock(study, layout.records):
        files = FigureFiles(layout.derivatives / "figures")
        plans = [_Plan(data, number, subject) for number in wanted for subject in data.subjects_of(number)]
        names = [name for plan in plans if not plan.missing for name in plan.names(formats)]
        if not force:
            files.require_ours(names)
        found = []
        for done, plan in enumerate(plans):
            announce(plan.title, done, len(plans))
            found.append(_write(plan, files, formats, dpi, force))
        announce("", len(plans), len(plans))
    return found


@dataclass(frozen=True)
class _Plan:
    """One figure that may be drawn."""

    data: StudyFigures
    number: int
    subject: str

    @property
    def title(self) -> str:
        return f"Figure {self.number}{f', sub-{self.subject}' if self.subject else ''}"

    @cached_property
    def missing(self) -> str:
        try:
            self.inputs  # noqa: B018  (asked for what it refuses)
        except Missing as lack:
            return str(lack)
        return ""

    @cached_property
    def inputs(self) -> list[Path]:
        return self.data.inputs(self.number, self.subject)

    def names(self, formats: Sequence[str]) -> list[str]:
        stem = f"figure-{self.number}_{NUMBERS[self.number]}{f'_sub-{self.subject}' if self.subject else ''}"
        return [f"{stem}.{ending}" for ending in (*formats, "txt")]


def _write(plan: _Plan, files: FigureFiles, formats: Sequence[str], dpi: int, force: bool) -> FigureOutcome:
    label = f"sub-{plan.subject}" if plan.subject else ""
    if plan.missing:
        return FigureOutcome(plan.number, label, missing=plan.missing)
    about = [VERSION, hyperdecode.__version__, plan.number, plan.subject, plan.data.settings]
    key = figure_key(about, plan.inputs, plan.data.layout.study)
    *pictures, caption = plan.names(formats)
    keys = {name: f"{key} {dpi}" for name in pictures} | {caption: key}
    stale = [name for name in keys if force or not files.is_fresh(name, keys[name])]
    if stale:
        try:
            plate = plan.data.plate(plan.number, plan.subject)
        except Missing as lack:
            return FigureOutcome(plan.number, label, missing=str(lack))
        forms = dict(zip(pictures, formats, strict=True))
        for name in stale:
            text = f"Figure {plan.number}. {plate.caption}\n".encode()
            files.write(name, written(plate.canvas, forms[name], dpi) if name in forms else text, keys[name])
    return FigureOutcome(plan.number, label, tuple(files.folder / name for name in keys), bool(stale))


def _check(
    config: StudyConfig, only: Sequence[int], subjects: Sequence[str], formats: Sequence[str], dpi: int, faces: int
) -> None:
    for number in only:
        if number not in NUMBERS:
            names = ", ".join(f"{n} ({name})" for n, name in NUMBERS.items())
            raise UserError(f"no figure {number}: choose among {names}")
    for label in subjects:
        if label not in config.subjects:
            raise UserError(f"no subject {label!r} in study.toml: choose among {', '.join(config.subjects)}")
    for form in formats:
        if form not in FORMATS:
            raise UserError(f"no format {form!r}: choose among {', '.join(FORMATS)}")
    if not LEAST_DPI <= dpi <= MOST_DPI:
        raise UserError(f"{dpi} dpi: journals take {LEAST_DPI} to {MOST_DPI}")
    if not 2 <= faces <= 16:
        raise UserError(f"{faces} faces do not fit a page: give 2 to 16")
