"""From subjects to a statement about them: which claim the tests of each subject support together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import combine_pvalues, ttest_1samp

from hyperdecode.errors import UserError

__all__ = ["GroupTest", "group_test"]

FEWEST_FOR_POPULATION = 3


@dataclass(frozen=True)
class GroupTest:
    """What holds over subjects.

    Attributes
    ----------
    n_subjects : int
        Subjects.
    mean : float
        Mean of the subjects' scores.
    some_p : float
        Fisher's combination: p of "in no subject was anything decoded".
    some_stouffer_p : float
        The same by Stouffer's combination, which asks for evidence spread over subjects.
    every_p : float
        Largest p of any subject: p of "in at least one subject nothing was decoded" (conjunction).
    population_p : float
        One-sided p of the t-test of scores against chance over subjects (random effects); NaN below three subjects.
    t, df : float
        Of that test; NaN where it was not made.
    claim : {"population", "every subject", "some subject", "none"}
        The widest one supported at `level`. None is made unless Fisher's p is at most `level`, so that the chance of
        any claim while nothing was decoded in anyone is that of one test.
    words : str
        The claim, in a sentence.
    level : float
        Of the tests.
    """

    n_subjects: int
    mean: float
    some_p: float
    some_stouffer_p: float
    every_p: float
    population_p: float
    t: float
    df: float
    claim: str
    words: str
    level: float


def group_test(p_values: ArrayLike, scores: ArrayLike, chance: float, level: float = 0.05) -> GroupTest:
    """Combine the subjects' own tests, and generalise to other people where there are enough of them.

    Parameters
    ----------
    p_values : array of shape (n_subjects,)
        One-sided p of each subject's own (permutation) test; independent of each other.
    scores : array of shape (n_subjects,)
        Score of each subject, higher is better.
    chance : float
        Score without any decoding (0.5 for two-way identification; the shuffled score otherwise).
    level : float
        Of the tests, between 0 and 1.

    Returns
    -------
    GroupTest
        A random-effects t-test from three subjects on (p of it alone says anything about other people); "every subject"
        by the largest p; "some subject" by Fisher's combination.

    Raises
    ------
    UserError
        When there is not one p in (0, 1] and one finite score a subject, or chance or level are none.

    References
    ----------
    Fisher (1932), Statistical methods for research workers; Nichols et al. (2005), NeuroImage 25:653 (conjunction).
    """
    p, x = np.asarray(p_values, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if p.ndim != 1 or p.shape != x.shape or not len(p) or not np.all((p > 0) & (p <= 1)) or not np.isfinite(x).all():
        raise UserError(
            f"got p-values of shape {p.shape} and scores of shape {x.shape}: give one p above 0 and up to 1, and one "
            "finite score, a subject"
        )
    if not np.isfinite(chance) or not 0 < level < 1:
        raise UserError(f"got chance {chance} and level {level}: give a finite score, and a level between 0 and 1")
    n = len(p)
    some = float(combine_pvalues(p, "fisher").pvalue)
    stouffer = float(combine_pvalues(np.minimum(p, 1 - 1e-12), "stouffer").pvalue)
    t, df, population = float("nan"), float("nan"), float("nan")
    if n >= FEWEST_FOR_POPULATION and np.ptp(x) > 0:
        found = ttest_1samp(x, chance, alternative="greater")
        t, df, population = float(found.statistic), float(n - 1), float(found.pvalue)
    claim, words = _claim(n, some, float(p.max()), population, level)
    return GroupTest(n, float(x.mean()), some, stouffer, float(p.max()), population, t, df, claim, words, level)


def _claim(n: int, some: float, every: float, population: float, level: float) -> tuple[str, str]:
    few = f"{n} {'subject' if n == 1 else 'subjects'}"
    if some > level:
        return "none", f"Nothing is shown to have been decoded in any of {few} (Fisher's p = {some:.2g})."
    if population <= level:
        return (
            "population",
            f"Over {few}, decoding is above chance in people like these (t-test, p = {population:.2g}).",
        )
    if every <= level:
        return "every subject", f"Faces were decoded in each of {few} (largest p = {every:.2g}); not shown of others."
    return (
        "some subject",
        f"Faces were decoded in at least one of {few} (Fisher's p = {some:.2g}); not shown of each, nor of others.",
    )
