"""A pool of generated faces in the cache, latents and small pictures, made once and read by many."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hyperdecode.files import atomic_path
from hyperdecode.generators.base import Generator
from hyperdecode.stimuli.pictures import resize, to_uint8
from hyperdecode.threads import side_by_side
from hyperdecode.weights.store import cache_dir

__all__ = ["CHUNK", "FIRST_SEED", "SIDE", "chunk_path", "held_out_latents", "pool_chunks"]

FIRST_SEED = 3_000_000
"""Face k has the latent z of this seed plus k; training of early exits and held-out tests use smaller ones."""
FIRST_HELD_OUT_SEED = 2_500_000
CHUNK = 500
SIDE = 128

Tensors = dict[str, NDArray[np.float32]]
Progress = Callable[[int, int], None]


def chunk_path(generator: str, chunk: int) -> Path:
    """Return the file of one chunk of a generator's pool."""
    return cache_dir() / "face_pool" / generator / f"chunk-{chunk:04d}.safetensors"


def pool_chunks(generator: Generator, faces: int, progress: Progress | None = None) -> list[Path]:
    """Render what is missing of a pool, chunk by chunk, and return its files.

    Faces are untruncated, so that the pool covers more than any study's stimuli. A killed run goes on with the
    next chunk; chunks of another generator's weights are made anew.

    Parameters
    ----------
    generator : Generator
    faces : int
        Rounded up to whole chunks of `CHUNK`.
    progress : callable, optional
        Called with (faces done, faces in all).

    Returns
    -------
    list of pathlib.Path
        Safetensors with ``z`` and, where the generator has it, ``w``, (CHUNK, latent_dim) float32, and ``pictures``,
        (CHUNK, SIDE, SIDE, 3) uint8.
    """
    paths = []
    n_chunks = math.ceil(faces / CHUNK)
    for chunk in range(n_chunks):
        path = chunk_path(generator.name, chunk)
        if not _is_chunk(path, generator):
            tensors = _render(generator, FIRST_SEED + chunk * CHUNK)
            metadata = {"generator": generator.fingerprint, "seed": str(FIRST_SEED)}
            with atomic_path(path) as temporary:
                save_file(tensors, temporary, metadata=metadata)
        paths.append(path)
        if progress:
            progress((chunk + 1) * CHUNK, n_chunks * CHUNK)
    return paths


def _is_chunk(path: Path, generator: Generator) -> bool:
    """Whether a file is whole and holds faces of these very weights."""
    try:
        with safe_open(path, framework="numpy") as chunk:
            metadata = chunk.metadata() or {}
            return metadata.get("generator") == generator.fingerprint and {"z", "pictures"} <= set(chunk.keys())
    except (OSError, SafetensorError):
        return False


def _render(generator: Generator, first_seed: int) -> dict[str, NDArray[np.generic]]:
    side = min((s for s in generator.resolutions if s >= SIDE), default=generator.resolution)
    z = torch.cat([generator.sample(1, first_seed + k) for k in range(CHUNK)])
    tensors: dict[str, NDArray[np.generic]] = {"z": z.numpy()}
    pictures = np.empty((CHUNK, SIDE, SIDE, 3), np.uint8)

    @torch.inference_mode()
    def one(latent: torch.Tensor) -> NDArray[np.uint8]:
        made = resize(generator.images(latent[None], space="z", resolution=side), SIDE)
        picture: NDArray[np.uint8] = to_uint8(made)[0]
        return picture

    with torch.inference_mode():
        if "w" in generator.spaces:
            tensors["w"] = generator.to_w(z).numpy(force=True)
    pictures[:] = side_by_side(one, list(z))
    return tensors | {"pictures": pictures}


def held_out_latents(generator: Generator, n: int, space: str, truncation: float = 0.7) -> torch.Tensor:
    """Latents (n, latent_dim) of faces that are in no pool: in w truncated as stimuli are, in z as drawn."""
    z = torch.cat([generator.sample(1, FIRST_HELD_OUT_SEED + k) for k in range(n)])
    return z if space == "z" else generator.to_w(z, truncation)
