"""One HTML file that shows a study: verdict, scores beside blind predictors, every face, provenance."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import BLIND_PREDICTORS
from hyperdecode.evaluation.summary import PRIMARY_METRIC
from hyperdecode.files import write_text
from hyperdecode.report.credible import coverage_words, credible_view
from hyperdecode.report.models import beside_view
from hyperdecode.report.uris import data_uri, jpeg_uri
from hyperdecode.report.verdict import subject_verdict, verdict
from hyperdecode.report.words import BLIND_WORDS, FACE_METRICS, METRICS, score_text

__all__ = ["Figure", "ModelReport", "ReportData", "SubjectReport", "render_report", "write_report"]

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Figure:
    """A picture of the section on the experiment.

    Attributes
    ----------
    title : str
        Heading.
    png : bytes
        The picture.
    caption : str
        What it shows, and what to conclude.
    """

    title: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class ModelReport:
    """Another decoder of the same trials, shown beside the one that the verdict rests on.

    Attributes
    ----------
    name : str
        As ``study.toml`` has it.
    words : str
        What it is.
    table : pandas.DataFrame
        Scores, as those of `SubjectReport`.
    per_face : pandas.DataFrame
        Scores of each test face.
    reconstructions : uint8 array of shape (n_faces, height, width, 3)
        Its faces.
    """

    name: str
    words: str
    table: pd.DataFrame
    per_face: pd.DataFrame
    reconstructions: Pictures


@dataclass(frozen=True)
class SubjectReport:
    """What the report says of one subject.

    Attributes
    ----------
    label : str
        ``"sub-01"``.
    table : pandas.DataFrame
        Scores, columns of `hyperdecode.evaluation.summary.TABLE_COLUMNS`.
    per_face : pandas.DataFrame
        Scores of each test face, one row a face in the order of the stimuli, one column a metric.
    reconstructions : uint8 array of shape (n_faces, height, width, 3)
        Decoded faces, in the order of the stimuli.
    n_voxels, n_training_trials, n_test_trials : int
        What the decoder was fitted and tested on.
    training_hash, test_hash : str
        SHA-256 of the lists of trials, so that a reader can check that they are disjoint and unchanged.
    mask_png : bytes, optional
        Picture of the voxel mask (`hyperdecode.report.maskfigure.mask_figure`).
    facts : mapping of str to str
        More rows for "what was fitted on what" (ridge penalty, cross-validation).
    notes : sequence of str
        Data quality: NaN voxels dropped, warnings.
    quality : sequence of Figure
        Motion, registration, tSNR, design, z, reliability.
    model : str
        Name of the decoder.
    beside : sequence of ModelReport
        Other decoders.
    draws : uint8 array of shape (n_faces, n_draws, height, width, 3), optional
        Faces drawn from the posterior of each test face.
    attributes : pandas.DataFrame, optional
        ``stim_file``, ``attribute``, ``decoded``, ``low``, ``high``, ``true``, ``inside``: a row a face and attribute,
        in standard deviations over the generator's faces; faces in the order of the stimuli.
    """

    label: str
    table: pd.DataFrame
    per_face: pd.DataFrame
    reconstructions: Pictures
    n_voxels: int
    n_training_trials: int
    n_test_trials: int
    training_hash: str = ""
    test_hash: str = ""
    mask_png: bytes | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    quality: Sequence[Figure] = ()
    model: str = "ridge"
    beside: Sequence[ModelReport] = ()
    draws: Pictures | None = None
    attributes: pd.DataFrame | None = None


@dataclass(frozen=True)
class ReportData:
    """All that a report shows; arrays and words, no paths.

    Attributes
    ----------
    title : str
        Name of the study.
    summary : mapping of str to str
        What was done, in plain words: heading -> sentence.
    stimuli : uint8 array of shape (n_faces, height, width, 3)
        Test stimuli.
    stimulus_names : sequence of str, length n_faces
        Their names.
    subjects : sequence of SubjectReport
        At least one.
    notes : sequence of str
        Data quality of the whole study.
    versions : mapping of str to str
        Package -> version.
    commands : sequence of str
        Commands that make this report again.
    seed : int, optional
        The seed of the run.
    figures : sequence of Figure
        Pictures of the experiment: its schedule, how far test faces are from training faces.

    Raises
    ------
    UserError
        When subjects and stimuli do not have the same faces.
    """

    title: str
    summary: Mapping[str, str]
    stimuli: Pictures
    stimulus_names: Sequence[str]
    subjects: Sequence[SubjectReport]
    notes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    seed: int | None = None
    figures: Sequence[Figure] = ()

    def __post_init__(self) -> None:
        if not self.subjects:
            raise UserError("a report needs at least one subject, got none")
        n = len(self.stimulus_names)
        _check_pictures("stimuli", self.stimuli, n)
        for subject in self.subjects:
            _check_pictures(f"{subject.label}: reconstructions", subject.reconstructions, n)
            if len(subject.per_face) != n:
                raise UserError(f"{subject.label}: scores of {len(subject.per_face)} faces came with {n} stimuli")
            for other in subject.beside:
                _check_pictures(f"{subject.label}, {other.name}: reconstructions", other.reconstructions, n)
            if subject.draws is not None and len(subject.draws) != n:
                raise UserError(f"{subject.label}: draws of {len(subject.draws)} faces came with {n} stimuli")


def write_report(path: str | os.PathLike[str], data: ReportData, picture_size: int = 384) -> Path:
    """Write the report as one self-contained HTML file.

    Parameters
    ----------
    path : path-like
        The file; written whole or not at all.
    data : ReportData
        What it shows.
    picture_size : int
        Width of the stored faces in pixels; larger pictures are scaled down. 36 faces of two subjects take
        about 4 MB at 384.

    Returns
    -------
    pathlib.Path
        The file.
    """
    return write_text(path, render_report(data, picture_size))


def render_report(data: ReportData, picture_size: int = 384) -> str:
    """Return the report's HTML (see `write_report`)."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hyperdecode.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = {s.label: s.table for s in data.subjects}
    return environment.get_template("report.html.j2").render(
        data=data,
        verdict=verdict(tables),
        subjects=[_subject_view(s) for s in data.subjects],
        figures=[(figure, data_uri(figure.png, "png")) for figure in data.figures],
        faces=_face_views(data, picture_size),
        face_metrics=_face_metric_names(data),
        metrics=METRICS,
        blind_words=BLIND_WORDS,
        n_columns=1 + sum(1 + len(s.beside) for s in data.subjects),
    )


@dataclass(frozen=True)
class _Cell:
    name: str
    text: str
    best: bool
    position: float | None


@dataclass(frozen=True)
class _ScoreRow:
    label: str
    meaning: str
    decoder: _Cell
    blind: tuple[_Cell, ...]
    p: str
    beats: bool
    primary: bool


def _subject_view(subject: SubjectReport) -> dict[str, object]:
    facts = {
        "Voxels": f"{subject.n_voxels:,}",
        "Training trials": f"{subject.n_training_trials:,}",
        "Test trials": f"{subject.n_test_trials:,}",
        **({"Training list, SHA-256": subject.training_hash} if subject.training_hash else {}),
        **({"Test list, SHA-256": subject.test_hash} if subject.test_hash else {}),
        **subject.facts,
    }
    return {
        "label": subject.label,
        "decoded": subject_verdict(subject.label, subject.table).decoded,
        "rows": sorted((_score_row(row) for _, row in subject.table.iterrows()), key=lambda row: not row.primary),
        "n_faces": int(subject.table["n_faces"].max()),
        "n_permutations": int(subject.table["n_permutations"].max()),
        "mask": data_uri(subject.mask_png, "png") if subject.mask_png else None,
        "facts": facts,
        "notes": list(subject.notes),
        "quality": [(figure, data_uri(figure.png, "png")) for figure in subject.quality],
        "model": subject.model,
        "beside": beside_view(subject) if subject.beside else None,
        "coverage": coverage_words(subject.attributes) if subject.attributes is not None else "",
    }


def _score_row(row: pd.Series) -> _ScoreRow:
    name = str(row["metric"])
    label, meaning = METRICS.get(name, (name, ""))
    p = float(row["p_value"])
    return _ScoreRow(
        label=label,
        meaning=meaning,
        decoder=_cell(name, "decoder", float(row["decoder"]), False),
        blind=tuple(
            _cell(name, key, float(row[f"blind_{key}"]), key == str(row["best_blind"])) for key in BLIND_PREDICTORS
        ),
        p="not tested" if math.isnan(p) else f"{p:.4f}",
        beats=bool(row["decoder"] > row["best_blind_score"]),
        primary=name == PRIMARY_METRIC,
    )


def _cell(metric: str, name: str, value: float, best: bool) -> _Cell:
    """One score in words, and its place in per cent of an axis from 0 to 1 (every metric's best is 1)."""
    position = None if math.isnan(value) else 100 * min(max(value, 0.0), 1.0)
    return _Cell(name, score_text(metric, value), best, position)


def _face_metric_names(data: ReportData) -> list[str]:
    present = set.intersection(*(set(s.per_face.columns) for s in data.subjects))
    return [name for name in (*FACE_METRICS, *(m for m in METRICS if m not in FACE_METRICS)) if name in present]


def _face_views(data: ReportData, size: int) -> list[dict[str, object]]:
    sort_by = _face_metric_names(data)
    shown = [name for name in sort_by if name in FACE_METRICS]
    return [
        {
            "name": name,
            "stimulus": jpeg_uri(data.stimuli[i], size),
            "means": {m: _mean_or_none([float(s.per_face[m].iloc[i]) for s in data.subjects]) for m in sort_by},
            "decoded": [view for subject in data.subjects for view in _decoded_views(subject, i, shown, size)],
            "credible": [credible_view(subject, name, i) for subject in data.subjects if subject.draws is not None],
        }
        for i, name in enumerate(data.stimulus_names)
    ]


def _decoded_views(subject: SubjectReport, i: int, shown: Sequence[str], size: int) -> list[dict[str, object]]:
    """One face as each of a subject's decoders makes it; decoders are named where there are several."""
    decoders = [(subject.model, subject.per_face, subject.reconstructions)]
    decoders += [(other.name, other.per_face, other.reconstructions) for other in subject.beside]
    return [
        {
            "label": f"{subject.label}, {model}" if subject.beside else subject.label,
            "uri": jpeg_uri(pictures[i], size),
            "scores": [(FACE_METRICS[m], score_text(m, float(scores[m].iloc[i]))) for m in shown],
        }
        for model, scores, pictures in decoders
    ]


def _mean_or_none(scores: list[float]) -> float | None:
    """Mean of the scores; None, which JSON has a word for, when one is NaN."""
    mean = float(np.mean(scores))
    return None if math.isnan(mean) else mean


def _check_pictures(what: str, pictures: Pictures, n: int) -> None:
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or len(pictures) != n:
        raise UserError(
            f"{what} must be uint8 of shape ({n}, height, width, 3), one picture for each stimulus name, "
            f"got {pictures.dtype} of shape {pictures.shape}"
        )
