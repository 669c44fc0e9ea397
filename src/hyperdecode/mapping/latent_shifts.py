"""What occluding the voxels around each centre does to decoded latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.mapping.neighbourhoods import Neighbourhoods

__all__ = ["LatentShifts", "latent_shifts"]

Array = NDArray[np.float64]


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
