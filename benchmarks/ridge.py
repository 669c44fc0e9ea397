"""Time `RidgeDecoder` against scikit-learn and plain himalaya on one simulated subject.

    python benchmarks/ridge.py [--json] [--threads N] [--repeats N] [--quick]

All solve the same problem with the same data, penalties, folds and threads in one process: voxels are standardised
before the clock starts for the peers, inside the clock for us. Each time is the least of the repeats. ``max_diff`` is
the largest difference between our predictions and the peer's for new trials, in standard deviations of the latents.
A claim that is missed is printed as missed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import himalaya.kernel_ridge
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from hyperdecode.decoding.ridge import DEFAULT_ALPHAS, RidgeDecoder
from hyperdecode.threads import usable_cores

Array = NDArray[np.float64]
Predict = Callable[[Array], Array]

N_NEW = 36


def simulated(n_trials: int, n_voxels: int, n_latents: int) -> tuple[Array, Array, Array]:
    """Return training responses, training latents and new responses; a tenth of the variance is signal."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((n_trials + N_NEW, n_latents))
    signal = latents @ rng.standard_normal((n_latents, n_voxels)) / np.sqrt(n_latents)
    responses = signal + 3 * rng.standard_normal(signal.shape)
    return responses[:n_trials], latents[:n_trials], responses[n_trials:]


def ours(x: Array, y: Array) -> Predict:
    """Fit the package's decoder."""
    return RidgeDecoder(alphas=DEFAULT_ALPHAS, n_folds=5, seed=0).fit(x, y).predict


def peer_himalaya(x: Array, y: Array) -> Predict:
    """Fit himalaya's estimator as its users would, with one penalty for all targets."""
    model = himalaya.kernel_ridge.KernelRidgeCV(
        alphas=np.array(DEFAULT_ALPHAS),
        fit_intercept=True,
        cv=KFold(5, shuffle=True, random_state=0),
        solver_params={"local_alpha": False},
    ).fit(x, y)
    return lambda new: np.asarray(model.predict(new))


def peer_sklearn_folds(x: Array, y: Array) -> Predict:
    """Fit scikit-learn's RidgeCV with the same five folds."""
    cv = KFold(5, shuffle=True, random_state=0)
    model = RidgeCV(DEFAULT_ALPHAS, cv=cv, scoring="neg_mean_squared_error").fit(x, y)
    return lambda new: np.asarray(model.predict(new))


def peer_sklearn_loo(x: Array, y: Array) -> Predict:
    """Fit scikit-learn's RidgeCV as it comes: leave-one-out in closed form, which may choose another penalty."""
    model = RidgeCV(DEFAULT_ALPHAS).fit(x, y)
    return lambda new: np.asarray(model.predict(new))


# claim, peer, solver, most our time over the peer's may be, largest difference allowed (None: another criterion)
CLAIMS: tuple[tuple[str, str, Callable[[Array, Array], Predict], float, float | None], ...] = (
    ("ridge fit costs what himalaya costs", "himalaya KernelRidgeCV", peer_himalaya, 1.15, 1e-6),
    ("ridge fit beats 5-fold RidgeCV", "scikit-learn RidgeCV(cv=5)", peer_sklearn_folds, 0.5, 1e-6),
    ("ridge fit beats leave-one-out RidgeCV", "scikit-learn RidgeCV()", peer_sklearn_loo, 1.0, None),
)


def timed(solver: Callable[[Array, Array], Predict], x: Array, y: Array, repeats: int) -> tuple[float, Predict]:
    """Return the least wall time in seconds, and the fitted prediction."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        predict = solver(x, y)
        best = min(best, time.perf_counter() - start)
    return best, predict


def run(shape: tuple[int, int, int], repeats: int) -> list[dict[str, Any]]:
    """Time every claim and return one record each."""
    x, y, new = simulated(*shape)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    ours_s, predict = timed(ours, x, y, repeats)
    predicted = predict(new)
    records = []
    for claim, peer, solver, goal, tolerance in CLAIMS:
        peer_s, peer_predict = timed(solver, (x - mean) / scale, y, repeats)
        difference = float(np.abs(peer_predict((new - mean) / scale) - predicted).max() / y.std())
        ratio = ours_s / peer_s
        records.append(
            {
                "claim": f"{claim}, {shape[0]} x {shape[1]} -> {shape[2]}",
                "peer": peer,
                "ours_s": round(ours_s, 4),
                "peer_s": round(peer_s, 4),
                "ratio": round(ratio, 4),
                "max_diff": difference,
                "goal": f"ratio <= {goal}" + ("" if tolerance is None else f", max_diff <= {tolerance:g}"),
                "met": bool(ratio <= goal and (tolerance is None or difference <= tolerance)),
            }
        )
    return records


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line a claim")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    shape = (300, 800, 64) if options.quick else (1050, 4096, 512)
    with threadpool_limits(options.threads):
        records = run(shape, options.repeats)
    for record in records:
        if options.json:
            print(json.dumps(record))
        else:
            print(
                f"{'met   ' if record['met'] else 'MISSED'} {record['claim']}: {record['ours_s']:.2f} s against "
                f"{record['peer_s']:.2f} s of {record['peer']} (ratio {record['ratio']:.2f}, {record['goal']}, "
                f"max difference {record['max_diff']:.1e})"
            )


if __name__ == "__main__":
    main()
