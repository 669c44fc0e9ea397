"""Faces on request: sampled, moved along attributes, or on the way from one latent to another (Figures 4 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path
from hyperdecode.generators.attributes import AttributeNormals
from hyperdecode.generators.base import Generator
from hyperdecode.report.strips import picture_strip
from hyperdecode.stimuli.pictures import resize, to_uint8
from hyperdecode.study.config import read_config
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli
from hyperdecode.threads import side_by_side

__all__ = ["Faces", "decoded_faces", "edit", "interpolate", "read_faces", "sample", "sampled_faces"]

PREVIEW = 256
"""Side of a picture in a strip, where the generator makes such large ones."""
MAX_LATENTS_BYTES = 2**30
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Faces:
    """Latents with names.

    Attributes
    ----------
    names : tuple of str
    latents : Tensor, (n, latent_dim)
    space : str
        The latent space that they lie in.
    """

    names: tuple[str, ...]
    latents: Tensor
    space: str

    def __len__(self) -> int:
        return len(self.names)


def sampled_faces(generator: Generator, n: int, seed: int, truncation: float) -> Faces:
    """Draw faces: z from N(0, I), mapped to w and truncated where the generator has a w."""
    if not n:
        raise UserError("no faces asked for: give --faces 1 or more")
    z = generator.sample(n, seed)
    names = tuple(f"seed {seed}, face {k}" for k in range(n))
    if "w" not in generator.spaces:
        return Faces(names, z, "z")
    with torch.inference_mode():
        return Faces(names, generator.to_w(z, truncation).clone(), "w")


def read_faces(path: Path, generator: Generator) -> Faces:
    """Read latents from a safetensors file with a tensor named ``w`` or ``z``, (n, latent_dim).

    Raises
    ------
    UserError
        When the file is absent, too large, damaged, or holds no such latents of this generator.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: give a safetensors file of latents, as `hyperdecode faces sample` writes")
    if path.stat().st_size > MAX_LATENTS_BYTES:
        raise UserError(f"{path} has {path.stat().st_size} bytes, more than {MAX_LATENTS_BYTES}: give fewer latents")
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is no readable safetensors file ({error})") from None
    space = next((s for s in ("w", "z") if s in tensors and s in generator.spaces), None)
    if space is None:
        raise UserError(f"{path} holds {sorted(tensors)}, expected latents named {' or '.join(generator.spaces[:2])}")
    latents = tensors[space].float()
    if latents.ndim != 2 or latents.shape[1] != generator.latent_dim or not torch.isfinite(latents).all():
        raise UserError(
            f"{path}: {space} has shape {tuple(latents.shape)}, expected finite latents (n, {generator.latent_dim})"
        )
    return Faces(tuple(f"{path.stem} {k}" for k in range(len(latents))), latents, space)


def decoded_faces(study: Path, subject: str) -> tuple[Faces, Faces]:
    """Read what was decoded for each test face of a study, as it is drawn, and the true latents.

    Raises
    ------
    UserError
        When the study was not decoded for that subject.
    """
    config, names = read_config(study), tuple(read_stimuli(study).names("test"))
    path = Layout(study).decoded(subject, config.decoding.model, "latents.safetensors")
    if not path.is_file():
        raise UserError(f"nothing was decoded for sub-{subject} in {study}: run `hyperdecode run {study}` first")
    found = load(path.read_bytes())
    labels = tuple(Path(name).stem for name in names)
    space = config.decoding.space
    return Faces(labels, found["drawn"], space), Faces(labels, found["true"], space)


def sample(out: Path, generator: Generator, faces: Faces, resolution: int | None, progress: Progress) -> Path:
    """Write each face as a PNG, their latents, and a labelled strip of all; return the strip."""
    side = resolution or generator.resolution
    small: list[NDArray[np.uint8]] = []
    for k, latent in enumerate(faces.latents):
        with torch.inference_mode():
            picture = generator.images(latent[None], space=faces.space, resolution=side)
        _save(out / f"face-{k:04d}.png", Image.fromarray(to_uint8(picture)[0]))
        small.append(to_uint8(resize(picture, min(PREVIEW, side)))[0])
        progress(k + 1, len(faces))
    with atomic_path(out / "latents.safetensors") as temporary:
        save_file({faces.space: faces.latents.contiguous()}, temporary, metadata={"generator": generator.fingerprint})
    columns = min(8, len(small))
    rows = -(-len(small) // columns)
    sheet = np.full((rows * columns, *small[0].shape), 255, np.uint8)
    sheet[: len(small)] = np.stack(small)
    strip = picture_strip(
        sheet.reshape(rows, columns, *small[0].shape), [], title=f"{generator.name}, {faces.names[0]} on"
    )
    return _save(out / "strip.png", strip)


def edit(
    out: Path,
    generator: Generator,
    faces: Faces,
    normals: AttributeNormals,
    attribute: str,
    steps: Sequence[float],
    keep: Sequence[str],
    progress: Progress,
) -> Path:
    """Write a strip that moves each face along an attribute; return it.

    Parameters
    ----------
    out : pathlib.Path
        Folder.
    generator : Generator
    faces : Faces
    normals : AttributeNormals
        In the space of `faces`.
    attribute : str
    steps : sequence of float
        Standard deviations of the attribute's score, one a column.
    keep : sequence of str
        Attributes whose scores are held.
    progress : callable
        Called with (pictures done, pictures in all).
    """
    moved = torch.stack([normals.move(faces.latents, attribute, step, keep) for step in steps], dim=1)
    labels = [f"{step:+g} SD" if step else "as it is" for step in steps]
    held = f", {', '.join(keep)} held" if keep else ""
    pictures = _pictures(generator, moved, faces.space, progress)
    strip = picture_strip(pictures, labels, faces.names, f"{generator.name}: {attribute}{held}")
    return _save(out / f"edit-{attribute}{'-keep-' + '-'.join(keep) if keep else ''}.png", strip)


def interpolate(
    out: Path, generator: Generator, first: Faces, last: Faces, steps: int, ends: tuple[str, str], progress: Progress
) -> Path:
    """Write a strip that goes straight from each latent of `first` to the one of `last` in its row; return it.

    Parameters
    ----------
    out : pathlib.Path
        Folder.
    generator : Generator
    first, last : Faces
        Equally many, in one space.
    steps : int
        Columns, both ends among them.
    ends : tuple of str
        Labels of the two ends.
    progress : callable
        Called with (pictures done, pictures in all).

    Raises
    ------
    UserError
        When the two lie in different spaces or are not equally many.
    """
    if first.space != last.space or len(first) != len(last):
        raise UserError(
            f"cannot go from {len(first)} latents in {first.space} to {len(last)} in {last.space}: "
            "give equally many in one space"
        )
    if steps < 2:
        raise UserError(f"{steps} steps leave no way between two faces: give 2 or more")
    shares = torch.linspace(0, 1, steps)[:, None]
    way = torch.stack([a + shares * (b - a) for a, b in zip(first.latents, last.latents, strict=True)])
    middle = [f"{share:.0%}" for share in shares[1:-1, 0].tolist()]
    pictures = _pictures(generator, way, first.space, progress)
    strip = picture_strip(pictures, [ends[0], *middle, ends[1]], first.names, f"{generator.name}: interpolation")
    return _save(out / "interpolation.png", strip)


def _pictures(generator: Generator, latents: Tensor, space: str, progress: Progress) -> NDArray[np.uint8]:
    """Pictures (rows, columns, side, side, 3) of latents (rows, columns, latent_dim), small ones where they are."""
    side = min((s for s in generator.resolutions if s >= PREVIEW), default=generator.resolution)
    shown = min(PREVIEW, side)
    rows, columns = latents.shape[:2]
    pictures = np.empty((rows, columns, shown, shown, 3), np.uint8)

    @torch.inference_mode()
    def one(latent: Tensor) -> NDArray[np.uint8]:
        made = generator.images(latent[None], space=space, resolution=side)
        picture: NDArray[np.uint8] = to_uint8(resize(made, shown))[0]
        return picture

    for row in range(rows):
        pictures[row] = side_by_side(one, list(latents[row]))
        progress((row + 1) * columns, rows * columns)
    return pictures


def _save(path: Path, picture: Image.Image) -> Path:
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=3)
    return path
