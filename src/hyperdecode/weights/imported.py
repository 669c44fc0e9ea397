"""Weights that a user imported: one safetensors file each in the cache, what is known of them in its header."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import atomic_path
from hyperdecode.weights.contents import WeightContents, Weights
from hyperdecode.weights.limits import shown
from hyperdecode.weights.safetensors_files import read_header, read_safetensors
from hyperdecode.weights.store import SOURCES, cache_dir, cached_path, load_tensors, tensors_digest

__all__ = [
    "check_weights",
    "checked_name",
    "imported_family",
    "imported_names",
    "imported_path",
    "imported_summary",
    "is_name",
    "load_imported",
    "name_for",
    "names_in_cache",
    "save_imported",
    "taken",
    "weights_of",
]

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
DIGEST = "tensors_sha256"


def is_name(name: str) -> bool:
    """Whether weights may have that name: it is a plain one, and no way to another folder."""
    return NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """Return `name` if imported weights may have it.

    Raises
    ------
    UserError
        When it is not made of a-z, 0-9, ``-``, ``_`` and ``.`` alone, too long, or that of a built-in generator.
    """
    if not is_name(name):
        raise UserError(
            f"{shown(name)} cannot name a generator: use up to 64 of a-z, 0-9, '-', '_' and '.', a letter or digit "
            "first and last"
        )
    if name in SOURCES:
        raise UserError(f"{name} is the name of a built-in generator, choose another with --name")
    return name


def name_for(path: Path) -> str:
    """Make a name out of that of a file."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower())[:64].strip("-._")
    return checked_name(plain or "imported")


def imported_path(name: str) -> Path:
    """Return where imported weights of that name are, or will be, kept."""
    return cache_dir() / "weights" / f"{checked_name(name)}.safetensors"


def imported_names() -> tuple[str, ...]:
    """Names of the imported weights in the cache, in alphabetical order."""
    found = sorted((cache_dir() / "weights").glob("*.safetensors"))
    return tuple(path.stem for path in found if path.is_file() and _is_free(path.stem))


def _is_free(name: str) -> bool:
    return is_name(name) and name not in SOURCES


def taken(name: str) -> UserError:
    """Return the refusal of a name that weights in the cache have."""
    return UserError(f"weights named {name} are in the cache already: give --force to replace them, or another --name")


def save_imported(weights: Weights, name: str, origin: str, origin_sha256: str, force: bool = False) -> Path:
    """Write weights into the cache.

    Parameters
    ----------
    weights : Weights
    name : str
        What they will be called.
    origin, origin_sha256 : str
        Name and hash of the file that they came from.
    force : bool
        Replace weights of that name.

    Returns
    -------
    pathlib.Path
        The safetensors file.

    Raises
    ------
    UserError
        For a name that cannot be used or is taken, and when the cache cannot be written.
    """
    target = imported_path(name)
    if target.exists() and not force:
        raise taken(name)
    metadata = {
        "family": weights.family,
        "layout": weights.layout,
        "settings": json.dumps(dict(weights.settings), sort_keys=True),
        "licence": weights.licence,
        "origin": origin.encode("utf-8", "replace").decode("utf-8"),
        "origin_sha256": origin_sha256,
        DIGEST: tensors_digest(weights.tensors),
    }
    try:
        with atomic_path(target, replace=force) as temporary:
            save_file(dict(weights.tensors), temporary, metadata=metadata)
    except FileExistsError:
        raise taken(name) from None
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}): set HYPERDECODE_CACHE to a folder you can write"
        ) from None
    return target


def load_imported(name: str) -> Weights:
    """Read imported weights and check that they are those that were imported.

    Raises
    ------
    UserError
        When there are none of that name.
    WeightFileError
        When the file is damaged.
    """
    path = imported_path(name)
    if not path.exists():
        raise UserError(f"no weights imported as {name}: run `hyperdecode weights import FILE --name {name}`")
    try:
        contents = read_safetensors(path)
    except WeightFileError as error:
        raise WeightFileError(f"{error} (import the original again with --force)") from None
    if contents.settings.get(DIGEST) != tensors_digest(contents.tensors):
        raise WeightFileError(
            f"{path} is damaged (its tensors are not those imported): import the file again with --force"
        )
    kept = weights_of(contents)
    # Copies, because what was read is a view of the file, and nothing can be written there.
    return replace(kept, tensors={key: np.array(value) for key, value in kept.tensors.items()})


def weights_of(contents: WeightContents) -> Weights:
    """Put the tensors of a safetensors file together with what its header says of them.

    Raises
    ------
    WeightFileError
        When the header does not say what they are.
    """
    said = contents.settings
    try:
        settings = json.loads(said.get("settings", "{}"))
    except (ValueError, RecursionError):
        settings = None
    if not said.get("family") or not isinstance(settings, dict):
        raise WeightFileError(
            f"{contents.source}: its header does not say which network it holds; import the original file"
        )
    return Weights(said["family"], said.get("layout", ""), contents.tensors, settings, said.get("licence", ""))


def imported_summary(name: str) -> dict[str, str]:
    """Return what the header of imported weights says (family, layout, licence, origin, ...), without the tensors."""
    return read_header(imported_path(name))


def imported_family(name: str) -> str | None:
    """Return the family of imported weights; None where a damaged file does not tell."""
    try:
        return imported_summary(name).get("family")
    except UserError:
        return None


def names_in_cache() -> tuple[str, ...]:
    """Names of all weights in the cache, the built-in ones first."""
    return (*(name for name in SOURCES if cached_path(name).exists()), *imported_names())


def check_weights(name: str) -> None:
    """Read weights in the cache, fetched or imported, and compare them with their hash.

    Raises
    ------
    UserError
        When there are none of that name.
    WeightFileError
        When they are not those that were kept.
    """
    if name not in SOURCES:
        load_imported(name)
    elif cached_path(name).exists():
        load_tensors(name)
    else:
        raise UserError(f"the weights of {name} are not in the cache: run `hyperdecode weights fetch {name}`")
