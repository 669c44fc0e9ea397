"""How often each test rejects on subjects whose brain tells nothing of the faces (Type I error).

    python benchmarks/inference.py [--subjects N] [--seed N] [--power] [--json]

Simulated null subjects at the level of trials: `RidgeDecoder(cv=5)` is fitted to training trials and decodes 36 test
faces from averages of 14 trials, which have nothing to do with the faces' latents:

- ``noise``: training and test responses are noise (correlated voxels);
- ``clusters``: the same decoders; the responses to test faces fall into four clusters, as those of four sessions would;
- ``other faces``: a decoder that works; the test responses are those to other faces than the ones it is judged on, so
  that the predictions are as correlated with each other as real ones are;
- ``correlated predictions``: no decoder; predictions that share most of what they are (four dimensions, and an offset
  that is the same for all) are paired with latents at random; four times as many, tests of metrics only.

Rates are of p <= 0.05, with their exact binomial 95 % intervals. A primary test meets its goal at 3.5 to 6.5 %; 1500
subjects tell a rate to 1.1 %, 6000 to 0.6 %. Of procedures that guard a family (Benjamini-Hochberg and the largest
statistic), and of those that combine subjects, the level is an upper bound: they miss it where the whole interval lies
above 5 %. The last rows of each kind are tests that are *not* valid, and must be caught: comparison with random
latents, and a binomial test that takes pairs of faces for independent trials.

``--power`` instead sets the closed form of `hyperdecode.evaluation.power` beside the share of 1000 simulated studies
in which the test finds an assumed accuracy; it meets its goal inside the share's 99.9 % interval.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binomtest

from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import DataWarning
from hyperdecode.evaluation.attribute_scores import attribute_table
from hyperdecode.evaluation.corrections import max_statistic_test
from hyperdecode.evaluation.group import group_test
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.metrics import correlation_scores, cosine_scores, lsim_scores
from hyperdecode.evaluation.paper_null import pairs_binomial_test, random_latent_test
from hyperdecode.evaluation.permutation import null_statistics, pairing_permutation_test
from hyperdecode.evaluation.power import assumed_effect, faces_needed, power
from hyperdecode.threads import set_threads

LEVEL = 0.05
GOAL = (0.035, 0.065)
N_TRAIN, N_VOXELS, N_LATENTS = 80, 48, 16
N_FACES, N_REPEATS, N_CLUSTERS = 36, 14, 4
N_PERMUTATIONS, N_RANDOM = 399, 200
ALPHAS = tuple(10.0**k for k in range(0, 8))
MORE_DIRECT = 4
"""Subjects without a decoder for each one with."""
FEW = 400
"""Subjects that are enough for what always rejects."""
ATTRIBUTES = ("gender", "age", "eyeglasses", "smile", "pose")

KINDS = ("noise", "clusters", "other faces")
DIRECT = "correlated predictions"
PRIMARY = {
    "identification": "identification, permutation of the pairing",
    "cosine": "cosine, permutation of the pairing",
    "lsim": "latent similarity, permutation of the pairing",
    "student": "correlation of an attribute, Student's t",
    "attribute": "correlation of an attribute, permutation of the pairing",
}
METRICS = ("identification", "cosine", "lsim")
FAMILIES = {
    "bh": "any of five attributes, Benjamini-Hochberg",
    "max": "any of three metrics, largest statistic",
    "fisher": "two subjects, Fisher's combination",
    "population": "four subjects, t-test over subjects",
    "claim": "four subjects, any claim of the group test",
}
INVALID = {
    "paper": "latent similarity against random latents (NOT valid)",
    "mean": "the same, of a predictor that always says the training mean (NOT valid)",
    "binomial": "identification, pairs as independent trials (NOT valid)",
}

Array = NDArray[np.float64]
Role = Literal["primary", "family", "invalid"]


@dataclass(frozen=True)
class World:
    """What subjects share: attributes, random latents of the generator, and how voxels hang together."""

    normals: Array
    random: Array
    mixing: Array

    @classmethod
    def make(cls, seed: int) -> World:
        """Make it."""
        rng = np.random.default_rng((seed, 0))
        normals = rng.standard_normal((N_LATENTS, len(ATTRIBUTES)))
        distance = np.abs(np.subtract.outer(np.arange(N_VOXELS), np.arange(N_VOXELS)))
        mixing = np.linalg.cholesky(0.8**distance)
        return cls(normals / np.linalg.norm(normals, axis=0), rng.standard_normal((N_RANDOM, N_LATENTS)), mixing)


def null_subject(world: World, rng: np.random.Generator) -> dict[str, tuple[Array, Array, Array]]:
    """Return predictions, true latents of the test faces and mean of the training latents, by kind."""
    train, test, others = (rng.standard_normal((n, N_LATENTS)) for n in (N_TRAIN, N_FACES, N_FACES))
    noise = rng.standard_normal((N_TRAIN, N_VOXELS)) @ world.mixing.T
    averages = rng.standard_normal((N_FACES, N_VOXELS)) @ world.mixing.T / N_REPEATS**0.5
    clusters = rng.standard_normal((N_CLUSTERS, N_VOXELS)) @ world.mixing.T
    tuning = 0.8 ** np.arange(N_LATENTS)[:, None] * rng.standard_normal((N_LATENTS, N_VOXELS))
    blind, seeing = (_decoder().fit(x, train) for x in (noise, train @ tuning + 3 * noise))
    responses = {
        "noise": (blind, averages),
        "clusters": (blind, averages + clusters[rng.integers(N_CLUSTERS, size=N_FACES)]),
        "other faces": (seeing, others @ tuning + 3 * averages),
    }
    centre = train.mean(axis=0)
    return {kind: (decoder.predict(x), test, centre) for kind, (decoder, x) in responses.items()}


def _decoder() -> RidgeDecoder:
    return RidgeDecoder(ALPHAS, cv=5)


def metric_tests(predicted: Array, true: Array, centre: Array, seed: int) -> tuple[dict[str, float], Array, Array]:
    """Return the p of the tests of metrics of one subject, their score matrices, and the similarities compared."""
    scores = correlation_scores(predicted, true, centre)
    matrices = np.stack([win_rates(scores), cosine_scores(predicted, true, centre), lsim_scores(predicted, true)])
    null = null_statistics(matrices, N_PERMUTATIONS, seed)
    own = np.trace(matrices, axis1=1, axis2=2) / len(true)
    p = (1 + (null >= own[:, None] - 1e-12).sum(axis=1)) / (1 + N_PERMUTATIONS)
    return dict(zip(METRICS, map(float, p), strict=True)), matrices, scores


def all_tests(world: World, predicted: Array, true: Array, centre: Array, seed: int, known: bool) -> dict[str, float]:
    """Return the p of every test of one subject, and the accuracy; where `known`, NaN for what always rejects."""
    found, matrices, scores = metric_tests(predicted, true, centre, seed)
    table = attribute_table(
        predicted @ world.normals, true @ world.normals, ATTRIBUTES, n_permutations=N_PERMUTATIONS, seed=seed
    )
    paper = {"paper": float("nan"), "mean": float("nan")}
    if not known:
        mean = np.tile(centre, (len(true), 1))
        for name, latents in (("paper", predicted), ("mean", mean)):
            paper[name] = random_latent_test(latents, true, world.random, N_PERMUTATIONS, seed).p_value
    return {
        **found,
        **paper,
        "accuracy": float(np.trace(matrices[0]) / len(true)),
        "student": float(table["p_value"].iloc[0]),
        "attribute": float(table["p_permutation"].iloc[0]),
        "bh": float(table["q_value"].min()),
        "max": float(max_statistic_test(matrices, N_PERMUTATIONS, seed).min()),
        "binomial": pairs_binomial_test(scores),
    }


def collected(n_subjects: int, seed: int) -> dict[str, dict[str, Array]]:
    """Return the p-values of each kind and test, one a subject."""
    world = World.make(seed)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in (*KINDS, DIRECT)}
    for k in range(n_subjects):
        rng = np.random.default_rng((seed, 1, k))
        with warnings.catch_warnings():
            # Nothing can be decoded here, and the decoder says so.
            warnings.simplefilter("ignore", DataWarning)
            subject = null_subject(world, rng)
        for kind, (predicted, true, centre) in subject.items():
            own = int(rng.integers(2**32))
            found[kind].append(all_tests(world, predicted, true, centre, own, k >= FEW))
    for k in range(MORE_DIRECT * n_subjects):
        rng = np.random.default_rng((seed, 3, k))
        predicted = 0.3 * rng.standard_normal((N_FACES, 4)) @ rng.standard_normal((4, N_LATENTS))
        predicted += 0.1 * rng.standard_normal(predicted.shape) + 0.5 * rng.standard_normal(N_LATENTS)
        true, centre = rng.standard_normal(predicted.shape), 0.1 * rng.standard_normal(N_LATENTS)
        found[DIRECT].append(metric_tests(predicted, true, centre, int(rng.integers(2**32)))[0])
    return {kind: {name: np.array([one[name] for one in each]) for name in each[0]} for kind, each in found.items()}


def over_subjects(p: Array, accuracy: Array) -> dict[str, NDArray[np.bool_]]:
    """Return whether the tests of groups of two and four subjects reject."""
    pairs, fours = len(p) // 2, len(p) // 4
    fisher = [group_test(p[2 * k : 2 * k + 2], accuracy[2 * k : 2 * k + 2], 0.5).some_p <= LEVEL for k in range(pairs)]
    groups = [group_test(p[4 * k : 4 * k + 4], accuracy[4 * k : 4 * k + 4], 0.5) for k in range(fours)]
    return {
        "fisher": np.array(fisher),
        "population": np.array([group.population_p <= LEVEL for group in groups]),
        "claim": np.array([group.claim != "none" for group in groups]),
    }


def record(kind: str, words: str, rejected: NDArray[np.bool_], role: Role) -> dict[str, Any]:
    """Return one line: a rate with its interval, and whether it is as it shall be."""
    counted = binomtest(int(rejected.sum()), len(rejected), LEVEL)
    low, high = (float(limit) for limit in counted.proportion_ci(0.95))
    goal, met = {
        "primary": (f"{GOAL[0]} to {GOAL[1]}", GOAL[0] <= counted.statistic <= GOAL[1]),
        "family": (f"at most {LEVEL}: interval not above it", low <= LEVEL),
        "invalid": (f"above {LEVEL}: interval above it", low > LEVEL),
    }[role]
    claim = f"{kind}: {words}, {len(rejected)} {'groups' if 'subjects,' in words else 'subjects'}"
    return {"claim": claim, "rate": float(counted.statistic), "low": low, "high": high, "goal": goal, "met": bool(met)}


def records(found: Mapping[str, Mapping[str, Array]]) -> list[dict[str, Any]]:
    """Return a line for each kind and test."""
    lines = []
    for kind, p in found.items():
        lines += [record(kind, words, p[name] <= LEVEL, "primary") for name, words in PRIMARY.items() if name in p]
        if kind == DIRECT:
            continue
        rejected = over_subjects(p["identification"], p["accuracy"])
        rejected |= {name: p[name][~np.isnan(p[name])] <= LEVEL for name in ("bh", "max", *INVALID)}
        lines += [record(kind, words, rejected[name], "family") for name, words in FAMILIES.items()]
        lines += [record(kind, words, rejected[name], "invalid") for name, words in INVALID.items()]
    return lines


def power_records(seed: int, n_studies: int = 1000) -> list[dict[str, Any]]:
    """Return a line for each assumed accuracy and number of test faces."""
    lines = []
    for accuracy in (0.55, 0.6, 0.65):
        effect = assumed_effect(accuracy)
        shift = 2**0.5 * float(ndtri(accuracy))
        for n_faces in (12, 36, 72):
            found = 0
            for k in range(n_studies):
                rng = np.random.default_rng((seed, 2, n_faces, k))
                scores = rng.standard_normal((n_faces, n_faces)) + shift * np.eye(n_faces)
                found += pairing_permutation_test(win_rates(scores), N_PERMUTATIONS, k).p_value <= LEVEL
            counted, told = binomtest(found, n_studies), power(effect, n_faces, LEVEL)
            low, high = (float(limit) for limit in counted.proportion_ci(0.999))
            claim = (
                f"power at accuracy {accuracy} with {n_faces} faces ({faces_needed(effect, 0.8, LEVEL)} faces would "
                f"suffice for 80 %): closed form {told:.3f}"
            )
            goal, rate = "closed form inside the interval", float(counted.statistic)
            lines.append(
                {"claim": claim, "rate": rate, "low": low, "high": high, "goal": goal, "met": low <= told <= high}
            )
    return lines


def main() -> None:
    """Print one line a kind and test."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--subjects", type=int, default=1500, help="null subjects with a decoder")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--power", action="store_true", help="check the closed form of the power instead")
    words.add_argument("--json", action="store_true")
    given = words.parse_args()
    set_threads(given.threads)
    start, cpu = time.perf_counter(), time.process_time()
    lines = power_records(given.seed) if given.power else records(collected(given.subjects, given.seed))
    for line in lines:
        if given.json:
            print(json.dumps(line), flush=True)
        else:
            mark = "met   " if line["met"] else "MISSED"
            rates = f"{line['rate']:.4f} ({line['low']:.4f} to {line['high']:.4f})"
            print(f"{mark} {rates}  {line['claim']} (goal: {line['goal']})", flush=True)
    if not given.json:
        print(f"{time.perf_counter() - start:.0f} s, {time.process_time() - cpu:.0f} s of the processor")


if __name__ == "__main__":
    main()
