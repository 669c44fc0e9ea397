"""From a run to a weight file: the averaged generator in the canonical layout of `hyperdecode.generators.PGGAN`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from hyperdecode.files import atomic_path
from training.pggan.checkpoint import load_average
from training.pggan.networks import EqualisedConvolution, Generator

__all__ = ["canonical_tensors", "export"]


def canonical_tensors(generator: Generator, side: int, alpha: float = 1.0) -> dict[str, Tensor]:
    """Fold the run-time scales into the weights and leave out the layers that have not grown.

    ``conv.k.weight``, ``conv.k.bias``, ``to_rgb.{side}.weight`` (3, in), ``to_rgb.{side}.bias``; in the middle of a
    fade-in also ``lod`` = 1 - alpha.

    Parameters
    ----------
    generator : Generator
    side : int
        Side that it has grown to.
    alpha : float
        How far that side is faded in.

    Returns
    -------
    dict of str to Tensor
        float32, on the CPU.
    """
    tensors: dict[str, Tensor] = {}

    def fold(name: str, module: torch.nn.Module) -> None:
        layer = cast(EqualisedConvolution, module)
        weight = (layer.weight * layer.scale).detach()
        tensors[f"{name}.weight"] = weight[:, :, 0, 0] if name.startswith("to_rgb") else weight
        tensors[f"{name}.bias"] = layer.bias.detach()

    for i, grown in enumerate(generator.sides[: generator.sides.index(side) + 1]):
        for k in (2 * i + 1, 2 * i + 2):
            fold(f"conv.{k}", generator.conv[str(k)])
        fold(f"to_rgb.{grown}", generator.to_rgb[str(grown)])
    if alpha < 1.0:
        tensors["lod"] = torch.tensor(1.0 - alpha)
    return {name: value.float().cpu().contiguous().clone() for name, value in tensors.items()}


def export(run: Path, target: Path, *, half: bool = True, licence: str | None = None) -> Path:
    """Write the averaged generator of a run as a weight file.

    Parameters
    ----------
    run : pathlib.Path
        Folder of the run.
    target : pathlib.Path
        The safetensors file.
    half : bool
        As float16, half the size.
    licence : str, optional
        Default: that of the pictures, where it is known.

    Returns
    -------
    pathlib.Path
        The target.

    Raises
    ------
    UserError
        When there is no run, or its files are damaged.
    """
    trained = load_average(run)
    tensors = canonical_tensors(trained.generator, trained.phase.side, trained.phase.alpha)
    if half:
        tensors = {name: value.half() if value.ndim else value for name, value in tensors.items()}
    settings = {
        "training": trained.settings.to_json(),
        "training_sha256": trained.settings.digest,
        "images_shown": trained.shown,
        "pictures": trained.source,
    }
    metadata = {
        "family": "pggan",
        "layout": "PGGAN, training/pggan",
        "settings": json.dumps(settings, sort_keys=True),
        "licence": licence or trained.licence or "not stated: ask whoever trained it",
    }
    with atomic_path(target) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return target
