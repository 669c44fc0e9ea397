"""Time the metrics and permutation tests against plain loops with scikit-image and NumPy, with the same results.

    python benchmarks/evaluation.py [--json] [--quick] [--repeats N] [--peer-permutations N] [--large-pairs N]

36 test faces: smooth random pictures of 224 px (1024 px for one claim), 512 latents, 2048 features. Both sides use one
thread, and what is timed is the processor's time, so that other work on the machine counts for neither. The peer takes
pictures prepared as the protocol says. Ours is the least of the repeats, the peer's one run.

The peer of MS-SSIM, which scikit-image has not, is written with the filter that scikit-image uses. The plain loop over
permutations scores the shuffled pairs anew each time; it is timed for `--peer-permutations` of them and scaled up
linearly to 100,000, as the claim says. Ours includes the score matrices. A claim that is missed is printed as missed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter
from skimage.metrics import structural_similarity

from hyperdecode.evaluation.identification import n_way_rates, win_rates
from hyperdecode.evaluation.metrics import cosine_scores, feature_scores, lsim_scores, r_squared_scores
from hyperdecode.evaluation.permutation import _pairings, null_statistics
from hyperdecode.evaluation.pictures import (
    SSIM_PROTOCOLS,
    ms_ssim_scores,
    pixel_correlation_scores,
    prepare,
    ssim_pairs,
    ssim_scores,
)
from hyperdecode.evaluation.structural import MS_SSIM_WEIGHTS
from hyperdecode.threads import set_threads

Array = NDArray[np.float64]
Pictures = NDArray[np.uint8]
Pair = Callable[[int, int], float]

N_FACES, SIDE, LARGE = 36, 224, 1024
N_LATENTS, N_FEATURES, N_PERMUTATIONS = 512, 2048, 100_000
WINDOW, C1, C2 = 7, (0.01 * 255) ** 2, (0.03 * 255) ** 2


class Data:
    """Predictions that are half right, and stimuli."""

    def __init__(self, n: int, side: int) -> None:
        rng = np.random.default_rng(0)
        self.shown = pictures(rng, n, side)
        self.made = (self.shown // 2 + pictures(rng, n, side) // 2).astype(np.uint8)
        self.latents = noisy(rng, n, N_LATENTS)
        self.features = noisy(rng, n, N_FEATURES)


def pictures(rng: np.random.Generator, n: int, side: int) -> Pictures:
    """Return smooth pictures (n, side, side, 3)."""
    values = gaussian_filter(rng.standard_normal((n, side, side, 3)), (0, side / 40, side / 40, 0))
    return np.asarray(np.clip(128 + 50 * values / values.std(), 0, 255), np.uint8)


def noisy(rng: np.random.Generator, n: int, width: int) -> tuple[Array, Array]:
    """Return predictions and truths."""
    true = rng.standard_normal((n, width))
    return 0.5 * true + rng.standard_normal(true.shape), true


def ours(data: Data) -> dict[str, Array]:
    """Return the matrix of each metric."""
    (p, t), centre = data.latents, np.zeros(N_LATENTS)
    cosines, pixels = cosine_scores(p, t), pixel_correlation_scores(data.made, data.shown)
    return {
        **{f"ssim_{name}": ssim_scores(data.made, data.shown, name) for name in SSIM_PROTOCOLS},
        "ms_ssim": ms_ssim_scores(data.made, data.shown),
        "pixcorr": pixels,
        "lsim": lsim_scores(p, t),
        "cosine": cosines,
        "r_squared": r_squared_scores(p, t, centre),
        "fsim": feature_scores(*data.features),
        "identification": win_rates(cosines),
        "identification_10": n_way_rates(cosines, 10),
    }


def peer_pairs(data: Data) -> dict[str, Pair]:
    """Return a function of each metric that compares prediction i with stimulus j."""
    (p, t), (fp, ft) = data.latents, data.features
    prepared = {name: (prepare(data.made, name), prepare(data.shown, name)) for name in SSIM_PROTOCOLS}
    spread = np.mean(np.sum(t**2, axis=1))

    def ssim(name: Any, i: int, j: int) -> float:
        a, b = prepared[name]
        return float(structural_similarity(a[i], b[j], channel_axis=-1, data_range=255))

    def cosine(i: int, j: int) -> float:
        return float(p[i] @ t[j] / np.linalg.norm(p[i]) / np.linalg.norm(t[j]))

    return {
        **{f"ssim_{name}": partial(ssim, name) for name in SSIM_PROTOCOLS},
        "ms_ssim": lambda i, j: peer_ms_ssim(data.made[i], data.shown[j]),
        "pixcorr": lambda i, j: float(np.corrcoef(data.made[i].ravel(), data.shown[j].ravel())[0, 1]),
        "lsim": lambda i, j: float(1 / (1 + np.mean((p[i] - t[j]) ** 2))),
        "cosine": cosine,
        "r_squared": lambda i, j: float(1 - np.sum((p[i] - t[j]) ** 2) / spread),
        "fsim": lambda i, j: float(1 / (1 + np.mean((fp[i] - ft[j]) ** 2))),
    }


def peer_ms_ssim(x: Pictures, y: Pictures) -> float:
    """MS-SSIM with the filter and the cropping of scikit-image's SSIM."""
    product = []
    for a, b in zip(np.moveaxis(x, -1, 0).astype(float), np.moveaxis(y, -1, 0).astype(float), strict=True):
        value = 1.0
        for scale, weight in enumerate(MS_SSIM_WEIGHTS):
            ma, mb = uniform_filter(a, WINDOW), uniform_filter(b, WINDOW)
            unbiased = WINDOW**2 / (WINDOW**2 - 1)
            va, vb = (unbiased * (uniform_filter(v * v, WINDOW) - m * m) for v, m in ((a, ma), (b, mb)))
            cov = unbiased * (uniform_filter(a * b, WINDOW) - ma * mb)
            found = (2 * cov + C2) / (va + vb + C2)
            if scale == len(MS_SSIM_WEIGHTS) - 1:
                found *= (2 * ma * mb + C1) / (ma**2 + mb**2 + C1)
            inside = found[WINDOW // 2 : -(WINDOW // 2), WINDOW // 2 : -(WINDOW // 2)]
            value *= max(float(inside.mean()), 0) ** weight
            a, b = (v.reshape(len(v) // 2, 2, -1, 2).mean((1, 3)) for v in (a, b))
        product.append(value)
    return float(np.mean(product))


def peer_wins(scores: Array) -> Array:
    """Two-way identification of every prediction and stimulus, foil by foil."""
    n = len(scores)
    rates = np.zeros_like(scores)
    for i in range(n):
        for j in range(n):
            foils = [k for k in range(n) if k != j]
            rates[i, j] = np.mean([(scores[i, j] > scores[i, k]) + 0.5 * (scores[i, j] == scores[i, k]) for k in foils])
    return rates


def peer_loop(pairs: dict[str, Pair], n: int) -> dict[str, Array]:
    """Score every pair of every metric, one by one."""
    found = {name: np.array([[pair(i, j) for j in range(n)] for i in range(n)]) for name, pair in pairs.items()}
    return found | {"identification": peer_wins(found["cosine"])}


def timed(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Return the least processor time in seconds, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def record(
    claim: str, peer: str, ours_s: float, peer_s: float, most: float, difference: float | None, allowed: float = 1e-9
) -> dict[str, Any]:
    """Return what is printed of a claim whose ratio of times is to be `most` at most."""
    return {
        "claim": claim,
        "peer": peer,
        "ours_s": round(ours_s, 4),
        "peer_s": round(peer_s, 4),
        "ratio": float(f"{ours_s / peer_s:.3g}"),
        "max_diff": difference,
        "goal": f"ratio <= {most:g}" + ("" if difference is None else f", max_diff <= {allowed:g}"),
        "met": bool(ours_s <= most * peer_s and (difference is None or difference <= allowed)),
    }


def metrics_claims(data: Data, repeats: int) -> tuple[dict[str, Array], list[dict[str, Any]]]:
    """Compare all metrics of all pairs, and SSIM alone."""
    n, pairs = len(data.shown), peer_pairs(data)
    ours_s, mine = timed(partial(ours, data), repeats)
    peer_s, theirs = timed(partial(peer_loop, pairs, n))
    difference = max(float(np.abs(mine[name] - scores).max()) for name, scores in theirs.items())
    one_s, _ = timed(lambda: ssim_scores(data.made, data.shown, "hyper-code"), repeats)
    single = pairs["ssim_hyper-code"]
    theirs_s, expected = timed(lambda: np.array([[single(i, j) for j in range(n)] for i in range(n)]))
    side, peer = data.shown.shape[1], "plain loop, scikit-image and NumPy"
    apart = float(np.abs(mine["ssim_hyper-code"] - expected).max())
    claims = [
        record(f"{len(mine)} metrics of all {n} x {n} pairs at {side} px", peer, ours_s, peer_s, 1 / 20, difference),
        record(f"SSIM of all {n} x {n} pairs at {side} px", "scikit-image", one_s, theirs_s, 1 / 20, apart),
    ]
    return mine, claims


def large_claim(n_pairs: int, side: int, repeats: int) -> dict[str, Any]:
    """Compare SSIM of true pairs of full-size pictures."""
    data = Data(n_pairs, side)
    ours_s, mine = timed(lambda: ssim_pairs(data.made, data.shown, "hyper-code"), repeats)
    pair = peer_pairs(data)["ssim_hyper-code"]
    peer_s, theirs = timed(lambda: np.array([pair(i, i) for i in range(n_pairs)]))
    claim = f"SSIM of {n_pairs} true pairs at {side} px"
    return record(claim, "scikit-image", ours_s, peer_s, 1 / 5, float(np.abs(mine - theirs).max()))


def permutation_claims(data: Data, mine: dict[str, Array], n_peer: int, repeats: int) -> list[dict[str, Any]]:
    """Compare permutation tests of the metrics that are scores of pairs: scored anew each time, and from matrices."""
    n, pairs = len(data.shown), peer_pairs(data)
    stack = np.stack([mine[name] for name in pairs])
    pairings = next(iter(_pairings(n, N_PERMUTATIONS, 0)))[:n_peer]

    def whole() -> Array:
        scores = ours(data)
        return null_statistics(np.stack([scores[name] for name in pairs]), N_PERMUTATIONS, 0)

    def plain(shuffled: NDArray[np.intp]) -> Array:
        return np.array(
            [[np.mean([pair(i, j) for i, j in enumerate(row)]) for row in shuffled] for pair in pairs.values()]
        )

    def indexed(count: int) -> Array:
        rng = np.random.default_rng(0)
        return np.array([[s[np.arange(n), rng.permutation(n)].mean() for _ in range(count)] for s in stack])

    ours_s, null = timed(whole, repeats)
    peer_s, theirs = timed(partial(plain, pairings))
    difference = float(np.abs(null[:, : len(pairings)] - theirs).max())
    few = min(2000, N_PERMUTATIONS)
    matrix_s, _ = timed(partial(null_statistics, stack, N_PERMUTATIONS, 0), repeats)
    indexed_s, _ = timed(partial(indexed, few))
    k = len(stack)
    return [
        record(
            f"{N_PERMUTATIONS} permutations of {k} metrics, {n} faces, from pictures and latents to null distributions "
            f"(peer timed for {len(pairings)} permutations and scaled up)",
            "plain loop, scikit-image and NumPy, shuffled pairs scored anew",
            ours_s,
            peer_s * N_PERMUTATIONS / len(pairings),
            1 / 1000,
            difference,
        ),
        record(
            f"{N_PERMUTATIONS} permutations of {k} metrics, {n} faces, from score matrices (peer timed for {few} "
            "permutations and scaled up)",
            "NumPy, one shuffle and one indexing a permutation",
            matrix_s,
            indexed_s * N_PERMUTATIONS / few,
            1,
            None,  # each side draws its own permutations; the same ones are compared in the claim above
        ),
    ]


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line a claim")
    parser.add_argument("--quick", action="store_true", help="few and small pictures; only tries the script")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-permutations", type=int, default=2)
    parser.add_argument("--large-pairs", type=int, default=8)
    options = parser.parse_args()
    set_threads(1)
    n, side, large = (10, 224, 128) if options.quick else (N_FACES, SIDE, LARGE)
    # Compiled once, before the clock starts.
    ours(Data(10, 112))
    data = Data(n, side)
    mine, claims = metrics_claims(data, options.repeats)
    claims.append(large_claim(options.large_pairs, large, options.repeats))
    claims += permutation_claims(data, mine, options.peer_permutations, options.repeats)
    for row in claims:
        print(json.dumps(row) if options.json else show(row), flush=True)


def show(row: dict[str, Any]) -> str:
    """Say a record in words."""
    difference = "" if row["max_diff"] is None else f", max difference {row['max_diff']:.1e}"
    return (
        f"{'met   ' if row['met'] else 'MISSED'} {row['claim']}: {row['ours_s']:.2f} s against {row['peer_s']:.2f} s "
        f"of {row['peer']} (ratio {row['ratio']:.3g}, goal: {row['goal']}{difference})"
    )


if __name__ == "__main__":
    main()
