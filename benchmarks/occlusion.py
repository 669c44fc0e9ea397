"""Time searchlight-occlusion and the inference on its maps against plain loops, with the same results.

    python benchmarks/occlusion.py [--json] [--quick] [--threads N] [--only linear inference growth generator ...]

One simulated subject: 1050 training faces, 36 test faces, 4096 voxels in blobs at 2 mm, whose responses tell of four
layers with as many features as crops of 16 px of PGGAN's layers 4, 9, 14 and 19 have; cubes of 7 x 7 x 7 voxels
around every voxel; losses of all 36 x 36 pairs of predictions and faces. Both sides use float64, and ratios are those
of processor time, the loop on one thread. The plain loop copies the responses, sets the cube to the training mean,
predicts anew and compares; it is timed for some cubes and scaled up to all, and the claim says so. ``max_diff`` is
the largest difference between our losses and the loop's for these cubes, over the loop's largest loss. Three loops:
predictions in the compressed basis of `ActivationRidge`; all features made from that basis; all features by weights
from every voxel to every feature, as scikit-learn's Ridge keeps them.

``linear`` also says how long ours takes by the clock with `--threads` threads. ``growth`` runs each size in a process
of its own, on random readouts of 1049 dimensions, one layer after the other, losses of all pairs kept, and reports the
peak of memory (`peak_gb`). ``generator`` runs `benchmarks/occlusion_generator.py`. A claim that is missed is printed as
missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from hyperdecode.decoding.activation_ridge import ActivationRidge
from hyperdecode.mapping.linear_occlusion import occlude_linear
from hyperdecode.mapping.map_inference import max_statistic, pairings
from hyperdecode.mapping.neighbourhoods import Neighbourhoods, cube_neighbourhoods
from hyperdecode.mapping.readout import LinearReadout, readout_of_activations
from hyperdecode.threads import set_threads

Array = NDArray[np.float64]
Record = dict[str, Any]

HEAD = (91, 109, 91)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
FEATURES = {"4": 512 * 8 * 8, "9": 256 * 16 * 16, "14": 64 * 16 * 16, "19": 16 * 16 * 16}
RANK = 1049
N_TEST = 36
LIMIT_S, LIMIT_GB = 60.0, 4.0
THOUSANDFOLD = 1 / 1000

GENERATOR_SCRIPT = Path(__file__).with_name("occlusion_generator.py")


@dataclass(frozen=True)
class Size:
    """How large the subject is, and for how many cubes loops are timed."""

    trials: int = 1050
    faces: int = N_TEST
    voxels: int = 4096
    shrink: int = 1
    cubes: int = 40
    full_cubes: int = 4


QUICK = Size(trials=60, faces=8, voxels=300, shrink=64, cubes=6, full_cubes=3)


@dataclass(frozen=True)
class Layer:
    """One layer: the fitted decoder, what occlusion needs of it, and what the loops need."""

    name: str
    ridge: ActivationRidge
    readout: LinearReadout
    training: Array
    shown: Array


def blobs(voxels: int) -> NDArray[np.int64]:
    """Return coordinates of the voxels of a mask that looks like one of active voxels."""
    field = gaussian_filter(np.random.default_rng(0).standard_normal(HEAD), 6)
    return np.argwhere(field >= np.partition(field.ravel(), -voxels)[-voxels])


def subject(size: Size) -> tuple[Neighbourhoods, Array, Array, list[Layer]]:
    """Return cubes, test responses, training means, and layers with fitted decoders."""
    rng = np.random.default_rng(1)
    total = size.trials + size.faces
    hidden = rng.standard_normal((total, 64))
    x = hidden @ rng.standard_normal((64, size.voxels)) / 8 + 2 * rng.standard_normal((total, size.voxels))
    layers = []
    for name, full in FEATURES.items():
        n_features = full // size.shrink
        a = hidden @ rng.standard_normal((64, n_features)) / 8 + rng.standard_normal((total, n_features))
        training, shown = a[: size.trials], a[size.trials :]
        ridge = ActivationRidge().fit(x[: size.trials], training, roles=["train"] * size.trials)
        readout = readout_of_activations(ridge, x[size.trials :], ridge.compress(shown, training))
        layers.append(Layer(name, ridge, readout, training, shown))
    return cube_neighbourhoods(blobs(size.voxels), AFFINE), x[size.trials :], x[: size.trials].mean(axis=0), layers


Predict = Callable[[Array], Array]


def loop(
    predict: Predict, truths: Array, outside: Array, layer: Layer, x: Array, fill: Array, cubes: list[NDArray[np.int32]]
) -> Array:
    """Occlude, predict, compare, one cube after the other."""
    scale = layer.readout.n_features * layer.readout.variance

    def similarities(responses: Array) -> Array:
        squared = cdist(predict(responses), truths, "sqeuclidean") + outside
        return np.asarray(1 / (1 + np.sqrt(squared / scale)))

    before, losses = similarities(x), []
    for members in cubes:
        copy = x.copy()
        copy[:, members] = fill[members]
        losses.append(before - similarities(copy))
    return np.array(losses)


def loops(layer: Layer) -> dict[str, Callable[[], tuple[Predict, Array, Array]]]:
    """Return the loops: each makes a prediction, the truths it is compared with and what lies outside its basis."""
    ridge = layer.ridge
    mean, nothing = layer.training.mean(axis=0), np.zeros(len(layer.shown))

    def in_the_basis() -> tuple[Predict, Array, Array]:
        return ridge.predict, layer.readout.true, layer.readout.residuals**2

    def from_the_basis() -> tuple[Predict, Array, Array]:
        basis = ridge.loadings_.T @ (layer.training - mean)
        return lambda responses: mean + ridge.predict(responses) @ basis, layer.shown, nothing

    def by_all_weights() -> tuple[Predict, Array, Array]:
        basis = ridge.loadings_.T @ (layer.training - mean)
        weights, constant = ridge.coef_.T @ basis, mean + ridge.intercept_ @ basis
        return lambda responses: responses @ weights + constant, layer.shown, nothing

    return {
        "plain loop in the compressed basis": in_the_basis,
        "plain loop, all features from the basis": from_the_basis,
        "plain loop, all features by weights from every voxel": by_all_weights,
    }


def record(
    claim: str, peer: str, ours_s: float, peer_s: float, goal: str, met: bool, difference: float | None = None
) -> Record:
    """Return what is printed of a claim."""
    return {
        "claim": claim,
        "peer": peer,
        "ours_s": round(ours_s, 4),
        "peer_s": round(peer_s, 4),
        "ratio": float(f"{ours_s / peer_s:.3g}"),
        "max_diff": difference,
        "goal": goal,
        "met": bool(met),
    }


def processor_time(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds of the processor, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def linear_claims(options: argparse.Namespace) -> list[Record]:
    """Compare linear occlusion with three loops, and its time by the clock with the limit."""
    size = QUICK if options.quick else Size()
    cubes, x, fill, layers = subject(size)
    ours_s, ours = 0.0, []
    start = time.perf_counter()
    for layer in layers:
        seconds, losses = processor_time(lambda layer=layer: occlude_linear(layer.readout, x - fill, cubes))
        ours_s, ours = ours_s + seconds, [*ours, losses]
    clock = time.perf_counter() - start
    peer_s: dict[str, float] = {}
    apart: dict[str, float] = {}
    timed = np.linspace(0, len(cubes) - 1, size.cubes).astype(int)
    for layer, losses in zip(layers, ours, strict=True):
        for peer, prepare in loops(layer).items():
            some = timed if "compressed" in peer else timed[:: size.cubes // size.full_cubes]
            predict, truths, outside = prepare()
            members = [cubes.of(k) for k in some]
            with threadpool_limits(1):
                seconds, theirs = processor_time(
                    lambda a=(predict, truths, outside, layer), m=members: loop(*a, x, fill, m)
                )
            # The similarity before occlusion is one prediction more.
            peer_s[peer] = peer_s.get(peer, 0.0) + seconds * len(cubes) / (len(some) + 1)
            apart[peer] = max(apart.get(peer, 0.0), float(np.abs(losses[some] - theirs).max() / np.abs(theirs).max()))
    what = f"{len(cubes)} cubes x {len(x)} faces x {len(layers)} layers, all pairs"
    goal = "ratio <= 0.001, max_diff <= 1e-6"
    records = []
    for peer, seconds in peer_s.items():
        n_timed = len(timed if "compressed" in peer else timed[:: size.cubes // size.full_cubes])
        claim = f"linear occlusion, {what} (peer timed for {n_timed} cubes and scaled up)"
        met = ours_s <= THOUSANDFOLD * seconds and apart[peer] <= 1e-6
        records.append(record(claim, peer, ours_s, seconds, goal, met, apart[peer]))
    claim = f"linear occlusion by the clock, {what}, threads: {options.threads}"
    records.append(record(claim, "the limit", clock, LIMIT_S, f"<= {LIMIT_S:g} s", clock <= LIMIT_S))
    return records


def inference_claims(options: argparse.Namespace) -> list[Record]:
    """Compare the null of the map's statistics with one indexing of all matrices a permutation."""
    layers, centres, n = (2, 100, 8) if options.quick else (4, 4096, N_TEST)
    few = 20
    losses = np.random.default_rng(2).standard_normal((layers, centres, n, n), dtype=np.float32)
    with threadpool_limits(1):
        ours_s, found = processor_time(lambda: max_statistic(losses))
        pairs = pairings(n)
        peer_s, null = processor_time(
            lambda: np.array([losses[:, :, range(n), row].mean(axis=-1, dtype=np.float64) for row in pairs[:few]])
        )
    theirs = ((null - found.null_mean) / found.null_sd).max(axis=2).T
    difference = float(np.abs(found.maxima[:, :few] - theirs).max())
    claim = (
        f"max-statistic of {layers} layers x {centres} centres, {n} faces, {len(pairs) - 1} permutations (peer timed "
        f"for {few} and scaled up, without p-values)"
    )
    seconds = peer_s * len(pairs) / few
    goal = "ratio <= 1, max_diff <= 1e-6"
    met = ours_s <= seconds and difference <= 1e-6
    return [record(claim, "NumPy, one indexing a permutation", ours_s, seconds, goal, met, difference)]


def own_memory() -> int:
    """Return the bytes of this process that are not a file's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def growth_point(voxels: int, faces: int, layers: int) -> Record:
    """Occlude random readouts and test their maps; return seconds of both and the peak of memory in GB."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    rng = np.random.default_rng(3)
    cubes, x = cube_neighbourhoods(blobs(voxels), AFFINE), rng.standard_normal((faces, voxels))
    cpu, clock, found = 0.0, 0.0, []
    for _ in range(layers):
        weights = rng.standard_normal((voxels, RANK))
        weights /= np.sqrt(voxels * RANK)
        true = rng.standard_normal((faces, RANK))
        readout = LinearReadout(weights, x @ weights, true, np.ones(faces), RANK, 1.0)
        begun, at = time.process_time(), time.perf_counter()
        found.append(np.asarray(occlude_linear(readout, x, cubes)))
        cpu, clock = cpu + time.process_time() - begun, clock + time.perf_counter() - at
    start = time.perf_counter()
    max_statistic(found)
    inference = time.perf_counter() - start
    done.set()
    watcher.join()
    return {"cpu": cpu, "clock": clock, "inference": inference, "peak": peak[0] / 1e9, "size": cubes.sizes.mean()}


def growth_claims(options: argparse.Namespace) -> list[Record]:
    """Let voxels, faces and layers grow; compare with what growth in proportion would cost."""
    base, faces, layers = (300, 8, 2) if options.quick else (4096, N_TEST, 4)
    points = [(base, faces, layers), (4 * base, faces, layers), (16 * base, faces, layers)]
    points += [(base, faces // 2, layers), (base, 2 * faces, layers), (base, faces, 1), (base, faces, 2 * layers)]
    records: list[Record] = []
    first: Record = {}
    for point in points:
        command = [sys.executable, __file__, "--point", *map(str, point), "--threads", str(options.threads)]
        here = json.loads(answer(command))
        first = first or here
        times = np.prod(point) / np.prod(points[0])
        claim = (
            f"growth: {point[0]} voxels x {point[1]} faces x {point[2]} layers, processor time; cubes of "
            f"{here['size']:.0f} members on average; {here['clock']:.1f} s by the clock (threads: {options.threads}), "
            f"then {here['inference']:.1f} s for 1000 permutations"
        )
        peer = f"{points[0][0]} x {points[0][1]} x {points[0][2]}, in proportion to voxels x faces x layers"
        small = here["peak"] <= LIMIT_GB
        goal = f"ratio <= 3, peak_gb <= {LIMIT_GB:g}"
        row = record(
            claim, peer, here["cpu"], first["cpu"] * times, goal, small and here["cpu"] <= 3 * first["cpu"] * times
        )
        records.append(row | {"peak_gb": round(here["peak"], 2)})
    return records


def generator_claims(options: argparse.Namespace) -> list[Record]:
    """Run the claims on occlusion through the generator, a script of its own."""
    command = [sys.executable, str(GENERATOR_SCRIPT), "--json", "--threads", str(options.threads)]
    return [json.loads(line) for line in answer(command + ["--quick"] * options.quick).splitlines()]


def answer(command: list[str]) -> str:
    """Run a program and return what it printed, or raise with its last word."""
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    if output.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: {output.stderr.strip().splitlines()[-1]}")
    return output.stdout


def show(row: Record) -> str:
    """Say a record in words."""
    difference = "" if row["max_diff"] is None else f", max difference {row['max_diff']:.1e}"
    memory = f", peak {row['peak_gb']:.2f} GB" if "peak_gb" in row else ""
    return (
        f"{'met   ' if row['met'] else 'MISSED'} {row['claim']}: {row['ours_s']:.2f} s against {row['peer_s']:.2f} s "
        f"of {row['peer']} (ratio {row['ratio']:.3g}, goal: {row['goal']}{difference}{memory})"
    )


def main() -> None:
    """Parse the command line, run, print."""
    kinds = {
        "linear": linear_claims,
        "inference": inference_claims,
        "growth": growth_claims,
        "generator": generator_claims,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line a claim")
    parser.add_argument("--quick", action="store_true", help="a small subject; only tries the script")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", nargs="+", choices=kinds, default=tuple(kinds))
    parser.add_argument("--point", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.threads = set_threads(options.threads)
    if options.point:
        print(json.dumps(growth_point(*options.point)))
        return
    for name in options.only:
        for row in kinds[name](options):
            print(json.dumps(row) if options.json else show(row), flush=True)


if __name__ == "__main__":
    main()
