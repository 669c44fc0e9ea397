"""A fitted decoder on disk: arrays in NAME.safetensors, everything else in NAME.json; nothing in them is code."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import atomic_path, sha256_bytes, write_text
from hyperdecode.study.fitted_decoder import ARRAYS, FittedDecoder, training_fingerprint, voxels_fingerprint
from hyperdecode.study.images import ImageSpace
from hyperdecode.weights.limits import MAX_FILE_BYTES, read_bytes, shown

__all__ = [
    "FittedDecoder",
    "plain_settings",
    "read_decoder",
    "training_fingerprint",
    "voxels_fingerprint",
    "write_decoder",
]

FORMAT = 1
MAX_JSON_BYTES = 4 * 2**20
MAX_LISTED = 1000
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]


def plain_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return an estimator's parameters as JSON keeps them; what JSON has no word for stays as the name of its type."""
    return {str(name): _plain(value) for name, value in parameters.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size > MAX_LISTED:
        return f"{value.dtype} array of shape {value.shape}"
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return plain_settings(value)
    if isinstance(value, list | tuple) and len(value) <= MAX_LISTED:
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value) if isinstance(value, float | Path) else type(value).__name__


def _finite(settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(settings, allow_nan=False)
    return settings


class _Description(BaseModel):
    """What the JSON file holds, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    format: Literal[1]
    model: Name
    latent_space: Literal["w", "z"]
    training_norm: float
    generator: Name
    generator_fingerprint: Sha256
    truncation: float
    shape: tuple[int, int, int]
    affine: Annotated[
        list[Annotated[list[float], Field(min_length=4, max_length=4)]], Field(min_length=4, max_length=4)
    ]
    space: ImageSpace
    n_training_trials: int
    training_fingerprint: Sha256
    voxels_fingerprint: Sha256
    arrays_sha256: Sha256
    package_version: Name
    settings: Annotated[dict[str, JsonValue], AfterValidator(_finite)]


def write_decoder(path_stem: str | os.PathLike[str], fitted: FittedDecoder) -> tuple[Path, Path]:
    """Write a fitted decoder.

    Parameters
    ----------
    path_stem : path-like
        ``.../sub-01_desc-ridge_decoder``; ``.safetensors`` and ``.json`` are added.
    fitted : FittedDecoder

    Returns
    -------
    tuple of pathlib.Path
        Both files. The JSON is written last and holds the SHA-256 of the other, so that a pair that does not belong
        together (a run killed in between) is found out when it is read.

    Raises
    ------
    UserError
        When it could not be read again: texts or arrays of a kind or size that no decoder has.
    """
    arrays, path = _files(path_stem)
    own = {name: getattr(fitted, attribute) for name, attribute in ARRAYS.items()}
    # Not `ascontiguousarray`, which makes a row of a single number.
    data = save({name: np.asarray(value, order="C") for name, value in (own | dict(fitted.extra)).items()})
    text = json.dumps(_described(fitted, sha256_bytes(data)), indent=2, allow_nan=False) + "\n"
    # What cannot be read again is not written.
    _description(text.encode(), str(path))
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"a decoder of {len(data)} bytes is larger than can be read again ({MAX_FILE_BYTES})")
    with atomic_path(arrays) as temporary:
        temporary.write_bytes(data)
    write_text(path, text)
    return arrays, path


def _described(fitted: FittedDecoder, arrays_sha256: str) -> dict[str, Any]:
    texts = ("model", "latent_space", "generator", "generator_fingerprint", "space", "training_fingerprint")
    return {
        "format": FORMAT,
        **{name: getattr(fitted, name) for name in (*texts, "package_version")},
        "training_norm": float(fitted.training_norm),
        "truncation": float(fitted.truncation),
        "n_training_trials": int(fitted.n_training_trials),
        "shape": [int(n) for n in fitted.shape],
        "affine": np.asarray(fitted.affine, np.float64).tolist(),
        "voxels_fingerprint": fitted.voxels_fingerprint,
        "arrays_sha256": arrays_sha256,
        "settings": plain_settings(fitted.settings),
    }


def read_decoder(path_stem: str | os.PathLike[str]) -> FittedDecoder:
    """Read a fitted decoder; its files may come from anywhere.

    Parameters
    ----------
    path_stem : path-like
        As for `write_decoder`; the name of either file will do.

    Returns
    -------
    FittedDecoder

    Raises
    ------
    UserError
        When a file is missing.
    WeightFileError
        When a file is damaged or too large, has keys that are unknown or missing or values that cannot be, or the
        two do not belong together.
    """
    arrays_path, path = _files(path_stem)
    said = _description(read_bytes(path, MAX_JSON_BYTES), str(path))
    data = read_bytes(arrays_path)
    if sha256_bytes(data) != said.arrays_sha256:
        raise WeightFileError(
            f"{arrays_path} is not the file that {path.name} was written with: copy both, or fit the decoder anew"
        )
    try:
        arrays = {str(name): np.array(value) for name, value in load(data).items()}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightFileError(
            f"{arrays_path}: not readable as safetensors ({shown(str(error))}), copy it again"
        ) from None
    missing = sorted(set(ARRAYS) - set(arrays))
    if missing:
        raise WeightFileError(f"{arrays_path} holds no array {missing[0]}: it is no decoder, or not of this version")
    known: dict[str, Any] = said.model_dump(exclude={"format", "affine", "voxels_fingerprint", "arrays_sha256"})
    own: dict[str, Any] = {attribute: arrays.pop(name) for name, attribute in ARRAYS.items()}
    try:
        fitted = FittedDecoder(**known, **own, affine=np.array(said.affine, np.float64), extra=arrays)
    except UserError as error:
        raise WeightFileError(f"{path}: {error}, copy both files again or fit the decoder again") from None
    if fitted.voxels_fingerprint != said.voxels_fingerprint:
        raise WeightFileError(f"{path} names other voxels than {arrays_path.name} holds: fit the decoder again")
    return fitted


def _description(text: bytes, source: str) -> _Description:
    if len(text) > MAX_JSON_BYTES:
        raise WeightFileError(f"{source} would have {len(text)} bytes, a decoder's description has {MAX_JSON_BYTES}")
    try:
        return _Description.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = " ".join(f"{key} {first['msg']}".split())
        raise WeightFileError(
            f"{source} is not the description of a decoder that this version reads ({shown(problem)}): "
            "copy it again, or fit the decoder again"
        ) from None


def _files(path_stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    stem = os.fspath(path_stem).removesuffix(".safetensors").removesuffix(".json")
    return Path(f"{stem}.safetensors"), Path(f"{stem}.json")
