"""One row of the score table: a metric of the decoder beside the blind predictors, with its interval and its test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.evaluation.blind import BLIND_PREDICTORS
from hyperdecode.evaluation.bootstrap import bootstrap_interval
from hyperdecode.evaluation.corrections import benjamini_hochberg, max_statistic_test
from hyperdecode.evaluation.permutation import pairing_permutation_test
from hyperdecode.evaluation.presets import Null
from hyperdecode.evaluation.random_null import random_latents_test

__all__ = ["TABLE_COLUMNS", "Inference", "Row", "described", "scored", "table_of"]

Array = NDArray[np.float64]
NAN = float("nan")

TABLE_COLUMNS: tuple[str, ...] = (
    "metric",
    "space",
    "decoder",
    "low",
    "high",
    *(f"blind_{name}" for name in BLIND_PREDICTORS),
    "best_blind",
    "best_blind_score",
    "skill",
    "p_value",
    "q_value",
    "p_family",
    "null",
    "pool",
    "n_faces",
    "n_permutations",
)


@dataclass(frozen=True)
class Row:
    """A row of the table (its columns but q and the family's p) and the decoder's score of each face.

    Where it was tested by its pairing, `scores` are all pairs.
    """

    entries: dict[str, object]
    per_face: Array
    scores: Array | None = None


@dataclass(frozen=True)
class Inference:
    """How scores are tested.

    Attributes
    ----------
    null : {"pairing", "random latents"}
    n_permutations : int
        Random pairings, or draws of random latents.
    seed : int
    corrected : bool
        Whether q-values are given.
    """

    null: Null = "pairing"
    n_permutations: int = 10_000
    seed: int = 0
    corrected: bool = True

    def p_value(self, per_face: Array, scores: Array | None, random: Array | None) -> tuple[float, str]:
        """Return p and what it is against; NaN and nothing where the scores that it takes were not given."""
        n, seed = self.n_permutations, self.seed
        if self.null == "random latents":
            if random is None:
                return NAN, ""
            return random_latents_test(random, float(per_face.mean()), n, seed), self.null
        if scores is None:
            return NAN, ""
        return pairing_permutation_test(scores, n, seed).p_value, self.null


def scored(
    metric: str,
    space: str,
    per_face: Array,
    blind: Mapping[str, float],
    inference: Inference,
    *,
    scores: Array | None = None,
    random: Array | None = None,
    pool: str = "",
) -> Row:
    r"""Make the row of a metric of which more is better and 1 is perfect.

    .. math:: \mathrm{skill} = \frac{\text{score} - \text{best blind}}{1 - \text{best blind}}

    is 0 for a decoder no better than the best blind predictor and 1 for a perfect one.

    Parameters
    ----------
    metric, space : str
    per_face : array of shape (n_faces,)
        The decoder's scores.
    blind : mapping of str to float
        Mean score of each blind predictor.
    inference : Inference
    scores : array of shape (n_faces, n_faces), optional
        The whole matrix, for the test of the pairing.
    random : array of shape (n_random, n_faces), optional
        Scores of random latents, for the paper's test.
    pool : str
        Which faces an identification chooses among.

    Returns
    -------
    Row
    """
    best = max(blind, key=lambda key: blind[key])
    score, known = float(per_face.mean()), blind[best]
    low, high = bootstrap_interval(per_face, seed=inference.seed)
    p_value, null = inference.p_value(per_face, scores, random)
    return Row(
        {
            **_common(metric, space, per_face, blind, pool),
            "low": low,
            "high": high,
            "best_blind": best,
            "best_blind_score": known,
            "skill": (score - known) / (1 - known) if known < 1 else NAN,
            "p_value": p_value,
            "null": null,
            "n_permutations": inference.n_permutations if null else 0,
        },
        per_face,
        scores if null == "pairing" else None,
    )


def described(metric: str, space: str, per_face: Array, blind: Mapping[str, float], inference: Inference) -> Row:
    """Make the row of a number of which more is not better: without best predictor, skill and test."""
    low, high = bootstrap_interval(per_face, seed=inference.seed)
    rest = {"best_blind": "", "best_blind_score": NAN, "skill": NAN, "p_value": NAN, "null": "", "n_permutations": 0}
    return Row({**_common(metric, space, per_face, blind, ""), "low": low, "high": high, **rest}, per_face)


def table_of(rows: list[Row], inference: Inference) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of a family of metrics, with p corrected over them in two ways, and the scores of each face.

    ``q_value`` bounds the share of false findings (Benjamini-Hochberg), ``p_family`` the chance of a single one
    (`hyperdecode.evaluation.corrections.max_statistic_test`, the same pairings for all metrics).
    """
    table = pd.DataFrame([row.entries for row in rows], columns=list(TABLE_COLUMNS))
    paired = table["p_value"].astype(float).where(table["null"] == "pairing")
    table["q_value"] = benjamini_hochberg(paired) if inference.corrected else NAN
    table["p_family"] = _family(rows, inference) if inference.corrected else NAN
    return table, pd.DataFrame({str(row.entries["metric"]): row.per_face for row in rows})


def _family(rows: list[Row], inference: Inference) -> list[float]:
    matrices = [row.scores for row in rows if row.scores is not None]
    if not matrices:
        return [NAN] * len(rows)
    found = iter(max_statistic_test(np.stack(matrices), inference.n_permutations, inference.seed))
    return [NAN if row.scores is None else float(next(found)) for row in rows]


def _common(metric: str, space: str, per_face: Array, blind: Mapping[str, float], pool: str) -> dict[str, object]:
    return {
        "metric": metric,
        "space": space,
        "decoder": float(per_face.mean()),
        **{f"blind_{key}": blind.get(key, NAN) for key in BLIND_PREDICTORS},
        "pool": pool,
        "n_faces": len(per_face),
    }
