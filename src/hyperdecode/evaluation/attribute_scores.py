"""Attributes of decoded faces: correlation with the true ones, attribute by attribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import t as student

from hyperdecode.errors import UserError
from hyperdecode.evaluation.corrections import benjamini_hochberg
from hyperdecode.evaluation.metrics import checked_pair
from hyperdecode.evaluation.permutation import null_statistics

__all__ = ["ATTRIBUTE_COLUMNS", "attribute_table", "correlation_matrices"]

Array = NDArray[np.float64]

ATTRIBUTE_COLUMNS = (
    "attribute",
    "r",
    "t",
    "df",
    "p_value",
    "q_value",
    "low",
    "high",
    "n_faces",
    "p_permutation",
    "alternative",
)


def attribute_table(
    predicted_scores: ArrayLike,
    true_scores: ArrayLike,
    names: Sequence[str],
    *,
    alternative: Literal["greater", "two-sided"] = "greater",
    level: float = 0.95,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Correlate predicted with true scores of each attribute.

    .. math::
        t = r \sqrt{\frac{n - 2}{1 - r^2}}, \qquad
        \tanh\!\left(\tanh^{-1} r \pm \frac{\Phi^{-1}((1 + \text{level}) / 2)}{\sqrt{n - 3}}\right).

    Parameters
    ----------
    predicted_scores, true_scores : arrays of shape (n_faces, n_attributes)
        Scores of the test faces, in any unit.
    names : sequence of str, length n_attributes
        Names of the attributes.
    alternative : {"greater", "two-sided"}
        One-sided: only a positive correlation speaks for decoding. Both p-values follow it.
    level : float
        Of the (always two-sided) confidence interval.
    n_permutations : int
        Pairings for the permutation p, the same for all attributes.
    seed : int
        Seed of the pairings.

    Returns
    -------
    pandas.DataFrame
        One row an attribute, columns `ATTRIBUTE_COLUMNS`: Pearson's r, Student's t with ``df = n - 2``, its
        p, Benjamini-Hochberg's q of these over the attributes, the Fisher-z interval ``low`` to ``high`` of r, and
        beside it the p of the pairing permutation test. An attribute without spread has NaN throughout.

    Raises
    ------
    UserError
        When shapes do not fit, a score is not finite, there are fewer than four faces, or a setting is unknown.
    """
    p, t = checked_pair(predicted_scores, true_scores)
    n = len(p)
    if p.shape != t.shape or p.shape[1] != len(names) or n < 4:
        raise UserError(
            f"got predicted scores {p.shape}, true scores {t.shape} and {len(names)} names: give both for the same "
            "faces, four or more, and one name an attribute"
        )
    if alternative not in ("greater", "two-sided") or not 0 < level < 1:
        raise UserError(
            f"got alternative {alternative!r} and level {level}: use greater or two-sided, and a level from 0 to 1"
        )
    matrices = correlation_matrices(p, t)
    r = np.clip(np.trace(matrices, axis1=1, axis2=2) / n, -1, 1)
    r[~_varies(p) | ~_varies(t)] = np.nan
    with np.errstate(divide="ignore"):
        statistic = r * np.sqrt((n - 2) / (1 - r**2))
        z = np.arctanh(r)
    one_sided = student.sf(statistic, n - 2)
    p_value = one_sided if alternative == "greater" else 2 * student.sf(np.abs(statistic), n - 2)
    reach = ndtri((1 + level) / 2) / np.sqrt(n - 3)
    columns = [
        list(names),
        r,
        statistic,
        n - 2,
        p_value,
        benjamini_hochberg(p_value),
        np.tanh(z - reach),
        np.tanh(z + reach),
        n,
        _permutation_p(matrices, r, alternative, n_permutations, seed),
        alternative,
    ]
    return pd.DataFrame(dict(zip(ATTRIBUTE_COLUMNS, columns, strict=True)))


def correlation_matrices(predicted_scores: ArrayLike, true_scores: ArrayLike) -> Array:
    """Return score matrices (n_attributes, n_faces, n_faces) whose mean diagonal is Pearson's r of each attribute.

    They make a family for `hyperdecode.evaluation.corrections.max_statistic_test`. An attribute without spread is zero
    throughout.
    """
    p, t = (_standard(a) for a in checked_pair(predicted_scores, true_scores))
    return np.asarray(p.T[:, :, None] * t.T[:, None, :])


def _permutation_p(matrices: Array, r: Array, alternative: str, n_permutations: int, seed: int) -> Array:
    null, observed = null_statistics(matrices, n_permutations, seed), r
    if alternative == "two-sided":
        null, observed = np.abs(null), np.abs(r)
    exceeding = (null >= observed[:, None] - 1e-12).sum(axis=1)
    return np.where(np.isnan(r), np.nan, (1 + exceeding) / (1 + n_permutations))


def _varies(values: Array) -> NDArray[np.bool_]:
    return np.asarray(np.ptp(values, axis=0) > 1e-12 * np.abs(values).max(axis=0))


def _standard(values: Array) -> Array:
    centred = values - values.mean(axis=0)
    spread = np.where(_varies(values), centred.std(axis=0), np.inf)
    return np.asarray(centred / spread)
