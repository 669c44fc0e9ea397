"""Generators by name: those whose weights can be fetched, and those that the user imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import cast

import torch
from safetensors.torch import load
from torch import Tensor, nn

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.generators.base import Generator
from hyperdecode.generators.heads import EarlyExitHead
from hyperdecode.generators.mobilestylegan import MobileStyleGAN
from hyperdecode.generators.pggan import PGGAN
from hyperdecode.generators.stylegan2 import StyleGAN2
from hyperdecode.generators.stylegan3 import StyleGAN3
from hyperdecode.weights.contents import Weights
from hyperdecode.weights.imported import imported_family, imported_names, load_imported
from hyperdecode.weights.limits import shown
from hyperdecode.weights.store import SOURCES, load_tensors, tensors_digest

__all__ = ["EXIT_LAYERS", "FAMILIES", "build_generator", "early_exits", "generator_names", "load_generator"]

DEFAULT = "mobilestylegan-ffhq"
EXIT_LAYERS = {64: "b64.conv2", 128: "b128.conv2", 256: "b256.conv2"}
"""Side of the small picture -> the layer its head reads."""


def _mobilestylegan(tensors: dict[str, Tensor], weights: Weights, name: str) -> MobileStyleGAN:
    """Build it with the early exits that were trained for these very weights, if there are any."""
    digest = tensors_digest(weights.tensors)
    trained = next((source.name for source in SOURCES.values() if source.tensors_sha256 == digest), None)
    return MobileStyleGAN(tensors, early_exits(trained) if trained else {}, name)


FAMILIES: Mapping[str, Callable[[dict[str, Tensor], Weights, str], nn.Module]] = {
    "pggan": lambda tensors, weights, name: PGGAN(tensors, name),
    "stylegan2": lambda tensors, weights, name: StyleGAN2(tensors, weights.settings, name),
    "stylegan3": lambda tensors, weights, name: StyleGAN3(tensors, weights.settings, name),
    "mobilestylegan": _mobilestylegan,
}
"""Family of imported weights -> its network."""


def generator_names() -> tuple[str, ...]:
    """Names that `load_generator` knows: the built-in ones, then the imported ones."""
    return (*SOURCES, *(name for name in imported_names() if imported_family(name) in FAMILIES))


def load_generator(name: str = DEFAULT, device: str | torch.device = "cpu") -> Generator:
    """Build a generator from its cached weights; those of a built-in one are fetched when they are not there.

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
    WeightFileError
        When the cached weights are damaged.
    """
    if name in SOURCES:
        tensors = {key: torch.from_numpy(value) for key, value in load_tensors(name).items()}
        return MobileStyleGAN(tensors, early_exits(name), name).to(device)
    if name not in imported_names():
        raise UserError(
            f"no generator {shown(name)}: choose among {', '.join(generator_names())}, or bring one in by "
            "`hyperdecode weights import FILE`"
        )
    return build_generator(load_imported(name), name, device)


def build_generator(weights: Weights, name: str, device: str | torch.device = "cpu") -> Generator:
    """Build the network that weights are of.

    Raises
    ------
    WeightFileError
        When the weights are of no generator, or their shapes do not fit together.
    """
    if weights.family not in FAMILIES:
        raise WeightFileError(f"{name} holds weights of {shown(weights.family)}, which is no generator")
    tensors = {key: torch.tensor(value) for key, value in weights.tensors.items()}
    return cast(Generator, FAMILIES[weights.family](tensors, weights, name).to(device))


def early_exits(name: str) -> dict[int, EarlyExitHead]:
    """Read the early-exit heads that ship with the package, by the side of their picture."""
    resource = resources.files("hyperdecode.generators") / "data" / f"{name}-exits.safetensors"
    tensors = load(resource.read_bytes())
    heads = {}
    for side, layer in EXIT_LAYERS.items():
        mine = {key.removeprefix(f"{side}."): value for key, value in tensors.items() if key.startswith(f"{side}.")}
        heads[side] = EarlyExitHead.from_tensors(layer, mine)
    return heads
