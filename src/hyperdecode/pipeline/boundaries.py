"""InterFaceGAN's published attribute normals, taken for a generator of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hyperdecode.errors import UserError
from hyperdecode.generators.attribute_store import attribute_spaces, save_attributes
from hyperdecode.generators.attributes import AttributeNormals
from hyperdecode.generators.base import Generator
from hyperdecode.generators.registry import load_generator
from hyperdecode.pipeline.lock import study_lock
from hyperdecode.weights.boundaries import attributes_path, boundary_name, read_boundary

__all__ = ["import_boundaries"]


def import_boundaries(files: Sequence[Path], generator: str, space: str, *, force: bool = False) -> tuple[str, ...]:
    """Add boundaries to the attributes of a generator and return the names of all that it has in that space.

    The files say nothing of bias or spread: biases are zero and a face is moved in units of the latent space (in z
    these are standard deviations).

    Parameters
    ----------
    files : sequence of pathlib.Path
        ``..._boundary.npy``; the attribute's name is read from the file's.
    generator : str
        A generator that can be loaded.
    space : str
        ``"z"`` or ``"w"``.
    force : bool
        Replace attributes of the same names.

    Raises
    ------
    UserError
        When the generator lacks the space, an attribute is there already, or another command changes its attributes.
    WeightFileError
        When a file is no boundary, or one of another number of dimensions.
    """
    network = load_generator(generator)
    if space not in network.spaces:
        raise UserError(f"{generator} has no latent space {space!r}: choose among {', '.join(network.spaces)}")
    path = attributes_path(generator)
    with study_lock(path, path.parent, f"{generator}.lock"):
        _add(files, generator, network, space, force)
        return attribute_spaces(generator)[space].names


def _add(files: Sequence[Path], generator: str, network: Generator, space: str, force: bool) -> None:
    known = attribute_spaces(generator)
    have = {} if space not in known else _by_name(known[space])
    for file in files:
        name, normal = boundary_name(file), torch.from_numpy(read_boundary(file))
        if len(normal) != network.latent_dim:
            raise UserError(f"{file} has {len(normal)} dimensions, {generator} has {network.latent_dim} in {space}")
        if name in have and not force:
            raise UserError(f"{generator} has {name} in {space} already: give --force to replace it")
        have[name] = (normal, torch.zeros(()), torch.ones(()))
    normals, biases, scales = (torch.stack(parts) for parts in zip(*have.values(), strict=True))
    spaces = known | {space: AttributeNormals(tuple(have), normals, biases, scales, space)}
    save_attributes(attributes_path(generator), spaces, {"generator": network.fingerprint})


def _by_name(known: AttributeNormals) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    rows = zip(known.normals, known.biases, known.scales, strict=True)
    return dict(zip(known.names, rows, strict=True))
