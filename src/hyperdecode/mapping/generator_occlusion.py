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

from hyperdecode.errors import UserError
from hyperdecode.mapping.chunks import Arrays, MemoryResults, Results, Unit, collected, run_units, work_units
from hyperdecode.mapping.latent_shifts import LatentShifts, latent_shifts
from hyperdecode.mapping.layer_crops import LayerCrops, activation_variances
from hyperdecode.mapping.linear_occlusion import similarity_loss

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
