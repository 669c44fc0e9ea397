"""How far the maps of two methods agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError

__all__ = ["Agreement", "layer_agreement"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How far losses of one method are those of another.

    Attributes
    ----------
    n_centres : int
        Centres compared.
    goal : float
        Share of them that must get the same layer.
    same_layer : float
        Share of them that do, by the largest of the losses that are standardised over these centres (mean 0, standard
        deviation 1 for each layer).
    correlations : dict of str to float
        For each layer, of the losses (means over faces, each with its own) over centres.
    single_correlations : dict of str to float
        For each layer, of the losses of single faces, with all that they are compared with: what tests of the pairing
        rest on.
    largest_errors : dict of str to float
        For each layer, the largest difference of a mean over faces, in standard deviations of the exact ones.
    """

    n_centres: int
    goal: float
    same_layer: float
    correlations: Mapping[str, float]
    single_correlations: Mapping[str, float]
    largest_errors: Mapping[str, float]

    @property
    def holds(self) -> bool:
        """Whether enough centres get the same layer."""
        return self.same_layer >= self.goal


def layer_agreement(
    exact: Mapping[str, NDArray[Any]], approximate: Mapping[str, NDArray[Any]], goal: float = 0.95
) -> Agreement:
    """Compare losses of the same centres.

    Parameters
    ----------
    exact, approximate : dict of str to array of shape (n_centres, n_faces, n_faces) or (n_centres, n_faces)
        Losses of each layer, as `hyperdecode.mapping.generator_occlusion.occlude_through_generator` gives them.
    goal : float
        Share of the centres that must get the same layer.

    Returns
    -------
    Agreement

    Raises
    ------
    UserError
        When layers or shapes differ, there are fewer than two centres, or a layer loses the same at all of them.
    """
    if list(exact) != list(approximate) or any(exact[name].shape != approximate[name].shape for name in exact):
        raise UserError("losses to compare are of the same layers, centres and faces: these are not")
    maps, others = (np.stack([_own(values) for values in losses.values()]) for losses in (exact, approximate))
    spread = maps.std(axis=1)
    if maps.shape[1] < 2 or not (spread > 0).all() or not (others.std(axis=1) > 0).all():
        raise UserError(
            f"layers are assigned by losses that differ between centres, got {maps.shape[1]} centres, or a layer that "
            "loses the same everywhere: take more centres"
        )
    layers, other_layers = (((m - m.mean(1)[:, None]) / m.std(1)[:, None]).argmax(axis=0) for m in (maps, others))
    correlations = {name: float(np.corrcoef(a, b)[0, 1]) for name, a, b in zip(exact, maps, others, strict=True)}
    singles = {name: float(np.corrcoef(exact[name].ravel(), approximate[name].ravel())[0, 1]) for name in exact}
    largest = np.abs(others - maps).max(axis=1) / spread
    errors = {name: float(error) for name, error in zip(exact, largest, strict=True)}
    return Agreement(maps.shape[1], goal, float((layers == other_layers).mean()), correlations, singles, errors)


def _own(losses: NDArray[Any]) -> Array:
    """Mean over faces of the loss of each with its own, (n_centres,)."""
    own = losses if losses.ndim == 2 else np.diagonal(losses, axis1=1, axis2=2)
    return np.asarray(own.mean(axis=1, dtype=np.float64))
