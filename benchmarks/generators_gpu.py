"""Pictures a second on a GPU, in float32, TF32, bfloat16 and float16, beside what its matrix products can do.

    python benchmarks/generators_gpu.py [--device cuda] [--side 1024] [--batch 8] [--json]

PGGAN and StyleGAN2 have random weights of the published widths, MobileStyleGAN its own. For each precision: pictures a
second, the share of the ceiling (the multiplications of a forward pass a second over those of a large matrix product
in the same precision, measured in the same run), and the root mean squared difference from float32 over the standard
deviation of the pictures. `--device cpu --side 32 --batch 1` only tries the script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hyperdecode.generators import PGGAN, Generator, StyleGAN2, load_generator

TURNS = 7
PRECISIONS = {
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, True),
    "float16": (torch.float16, True),
}
"""Name -> type of weights and features, and whether float32 products may be rounded to TF32."""


def widths(side: int, base: int, largest: int) -> dict[int, int]:
    """Channels at each side from 4 px on."""
    return {s: min(base // s, largest) for s in (2**k for k in range(2, side.bit_length()))}


def random_pggan(side: int) -> PGGAN:
    """PGGAN of the published widths (8192 / side, at most 512)."""
    channels = widths(side, 16384, 512)
    tensors: dict[str, Tensor] = {"conv.1.weight": torch.randn(512, 512, 4, 4) / 64}
    layers = [(512, 512)]
    for s, width in channels.items():
        layers += [(channels[s // 2], width), (width, width)] if s > 4 else []
    tensors |= {f"conv.{k}.weight": he(o, i, 3, 3) for k, (i, o) in enumerate(layers, start=2)}
    tensors |= {f"conv.{k}.bias": torch.zeros(len(tensors[f"conv.{k}.weight"])) for k in range(1, len(layers) + 2)}
    tensors |= {f"to_rgb.{side}.weight": he(3, channels[side]), f"to_rgb.{side}.bias": torch.zeros(3)}
    return PGGAN(tensors)


def random_stylegan2(side: int) -> StyleGAN2:
    """StyleGAN2 config F (32768 / side channels, at most 512)."""
    channels = widths(side, 32768, 512)
    tensors: dict[str, Tensor] = {"b4.const": torch.randn(channels[4], 4, 4)}
    for k in range(8):
        tensors |= {f"mapping.{k}.weight": he(512, 512), f"mapping.{k}.bias": torch.zeros(512)}

    def modulated(name: str, inward: int, *shape: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(*shape)
        tensors[f"{name}.bias"] = torch.zeros(shape[0])
        tensors[f"{name}.affine.weight"] = torch.randn(inward, 512) / 512**0.5
        tensors[f"{name}.affine.bias"] = torch.ones(inward)

    for s, width in channels.items():
        if s > 4:
            modulated(f"b{s}.conv0", channels[s // 2], width, channels[s // 2], 3, 3)
        modulated(f"b{s}.conv1", width, width, width, 3, 3)
        modulated(f"b{s}.to_rgb", width, 3, width, 1, 1)
        tensors[f"b{s}.to_rgb.weight"] /= width**0.5
    return StyleGAN2(tensors)


def he(*shape: int) -> Tensor:
    """Weights that keep the variance through a leaky ReLU."""
    return torch.randn(*shape) * (2 / torch.Size(shape[1:]).numel()) ** 0.5


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, after two to warm up."""
    taken = []
    for turn in range(2 + TURNS):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        if turn > 1:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ceiling(precision: str, device: torch.device) -> float:
    """Floating-point operations a second of a large matrix product."""
    dtype, _ = PRECISIONS[precision]
    n = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, device)


@torch.inference_mode()
def measure(build: Callable[[], Generator], device: torch.device, batch: int) -> list[dict[str, object]]:
    """One row a precision."""
    rows: list[dict[str, object]] = []
    reference: Tensor | None = None
    for precision, (dtype, tf32) in PRECISIONS.items():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.manual_seed(0)
        generator = build().to(device, dtype)  # type: ignore[attr-defined]
        latents = generator.sample(batch, 1).to(device, dtype)
        with FlopCounterMode(display=False) as counter:
            pictures = generator.images(latents, space="z").float()
        reference = pictures if reference is None else reference
        taken = seconds(lambda g=generator, z=latents: g.images(z, space="z"), device)
        rows.append(
            {
                "generator": generator.name,
                "side": generator.resolution,
                "precision": precision,
                "pictures_per_s": round(batch / taken, 2),
                "share_of_ceiling": round(counter.get_total_flops() / taken / ceiling(precision, device), 3),
                "relative_rms_error": float(
                    f"{float((pictures - reference).square().mean().sqrt() / reference.std()):.2g}"
                ),
            }
        )
    return rows


def main() -> None:
    """Measure and print one line a generator and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: run this where there is one, or try the script with --device cpu --side 32")
    builders = [lambda: random_pggan(args.side), lambda: random_stylegan2(args.side), load_generator]
    for build in builders[: 3 if device.type == "cuda" else 2]:
        for row in measure(build, device, args.batch):
            print(json.dumps(row) if args.json else "  ".join(f"{key}: {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
