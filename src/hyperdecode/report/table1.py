"""The paper's Table 1 for a study: mean and standard error over test faces, p, and the paper's numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from hyperdecode.errors import UserError
from hyperdecode.report.published import CITATION, METHOD_WORDS, paper_metric, published_table
from hyperdecode.report.words import METRICS, score_text

__all__ = ["TABLE1_COLUMNS", "mean_text", "p_text", "table1", "table1_html"]

TABLE1_COLUMNS: tuple[str, ...] = ("method", "subject", "metric", "mean", "se", "p_value", "test", "n_faces")
KEYS = ["method", "subject", "metric"]
LABELS = {"fsim": "Feature similarity", "ssim": "SSIM"}
SMALLEST_P = 1e-4


def table1(scores: pd.DataFrame, p_values: pd.DataFrame | None = None) -> pd.DataFrame:
    r"""Return means over test faces with their standard errors, beside the p-values that tests gave.

    The standard error is :math:`s / \sqrt{n}` with :math:`s` the standard deviation over the n faces (n - 1 in its
    denominator); it says how far the mean would move with other faces, not with other subjects.

    Parameters
    ----------
    scores : pandas.DataFrame
        Columns ``method``, ``subject``, ``metric``, ``score``: one row a test face.
    p_values : pandas.DataFrame, optional
        Columns ``method``, ``subject``, ``metric``, ``p_value``, ``test`` (the test's name); with
        ``best_blind_score``, that too stands in the table. What is missing here counts as not tested.

    Returns
    -------
    pandas.DataFrame
        Columns `TABLE1_COLUMNS`, and ``best_blind_score`` where it was given. Rows in the order in which metrics,
        methods and subjects first occur. ``se`` is NaN of one face, ``p_value`` NaN where nothing was tested.

    Raises
    ------
    UserError
        When a column is missing, a score is not finite, or a p-value is given twice or lies outside 0 to 1.
    """
    _require(scores, [*KEYS, "score"], "scores of faces")
    if not len(scores):
        raise UserError("Table 1 needs at least one score, got none: evaluate a subject first")
    values = scores["score"].to_numpy(float)
    if not np.isfinite(values).all():
        row = scores.iloc[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise UserError(
            f"Table 1: a score of {row['method']}, {row['subject']}, {row['metric']} is {row['score']}, "
            "expected a finite number: leave out the metric or mend it"
        )
    groups = scores.groupby(KEYS, sort=False)["score"]
    table = groups.agg(mean="mean", se=_standard_error, n_faces="size").reset_index()
    tested = _tested(p_values)
    table = table.merge(tested, on=KEYS, how="left", validate="one_to_one")
    table["test"] = table["test"].fillna("not tested")
    order = [pd.Categorical(table[key], list(dict.fromkeys(scores[key]))).codes for key in ("subject", "method")]
    order.append(pd.Categorical(table["metric"], list(dict.fromkeys(scores["metric"]))).codes)
    extra = [name for name in ("best_blind_score",) if name in tested]
    return table.iloc[np.lexsort(order)].reset_index(drop=True)[[*TABLE1_COLUMNS, *extra]]


def table1_html(
    table: pd.DataFrame, *, published: bool = True, published_as: Mapping[str, str] | None = None
) -> Markup:
    """Write the table for the report: a row a metric and method, columns for each subject, then the paper's.

    Parameters
    ----------
    table : pandas.DataFrame
        From `table1`.
    published : bool
        Whether the paper's numbers stand in columns of their own.
    published_as : mapping of str to str, optional
        A method of the table to the method of the paper whose numbers stand beside it, where its name is another.

    Returns
    -------
    markupsafe.Markup
        A table and the paragraph that explains it; every name is escaped.
    """
    _require(table, list(TABLE1_COLUMNS), "Table 1")
    subjects = list(dict.fromkeys(table["subject"]))
    cells = {tuple(row[key] for key in KEYS): row for _, row in table.iterrows()}
    whole = published_table()
    paper = dict(zip(zip(*(whole[key] for key in KEYS), strict=True), whole["score"].astype(float), strict=True))
    rows = []
    for metric in dict.fromkeys(table["metric"]):
        methods = list(dict.fromkeys(table.loc[table["metric"] == metric, "method"]))
        for place, method in enumerate(methods):
            name = Markup('<th scope="row">{}<small>{}</small></th>').format(*_metric_words(str(metric)))
            first = name if place == 0 else Markup('<th scope="row" aria-label="{}"></th>').format(_label(str(metric)))
            ours = [_cells(cells.get((method, subject, metric))) for subject in subjects]
            key = (published_as or {}).get(str(method), str(method))
            printed = [paper.get((key, s, paper_metric(str(metric)))) for s in ("S1", "S2") if published]
            theirs = [_paper_cell(score, place == 0) for place, score in enumerate(printed)]
            method_cell = Markup('<td style="text-align:left">{}</td>').format(METHOD_WORDS.get(method, method))
            rows.append(Markup("<tr>{}{}{}{}</tr>").format(first, method_cell, _join(ours), _join(theirs)))
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Table 1"><table>{}<tbody>{}</tbody></table></div>'
        '<p class="quiet">{}</p>'
    ).format(_head(subjects, published), _join(rows, "\n"), _note(table, published))


def p_text(p_value: float) -> str:
    """Write a p-value: never 0, ``"< 0.0001"`` below that, ``"not tested"`` for NaN."""
    if math.isnan(p_value):
        return "not tested"
    return f"< {SMALLEST_P:.4f}" if p_value < SMALLEST_P else f"{p_value:.4f}"


def mean_text(metric: str, mean: float, se: float) -> str:
    """Write a mean with its standard error, as ``"0.603 ± 0.012"``; the mean alone where one face gives no error."""
    return score_text(metric, mean) + ("" if math.isnan(se) else f" ± {score_text(metric, se)}")


def _standard_error(scores: pd.Series) -> float:
    return float(np.std(scores.to_numpy(float), ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else float("nan")


def _tested(p_values: pd.DataFrame | None) -> pd.DataFrame:
    columns = [*KEYS, "p_value", "test"]
    if p_values is None:
        return pd.DataFrame({**dict.fromkeys(KEYS, pd.Series(dtype=object)), "p_value": pd.Series(dtype=float)}).assign(
            test=pd.Series(dtype=object)
        )
    _require(p_values, columns, "p-values")
    twice = p_values.duplicated(KEYS)
    if twice.any():
        row = p_values[twice].iloc[0]
        raise UserError(
            f"p-values of {row['method']}, {row['subject']}, {row['metric']} are given more than once: give one"
        )
    given = p_values["p_value"].to_numpy(float)
    if ((given < 0) | (given > 1)).any():
        raise UserError(f"p-values must lie between 0 and 1, got {given[(given < 0) | (given > 1)][0]:g}")
    return p_values[[name for name in (*columns, "best_blind_score") if name in p_values]]


def _require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise UserError(f"{what} lack the column {missing[0]!r}: give {', '.join(columns)}")


def _label(metric: str) -> str:
    return METRICS.get(metric, (LABELS.get(metric, metric), ""))[0]


def _metric_words(metric: str) -> tuple[str, str]:
    return _label(metric), METRICS.get(metric, ("", ""))[1]


def _head(subjects: Sequence[str], published: bool) -> Markup:
    groups = [
        Markup('<th scope="colgroup" colspan="2" style="text-align:center">{}</th>').format(subject)
        for subject in subjects
    ]
    below = [Markup('<th scope="col">mean ± SE</th><th scope="col">p</th>') for _ in subjects]
    if published:
        title = Markup('<th scope="colgroup" colspan="2" style="text-align:center;{}">{}</th>')
        groups.append(title.format(_PAPER, "The paper\N{RIGHT SINGLE QUOTATION MARK}s own data"))
        below.append(Markup('<th scope="col" style="{}">S1</th><th scope="col">S2</th>').format(_PAPER))
    return Markup(
        '<thead><tr><th scope="col" rowspan="2">Metric</th><th scope="col" rowspan="2" style="text-align:left">Method'
        "</th>{}</tr><tr>{}</tr></thead>"
    ).format(_join(groups), _join(below))


_PAPER = "border-left:2px solid var(--line)"


def _cells(row: pd.Series | None) -> Markup:
    if row is None:
        return Markup("<td>\N{EN DASH}</td><td>\N{EN DASH}</td>")
    metric = str(row["metric"])
    blind = float(row.get("best_blind_score", float("nan")))
    below = (
        ""
        if math.isnan(blind)
        else Markup('<br><small class="quiet">blind {}</small>').format(score_text(metric, blind))
    )
    better = "" if math.isnan(blind) else (" beats" if float(row["mean"]) > blind else " loses")
    return Markup('<td class="score{}">{}{}</td><td>{}</td>').format(
        better, mean_text(metric, float(row["mean"]), float(row["se"])), below, p_text(float(row["p_value"]))
    )


def _paper_cell(score: float | None, first: bool) -> Markup:
    rule = Markup(' style="{}"').format(_PAPER) if first else Markup("")
    return Markup('<td class="quiet"{}>{}</td>').format(rule, "\N{EN DASH}" if score is None else f"{score:.4f}")


def _note(table: pd.DataFrame, published: bool) -> Markup:
    faces = sorted({int(n) for n in table["n_faces"]})
    count = f"{faces[0]}" if len(faces) == 1 else f"{faces[0]} to {faces[-1]}"
    tests = [str(name) for name in dict.fromkeys(table["test"]) if name != "not tested"]
    text = f"Mean ± standard error over {count} test face{'s' if faces != [1] else ''}"
    text += f"; p: {', '.join(tests)}." if tests else "; nothing was tested."
    if "best_blind_score" in table:
        text += " “Blind” is the best predictor that never saw the brain."
    note = escape(text)
    if published:
        note += Markup(
            " The paper\N{RIGHT SINGLE QUOTATION MARK}s own data are printed for comparison and were not computed "
            "here; its subjects, faces and networks are not those of this study, so that a difference in numbers is no "
            "difference in decoders: {}"
        ).format(CITATION)
    return note


def _join(parts: Sequence[Markup], between: str = "") -> Markup:
    return Markup(between).join(parts)
