"""Attribute normals of a generator by name: the user's own from the cache, else those that ship."""

from __future__ import annotations

import os
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.generators.attributes import ATTRIBUTES, AttributeNormals
from hyperdecode.weights.boundaries import (
    MAX_BYTES,
    attributes_path,
    read_attribute_tensors,
    write_attribute_tensors,
)
from hyperdecode.weights.imported import is_name
from hyperdecode.weights.limits import read_bytes, shown

__all__ = ["attribute_spaces", "load_attributes", "save_attributes"]


def load_attributes(generator: str, space: str) -> AttributeNormals:
    """Return the attribute normals of a generator in one latent space.

    Parameters
    ----------
    generator : str
        Its name. Normals that the user fitted or imported for it come before those that ship.
    space : str
        ``"z"`` or ``"w"``.

    Raises
    ------
    UserError
        When there are none.
    WeightFileError
        When the file is damaged.
    """
    spaces = attribute_spaces(generator)
    if space not in spaces:
        known = f"only in {' and '.join(sorted(spaces))}" if spaces else "in no latent space"
        which = f" --generator {generator}" if is_name(generator) else ""
        raise UserError(
            f"attributes of {shown(generator)} are known {known}, not in {space}: fit them with `hyperdecode "
            f"attributes fit{which}`, or import InterFaceGAN's with `hyperdecode attributes import`"
        )
    return spaces[space]


def attribute_spaces(generator: str) -> dict[str, AttributeNormals]:
    """Return the attribute normals of a generator by latent space; none where nobody fitted or imported any."""
    if not is_name(generator):
        return {}
    own = attributes_path(generator)
    shipped = resources.files("hyperdecode.generators") / "data" / f"{generator}-attributes.safetensors"
    if own.is_file():
        found = read_attribute_tensors(read_bytes(own, MAX_BYTES), str(own))
    elif shipped.is_file():
        found = read_attribute_tensors(shipped.read_bytes(), f"the shipped attributes of {generator}")
    else:
        return {}
    return {space: _normals(space, attributes) for space, attributes in found.items()}


def _normals(space: str, attributes: dict[str, dict[str, NDArray[np.float32]]]) -> AttributeNormals:
    # A safetensors file keeps no order: the paper's five first, as the paper names them, others by name.
    places = {name: place for place, name in enumerate(ATTRIBUTES)}
    names = sorted(attributes, key=lambda name: (places.get(name, len(places)), name))
    parts = [attributes[name] for name in names]
    return AttributeNormals(
        tuple(names),
        torch.from_numpy(np.stack([part["normal"] for part in parts])),
        torch.tensor([float(part["bias"]) for part in parts]),
        torch.tensor([float(part["scale"]) for part in parts]),
        space,
    )


def save_attributes(
    path: str | os.PathLike[str], spaces: dict[str, AttributeNormals], metadata: dict[str, str], *, replace: bool = True
) -> None:
    """Write attribute normals, all spaces of one generator in one file.

    Raises
    ------
    UserError
        When there is a file and it may not be replaced: it came while these were fitted.
    """
    tensors = _tensors(spaces)
    try:
        write_attribute_tensors(path, tensors, metadata, replace=replace)
    except FileExistsError:
        raise UserError(f"{path} holds attributes by now: give --force to replace them, or another --out") from None


def _tensors(spaces: dict[str, AttributeNormals]) -> dict[str, dict[str, dict[str, NDArray[np.float32]]]]:
    return {
        space: {
            name: {
                "normal": found.normals[k].numpy(),
                "bias": found.biases[k].numpy(),
                "scale": found.scales[k].numpy(),
            }
            for k, name in enumerate(found.names)
        }
        for space, found in spaces.items()
    }
