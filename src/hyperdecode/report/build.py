"""One HTML file that shows a study: verdict, scores beside blind predictors, every face, provenance."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np

from hyperdecode.files import write_text
from hyperdecode.report.attributeplot import correlation_bars, scatter_panels
from hyperdecode.report.attributetable import attributes_html
from hyperdecode.report.certificate import certificate_html
from hyperdecode.report.credible import coverage_words, more_view
from hyperdecode.report.data import ModelReport, ReportData, SubjectReport
from hyperdecode.report.models import beside_view
from hyperdecode.report.moves import moves_view
from hyperdecode.report.scoretable import about_tests, score_rows
from hyperdecode.report.uris import data_uri, jpeg_uri
from hyperdecode.report.verdict import subject_verdict, verdict
from hyperdecode.report.words import FACE_METRICS, METRICS, NO_SCORES, score_text

__all__ = ["ModelReport", "ReportData", "SubjectReport", "render_report", "write_report"]

FITTED = (
    "Voxel mask, voxel scaling, decoder and its penalty were fitted on training trials only; test trials were used "
    "once, for the scores above."
)


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
    attributes = {s.label: s.attribute_scores for s in data.subjects if s.attribute_scores is not None}
    return environment.get_template("report.html.j2").render(
        data=data,
        verdict=verdict(tables, data.certificate, data.preset, attributes),
        subjects=[_subject_view(s, place) for place, s in enumerate(data.subjects)],
        attribute_bars=correlation_bars(attributes),
        fitted_words=data.fitted_words or FITTED,
        certificate=None if data.certificate is None else certificate_html(data.certificate),
        faces=_face_views(data, picture_size),
        moves=moves_view(data.moves, data.stimulus_names),
        has_credible=any(s.draws is not None for s in data.subjects),
        has_baselines=any(s.baselines for s in data.subjects),
        face_metrics=_face_metric_names(data),
        metrics=METRICS,
        n_scores=sum(int(table["best_blind_score"].notna().sum()) for table in tables.values()),
        n_columns=1 + sum(1 + len(s.beside) for s in data.subjects),
    )


def _subject_view(subject: SubjectReport, place: int) -> dict[str, object]:
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
        "rows": score_rows(subject.table),
        "tests": about_tests(subject.table),
        "mask": data_uri(subject.mask_png, "png") if subject.mask_png else None,
        "facts": facts,
        "notes": list(subject.notes),
        "quality": subject.quality,
        "model": subject.model,
        "beside": beside_view(subject) if subject.beside else None,
        "attributes": attributes_html(subject.attribute_scores, subject.dimensions),
        "scatter": scatter_panels(subject.attribute_points, subject.attribute_scores, subject.label, place),
        "coverage": coverage_words(subject.attributes) if subject.attributes is not None else "",
    }


def _face_metric_names(data: ReportData) -> list[str]:
    """Metrics that faces can be sorted by, those below each face first."""
    present = set.intersection(*(set(s.per_face.columns) for s in data.subjects)) - set(NO_SCORES)
    return [name for name in (*FACE_METRICS, *(m for m in METRICS if m not in FACE_METRICS)) if name in present]


def _face_views(data: ReportData, size: int) -> list[dict[str, object]]:
    sort_by = _face_metric_names(data)
    shown = [name for name in sort_by if name in FACE_METRICS]
    views: list[dict[str, object]] = []
    for i, name in enumerate(data.stimulus_names):
        each = {m: [float(s.per_face[m].iloc[i]) for s in data.subjects] for m in sort_by}
        views.append(
            {
                "name": name,
                "stimulus": jpeg_uri(data.stimuli[i], size),
                "means": {m: _known(float(np.mean(scores))) for m, scores in each.items()},
                "each": {m: [_known(score) for score in scores] for m, scores in each.items()},
                "decoded": [view for subject in data.subjects for view in _decoded_views(subject, i, shown, size)],
                "more": [view for subject in data.subjects if (view := more_view(subject, i))],
            }
        )
    return views


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


def _known(score: float) -> float | None:
    """None, which JSON has a word for, where a score is NaN."""
    return None if math.isnan(score) else score
