"""Decoders of one subject beside each other: scores, and on how many faces one beats the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hyperdecode.report.words import FACE_METRICS, METRICS, score_text

if TYPE_CHECKING:
    from hyperdecode.report.build import SubjectReport

__all__ = ["beside_view", "faces_won"]


def beside_view(subject: SubjectReport) -> dict[str, object]:
    """Return what the table of a subject's decoders shows: names, a row a metric, who is ahead on how many faces."""
    tables = {subject.model: subject.table, **{other.name: other.table for other in subject.beside}}
    by_metric = {name: table.set_index("metric") for name, table in tables.items()}
    rows = []
    for metric in by_metric[subject.model].index:
        values = [
            float(table.loc[metric, "decoder"]) if metric in table.index else float("nan")
            for table in by_metric.values()
        ]
        # Of a number without a best blind predictor (the length of latents, say) more is not better.
        ranked = not np.isnan(values).all() and not np.isnan(by_metric[subject.model].loc[metric, "best_blind_score"])
        best = float(np.nanmax(values)) if ranked else float("nan")
        cells = [(score_text(metric, value), value == best) for value in values]
        rows.append((METRICS.get(metric, (metric, ""))[0], cells))
    return {
        "names": list(tables),
        "rows": rows,
        "won": [line for o in subject.beside for line in faces_won(subject, o.name)],
    }


def faces_won(subject: SubjectReport, other: str) -> list[str]:
    """Say on how many test faces the subject's decoder scores higher than `other`, by each metric that faces have."""
    theirs = next(model for model in subject.beside if model.name == other).per_face
    lines = []
    for metric, label in FACE_METRICS.items():
        if metric in theirs and metric in subject.per_face:
            difference = subject.per_face[metric].to_numpy() - theirs[metric].to_numpy()
            won, tied = int((difference > 0).sum()), int((difference == 0).sum())
            ties = f", {tied} tied" if tied else ""
            lines.append(
                f"{label}: {subject.model} is ahead of {other} on {won} of {len(difference)} test faces{ties}."
            )
    return lines
