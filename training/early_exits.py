"""Train the early exits of MobileStyleGAN: small pictures at 64, 128 and 256 px from features half way.

    python training/early_exits.py render --pictures 4000     # resumable, chunks of 100 pictures in the cache
    python training/early_exits.py fit                        # writes generators/data/*-exits.safetensors
    python training/early_exits.py evaluate                   # R^2 on 200 held-out faces

Each head is fitted by least squares to the area-averaged full picture, on random square patches of the
features (few pixels of many faces teach more than all pixels of a few). Training seeds, validation seeds and
the held-out seeds of `evaluate` are disjoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from hyperdecode.files import atomic_path
from hyperdecode.generators.heads import EarlyExitHead
from hyperdecode.generators.mobilestylegan import MobileStyleGAN
from hyperdecode.generators.registry import EXIT_LAYERS, load_generator
from hyperdecode.weights.store import cache_dir, load_tensors

NAME = "mobilestylegan-ffhq"
TARGET = Path(__file__).parents[1] / "src" / "hyperdecode" / "generators" / "data" / f"{NAME}-exits.safetensors"
FIRST_TRAINING_SEED = 1_000_000
FIRST_HELD_OUT_SEED = 2_000_000
CHUNK = 100
PATCHES = 2
CELL = 8  # side of a patch in pixels at 64 px; twice and four times that at 128 and 256 px
HIDDEN = 32
VALIDATION = 0.05
PEAK_RATE = 5e-4


def latent(generator: MobileStyleGAN, seed: int) -> torch.Tensor:
    """w of one face; a third of the faces are truncated, as most stimuli will be."""
    truncation = (1.0, 1.0, 0.7)[seed % 3]
    return generator.to_w(generator.sample(1, seed), truncation)


def render(pictures: int, threads: int) -> None:
    """Collect features and targets, chunk by chunk."""
    torch.set_num_threads(threads)
    tensors = {key: torch.from_numpy(value) for key, value in load_tensors(NAME).items()}
    generator = MobileStyleGAN(tensors)
    folder = cache_dir() / "early_exits"
    folder.mkdir(parents=True, exist_ok=True)
    for chunk in range(math.ceil(pictures / CHUNK)):
        path = folder / f"chunk-{chunk:04d}.safetensors"
        if not path.exists():
            start = time.perf_counter()
            with torch.inference_mode(), atomic_path(path) as temporary:
                save_file(_collect(generator, FIRST_TRAINING_SEED + chunk * CHUNK), temporary)
            print(f"{path.name}: {(time.perf_counter() - start) / CHUNK:.3f} s a picture", flush=True)


def _collect(generator: MobileStyleGAN, first_seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(first_seed)
    w = np.zeros((CHUNK, generator.latent_dim), np.float32)
    out: dict[str, np.ndarray] = {"w": w}
    for k in range(CHUNK):
        latents = latent(generator, first_seed + k)
        w[k] = latents[0].numpy()
        features = generator.activations(latents, [*EXIT_LAYERS.values(), "image"])
        picture = features.pop("image")
        for p in range(PATCHES):
            row, column = rng.integers(0, 64 - CELL + 1, 2)
            for side, layer in EXIT_LAYERS.items():
                scale = side // 64
                cell, r, c = CELL * scale, row * scale, column * scale
                padded = F.pad(features[layer], (1, 1, 1, 1), mode="replicate")
                x = padded[0, :, r : r + cell + 2, c : c + cell + 2].numpy()
                y = F.avg_pool2d(picture, generator.resolution // side)[0, :, r : r + cell, c : c + cell].numpy()
                for key, value in ((f"x{side}", x), (f"y{side}", y)):
                    out.setdefault(key, np.zeros((CHUNK * PATCHES, *value.shape), np.float16))[k * PATCHES + p] = value
    return out


def fit(epochs: int, threads: int) -> None:
    """Fit one head a side and write them as float16."""
    torch.set_num_threads(threads)
    chunks = sorted((cache_dir() / "early_exits").glob("chunk-*.safetensors"))
    saved: dict[str, torch.Tensor] = {}
    for side, layer in sorted(EXIT_LAYERS.items(), key=lambda item: item[0] != 128):
        parts = [load_file(path) for path in chunks]
        x = torch.from_numpy(np.concatenate([part[f"x{side}"] for part in parts]))
        y = torch.from_numpy(np.concatenate([part[f"y{side}"] for part in parts]))
        w = torch.from_numpy(np.concatenate([part["w"] for part in parts])).repeat_interleave(PATCHES, 0)
        del parts
        head = _fit_head(layer, x, y, w, epochs)
        saved |= {f"{side}.{key}": value.half().contiguous() for key, value in head.state_dict().items()}
    with atomic_path(TARGET) as temporary:
        save_tensors(saved, temporary)


def _fit_head(layer: str, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, epochs: int) -> EarlyExitHead:
    torch.manual_seed(0)
    n_train = int(len(x) * (1 - VALIDATION))
    head = EarlyExitHead(layer, x.shape[1], HIDDEN, w.shape[1])
    some = x[: n_train : max(1, n_train // 1000)].float()
    head.x_mean.copy_(some.mean((0, 2, 3)))
    head.x_scale.copy_(some.std((0, 2, 3)))
    head.w_mean.copy_(w[:n_train].mean(0))
    head.w_scale.copy_(3 * w[:n_train].std(0))
    _start_linear(head, x[:n_train], y[:n_train])
    optimizer = torch.optim.Adam(head.parameters(), lr=PEAK_RATE)
    batch, step = 24, 0
    steps = epochs * math.ceil(n_train / batch)
    for epoch in range(epochs):
        for rows in torch.randperm(n_train).split(batch):
            warm = min(1.0, (step + 1) / 200)
            optimizer.param_groups[0]["lr"] = warm * PEAK_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = (head.interior(x[rows].float(), w[rows]) - y[rows].float()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1)
            optimizer.step()
            step += 1
        with torch.no_grad():
            held = [
                (head.interior(x[i : i + 50].float(), w[i : i + 50]) - y[i : i + 50].float()).square().mean()
                for i in range(n_train, len(x), 50)
            ]
        fraction = 1 - float(torch.stack(held).mean()) / float(y[n_train:].float().var())
        print(f"{layer} epoch {epoch + 1}/{epochs}: validation R^2 {fraction:.4f}", flush=True)
    return head


def _start_linear(head: EarlyExitHead, x: torch.Tensor, y: torch.Tensor) -> None:
    """Begin at the least-squares solution of the part that does not depend on w."""
    channels = x.shape[1]
    gram = torch.zeros(channels + 1, channels + 1, dtype=torch.float64)
    moment = torch.zeros(channels + 1, 3, dtype=torch.float64)
    for start in range(0, len(x), 50):
        inner = (x[start : start + 50, :, 1:-1, 1:-1].float() - head.x_mean[:, None, None]) / head.x_scale[
            :, None, None
        ]
        rows = inner.permute(0, 2, 3, 1).reshape(-1, channels)[::4].double()
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
        colours = y[start : start + 50].permute(0, 2, 3, 1).reshape(-1, 3)[::4].double()
        gram += rows.T @ rows
        moment += rows.T @ colours
    gram += 1e-4 * gram.diagonal().mean() * torch.eye(channels + 1, dtype=torch.float64)
    solution = torch.linalg.solve(gram, moment).float()
    with torch.no_grad():
        head.linear.copy_(solution[:-1].T)
        head.colour.bias.copy_(solution[-1])


def evaluate(n: int, threads: int, as_json: bool) -> None:
    """R^2 of each early exit on held-out faces: 1 - squared error / variance of that picture, mean over faces."""
    torch.set_num_threads(threads)
    generator = load_generator(NAME)
    scores: dict[int, list[float]] = {side: [] for side in EXIT_LAYERS}
    with torch.inference_mode():
        for k in range(n):
            w = generator.to_w(generator.sample(1, FIRST_HELD_OUT_SEED + k))
            full = generator.images(w)
            for side in EXIT_LAYERS:
                target = F.avg_pool2d(full, generator.resolution // side)
                error = (generator.images(w, resolution=side) - target).square().mean()
                scores[side].append(float(1 - error / target.var(correction=0)))
    for side, values in scores.items():
        row = {
            "exit": side,
            "faces": n,
            "r2_mean": np.mean(values),
            "r2_median": np.median(values),
            "r2_min": min(values),
        }
        row = {key: round(float(value), 4) if key.startswith("r2") else value for key, value in row.items()}
        print(json.dumps(row) if as_json else "  ".join(f"{key} {value}" for key, value in row.items()))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("render", "fit", "evaluate"))
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--faces", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.stage == "render":
        render(args.pictures, args.threads)
    elif args.stage == "fit":
        fit(args.epochs, args.threads)
    else:
        evaluate(args.faces, args.threads, args.json)


if __name__ == "__main__":
    main()
