"""Decoded against true attribute scores, face by face, and their correlations as bars, in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.report.table1 import p_text
from hyperdecode.report.words import score_text

__all__ = ["AttributePoints", "correlation_bars", "scatter_panels"]

SIDE, MARGIN = 160.0, 32.0
"""Of a panel's square and of what is left of and below it, in units of the drawing."""
BAR, GROUP = 12.0, 10.0
WIDTH, LABELS = 420.0, 92.0
MINUS, NO_BREAK = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class AttributePoints:
    """Attribute scores of a subject's test faces.

    Attributes
    ----------
    names : sequence of str
        Test faces.
    attributes : sequence of str
    decoded, true : ndarray of shape (n_faces, n_attributes)
        In standard deviations over the study's faces.

    Raises
    ------
    UserError
        When the shapes do not fit.
    """

    names: Sequence[str]
    attributes: Sequence[str]
    decoded: NDArray[np.float64]
    true: NDArray[np.float64]

    def __post_init__(self) -> None:
        wanted = (len(self.names), len(self.attributes))
        if self.decoded.shape != wanted or self.true.shape != wanted:
            raise UserError(
                f"attribute scores of shapes {self.decoded.shape} and {self.true.shape} came with {wanted[0]} faces "
                f"and {wanted[1]} attributes: give both of shape {wanted}"
            )


def scatter_panels(points: AttributePoints | None, table: pd.DataFrame | None, label: str, place: int = 0) -> Markup:
    """Draw decoded against true scores, a panel an attribute and a dot a test face, with r, its interval and p.

    Parameters
    ----------
    points : AttributePoints or None
    table : pandas.DataFrame or None
        As `hyperdecode.evaluation.attribute_scores.attribute_table` makes it, for the words above each panel.
    label : str
        The subject.
    place : int
        Which colour.

    Returns
    -------
    markupsafe.Markup
        Empty without points.
    """
    if points is None or not len(points.attributes):
        return Markup("")
    rows = {} if table is None else {str(row["attribute"]): row for _, row in table.iterrows()}
    panels = [_panel(points, k, rows.get(name), label, place) for k, name in enumerate(points.attributes)]
    caption = (
        f"Scores of {label} in standard deviations over the study\N{RIGHT SINGLE QUOTATION MARK}s faces: true along, "
        "decoded up; a dot is a test face. Dotted: decoded as true. Solid: least squares; it is the flatter one where "
        "decoding shrinks towards the average face."
    )
    return Markup('<figure class="panels"><div>{}</div><figcaption>{}</figcaption></figure>').format(
        Markup("").join(panels), caption
    )


def correlation_bars(tables: Mapping[str, pd.DataFrame]) -> Markup:
    """Draw r of each attribute as a bar a subject, with its interval and, where it is known, its noise ceiling.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        Subject -> table (`scatter_panels`); attributes are those of the first.

    Returns
    -------
    markupsafe.Markup
        Empty without tables.
    """
    known = {
        label: {str(row["attribute"]): row for _, row in table.iterrows()}
        for label, table in tables.items()
        if len(table)
    }
    if not known:
        return Markup("")
    attributes = list(next(iter(known.values())))
    height = len(attributes) * (len(known) * BAR + GROUP) + 24
    parts, said = [_axis(height)], []
    for k, name in enumerate(attributes):
        top = k * (len(known) * BAR + GROUP) + GROUP / 2
        parts.append(
            Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                f"{LABELS - 8:g}", top + len(known) * BAR / 2 + 4, name
            )
        )
        for place, (label, rows) in enumerate(known.items()):
            if name in rows:
                parts.append(_bar(rows[name], top + place * BAR, place))
                said.append(f"{name} of {label} {score_text('', float(rows[name]['r']))}")
    key = Markup("").join(
        Markup('<span><i class="of-{}"></i>{}</span>').format(place % 6, label) for place, label in enumerate(known)
    )
    return Markup(
        '<figure class="bars"><svg viewBox="0 0 {} {}" role="img" aria-label="Correlations: {}">{}</svg>'
        '<figcaption><span class="key">{}</span> Correlation r of decoded with true scores over test faces; whiskers: '
        "95% interval{}.</figcaption></figure>"
    ).format(
        f"{WIDTH:g}", f"{height:g}", "; ".join(said), Markup("").join(parts), key,
        "; vertical tick: noise ceiling" if any(_has_ceiling(table) for table in tables.values()) else "",
    )  # fmt: skip


def _panel(points: AttributePoints, k: int, row: pd.Series | None, label: str, place: int) -> Markup:
    true, decoded = points.true[:, k], points.decoded[:, k]
    reach = max(2.0, math.ceil(2 * float(np.abs([true, decoded]).max(initial=0.0))) / 2)

    def x(value: float) -> float:
        return MARGIN + (value / reach + 1) / 2 * SIDE

    def y(value: float) -> float:
        return (1 - value / reach) / 2 * SIDE

    lines = [_line((x(-reach), y(-reach)), (x(reach), y(reach)), "same")]
    if np.ptp(true) > 0:
        slope, level = np.polyfit(true, decoded, 1)
        ends = [(float(end), float(slope * end + level)) for end in (true.min(), true.max())]
        lines.append(_line((x(ends[0][0]), y(ends[0][1])), (x(ends[1][0]), y(ends[1][1])), f"fit of-{place % 6}"))
    dots = [
        Markup(
            '<circle class="of-{}" cx="{:.1f}" cy="{:.1f}" r="3.2"><title>{}: true {}, decoded {}</title></circle>'
        ).format(
            place % 6, x(float(t)), y(float(d)), face, score_text("", float(t)), score_text("", float(d))
        )
        for face, t, d in zip(points.names, true, decoded, strict=True)
    ]  # fmt: skip
    attribute, words = points.attributes[k], _words(row)
    frame = Markup(
        '<rect x="{0}" y="0" width="{1}" height="{1}" class="frame"/><path class="cross" d="M{2} 0v{1}M{0} {3}h{1}"/>'
        '<text x="{0}" y="{4}">{5}</text><text x="{2}" y="{4}" text-anchor="middle">0</text>'
        '<text x="{6}" y="{4}" text-anchor="end">{7} sd</text>'
        '<text x="{8}" y="10" text-anchor="end">{7}</text><text x="{8}" y="{1}" text-anchor="end">{5}</text>'
    ).format(
        f"{MARGIN:g}", f"{SIDE:g}", f"{MARGIN + SIDE / 2:g}", f"{SIDE / 2:g}", f"{SIDE + 16:g}", f"{MINUS}{reach:g}",
        f"{MARGIN + SIDE:g}", f"+{reach:g}", f"{MARGIN - 4:g}",
    )  # fmt: skip
    return Markup(
        '<div class="panel"><p><b>{}</b>{}</p><svg viewBox="0 0 {} {}" role="img" aria-label="{}: decoded against true '
        '{} of {} test faces. {}">{}</svg></div>'
    ).format(
        attribute, Markup("<br>{}").format(words) if words else "", f"{SIDE + MARGIN + 4:g}", f"{SIDE + 22:g}", label,
        attribute, len(true), words, frame + Markup("").join([*lines, *dots]),
    )  # fmt: skip


def _words(row: pd.Series | None) -> str:
    if row is None or math.isnan(float(row["r"])):
        return ""
    r, low, high = (score_text("", float(row[key])) for key in ("r", "low", "high"))
    p = p_text(float(row["p_value"]))
    text = f"p {p}" if p.startswith("<") else f"p = {p}"
    return f"r = {r} ({low} to {high}), {text.replace(' ', NO_BREAK)}"


def _bar(row: pd.Series, top: float, place: int) -> Markup:
    r, low, high = (float(row[key]) for key in ("r", "low", "high"))
    if math.isnan(r):
        return Markup("")
    middle, left = top + BAR / 2, min(_along(0), _along(r))
    drawn = Markup('<rect class="of-{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}"/>').format(
        place % 6, left, top + 1, abs(_along(r) - _along(0)), f"{BAR - 2:g}"
    )
    if not math.isnan(low):
        drawn += _line((_along(low), middle), (_along(high), middle), "whisker")
    ceiling = float(row.get("ceiling", math.nan))
    if not math.isnan(ceiling):
        drawn += _line((_along(ceiling), top), (_along(ceiling), top + BAR), "ceiling")
    return drawn


def _axis(height: float) -> Markup:
    base = height - 20
    parts = []
    for value in (-0.5, 0.0, 0.5, 1.0):
        parts.append(_line((_along(value), 0), (_along(value), base), "zero" if value == 0 else "grid"))
        text = f"{value:g}".replace("-", MINUS)
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(_along(value), base + 15, text)
        )
    return Markup("").join(parts)


def _along(r: float) -> float:
    """Place of a correlation on the axis, which goes from -0.5 to 1."""
    return LABELS + (max(r, -0.5) + 0.5) / 1.5 * (WIDTH - LABELS - 12)


def _line(start: tuple[float, float], end: tuple[float, float], name: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(name, *start, *end)


def _has_ceiling(table: pd.DataFrame) -> bool:
    return "ceiling" in table and bool(table["ceiling"].notna().any())
