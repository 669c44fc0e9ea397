"""A fitted decoder with all that says what it may be used on: its voxels, its generator, its training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hyperdecode import __version__
from hyperdecode.decoding.checks import checked_matrix
from hyperdecode.decoding.rescale import match_norm
from hyperdecode.errors import UserError
from hyperdecode.files import sha256_bytes
from hyperdecode.generators.base import Generator
from hyperdecode.study.images import ImageSpace
from hyperdecode.weights.limits import shown

__all__ = ["ARRAYS", "FittedDecoder", "training_fingerprint", "voxels_fingerprint"]

MAX_NAME_LENGTH = 200
HASHED_BYTES = 2**26
ARRAYS = {"coef_": "coef", "intercept_": "intercept", "latent_mean": "latent_mean", "voxels": "voxels"}
"""Names in the safetensors file -> attributes; any other name is an extra array."""


@dataclass(frozen=True, eq=False)
class FittedDecoder:
    """A linear decoder with all that says what it may be used on.

    Attributes
    ----------
    model : str
        Its name, ``"ridge"``.
    coef : ndarray, (n_latents, n_voxels)
        Weights for raw voxels: ``predict(X) == X @ coef.T + intercept``.
    intercept : ndarray, (n_latents,)
    latent_space : {"w", "z"}
        Where the decoded latents lie.
    latent_mean : ndarray, (n_latents,)
        Mean of the training latents.
    training_norm : float
        Mean distance of the training latents from it; see `hyperdecode.decoding.rescale.match_norm`.
    generator, generator_fingerprint : str
        Name of the generator, and SHA-256 of its weights.
    truncation : float
        Of the w that the training faces were made from.
    voxels : ndarray of int64, (n_voxels,)
        Places on the grid, flat in C order, of the columns of `coef` in their order.
    shape : tuple of int
        Sides of the grid.
    affine : ndarray, (4, 4)
        Voxel to mm.
    space : str
        What the mask's NIfTI says of its space; see `hyperdecode.study.images.ImageSpace`.
    training_fingerprint : str
        See the function of this name.
    n_training_trials : int
    settings : mapping
        Parameters of the estimator, such as `hyperdecode.study.saved_decoder.plain_settings` writes them.
    extra : mapping of str to ndarray
        Other learned arrays by name (``x_mean_``, ``x_scale_``, ``alpha_``).
    package_version : str
        Of the hyperdecode that fitted it.

    Raises
    ------
    UserError
        When parts do not fit together, or an array is not of finite numbers.
    """

    model: str
    coef: NDArray[np.floating]
    intercept: NDArray[np.floating]
    latent_space: Literal["w", "z"]
    latent_mean: NDArray[np.floating]
    training_norm: float
    generator: str
    generator_fingerprint: str
    truncation: float
    voxels: NDArray[np.int64]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    space: ImageSpace
    training_fingerprint: str
    n_training_trials: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    package_version: str = __version__

    def __post_init__(self) -> None:
        problem = _misfit(self)
        if problem:
            raise UserError(f"decoder {shown(self.model)}: {problem}")

    @property
    def voxels_fingerprint(self) -> str:
        """See `voxels_fingerprint`."""
        return voxels_fingerprint(self.voxels, self.shape, self.affine)

    def predict(self, X: Any) -> Any:
        """Decode latents; see `hyperdecode.decoding.base.LinearDecoder.predict`.

        Parameters
        ----------
        X : array or Tensor of shape (n_trials, n_voxels)
            Responses at `voxels`, in their order and in the units of the training responses.

        Returns
        -------
        array or Tensor of shape (n_trials, n_latents)
            What `X` is: library, device, float32 or float64.

        Raises
        ------
        UserError
            When the number of voxels differs, or a response is not finite.
        """
        responses, kind = checked_matrix(X, "responses", self.coef.shape[1])
        weights, constant = (
            torch.from_numpy(np.require(a, requirements="W")).to(responses) for a in (self.coef, self.intercept)
        )
        return kind.back(torch.addmm(constant, responses, weights.T))

    def stretched(self, predicted: ArrayLike) -> NDArray[np.float64]:
        """Give predictions the length of training latents, to draw pictures of; see `match_norm`."""
        return match_norm(predicted, self.latent_mean, self.training_norm)

    def require_voxels(self, voxels: ArrayLike, shape: Sequence[int], affine: ArrayLike) -> None:
        """Refuse responses of other voxels, of the same ones in another order, or of another grid.

        Parameters
        ----------
        voxels : array of int, (n,), or of bool, (x, y, z)
            Places of the columns, flat in C order; or a mask, whose voxels are in C order.
        shape : sequence of 3 int
            The grid.
        affine : array, (4, 4)
            Voxel to mm.

        Raises
        ------
        UserError
        """
        if tuple(shape) != self.shape or not np.allclose(affine, self.affine, rtol=0, atol=1e-3):
            raise UserError(
                f"the data lie on the grid {_grid(shape, affine)}, the decoder was fitted on "
                f"{_grid(self.shape, self.affine)}: bring them to that grid, or fit the decoder again"
            )
        given = np.asarray(voxels)
        places = np.flatnonzero(given) if given.dtype == bool else given.ravel()
        if np.array_equal(places, self.voxels):
            return
        others = np.setdiff1d(places, self.voxels).size
        if len(places) != len(self.voxels):
            problem = f"{len(places)} voxels, the decoder was fitted on {len(self.voxels)}"
        elif others:
            problem = f"{others} of {len(places)} voxels that the decoder was not fitted on"
        else:
            problem = "the decoder's voxels in another order"
        raise UserError(f"the data have {problem}: use the mask that it was fitted with, or fit the decoder again")

    def require_mask(self, mask: Any, path: Path) -> None:
        """Refuse a mask image (nibabel) whose voxels are not the decoder's; `path` is named in the message."""
        try:
            self.require_voxels(np.asarray(mask.dataobj) > 0, mask.shape[:3], mask.affine)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def require_generator(self, generator: Generator) -> None:
        """Refuse a generator whose latents mean other faces.

        Raises
        ------
        UserError
        """
        if generator.fingerprint != self.generator_fingerprint:
            raise UserError(
                f"the decoder gives latents of {self.generator} {self.generator_fingerprint[:12]}, this is "
                f"{generator.name} {generator.fingerprint[:12]}: its latents mean other faces; use that generator"
            )
        if self.latent_space not in generator.spaces or generator.latent_dim != len(self.intercept):
            raise UserError(
                f"the decoder gives {len(self.intercept)} dimensions of {self.latent_space}, {generator.name} has "
                f"{generator.latent_dim} of {' and '.join(generator.spaces)}: use the generator it was fitted for"
            )


def voxels_fingerprint(voxels: ArrayLike, shape: Sequence[int], affine: ArrayLike) -> str:
    """SHA-256 over a grid (shape; affine to 1 micrometre) and the places on it, in their order."""
    # Adding 0 turns -0 into 0.
    parts = (np.asarray(shape), np.round(np.asarray(affine, np.float64) * 1e3) + 0.0, np.asarray(voxels))
    return sha256_bytes(b"".join(np.ascontiguousarray(part, "<i8").tobytes() for part in parts))


def training_fingerprint(trials: Sequence[str], X: ArrayLike, Y: ArrayLike) -> str:
    """SHA-256 over what a decoder was fitted to.

    Parameters
    ----------
    trials : sequence of str
        A name for each training trial, such as its stimulus.
    X, Y : arrays of n_trials rows
        Responses and latents; their type and shape count. What lies on disk is read in blocks of rows.

    Raises
    ------
    UserError
        When they have not one row a trial.
    """
    pieces = [sha256_bytes("\n".join(map(str, trials)).encode())]
    for values in (X, Y):
        given = values if hasattr(values, "shape") and hasattr(values, "dtype") else np.asarray(values)
        if tuple(given.shape[:1]) != (len(trials),):
            raise UserError(f"{len(trials)} training trials came with an array of shape {given.shape}: give one a row")
        pieces += [sha256_bytes(f"{given.dtype.str}{tuple(given.shape)}".encode()), _hash_of_rows(given)]
    return sha256_bytes("".join(pieces).encode())


def _hash_of_rows(values: Any) -> str:
    """SHA-256 over the bytes of an array, which may lie on disk: some rows after the other."""
    found = hashlib.sha256()
    size = max(1, HASHED_BYTES // max(1, values.dtype.itemsize * math.prod(values.shape[1:])))
    for start in range(0, values.shape[0], size):
        found.update(np.ascontiguousarray(values[start : start + size]).tobytes())
    return found.hexdigest()


def _grid(shape: Sequence[int], affine: ArrayLike) -> str:
    matrix = np.asarray(affine, np.float64)
    rows = ", ".join("[" + " ".join(f"{value:g}" for value in row) + "]" for row in np.round(matrix[:3], 3) + 0.0)
    return f"{' x '.join(str(n) for n in shape)} with affine {rows}"


def _misfit(fitted: FittedDecoder) -> str | None:
    """Say what does not fit together, if anything."""
    return _misfit_arrays(fitted) or _misfit_voxels(fitted) or _misfit_numbers(fitted)


def _misfit_arrays(fitted: FittedDecoder) -> str | None:
    if fitted.coef.ndim != 2 or min(fitted.coef.shape) < 1:
        return f"its weights must be a matrix, latents x voxels, got shape {fitted.coef.shape}"
    n_latents, n_voxels = fitted.coef.shape
    wanted = {"intercept": (n_latents,), "latent_mean": (n_latents,), "voxels": (n_voxels,)}
    for name, shape in wanted.items():
        if getattr(fitted, name).shape != shape:
            return f"weights of {fitted.coef.shape} need {name} of shape {shape}, got {getattr(fitted, name).shape}"
    for name in fitted.extra:
        if name in (*ARRAYS, "__metadata__") or not (0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()):
            return f"an extra array may not be called {shown(name)}"
    numbers = {"coef": fitted.coef, "intercept": fitted.intercept, "latent_mean": fitted.latent_mean}
    for name, value in (*numbers.items(), *fitted.extra.items()):
        if value.dtype not in (np.float32, np.float64) and (name in numbers or value.dtype.kind not in "iub"):
            return f"{shown(name)} must be float32 or float64, got {value.dtype}"
        if not np.isfinite(value).all():
            return f"{shown(name)} holds NaN or infinite values"
    return None


def _misfit_voxels(fitted: FittedDecoder) -> str | None:
    if min(fitted.shape) < 1 or math.prod(fitted.shape) >= 2**40:
        return f"no grid can have the shape {fitted.shape}"
    if fitted.voxels.dtype != np.int64:
        return f"places of voxels must be int64, got {fitted.voxels.dtype}"
    if fitted.voxels.min() < 0 or fitted.voxels.max() >= math.prod(fitted.shape):
        return f"a voxel lies outside the grid {fitted.shape}"
    if len(np.unique(fitted.voxels)) < len(fitted.voxels):
        return "a voxel stands twice among its voxels"
    matrix = fitted.affine
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        return "its affine maps no grid to space"
    # Beyond this a fingerprint in micrometres overflows; no scanner is a kilometre wide.
    return "its affine reaches beyond a kilometre" if np.abs(matrix).max() > 1e6 else None


def _misfit_numbers(fitted: FittedDecoder) -> str | None:
    if not (math.isfinite(fitted.training_norm) and fitted.training_norm > 0):
        return f"the norm of training latents must be positive, got {fitted.training_norm}"
    if not (math.isfinite(fitted.truncation) and 0 <= fitted.truncation <= 10):
        return f"truncation must lie between 0 and 10, got {fitted.truncation}"
    return None if fitted.n_training_trials > 0 else f"{fitted.n_training_trials} training trials fit nothing"
