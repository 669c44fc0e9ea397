"""Which layer each voxel belongs to: the one whose prediction loses most without the voxels around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["NO_LAYER", "LayerMap", "Standardise", "chosen_layers", "layer_of", "standardised_losses"]

Array = NDArray[np.float64]
Standardise = Literal["permutation", "voxels", "none"]

NO_LAYER = -1
"""Of a centre that belongs to no layer."""
MOST_LAYERS = 127


@dataclass(frozen=True)
class LayerMap:
    """The layer of each centre, and what it was chosen by.

    Attributes
    ----------
    layers : ndarray of int8, shape (n_centres,)
        Number of the layer in the order of the losses, from 0; `NO_LAYER` (-1) for none.
    standardised : ndarray, shape (n_layers, n_centres)
        What the layers competed by.
    losses : ndarray, shape (n_layers, n_centres)
        Mean loss of similarity over faces, as it was given.
    standardise : {"permutation", "voxels", "none"}
        How they were standardised.
    """

    layers: NDArray[np.int8]
    standardised: Array
    losses: Array
    standardise: Standardise

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of centres of each layer, shape (n_layers,); those of none are not counted."""
        return np.bincount(self.layers[self.layers != NO_LAYER], minlength=len(self.losses)).astype(np.int64)


def standardised_losses(
    losses: ArrayLike,
    standardise: Standardise = "permutation",
    *,
    null_mean: ArrayLike | None = None,
    null_sd: ArrayLike | None = None,
) -> Array:
    r"""Put the losses of different layers on one scale.

    .. math::
        \text{permutation: } z_{lc} = \frac{t_{lc} - E\,t_{lc}}{\mathrm{sd}\,t_{lc}}, \qquad
        \text{voxels: } z_{lc} = \frac{t_{lc} - \bar t_{l\cdot}}{\mathrm{sd}_c\,t_{lc}}.

    The first asks how far a loss lies beyond what occlusion does to predictions paired with any face: a layer whose
    losses are noisy, or large whatever was shown, gains nothing. The second asks where in the map a layer loses most,
    and gives every layer its share of voxels, one that nothing tells of included.

    Parameters
    ----------
    losses : array of shape (n_layers, n_centres)
        Mean loss over faces of prediction and own face.
    standardise : {"permutation", "voxels", "none"}
        By mean and standard deviation over pairings of each layer and centre; over centres of each layer; not at all.
    null_mean, null_sd : arrays of shape (n_layers, n_centres)
        Over pairings (`hyperdecode.mapping.map_inference.max_statistic`); needed with "permutation".

    Returns
    -------
    array of shape (n_layers, n_centres)
        0 where the standard deviation is 0.

    Raises
    ------
    UserError
        When shapes do not fit, a loss is not finite, or null moments are missing.
    """
    t = np.asarray(losses, np.float64)
    if t.ndim != 2 or not t.size or len(t) > MOST_LAYERS:
        raise UserError(f"losses must have shape (layers, centres), 1 to {MOST_LAYERS} layers, got {t.shape}")
    if not np.isfinite(t).all():
        raise UserError(f"{int((~np.isfinite(t)).sum())} losses are NaN or infinite: some centres were not done")
    if standardise == "none":
        return t.copy()
    if standardise == "voxels":
        sd = t.std(axis=1, keepdims=True)
        # Where all centres lose the same, what is left is rounding.
        return _scaled(t - t.mean(axis=1, keepdims=True), np.where(sd > 1e-12 * np.abs(t).max(), sd, 0.0))
    if standardise != "permutation":
        raise UserError(f"standardise is one of {', '.join(get_args(Standardise))}, got {standardise!r}")
    if null_mean is None or null_sd is None:
        raise UserError('losses standardised by "permutation" need null_mean and null_sd: make them by max_statistic')
    mean, sd = np.asarray(null_mean, np.float64), np.asarray(null_sd, np.float64)
    if mean.shape != t.shape or sd.shape != t.shape:
        raise UserError(f"losses of shape {t.shape} came with null moments of {mean.shape} and {sd.shape}")
    return _scaled(t - mean, sd)


def layer_of(
    losses: ArrayLike,
    standardise: Standardise = "permutation",
    *,
    null_mean: ArrayLike | None = None,
    null_sd: ArrayLike | None = None,
    passed: ArrayLike | None = None,
) -> LayerMap:
    """Give each centre the layer with the largest standardised loss; of equal ones the first.

    Parameters
    ----------
    losses, standardise, null_mean, null_sd
        As in `standardised_losses`.
    passed : array of bool, shape (n_centres,), optional
        Centres that may have a layer: those whose loss is beyond chance in any, say. Default: all.

    Returns
    -------
    LayerMap
        `NO_LAYER` where `passed` is False, and where no layer loses anything at all.

    Raises
    ------
    UserError
        As `standardised_losses`, or when `passed` does not fit.

    References
    ----------
    Dado et al. (2022), Sci. Rep. 12:141, give each voxel to the layer of the largest loss.
    """
    z = standardised_losses(losses, standardise, null_mean=null_mean, null_sd=null_sd)
    t = np.array(losses, np.float64)
    allowed = np.ones(t.shape[1], bool) if passed is None else np.asarray(passed, bool)
    if allowed.shape != t.shape[1:]:
        raise UserError(f"{t.shape[1]} centres came with {allowed.shape} flags of having passed: give one a centre")
    return LayerMap(chosen_layers(z, allowed & (t != 0).any(axis=0)), z, t, standardise)


def chosen_layers(standardised: Array, allowed: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Return the layer of largest value, (..., n_layers, n_centres) to (..., n_centres).

    `NO_LAYER` where not `allowed`, or where all values are 0: nothing was told there.
    """
    telling = allowed & (standardised != 0).any(axis=-2)
    return np.where(telling, standardised.argmax(axis=-2), NO_LAYER).astype(np.int8)


def _scaled(away: Array, sd: Array) -> Array:
    return np.asarray(np.divide(away, sd, out=np.zeros_like(away), where=np.broadcast_to(sd > 0, away.shape)))
