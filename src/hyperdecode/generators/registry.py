"""Generators by name."""

from __future__ import annotations

from importlib import resources

import torch
from safetensors.torch import load

from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator
from hyperdecode.generators.heads import EarlyExitHead
from hyperdecode.generators.mobilestylegan import MobileStyleGAN
from hyperdecode.weights.store import SOURCES, load_tensors

__all__ = ["EXIT_LAYERS", "early_exits", "generator_names", "load_generator"]

EXIT_LAYERS = {64: "b64.conv2", 128: "b128.conv2", 256: "b256.conv2"}
"""Side of the small picture -> the layer its head reads."""


def generator_names() -> tuple[str, ...]:
    """Names that `load_generator` knows."""
    return tuple(SOURCES)


def load_generator(name: str = "mobilestylegan-ffhq", device: str | torch.device = "cpu") -> Generator:
    """Build a generator from its cached weights, fetching them first when they are not there.

    Parameters
    ----------
    name : str
        Among `generator_names`.
    device : str or torch.device
        Where it shall live.

    Returns
    -------
    Generator

    Raises
    ------
    UserError
        For an unknown name, or when the weights cannot be fetched.
    """
    if name not in SOURCES:
        raise UserError(f"no generator {name!r}: choose among {', '.join(SOURCES)}")
    tensors = {key: torch.from_numpy(value) for key, value in load_tensors(name).items()}
    return MobileStyleGAN(tensors, early_exits(name), name).to(device)


def early_exits(name: str) -> dict[int, EarlyExitHead]:
    """Read the early-exit heads that ship with the package, by the side of their picture."""
    resource = resources.files("hyperdecode.generators") / "data" / f"{name}-exits.safetensors"
    tensors = load(resource.read_bytes())
    heads = {}
    for side, layer in EXIT_LAYERS.items():
        mine = {key.removeprefix(f"{side}."): value for key, value in tensors.items() if key.startswith(f"{side}.")}
        heads[side] = EarlyExitHead.from_tensors(layer, mine)
    return heads
