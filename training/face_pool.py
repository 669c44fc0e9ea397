"""Render the pool of generated faces that attributes and baselines are learned from: latents and 128 px pictures.

    python training/face_pool.py --faces 20000     # resumable, chunks of 500 faces in the cache (1 GB)

Face k has the latent z of seed 3,000,000 + k, untruncated: the pool covers more than any study's stimuli. Seeds
of the early exits' training and of held-out tests (below 3,000,000) are not among them.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from hyperdecode.files import atomic_path
from hyperdecode.generators import Generator, load_generator
from hyperdecode.stimuli.pictures import to_uint8
from hyperdecode.weights.store import cache_dir

NAME = "mobilestylegan-ffhq"
FIRST_SEED = 3_000_000
CHUNK = 500
SIDE = 128


def chunk_path(chunk: int) -> Path:
    """Return the file of one chunk: z, w (CHUNK, 512) and pictures (CHUNK, SIDE, SIDE, 3) uint8."""
    return cache_dir() / "face_pool" / NAME / f"chunk-{chunk:04d}.safetensors"


def render(faces: int) -> None:
    """Render chunk after chunk; chunks that exist are left alone."""
    generator = load_generator(NAME)
    for chunk in range(math.ceil(faces / CHUNK)):
        path = chunk_path(chunk)
        if path.exists():
            continue
        start = time.perf_counter()
        tensors = _render_chunk(generator, FIRST_SEED + chunk * CHUNK)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"generator": generator.fingerprint, "seed": str(FIRST_SEED)})
        print(f"{path.name}: {(time.perf_counter() - start) / CHUNK:.3f} s a face", flush=True)


def _render_chunk(generator: Generator, first_seed: int) -> dict[str, np.ndarray]:
    z = torch.cat([generator.sample(1, first_seed + k) for k in range(CHUNK)])
    w = generator.to_w(z)
    pictures = [to_uint8(generator.images(w[k : k + 1], resolution=SIDE)) for k in range(CHUNK)]
    return {"z": z.numpy(), "w": w.numpy(), "pictures": np.concatenate(pictures)}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    render(args.faces)


if __name__ == "__main__":
    main()
