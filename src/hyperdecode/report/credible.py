"""More of a face: baselines, faces drawn from the posterior, intervals of attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hyperdecode.report.uris import jpeg_uri
from hyperdecode.report.words import score_text

if TYPE_CHECKING:
    from hyperdecode.report.build import SubjectReport

__all__ = ["coverage_words", "more_view"]

DRAW_SIZE = 112
SPAN = 3.0
"""Standard deviations that the axis of an interval reaches to both sides."""


def more_view(subject: SubjectReport, face: int) -> dict[str, object]:
    """Return what a report tells more of one face: small pictures of baselines and draws, an interval an attribute.

    Empty where a subject has none of them.
    """
    rows: list[dict[str, object]] = []
    table = subject.attributes
    if subject.draws is not None and table is not None and len(table):
        names = list(dict.fromkeys(table["stim_file"]))
        mine = table[table["stim_file"] == names[face]]
        rows = [_interval(row) for _, row in mine.iterrows()]
    baselines = [(method, jpeg_uri(pictures[face], DRAW_SIZE)) for method, pictures in subject.baselines.items()]
    draws = [] if subject.draws is None else [jpeg_uri(picture, DRAW_SIZE) for picture in subject.draws[face]]
    if not baselines and not draws:
        return {}
    return {"label": subject.label, "baselines": baselines, "draws": draws, "intervals": rows}


def coverage_words(table: pd.DataFrame) -> str:
    """Say how many of the true attribute scores lie inside their intervals."""
    if not len(table):
        return ""
    inside = np.asarray(table["inside"], dtype=bool)
    return (
        f"{int(inside.sum())} of {len(inside)} true attribute scores ({inside.mean():.0%}) lie inside their 90% "
        "credible intervals."
    )


def _interval(row: pd.Series) -> dict[str, object]:
    def place(value: float) -> float:
        return 50 + 50 * float(np.clip(value / SPAN, -1, 1))

    decoded, low, high, true = (float(row[key]) for key in ("decoded", "low", "high", "true"))
    written = [score_text("", value) for value in (decoded, low, high, true)]
    return {
        "attribute": str(row["attribute"]),
        "text": f"{written[0]} ({written[1]} to {written[2]}), true {written[3]}",
        "low": place(low),
        "high": place(high),
        "decoded": place(decoded),
        "true": place(true),
    }
