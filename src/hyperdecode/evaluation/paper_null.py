"""Two tests found in papers that do not show that anything was decoded: here to show what they do, never to claim.

A comparison with random latents asks whether predictions are better than faces drawn from the generator. A predictor
that never saw the brain passes it: the mean face is closer to any face than a random one is.

A binomial test of 2-way identification counts all pairs of faces as independent trials. They share predictions and
stimuli, so that it rejects far too often.

The test to use is `hyperdecode.evaluation.permutation.pairing_permutation_test`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import blind_predictions
from hyperdecode.evaluation.identification import identification_accuracy, win_rates
from hyperdecode.evaluation.metrics import checked_pair, correlation_scores, lsim_scores
from hyperdecode.evaluation.permutation import pairing_permutation_test
from hyperdecode.evaluation.random_null import random_latents_test

__all__ = ["NULL_COLUMNS", "RandomLatentTest", "blind_null_table", "pairs_binomial_test", "random_latent_test"]

Array = NDArray[np.float64]

NULL_COLUMNS = ("predictor", "lsim", "p_random_latents", "identification", "p_pairs_binomial", "p_permutation")


@dataclass(frozen=True)
class RandomLatentTest:
    """Result of `random_latent_test`.

    Attributes
    ----------
    statistic : float
        Mean latent similarity of predictions and stimuli.
    p_value : float
        Share of sets of random latents that are as similar to the stimuli; at least ``1 / (n_draws + 1)``.
    null_mean : float
        Mean similarity of random latents and the stimuli.
    """

    statistic: float
    p_value: float
    null_mean: float


def random_latent_test(
    predicted: ArrayLike, true: ArrayLike, random: ArrayLike, n_draws: int = 10_000, seed: int = 0
) -> RandomLatentTest:
    """Compare latent similarity with that of random latents, as the paper does, by `random_latents_test`.

    Parameters
    ----------
    predicted, true : arrays of shape (n_faces, n_latents)
        Decoded latents and those of the stimuli, on the generator's own scale.
    random : array of shape (n_random, n_latents)
        Latents drawn from the generator; a thousand or more.
    n_draws : int
        Sets of random latents.
    seed : int
        Of the draws.

    Returns
    -------
    RandomLatentTest
        What a small p says: predictions are closer to faces than random faces are. Not that anything was decoded.

    Raises
    ------
    UserError
        When shapes do not fit or values are not finite.

    References
    ----------
    Dado et al. (2022), Sci. Rep. 12:141.
    """
    p, t = checked_pair(predicted, true)
    r, _ = checked_pair(random, true)
    if p.shape != t.shape or len(r) < 2 or n_draws < 1:
        raise UserError(
            f"got predictions {p.shape}, stimuli {t.shape}, random latents {r.shape} and {n_draws} draws: give one "
            "prediction a stimulus, two or more random latents and a draw"
        )
    statistic = float(np.diagonal(lsim_scores(p, t)).mean())
    table = lsim_scores(r, t)
    p_value = random_latents_test(table, statistic, n_draws, seed)
    return RandomLatentTest(statistic, p_value, float(table.mean()))


def pairs_binomial_test(scores: ArrayLike) -> float:
    """Return the one-sided binomial p of 2-way identification, all ``n (n - 1)`` pairs counted as independent trials.

    Parameters
    ----------
    scores : array of shape (n_faces, n_faces)
        Similarity of prediction i and stimulus j.

    Returns
    -------
    float
        Too small by far: see the module's first lines. A tie counts half.
    """
    rates = identification_accuracy(scores)
    n_pairs = len(rates) * (len(rates) - 1)
    wins = int(np.floor(rates.sum() * (len(rates) - 1) + 1e-9))
    return float(binomtest(wins, n_pairs, 0.5, alternative="greater").pvalue)


def blind_null_table(
    predicted: ArrayLike,
    true: ArrayLike,
    training_mean: ArrayLike,
    random: ArrayLike,
    *,
    n_draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Put the decoder and predictors that never saw the brain through the three tests.

    Parameters
    ----------
    predicted, true : arrays of shape (n_faces, n_latents)
        Decoded latents and those of the stimuli, on the generator's own scale.
    training_mean : array of shape (n_latents,)
        Mean latent of the training stimuli, on that scale.
    random : array of shape (n_random, n_latents)
        Latents drawn from the generator.
    n_draws : int
        Random sets, and pairings.
    seed : int
        Of all that is drawn.

    Returns
    -------
    pandas.DataFrame
        Columns `NULL_COLUMNS`; rows ``decoder``, and ``mean``, ``zero``, ``noise`` of
        `hyperdecode.evaluation.blind.blind_predictions`. Identification is by correlation from the training mean, and
        the permutation test is of it; a predictor that gives all faces alike has p = 1 there.
    """
    p, t = checked_pair(predicted, true)
    mean = np.asarray(training_mean, dtype=np.float64)
    rows = []
    # A seed of its own: latents that a caller drew with the same small number must not come out as the noise.
    noise_seed = int(np.random.SeedSequence((seed, len(t), t.shape[1])).generate_state(1)[0])
    for name, latents in {"decoder": p, **blind_predictions(p, mean, noise_seed)}.items():
        paper = random_latent_test(latents, t, random, n_draws, seed)
        scores = correlation_scores(latents, t, mean)
        test = pairing_permutation_test(win_rates(scores), n_draws, seed)
        binomial = pairs_binomial_test(scores)
        rows.append((name, paper.statistic, paper.p_value, test.statistic, binomial, test.p_value))
    return pd.DataFrame(rows, columns=list(NULL_COLUMNS))
