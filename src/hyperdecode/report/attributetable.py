"""Which attributes of the shown faces the decoded ones have, as a table of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from hyperdecode.errors import UserError
from hyperdecode.report.table1 import p_text
from hyperdecode.report.words import score_text

__all__ = ["LEVEL", "attributes_html", "attributes_words", "dimensions_words"]

LEVEL = 0.05
COLUMNS = (
    "attribute", "r", "t", "df", "p_value", "q_value", "low", "high", "n_faces", "p_permutation", "alternative",
)  # fmt: skip
DIMENSION_COLUMNS = ("dimension", "r", "p_value", "q_value")


def attributes_html(table: pd.DataFrame | None, dimensions: pd.DataFrame | None = None) -> Markup:
    """Write the correlations of a subject's attributes for the report.

    Parameters
    ----------
    table : pandas.DataFrame or None
        One row an attribute, as `hyperdecode.evaluation.attribute_scores.attribute_table` makes it; with a column
        ``ceiling`` (the largest r that the noise leaves; NaN where unknown) it stands beside r.
    dimensions : pandas.DataFrame or None
        ``dimension``, ``r``, ``p_value``, ``q_value``: one row a latent dimension, told in a sentence.

    Returns
    -------
    markupsafe.Markup
        Empty where there is neither; every name is escaped.

    Raises
    ------
    UserError
        When a column is missing.
    """
    if table is None or not len(table):
        return Markup("") if dimensions is None else Markup("<p>{}</p>").format(dimensions_words(dimensions))
    _require(table, COLUMNS, "attribute scores")
    has_ceiling = "ceiling" in table and bool(table["ceiling"].notna().any())
    heads = ["Attribute", "r (95% interval)", *(["Ceiling"] if has_ceiling else []), "t", "p", "q", "p (pairing)"]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(text) for text in heads)
    rows = Markup("\n").join(_row(row, has_ceiling) for _, row in table.iterrows())
    said = dimensions_words(dimensions) if dimensions is not None else ""
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Attributes"><table><thead><tr>{}</tr></thead>'
        '<tbody>{}</tbody></table></div><p class="quiet">{} {}</p>'
    ).format(head, rows, _note(table, has_ceiling), said)


def attributes_words(table: pd.DataFrame, level: float = LEVEL) -> str:
    """Say of which attributes the decoded scores follow the true ones: r above 0 and a q-value below `level`."""
    found = table[(table["q_value"] < level) & (table["r"] > 0)]
    names = [f"{row['attribute']} (r = {score_text('', float(row['r']))})" for _, row in found.iterrows()]
    if not names:
        return f"none of {len(table)} attributes was decoded (q < {level:g})."
    return f"attributes decoded with q < {level:g}: {', '.join(names)}, of {len(table)} tested."


def dimensions_words(table: pd.DataFrame, level: float = LEVEL) -> str:
    """Say in a sentence how many latent dimensions are decoded.

    Raises
    ------
    UserError
        When a column is missing or there is no dimension.
    """
    _require(table, DIMENSION_COLUMNS, "scores of dimensions")
    if not len(table):
        raise UserError("scores of dimensions have no row: give one a latent dimension")
    r, q = table["r"].to_numpy(float), table["q_value"].to_numpy(float)
    known = np.isfinite(r)
    if not known.any():
        return f"None of {len(r)} latent dimensions varies, so that none was tested."
    count = int(((q < level) & (r > 0)).sum())
    return (
        f"Of {int(known.sum())} latent dimensions {count} correlate with the true ones with q < {level:g}; median r "
        f"{score_text('', float(np.median(r[known])))}, largest {score_text('', float(r[known].max()))}."
    )


def _row(row: pd.Series, has_ceiling: bool) -> Markup:
    r, low, high, t, p, q, paired = (
        float(row[key]) for key in ("r", "low", "high", "t", "p_value", "q_value", "p_permutation")
    )
    between = "" if math.isnan(r) else f" ({score_text('', low)} to {score_text('', high)})"
    decoded = " beats" if q < LEVEL and r > 0 else ""
    cells = [Markup('<td class="score{}">{}{}</td>').format(decoded, score_text("", r), between)]
    if has_ceiling:
        cells.append(Markup("<td>{}</td>").format(score_text("", float(row["ceiling"]))))
    statistic = "\N{EN DASH}" if math.isnan(t) else f"{t:.2f}".replace("-", "\N{MINUS SIGN}")
    cells += [Markup("<td>{}</td>").format(text) for text in (statistic, p_text(p), p_text(q), p_text(paired))]
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(row["attribute"], Markup("").join(cells))


def _note(table: pd.DataFrame, has_ceiling: bool) -> str:
    first = table.iloc[0]
    sided = "one-sided, for a positive r" if first["alternative"] == "greater" else "two-sided"
    text = (
        f"Pearson\N{RIGHT SINGLE QUOTATION MARK}s r over {int(first['n_faces'])} test faces with its 95% interval "
        f"(Fisher z), Student\N{RIGHT SINGLE QUOTATION MARK}s t with {int(first['df'])} degrees of freedom, p "
        f"{sided}; q: p corrected for the number of attributes (Benjamini-Hochberg); p (pairing): against random "
        f"pairings of faces. Bold green where q < {LEVEL:g}."
    )
    return text + (" Ceiling: the largest r that the scatter of repeats leaves." if has_ceiling else "")


def _require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise UserError(f"{what} lack the column {missing[0]!r}: give {', '.join(columns)}")
