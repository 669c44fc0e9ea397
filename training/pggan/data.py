"""The real pictures: a folder of files, or the pool of generated faces, by side and batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hyperdecode.errors import UserError
from hyperdecode.files import sha256_bytes
from hyperdecode.pipeline.face_pool import chunk_path
from hyperdecode.weights.store import SOURCES
from training.pggan.networks import upsample

__all__ = ["Pictures", "area_average", "faded", "from_folder", "from_pool"]

POOL = "mobilestylegan-ffhq"
"""The generator whose pool of faces is read."""
SUFFIXES = (".png", ".jpg", ".jpeg")
AT_A_TIME = 500


@dataclass(frozen=True)
class Pictures:
    """Real pictures at the full side of a run.

    Attributes
    ----------
    values : Tensor of uint8, (n, 3, side, side)
        On the CPU.
    source : str
        Where they come from, in words.
    licence : str
        What their owners permit, so far as it is known.
    """

    values: Tensor
    source: str
    licence: str = ""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def side(self) -> int:
        """Side in pixels."""
        return self.values.shape[-1]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the shape and all pixels."""
        pixels = hashlib.sha256(np.ascontiguousarray(self.values.numpy()).data).hexdigest()
        return sha256_bytes(f"{tuple(self.values.shape)}{pixels}".encode())


def area_average(values: Tensor, side: int) -> Tensor:
    """Shrink pictures to a side: the mean over each pixel's area, rounded.

    Parameters
    ----------
    values : Tensor of uint8, (n, 3, full, full)
    side : int
        A divisor of the full side.

    Returns
    -------
    Tensor of uint8, (n, 3, side, side)
    """
    factor, rest = divmod(values.shape[-1], side)
    if rest or not factor:
        raise UserError(f"pictures of {values.shape[-1]} px cannot be averaged to {side} px: choose a divisor")
    if factor == 1:
        return values
    parts = [F.avg_pool2d(part.float(), factor).round().to(torch.uint8) for part in torch.split(values, AT_A_TIME)]
    return torch.cat(parts)


def faded(pictures: Tensor, alpha: float) -> Tensor:
    """Fade real pictures in as the networks are: ``alpha x + (1 - alpha) up(down(x))``."""
    if alpha >= 1.0:
        return pictures
    return torch.lerp(upsample(F.avg_pool2d(pictures, 2)), pictures, alpha)


def from_pool(side: int, limit: int | None = None) -> Pictures:
    """Read the pool of generated faces that ``training/face_pool.py`` renders into the cache.

    Parameters
    ----------
    side : int
        A divisor of the pool's 128 px.
    limit : int, optional
        Only the first pictures. Default: all chunks that are there, up to the first one missing.

    Returns
    -------
    Pictures

    Raises
    ------
    UserError
        When there is no pool, or fewer pictures than asked for, or a chunk is damaged.
    """
    parts: list[Tensor] = []
    held = 0
    while (limit is None or held < limit) and (path := chunk_path(POOL, len(parts))).exists():
        try:
            with safe_open(path, framework="pt") as chunk:
                pictures = chunk.get_tensor("pictures")[: None if limit is None else limit - held]
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and run `python training/face_pool.py`") from None
        parts.append(area_average(pictures.permute(0, 3, 1, 2), side))
        held += len(pictures)
    if not held or (limit is not None and held < limit):
        wanted = "some" if limit is None else f"the first {limit}"
        raise UserError(f"the pool holds {held} faces, not {wanted}: run `python training/face_pool.py` first")
    return Pictures(torch.cat(parts).contiguous(), f"{held} faces made by {POOL}", SOURCES[POOL].licence)


def from_folder(folder: Path, side: int, limit: int | None = None) -> Pictures:
    """Read the PNG and JPEG files of a folder and of those in it, in the order of their names.

    The largest centred square of each is averaged to `side`; transparency is dropped.

    Parameters
    ----------
    folder : pathlib.Path
    side : int
    limit : int, optional
        Only the first files.

    Returns
    -------
    Pictures

    Raises
    ------
    UserError
        When there is none, or one cannot be read or is smaller than `side`.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[:limit]
    if not paths or (limit is not None and len(paths) < limit):
        raise UserError(f"{folder} holds {len(paths)} files {', '.join(SUFFIXES)}, not {limit or 'some'}: give another")
    values = np.stack([_read(path, side) for path in paths])
    return Pictures(
        torch.from_numpy(values).permute(0, 3, 1, 2).contiguous(), f"{len(paths)} pictures of {folder.name}"
    )


def _read(path: Path, side: int) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            square = min(picture.size)
            if square < side:
                raise UserError(f"{path} has {picture.width} x {picture.height} px, too small for {side}: take it out")
            left, top = (picture.width - square) // 2, (picture.height - square) // 2
            box = (left, top, left + square, top + square)
            small = picture.convert("RGB").resize((side, side), Image.Resampling.BOX, box)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}): take it out of the folder") from None
    return np.asarray(small)
