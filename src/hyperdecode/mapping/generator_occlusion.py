"""Searchlight-occlusion of decoded latents: what each occlusion does to activations of the generator, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hyperdecode.decoding.activation_targets import LayerCrop
from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator
from hyperdecode.mapping.chunks import Arrays, MemoryResults, Results, Unit, collected, run_units, work_units
from hyperdecode.mapping.linear_occlusion import similarity_loss
from hyperdecode.mapping.neighbourhoods import Neighbourhoods

__all__ = [
    "GeneratorOcclusion",
    "LatentShifts",
    "LayerCrops",
    "activation_variances",
    "latent_shifts",
    "occlude_through_generator",
    "occlusion_problem",
    "run_unit",
]

Array = NDArray[np.float64]
Single = NDArray[np.float32]

BATCH = {"cpu": 32, "cuda": 256}
BATCH_BYTES = 2**27
"""Activations of one batch take no more, unless those of one face do."""


class LayerCrops(LayerCrop):
    """Decoded latents to the centre crops of several layers, from one pass that is as deep as the deepest.

    Parameters
    ----------
    generator : Generator
        Its weights are read and never changed.
    layers : sequence of str
        Each once; `layer` is the deepest.
    crop, space, scale, truncation, precision, batch
        As in `hyperdecode.decoding.activation_targets.LayerCrop`.

    Raises
    ------
    UserError
        When there is no layer, one comes twice, or a layer, space, crop, scale or precision does not fit the generator.
    """

    def __init__(
        self,
        generator: Generator,
        layers: Sequence[str],
        crop: int | None,
        space: str | None = None,
        scale: tuple[ArrayLike, ArrayLike] | None = None,
        truncation: float = 1.0,
        precision: str = "float32",
        batch: int = 30,
    ) -> None:
        if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
            raise UserError(f"layers to compare are a sequence of different names, at least one, got {layers!r}")
        for layer in layers:
            super().__init__(generator, layer, crop, space, scale, truncation, precision, batch)
        self.layers = tuple(layers)
        self.layer = max(layers, key=generator.layer_names.index)

    def picture_latents(self, latents: Tensor) -> Tensor:
        """Latents that pictures are made from, on the generator's device, of decoded ones; (n, latent_dim) both."""
        made = latents.to(self.device, self.dtype)
        if self.scale is not None:
            made = made * self.scale[1] + self.scale[0]
        if self.space == "z" and "w" in self.generator.spaces:
            with self._precision():
                made = self.generator.to_w(made, self.truncation)
        return made

    def maps(self, made: Tensor) -> dict[str, Tensor]:
        """Activations (n, n_features) of each layer, with gradients, of what `picture_latents` gives."""
        with self._precision():
            found = self.generator.activations(made, self.layers, space=self.generator.picture_space, crop=self.crop)
        return {layer: found[layer].flatten(1).to(self.dtype) for layer in self.layers}

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def maps_of(self, latents: Array) -> dict[str, Tensor]:
        """Return `maps` of one batch of decoded latents without gradients, in parts where the GPU's memory is small."""
        rows = torch.from_numpy(latents)
        with torch.no_grad():
            parts = self.in_parts(lambda part: self.maps(self.picture_latents(rows[part])), len(rows))
        return (
            parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in self.layers}
        )


def activation_variances(crops: LayerCrops, training_latents: ArrayLike) -> dict[str, float]:
    """Return the variance of each layer's activation over the training trials, mean over features.

    Parameters
    ----------
    crops : LayerCrops
    training_latents : array of shape (n_trials, latent_dim)
        True latents of the training trials, as the decoder was trained on them.

    Returns
    -------
    dict of str to float
        For `occlusion_problem`.

    Raises
    ------
    UserError
        When latents are of another generator, or a layer is the same for all of them.
    """
    faces, counts = np.unique(np.asarray(training_latents, np.float64), axis=0, return_counts=True)
    crops.require_latents(torch.from_numpy(faces))
    # About the first face, so that a mean far from zero costs no digits.
    first = {name: made.double() for name, made in crops.maps_of(faces[:1]).items()}
    sums = {name: torch.zeros_like(value[0]) for name, value in first.items()}
    squares = {name: 0.0 for name in first}
    for at in range(0, len(faces), crops.batch):
        rows = slice(at, at + crops.batch)
        weights = torch.from_numpy(counts[rows]).to(crops.device, torch.float64)
        for name, made in crops.maps_of(faces[rows]).items():
            away = made.double() - first[name]
            sums[name] += weights @ away
            squares[name] += float(weights @ away.square().mean(1))
    n = int(counts.sum())
    variances = {name: squares[name] / n - float((sums[name] / n).square().mean()) for name in first}
    for name, variance in variances.items():
        if not variance > 1e-12 * float(first[name].square().mean()):
            raise UserError(
                f"layer {name} of {crops.generator.name} does not differ between the training faces: take a deeper one"
            )
    return variances


@dataclass(frozen=True)
class LatentShifts:
    r"""What occluding each neighbourhood adds to each decoded latent.

    .. math:: \delta_{ci} = - W_{S_c} (x_{i S_c} - m_{S_c})

    Attributes
    ----------
    weights : array of float64, shape (n_voxels, latent_dim)
        W transposed.
    deviations : array of float64, shape (n_faces, n_voxels)
        Responses x less the training mean m.
    neighbourhoods : Neighbourhoods
        Different ones: centres whose neighbourhoods are the same share one.
    which : array of intp, shape (n_centres,)
        The neighbourhood of each centre.
    """

    weights: Array
    deviations: Array
    neighbourhoods: Neighbourhoods
    which: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.neighbourhoods)

    def of(self, centres: slice | NDArray[np.intp]) -> Array:
        """Return the shifts of some (different) neighbourhoods, (n, n_faces, latent_dim)."""
        # All faces at once, whichever of them are wanted, so that the same sums are rounded the same way.
        chosen = np.arange(len(self))[centres]
        found = np.empty((len(chosen), len(self.deviations), self.weights.shape[1]))
        for row, centre in zip(found, chosen, strict=True):
            members = self.neighbourhoods.of(centre)
            np.matmul(-self.deviations[:, members], self.weights[members], out=row)
        return found

    def only(self, centres: NDArray[np.intp]) -> LatentShifts:
        """Return those of some (different) neighbourhoods alone."""
        every = self.neighbourhoods
        members = [every.of(centre) for centre in centres]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in members])])
        some = Neighbourhoods(every.centres[centres], np.concatenate(members), starts)
        return LatentShifts(self.weights, self.deviations, some, np.arange(len(centres)))


def latent_shifts(coef: ArrayLike, deviations: ArrayLike, neighbourhoods: Neighbourhoods) -> LatentShifts:
    """Prepare what occluding each neighbourhood adds to each decoded latent.

    Parameters
    ----------
    coef : array of shape (latent_dim, n_voxels)
        Weights of the decoder for raw voxels (`coef_` of a `LinearDecoder`).
    deviations : array of shape (n_faces, n_voxels)
        Responses less what replaces occluded voxels, their training mean.
    neighbourhoods : Neighbourhoods
        Of the same voxels.

    Returns
    -------
    LatentShifts

    Raises
    ------
    UserError
        When shapes do not fit, or an array holds NaN or infinities.
    """
    weights, x = np.asarray(coef, np.float64), np.asarray(deviations, np.float64)
    if weights.ndim != 2 or x.ndim != 2 or not x.size or x.shape[1] != weights.shape[1]:
        raise UserError(
            f"weights (latents, voxels) and responses (faces, voxels) are of the same voxels, got shapes "
            f"{weights.shape} and {x.shape}"
        )
    if neighbourhoods.members.max() >= x.shape[1]:
        raise UserError(
            f"neighbourhoods name voxel {neighbourhoods.members.max()}, the responses have {x.shape[1]}: make them "
            "from the mask that was decoded"
        )
    if not (np.isfinite(weights).all() and np.isfinite(x).all()):
        raise UserError("weights or responses hold values that are NaN or infinite: drop those voxels before decoding")
    numbers: dict[bytes, int] = {}
    firsts: list[int] = []
    which = np.empty(len(neighbourhoods), np.intp)
    for centre in range(len(neighbourhoods)):
        key = neighbourhoods.of(centre).tobytes()
        if key not in numbers:
            numbers[key] = len(firsts)
            firsts.append(centre)
        which[centre] = numbers[key]
    every = LatentShifts(np.ascontiguousarray(weights.T), x, neighbourhoods, which)
    some = every.only(np.array(firsts, np.intp)).neighbourhoods
    return LatentShifts(every.weights, x, some, which)


@dataclass(frozen=True)
class GeneratorOcclusion:
    """A searchlight through a generator, prepared by `occlusion_problem`: all that `run_unit` needs, to be pickled.

    Attributes
    ----------
    crops : LayerCrops
        Latents to activations of the layers.
    latents : array of float64, shape (n_faces, latent_dim)
        Decoded from all voxels.
    shifts : LatentShifts
        What each occlusion adds to them.
    variances : dict of str to float
        Of each layer over the training trials, mean over features.
    batch : int
        Neighbourhoods of one face that go through the generator together.
    pairs : bool
        Whether each prediction is compared with all faces or with its own.
    predicted, true : dict of str to array of float32, shape (n_faces, n_features)
        Activations of `latents` and of the true latents, less the mean of the true ones.
    distances : dict of str to array of float64, shape (n_faces, n_faces)
        Squared, prediction i to face j.
    means : dict of str to array of float32, shape (n_features,)
        Of the true activations.
    """

    crops: LayerCrops
    latents: Array
    shifts: LatentShifts
    variances: Mapping[str, float]
    batch: int
    pairs: bool
    predicted: Mapping[str, Single] = field(repr=False)
    true: Mapping[str, Single] = field(repr=False)
    distances: Mapping[str, Array] = field(repr=False)
    means: Mapping[str, Single] = field(repr=False)

    def only(self, centres: NDArray[np.intp]) -> GeneratorOcclusion:
        """Return the problem of some of its different neighbourhoods."""
        return replace(self, shifts=self.shifts.only(centres))

    def units(self, centres: int = 64, faces: int | None = None) -> list[Unit]:
        """Cut it into units of work (`hyperdecode.mapping.chunks.work_units`), over its different neighbourhoods."""
        return work_units(len(self.shifts), len(self.latents), block=self.batch, centres=centres, faces=faces)

    def of_centres(self, losses: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Give each centre the losses of its neighbourhood."""
        return {name: values[self.shifts.which] for name, values in losses.items()}


def occlusion_problem(
    crops: LayerCrops,
    latents: ArrayLike,
    true_latents: ArrayLike,
    shifts: LatentShifts,
    variances: Mapping[str, float],
    *,
    pairs: bool = True,
    batch: int | None = None,
) -> GeneratorOcclusion:
    """Prepare a searchlight through a generator.

    Layers whose latents are decoded by different decoders are different problems.

    Parameters
    ----------
    crops : LayerCrops
    latents : array of shape (n_faces, latent_dim)
        Decoded from all voxels, as the decoder gives them (standardised where `crops` has a scale).
    true_latents : array of shape (n_faces, latent_dim)
        Of the same faces, on the same scale.
    shifts : LatentShifts
        Of the same decoder and responses.
    variances : dict of str to float
        Of the layers; see `activation_variances`.
    pairs : bool
        Compare each prediction with all faces, for tests of the pairing, or with its own face.
    batch : int, optional
        Neighbourhoods of one face that go through the generator together. Part of the problem: another batch gives the
        same up to rounding. Default: 32 on a CPU, 256 on a GPU, fewer where activations are large.

    Returns
    -------
    GeneratorOcclusion

    Raises
    ------
    UserError
        When faces or latents do not fit together, a variance is missing or not positive, or the batch is.
    """
    decoded, true = np.asarray(latents, np.float64), np.asarray(true_latents, np.float64)
    if decoded.ndim != 2 or decoded.shape != true.shape or not (np.isfinite(decoded).all() and np.isfinite(true).all()):
        raise UserError(
            f"decoded and true latents are finite and of the same faces, got shapes {decoded.shape} and {true.shape}"
        )
    crops.require_latents(torch.from_numpy(decoded))
    expected = (len(shifts.deviations), shifts.weights.shape[1])
    if decoded.shape != expected:
        raise UserError(
            f"shifts are of {expected[0]} faces and {expected[1]} latents, the decoded latents have shape "
            f"{decoded.shape}: make both with the same decoder and responses"
        )
    for layer in crops.layers:
        if not 0 < variances.get(layer, 0) < np.inf:
            raise UserError(f"layer {layer} needs its variance over the training faces, above 0: activation_variances")
    if batch is None:
        size = max(made.shape[1] for made in crops.maps_of(decoded[:1]).values())
        batch = max(1, min(BATCH.get(crops.device.type, 32), BATCH_BYTES // (4 * size)))
    if batch < 1:
        raise UserError(f"a batch holds 1 or more occlusions, got {batch}")
    crops = copy(crops)  # whose batch is that of this problem, and of no other
    crops.batch = batch
    made, seen = (_activations(crops, rows, batch) for rows in (decoded, true))
    means = {name: rows.mean(0, dtype=np.float64).astype(np.float32) for name, rows in seen.items()}
    for part in (made, seen):
        for name, rows in part.items():
            rows -= means[name]  # in place: whole maps of all faces are large
    distances = {name: _squared_distances(made[name], seen[name]) for name in crops.layers}
    wanted = {name: float(variances[name]) for name in crops.layers}
    return GeneratorOcclusion(crops, decoded, shifts, wanted, batch, pairs, made, seen, distances, means)


def _activations(crops: LayerCrops, latents: Array, batch: int) -> dict[str, Single]:
    parts = [_batch_of(crops, latents[at : at + batch], batch) for at in range(0, len(latents), batch)]
    return {name: np.concatenate([part[name].numpy(force=True) for part in parts]) for name in crops.layers}


def _batch_of(crops: LayerCrops, latents: Array, batch: int) -> dict[str, Tensor]:
    """Activations of at most `batch` latents; as many always go through, as a network rounds by the batch's size."""
    full = np.concatenate([latents, np.repeat(latents[-1:], batch - len(latents), axis=0)])
    return {name: made[: len(latents)] for name, made in crops.maps_of(full).items()}


def _squared_distances(predicted: Single, true: Single) -> Array:
    found = np.empty((len(predicted), len(true)))
    for row, distances in zip(predicted, found, strict=True):
        away = true - row
        np.einsum("ij,ij->i", away, away, dtype=np.float64, casting="safe", out=distances)
    return found


def run_unit(problem: GeneratorOcclusion, unit: Unit) -> dict[str, NDArray[Any]]:
    r"""Occlude the neighbourhoods of a unit, for its faces.

    With A the activation of prediction i, A' that of the occluded one and a of face j,

    .. math::
        \|A' - a_j\|^2 = \|A - a_j\|^2 + \|A' - A\|^2 + 2 (A' - A)^\top A - 2 (A' - A)^\top a_j,

    so that float32 rounds the change, not the distance.

    Parameters
    ----------
    problem : GeneratorOcclusion
    unit : Unit
        One of `GeneratorOcclusion.units`.

    Returns
    -------
    dict of str to array
        For each layer the losses of similarity: float32 (centres, faces, n_faces) with `problem.pairs`, else float64
        (centres, faces). They depend on the problem alone, not on how it is cut into units.
    """
    shape = (*unit.shape, len(problem.latents)) if problem.pairs else (*unit.shape, 1)
    losses = {name: np.zeros(shape, np.float32 if problem.pairs else np.float64) for name in problem.crops.layers}
    shifts = problem.shifts.of(unit.centres)[:, unit.faces]
    moves: NDArray[np.bool_] = np.any(shifts, axis=2)
    true, means, predicted = (
        {name: torch.from_numpy(values).to(problem.crops.device) for name, values in part.items()}
        for part in (problem.true, problem.means, problem.predicted)
    )
    for column, face in enumerate(range(unit.first_face, unit.last_face)):
        origin = {name: predicted[name][face] + means[name] for name in means}
        compared = slice(None) if problem.pairs else slice(face, face + 1)
        for at in range(0, len(shifts), problem.batch):
            rows = slice(at, at + problem.batch)
            if not moves[rows, column].any():
                continue
            made = _batch_of(problem.crops, problem.latents[face] + shifts[rows, column], problem.batch)
            for name, activations in made.items():
                change = _change(activations - origin[name], predicted[name][face], true[name][compared])
                loss = similarity_loss(
                    problem.distances[name][face, compared], change, len(means[name]), problem.variances[name]
                )
                # What does not move loses nothing, not even by rounding.
                losses[name][rows, column] = np.where(moves[rows, column, None], loss, 0)
    return losses if problem.pairs else {name: values[:, :, 0] for name, values in losses.items()}


def _change(moved: Tensor, predicted: Tensor, true: Tensor) -> Array:
    """How much the squared distances from `true` (m, F) grow when `predicted` (F,) moves by each of `moved` (n, F)."""
    own = torch.linalg.vector_norm(moved, dim=1).double().square() + 2 * (moved @ predicted).double()
    return cast(Array, (own[:, None] - 2 * (moved @ true.T).double()).numpy(force=True))


def occlude_through_generator(
    problem: GeneratorOcclusion,
    *,
    centres: int = 64,
    results: Results | None = None,
    progress: Callable[[int, int], None] | None = None,
    side_by_side: Callable[[Callable[[Unit], Arrays], Sequence[Unit]], Iterable[tuple[Unit, Arrays]]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the similarity lost, layer by layer, when the voxels around each centre are set to their training mean.

    Every occluded prediction goes through the generator, as deep as the deepest layer and no wider than the crop;
    centres with the same neighbourhood go once.

    Parameters
    ----------
    problem : GeneratorOcclusion
        Of `occlusion_problem`.
    centres : int
        Of a unit of work, after which `progress` is told and `results` get the unit.
    results, progress, side_by_side
        As in `hyperdecode.mapping.chunks.run_units`: where units are kept (default: in memory), who is told of them,
        and what runs them.

    Returns
    -------
    dict of str to array
        For each layer, with `problem.pairs`, float32 (n_centres, n_faces, n_faces), entry (c, i, j) the loss of
        prediction i against face j; else float64 (n_centres, n_faces), its diagonal. Positive: the prediction got worse
        without the voxels.

    References
    ----------
    Dado et al. (2022), Sci. Rep. 12:141, searchlight-occlusion.
    """
    kept = MemoryResults() if results is None else results
    units = problem.units(centres)
    run_units(partial(run_unit, problem), units, kept, progress, side_by_side)
    return problem.of_centres(collected(kept, units))
