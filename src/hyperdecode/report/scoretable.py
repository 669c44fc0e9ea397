"""The scores of one subject beside those of blind predictors, as the template shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from hyperdecode.evaluation.summary import PRIMARY_METRIC
from hyperdecode.report.table1 import p_text
from hyperdecode.report.verdict import interval_text
from hyperdecode.report.words import BLIND_WORDS, METRICS, score_text

__all__ = ["Cell", "ScoreRow", "about_tests", "score_rows"]

BLIND = "blind_"
PAPERS_NULL = "random latents"
FAMILY_LEVEL = 0.05


@dataclass(frozen=True)
class Cell:
    """One score in words, and its place in per cent of an axis from 0 to 1 (every metric's best is 1); None for NaN."""

    label: str
    text: str
    best: bool
    position: float | None


@dataclass(frozen=True)
class ScoreRow:
    """One metric.

    Attributes
    ----------
    label, meaning : str
    decoder : Cell
    interval : str
        Of the decoder's score; empty where none is known.
    blind : tuple of Cell
        One a blind predictor, the same for all rows.
    p, q : str
    against : str
        What the test was against, where that was not the pairing of predictions and stimuli.
    standing : {"beats", "loses", ""}
        Whether the decoder is better than the best blind predictor; empty for a number of which more is not better.
    primary : bool
        Whether the verdict rests on it.
    """

    label: str
    meaning: str
    decoder: Cell
    interval: str
    blind: tuple[Cell, ...]
    p: str
    q: str
    against: str
    standing: str
    primary: bool


def score_rows(table: pd.DataFrame) -> list[ScoreRow]:
    """Return a row a metric, the one of the verdict first; blind predictors that no metric has are left out.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns of `hyperdecode.evaluation.summary.TABLE_COLUMNS`; ``low``, ``high``, ``q_value`` and ``null`` may lack.
    """
    keys = [str(name) for name in table.columns if str(name).startswith(BLIND) and table[name].notna().any()]
    has_q = "q_value" in table and bool(table["q_value"].notna().any())
    rows = [_row(row, keys, has_q) for _, row in table.iterrows()]
    return sorted(rows, key=lambda row: not row.primary)


def about_tests(table: pd.DataFrame) -> str:
    """Say how many faces there were, what p and q are, and when a subject counts as decoded."""
    n_faces, n_drawn = (int(table[name].max()) for name in ("n_faces", "n_permutations"))
    text = f"{n_faces} test faces"
    if interval_text(table.iloc[0]):
        text += "; below each score its 95% bootstrap interval over them"
    text += f"; p from {n_drawn:,} random pairings of predictions and stimuli, one-sided"
    if "null" in table and (table["null"] == PAPERS_NULL).any():
        text += (
            ", but where “random faces” stands below it: that p is the paper's own, against faces of random latents, "
            "which predictors that never saw the brain can pass"
        )
    if "q_value" in table and table["q_value"].notna().any():
        text += "; q: p corrected for the number of metrics (Benjamini-Hochberg)"
    if "p_family" in table and table["p_family"].notna().any():
        held = table["p_family"].dropna()
        text += (
            f"; with the chance of a single false finding kept at {FAMILY_LEVEL:.0%} over the latent, over the feature "
            f"and over the picture metrics (max-statistic), {int((held <= FAMILY_LEVEL).sum())} of {len(held)} stand"
        )
    return text + (
        ". A subject counts as decoded when 2-way identification has p < 0.05 and beats the best blind predictor."
    )


def _row(row: pd.Series, keys: list[str], has_q: bool) -> ScoreRow:
    name = str(row["metric"])
    label, meaning = METRICS.get(name, (name, ""))
    score, best = float(row["decoder"]), float(row["best_blind_score"])
    blind = [(key, key.removeprefix(BLIND)) for key in keys]
    return ScoreRow(
        label=label,
        meaning=meaning,
        decoder=_cell(name, "decoder", score, False),
        interval=interval_text(row),
        blind=tuple(
            _cell(name, BLIND_WORDS.get(word, word), float(row[key]), word == str(row["best_blind"]))
            for key, word in blind
        ),
        p=_p(float(row["p_value"])),
        q=_p(float(row["q_value"])) if has_q else "",
        against="random faces" if row.get("null") == PAPERS_NULL else "",
        standing="" if math.isnan(best) else ("beats" if score > best else "loses"),
        primary=name == PRIMARY_METRIC,
    )


def _p(value: float) -> str:
    return p_text(value) if not math.isnan(value) else "\N{EN DASH}"


def _cell(metric: str, label: str, value: float, best: bool) -> Cell:
    position = None if math.isnan(value) else 100 * min(max(value, 0.0), 1.0)
    return Cell(label, score_text(metric, value), best, position)
