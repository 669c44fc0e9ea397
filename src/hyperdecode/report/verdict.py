"""The plain sentence that opens the report, computed from the score table and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from hyperdecode.errors import UserError
from hyperdecode.evaluation.group import group_test
from hyperdecode.evaluation.summary import PRIMARY_METRIC
from hyperdecode.report.attributetable import attributes_words
from hyperdecode.report.certificate import Certificate
from hyperdecode.report.words import BLIND_WORDS, metric_label, score_text

__all__ = ["SIGNIFICANCE", "Verdict", "interval_text", "subject_verdict", "verdict"]

SIGNIFICANCE = 0.05
CHANCE = 0.5
"""Of 2-way identification."""


@dataclass(frozen=True)
class Verdict:
    """What a score table says.

    Attributes
    ----------
    decoded : bool
        Whether the primary metric beats every blind predictor and its pairing test has p < 0.05.
    sentence : str
        The finding in words.
    details : tuple of str
        The finding for each subject, when the verdict is on a study.
    caveats : tuple of str
        Metrics in which a blind predictor does as well or better, in words.
    """

    decoded: bool
    sentence: str
    details: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def subject_verdict(label: str, table: pd.DataFrame) -> Verdict:
    """Judge one subject by 2-way identification of latents, the metric chosen beforehand.

    Parameters
    ----------
    label : str
        The subject, as it stands in the sentence.
    table : pandas.DataFrame
        Columns of `hyperdecode.evaluation.summary.TABLE_COLUMNS`; with ``low`` and ``high``, the limits of the 95%
        bootstrap interval over test faces, these are told too.

    Returns
    -------
    Verdict
        ``decoded`` only when p < 0.05 *and* the score exceeds the best blind predictor's.

    Raises
    ------
    UserError
        When the table has no row of the primary metric, or its p-value is missing.
    """
    rows = table[table["metric"] == PRIMARY_METRIC]
    if len(rows) != 1 or math.isnan(float(rows.iloc[0]["p_value"])):
        raise UserError(f"{label}: the score table needs one tested row {PRIMARY_METRIC!r}, got {len(rows)} such rows")
    row = rows.iloc[0]
    score, blind, p = float(row["decoder"]), float(row["best_blind_score"]), float(row["p_value"])
    beats, significant = score > blind, p < SIGNIFICANCE
    interval = interval_text(row)
    evidence = (
        f"the right one of two faces in {score:.1%} of comparisons "
        f"({f'95% interval {interval}, ' if interval else ''}chance 50%, best blind predictor {blind:.1%}, p = {p:.2g})"
    )
    if beats and significant:
        sentence = f"{label}: {evidence}.{_decoded_words(table)}"
    elif significant:
        sentence = f"{label}: nothing was decoded, a predictor that never saw the brain does as well; {evidence}."
    else:
        sentence = f"{label}: nothing was decoded, the pairing test does not reach p < {SIGNIFICANCE}; {evidence}."
    return Verdict(beats and significant, sentence, caveats=_caveats(label, table))


def verdict(
    tables: Mapping[str, pd.DataFrame],
    certificate: Certificate | None = None,
    preset: str = "",
    attributes: Mapping[str, pd.DataFrame] | None = None,
) -> Verdict:
    """Judge a study.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        Score table of each subject.
    certificate : Certificate, optional
        What was fitted on which trials: where that were test trials, no score is evidence.
    preset : str
        Sentence on the preset that the evaluation followed; it ends the details.
    attributes : mapping of str to pandas.DataFrame, optional
        Attribute scores of subjects (`hyperdecode.evaluation.attribute_scores.attribute_table`).

    Returns
    -------
    Verdict
        "Nothing was decoded." when no subject passes; ``decoded`` when every subject passes and nothing was fitted on
        test trials.
    """
    if not tables:
        raise UserError("a report needs at least one subject, got none")
    each = [subject_verdict(label, table) for label, table in tables.items()]
    passed = sum(v.decoded for v in each)
    if passed == 0:
        opening = "Nothing was decoded."
    elif passed == len(each):
        who = {1: "the one subject", 2: "both subjects"}.get(passed, f"all {passed} subjects")
        opening = f"What was seen was decoded from the responses of {who}."
    else:
        opening = f"What was seen was decoded in {passed} of {len(each)} subjects only."
    details = [v.sentence for v in each]
    if len(each) > 1:
        details.append(_over_subjects(tables))
    details += [f"{label}: {attributes_words(table)}" for label, table in (attributes or {}).items() if len(table)]
    leaked = certificate is not None and certificate.leaked
    if leaked:
        opening = (
            "Test trials were fitted on, so that no score here is evidence of decoding (see What was fitted). Without "
            f"that, it would read: {opening}"
        )
    elif certificate is not None and certificate.duplicates:
        details.append(
            "Test faces that are nearly the same as training faces are among these scores (see What was fitted)."
        )
    if preset:
        details.append(preset)
    caveats = tuple(c for v in each for c in v.caveats)
    return Verdict(passed == len(each) and not leaked, opening, tuple(details), caveats)


def interval_text(row: pd.Series) -> str:
    """Write the interval of a row of scores, as ``"70.1% to 88.0%"``; empty where the row has none."""
    low, high = (float(row.get(key, float("nan"))) for key in ("low", "high"))
    if math.isnan(low) or math.isnan(high):
        return ""
    metric = str(row["metric"])
    return f"{score_text(metric, low)} to {score_text(metric, high)}"


def _over_subjects(tables: Mapping[str, pd.DataFrame]) -> str:
    """Say what the subjects' tests show together."""
    rows = [table[table["metric"] == PRIMARY_METRIC].iloc[0] for table in tables.values()]
    p_values, scores = ([float(row[name]) for row in rows] for name in ("p_value", "decoder"))
    return f"Over subjects: {group_test(p_values, scores, CHANCE, SIGNIFICANCE).words}"


def _decoded_words(table: pd.DataFrame) -> str:
    """Say how many of the other scores beat every blind predictor and pass their pairing test."""
    tested = table[table["p_value"].notna() & (table["metric"] != PRIMARY_METRIC)]
    if "null" in tested:  # p against random latents shows nothing about decoding
        tested = tested[tested["null"] != "random latents"]
    passed = (tested["decoder"] > tested["best_blind_score"]) & (tested["p_value"] < SIGNIFICANCE)
    if not passed.any():
        return ""
    return f" Of {len(tested)} other scores {passed.sum()} lie above every blind predictor with p < {SIGNIFICANCE}."


def _caveats(label: str, table: pd.DataFrame) -> tuple[str, ...]:
    lost = table[table["decoder"] <= table["best_blind_score"]]
    return tuple(_caveat(label, row) for _, row in lost.iterrows())


def _caveat(label: str, row: pd.Series) -> str:
    metric, key = str(row["metric"]), str(row["best_blind"])
    blind = BLIND_WORDS.get(key, key)
    best, own = score_text(metric, float(row["best_blind_score"])), score_text(metric, float(row["decoder"]))
    return f'{label}, {metric_label(metric)}: the blind predictor "{blind}" scores {best}, the decoder {own}.'
