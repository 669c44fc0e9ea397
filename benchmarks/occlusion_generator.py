"""Time searchlight-occlusion through a generator: batched against the plain loop, to second order against exact.

    python benchmarks/occlusion_generator.py [--json] [--quick] [--threads N] [--only CLAIM ...]

The shipped generator, the layers that stand for the paper's four activation models, centre crops of 16 px; 4096 voxels
in clusters on a grid of 2 mm, cubes of 7 x 7 x 7 voxels, 36 faces, a ridge decoder of simulated responses.

`exact`: each layer by itself, then the four together. The plain loop copies the responses, sets the voxels of a cube to
their mean, decodes, asks the generator for the layer, crops it and compares it with all faces, one centre and face
after the other. It does a few of them, ours a block for some faces; both times are scaled up to all 4096 x 36, without
counting what ours saves where cubes hold the same voxels. ``max_diff`` is the largest difference of a loss, as a share
of the largest loss.

`second`: the four layers for a few faces, one decoder for all of them. Times are those of the exact losses of all
cubes, scaled up from the method's own sample, and of the method with all that it needs, that sample included.
``max_diff`` is the largest error of a centre's loss in the sample that the method checks itself on, in standard
deviations of the losses.

A claim that is missed is printed as missed.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hyperdecode.decoding.layers import PAPER_LAYERS, layer_at_depth
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import DataWarning
from hyperdecode.generators import load_generator
from hyperdecode.generators.base import Generator
from hyperdecode.mapping.chunks import Unit
from hyperdecode.mapping.generator_occlusion import (
    GeneratorOcclusion,
    occlude_through_generator,
    occlusion_problem,
    run_unit,
)
from hyperdecode.mapping.latent_shifts import latent_shifts
from hyperdecode.mapping.layer_crops import LayerCrops, activation_variances
from hyperdecode.mapping.linear_occlusion import similarity
from hyperdecode.mapping.neighbourhoods import Neighbourhoods, cube_neighbourhoods
from hyperdecode.mapping.second_order import occlude_to_second_order
from hyperdecode.threads import set_threads

Array = NDArray[np.float64]

GENERATOR = "mobilestylegan-ffhq"
CROP = 16
N_FACES, N_TRAINING = 36, 1050
GRID = (60, 60, 50)
N_TIMED = 6
"""Faces that ours is timed with."""
NOISE, N_SHOWN = 3.0, 14
"""Standard deviation of a trial's noise (that of the signal is 1), and the trials that a test response averages."""


@dataclass(frozen=True)
class Subject:
    """A decoder and the responses to test faces.

    Attributes
    ----------
    decoder : RidgeDecoder
    neighbourhoods : Neighbourhoods
    fill : array, (n_voxels,)
        Mean training response.
    responses, true, training : arrays
        Test responses (n_faces, n_voxels), their true latents, latents of the training faces, both standardised.
    scale : tuple of two arrays
        Mean and standard deviation of the latents.
    """

    decoder: RidgeDecoder
    neighbourhoods: Neighbourhoods
    fill: Array
    responses: Array
    true: Array
    training: Array
    scale: tuple[Array, Array]


def simulated(generator: Generator, n_voxels: int, n_training: int) -> Subject:
    """Simulate voxels in clusters that read smooth mixtures of w, and fit a decoder to them."""
    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.standard_normal(GRID), 5.0)
    coordinates = np.argwhere(field >= np.sort(field.ravel())[-n_voxels])
    w = generator.to_w(generator.sample(n_training + N_FACES, 1)).double().numpy()
    scale = w[:n_training].mean(0), w[:n_training].std(0)
    latents = (w - scale[0]) / scale[1]
    patterns = [gaussian_filter(rng.standard_normal(GRID), 1.5)[tuple(coordinates.T)] for _ in range(w.shape[1])]
    signal = latents @ np.stack(patterns)
    noise = NOISE * rng.standard_normal(signal.shape)
    noise[n_training:] /= np.sqrt(N_SHOWN)
    responses = signal / signal.std() + noise
    decoder = RidgeDecoder().fit(responses[:n_training], latents[:n_training])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # of voxels that are alone
        cubes = cube_neighbourhoods(coordinates, None, side_voxels=7)
    fill = responses[:n_training].mean(0)
    return Subject(decoder, cubes, fill, responses[n_training:], latents[n_training:], latents[:n_training], scale)


def prepared(generator: Generator, subject: Subject, layers: tuple[str, ...], n_faces: int) -> GeneratorOcclusion:
    """Prepare the searchlight of some layers for the first faces."""
    crops = LayerCrops(generator, layers, CROP, scale=subject.scale)
    responses = subject.responses[:n_faces]
    shifts = latent_shifts(subject.decoder.coef_, responses - subject.fill, subject.neighbourhoods)
    variances = activation_variances(crops, subject.training[:100])
    return occlusion_problem(crops, subject.decoder.predict(responses), subject.true[:n_faces], shifts, variances)


def plain_loop(
    generator: Generator, subject: Subject, layer: str, variance: float, pairs: list[tuple[NDArray[np.int32], int]]
) -> tuple[float, Array]:
    """Occlude as one would write it; seconds for one pair of a centre and a face, and the losses (n_pairs, n_faces)."""

    def activation(latent: Array) -> Array:
        made = torch.from_numpy(latent * subject.scale[1] + subject.scale[0]).float()[None]
        whole = generator.activations(made, [layer])[layer][0]
        side = whole.shape[-1]
        crop = min(CROP, side)
        start = (side - crop) // 2
        return whole[:, start : start + crop, start : start + crop].flatten().double().numpy()

    def similarities(responses: Array) -> Array:
        away = true - activation(subject.decoder.predict(responses[None])[0])
        return similarity(np.square(away).sum(1), true.shape[1], variance)

    with torch.no_grad():
        true = np.stack([activation(latent) for latent in subject.true])
        before = {face: similarities(subject.responses[face]) for _, face in pairs}
        losses, start = [], time.perf_counter()
        for members, face in pairs:
            occluded = subject.responses[face].copy()
            occluded[members] = subject.fill[members]
            losses.append(before[face] - similarities(occluded))
        seconds = time.perf_counter() - start
    return seconds / len(pairs), np.stack(losses)


def record(
    claim: str, peer: str, ours_s: float, peer_s: float, goal: str, met: bool, max_diff: float
) -> dict[str, Any]:
    """Return what is printed of a claim."""
    return {
        "claim": claim,
        "peer": peer,
        "ours_s": round(ours_s, 2),
        "peer_s": round(peer_s, 2),
        "ratio": round(ours_s / peer_s, 5),
        "max_diff": max_diff,
        "goal": goal,
        "met": met,
    }


def exact(generator: Generator, subject: Subject, layers: tuple[str, ...], n_plain: int) -> list[dict[str, Any]]:
    """Time each layer by itself against the plain loop, and their sums."""
    records: list[dict[str, Any]] = []
    n_pairs = len(subject.neighbourhoods) * N_FACES
    goal = "at most 1/10 of the time, losses equal to 1e-4"

    def add(name: str, ours: float, plain: float, worst: float, n_ours: int) -> None:
        size = f"{len(subject.neighbourhoods)} centres x {N_FACES} faces, scaled up from {n_ours}"
        claim = f"exact, {name}: {size} (plain loop: from {n_plain})"
        records.append(record(claim, "plain loop", ours, plain, goal, 10 * ours <= plain and worst <= 1e-4, worst))

    for layer in layers:
        problem = prepared(generator, subject, (layer,), N_FACES)
        unit = Unit(0, min(problem.batch, len(problem.shifts)), 0, N_TIMED)
        n_ours = unit.shape[0] * unit.shape[1]
        start = time.perf_counter()
        losses = run_unit(problem, unit)[layer]
        ours = (time.perf_counter() - start) / n_ours
        chosen = [
            (centre, k % N_TIMED) for k, centre in enumerate(np.linspace(0, unit.last_centre - 1, n_plain).astype(int))
        ]
        cubes = [(problem.shifts.neighbourhoods.of(centre), face) for centre, face in chosen]
        plain, expected = plain_loop(generator, subject, layer, problem.variances[layer], cubes)
        found = np.stack([losses[centre, face] for centre, face in chosen])
        worst = float(np.abs(found - expected).max() / np.abs(expected).max())
        add(layer, ours * n_pairs, plain * n_pairs, worst, n_ours)
    if len(layers) > 1:
        ours, plain = (sum(row[key] for row in records) for key in ("ours_s", "peer_s"))
        add(f"all {len(layers)} layers", ours, plain, max(row["max_diff"] for row in records), n_ours)
    return records


def second(
    generator: Generator, subject: Subject, layers: tuple[str, ...], n_faces: int, n_exact: int
) -> list[dict[str, Any]]:
    """Time all layers to second order, by the method's own sample."""
    problem = prepared(generator, subject, layers, n_faces)
    spent = []

    def counted(part: GeneratorOcclusion, centres: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        start = time.perf_counter()
        losses = occlude_through_generator(part.only(centres))
        spent.append((len(centres), time.perf_counter() - start))
        return losses

    start = time.perf_counter()
    _, agreement = occlude_to_second_order([problem], n_exact=n_exact, exact=counted)
    seconds = time.perf_counter() - start
    computed, exact_seconds = (sum(part) for part in zip(*spent, strict=True))
    every = exact_seconds / computed * len(problem.shifts)
    claim = (
        f"second order, {len(layers)} layers, {len(problem.shifts)} different cubes x {n_faces} faces: same layer in "
        f"{agreement.same_layer:.1%} of {agreement.n_centres} that were checked, correlation of losses at least "
        f"{min(agreement.correlations.values()):.4f}"
    )
    goal = "at most 1/2 of the time, same layer in 95 %"
    worst = max(agreement.largest_errors.values())
    met = agreement.holds and 2 * seconds <= every
    return [record(claim, "exact, scaled up from the checked ones", seconds, every, goal, met, worst)]


def show(row: dict[str, Any]) -> None:
    """Say a record in words."""
    print(
        f"{'met   ' if row['met'] else 'MISSED'} {row['claim']}: {row['ours_s']:.1f} s against {row['peer_s']:.1f} s "
        f"of {row['peer']} (ratio {row['ratio']:.4f}, goal: {row['goal']}, max difference {row['max_diff']:.1e})"
    )


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line a claim")
    parser.add_argument("--quick", action="store_true", help="few voxels, trials and occlusions; only tries the script")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--plain", type=int, default=12, help="occlusions that the plain loop does of each layer")
    parser.add_argument("--faces", type=int, default=6, help="faces of the claim on second order")
    parser.add_argument("--exact", type=int, default=128, help="cubes that second order begins with")
    parser.add_argument("--only", nargs="+", choices=("exact", "second"), default=("exact", "second"))
    options = parser.parse_args()
    set_threads(options.threads)
    generator = load_generator(GENERATOR)
    layers = tuple(layer_at_depth(generator, depth) for depth in PAPER_LAYERS)
    subject = simulated(generator, *((300, 200) if options.quick else (4096, N_TRAINING)))
    n_plain, n_faces, n_exact = (2, 2, 20) if options.quick else (options.plain, options.faces, options.exact)
    runs = {
        "exact": lambda: exact(generator, subject, layers, n_plain),
        "second": lambda: second(generator, subject, layers, n_faces, n_exact),
    }
    for name in options.only:
        for row in runs[name]():
            print(json.dumps(row), flush=True) if options.json else show(row)


if __name__ == "__main__":
    main()
