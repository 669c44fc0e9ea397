"""What the StyleGAN layouts share: taking tensors by name, folding learning-rate gains in, reading settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import Tensors, WeightContents

__all__ = ["LICENCE", "Source", "constructor_arguments", "contiguous", "nvidia_mapping", "refuse_other_than"]

LICENCE = "NVIDIA Source Code License: non-commercial use (research or evaluation) only; see the model's own page"
MAPPING_RATE = 0.01
MAX_SIDE = 4096
NESTED = ("init_kwargs", "static_kwargs", "kwargs")


class Source:
    """The tensors of one file, taken out by name.

    Parameters
    ----------
    contents : WeightContents
    network : str
        What the file is taken for, in messages.
    """

    def __init__(self, contents: WeightContents, network: str) -> None:
        self.tensors, self.name, self.network = contents.tensors, contents.source, network

    def refuse(self, reason: str) -> WeightFileError:
        """Return the error that says why this file cannot be used."""
        return WeightFileError(f"{self.name} ({self.network}): {reason}")

    def take(self, name: str, ndim: int) -> NDArray[np.float32]:
        """Return the tensor `name`, which must have `ndim` dimensions; a `WeightFileError` if not."""
        if name not in self.tensors:
            raise self.refuse(f"no tensor {name}, the file is incomplete or holds another network")
        value = self.tensors[name]
        if value.ndim != ndim or not value.size:
            raise self.refuse(f"{name} has shape {value.shape}, expected {ndim} dimensions, none of them empty")
        return value

    def count(self, pattern: str, what: str, first: int = 0) -> int:
        """Count numbered parts, whose number is the group of `pattern`; a `WeightFileError` when one is left out."""
        matches = (re.match(pattern, name) for name in self.tensors)
        numbers = {int(match[1]) for match in matches if match}
        if not numbers or numbers != set(range(first, first + len(numbers))):
            raise self.refuse(f"its {what} are not all there, the file is incomplete")
        return len(numbers)

    def sides(self, pattern: str, largest: Any = None) -> list[int]:
        """Sides 4, 8, ... of the blocks, which are the group of `pattern`; a `WeightFileError` when one is left out."""
        matches = (re.match(pattern, name) for name in self.tensors)
        found = sorted({int(match[1]) for match in matches if match})
        whole = bool(found) and found == [4 * 2**k for k in range(len(found))] and found[-1] <= MAX_SIDE
        if not whole or largest not in (None, found[-1]):
            raise self.refuse(f"it has blocks of {found[:12]} px, expected 4, 8, 16, ... up to the picture's side")
        return found

    def number(self, name: str) -> NDArray[np.float32]:
        """Return a tensor of one number, as shape (1,)."""
        value = self.tensors.get(name)
        if value is None or value.size != 1:
            raise self.refuse(f"{name} is no single number")
        return value.reshape(1)

    def dense(self, weight: NDArray[np.float32], bias: NDArray[np.float32], rate: Any, target: str) -> Tensors:
        """Layer of the mapping network: weights scaled by ``rate / sqrt(inputs)``, the bias by ``rate``."""
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise self.refuse(f"the mapping's learning rate is {str(rate)[:40]!r}, expected a number from 0 to 1")
        return {
            f"{target}.weight": scaled(weight, rate),
            f"{target}.bias": (bias * np.float32(rate)).astype(np.float32),
        }

    def affine(self, source: str, target: str) -> Tensors:
        """Style layer: weights scaled by ``1 / sqrt(inputs)``, the bias as it is."""
        return {
            f"{target}.weight": scaled(self.take(f"{source}.weight", 2)),
            f"{target}.bias": self.take(f"{source}.bias", 1),
        }


def scaled(weight: NDArray[np.float32], rate: float = 1.0) -> NDArray[np.float32]:
    """Fold the gain of equalised learning rate into weights (out, in, ...): ``rate / sqrt(inputs)``."""
    inputs = max(int(np.prod(weight.shape[1:])), 1)
    return (weight * np.float32(rate / inputs**0.5)).astype(np.float32)


def contiguous(tensors: Tensors) -> Tensors:
    """Tensors in float32 that are not views of others, turned or cut."""
    return {name: np.array(value, np.float32, order="C") for name, value in tensors.items()}


def nvidia_mapping(source: Source, settings: Mapping[str, Any]) -> Tensors:
    """Read the mapping network and the mean w of NVIDIA's PyTorch files (``mapping.fc0.weight``, ``mapping.w_avg``)."""
    given = settings.get("mapping_kwargs")
    rate = (given if isinstance(given, Mapping) else {}).get("lr_multiplier", MAPPING_RATE)
    tensors: Tensors = {}
    for k in range(source.count(r"mapping\.fc(\d{1,2})\.", "mapping layers")):
        theirs = f"mapping.fc{k}"
        weight, bias = source.take(f"{theirs}.weight", 2), source.take(f"{theirs}.bias", 1)
        tensors |= source.dense(weight, bias, rate, f"mapping.{k}")
    if "mapping.w_avg" in source.tensors:
        tensors["w_avg"] = source.take("mapping.w_avg", 1)
    return tensors


def constructor_arguments(contents: WeightContents) -> dict[str, Any]:
    """Arguments that the network was built with, whether the file's settings are these or hold them."""
    arguments = dict(contents.settings)
    for key in NESTED:
        inner = contents.settings.get(key)
        if isinstance(inner, Mapping):
            arguments.update(inner)
    return arguments


def refuse_other_than(source: Source, settings: Mapping[str, Any], allowed: Mapping[str, Any], remedy: str) -> None:
    """Refuse a file whose settings, where they are given, are not the ones that our networks have."""
    for key, value in allowed.items():
        if settings.get(key, value) != value:
            raise source.refuse(f"{key} is {str(settings[key])[:40]!r}, only {value!r} is supported; {remedy}")
