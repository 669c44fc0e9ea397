"""The grid of ridge penalties: checked, searched, and extended where its edge wins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import DataWarning, UserError

__all__ = ["DEFAULT_ALPHAS", "checked_alphas", "chosen_alphas", "searched_alphas"]

Array = NDArray[np.float64]

DEFAULT_ALPHAS: tuple[float, ...] = tuple(float(a) for a in np.logspace(1, 7, 13))
"""Penalties tried by default; on standardised voxels the kernel's diagonal is about the number of voxels."""

EXTENSION_DECADES = 3

SAME = 1e-6
"""Errors that differ by less, relative, are told apart by rounding alone: by the number of threads, say."""


def checked_alphas(alphas: Sequence[float] | Array) -> Array:
    """Return the penalties ascending, each once; refuse what is not positive and finite."""
    values = np.unique(np.asarray(alphas, dtype=np.float64))
    if not values.size or not np.all(np.isfinite(values)) or values[0] <= 0:
        raise UserError(f"ridge penalties must be positive and finite, got {alphas!r}")
    return values


def searched_alphas(
    errors_of: Callable[[Array], Array], alphas: Array, per_latent: bool = False
) -> tuple[Array, Array]:
    """Return the penalties that were tried, and the error of each for each latent.

    Parameters
    ----------
    errors_of : callable
        (n_alphas,) penalties to (n_alphas, n_latents) errors on held-out trials; NaN where a penalty is too small.
    alphas : array, ascending
        The grid. When its best is at an edge, three decades are added on that side, once.
    per_latent : bool
        Whether each latent shall have a penalty of its own.

    Warns
    -----
    DataWarning
        When the best still stands at the edge of the extended grid.
    """
    errors = errors_of(alphas)
    if len(alphas) == 1:
        return alphas, errors
    low, high = _at_edge(chosen_alphas(alphas, errors, per_latent), alphas, errors)
    lower, higher = _extension(alphas)
    if low and np.isfinite(errors[0]).any():
        errors = np.concatenate([errors_of(lower), errors])
        alphas = np.concatenate([lower, alphas])
    if high:
        errors = np.concatenate([errors, errors_of(higher)])
        alphas = np.concatenate([alphas, higher])
    if low or high:
        _warn_at_edge(chosen_alphas(alphas, errors, per_latent), alphas, errors)
    return alphas, errors


def chosen_alphas(alphas: Array, errors: Array, per_latent: bool = False) -> Array:
    """Return the penalty of each latent: that of the least error, of its own or of the mean over latents.

    Of penalties whose errors are the `SAME`, as where responses tell nothing, the largest.
    """
    if len(alphas) == 1:
        return np.repeat(alphas, errors.shape[1])
    shown = errors if per_latent else errors.mean(axis=1, keepdims=True)
    if np.isnan(shown).all(axis=0).any():
        raise UserError(
            f"the responses are too singular for every penalty up to {alphas[-1]:.3g}: "
            "give larger alphas, or drop voxels that repeat others"
        )
    as_good = shown <= (1 + SAME) * np.nanmin(shown, axis=0)
    best = alphas[::-1][as_good[::-1].argmax(axis=0)]
    return np.broadcast_to(best, errors.shape[1:]).copy()


def _at_edge(chosen: Array, alphas: Array, errors: Array) -> tuple[bool, bool]:
    """Return whether any latent's penalty is the (lowest that the responses bear, highest) of the grid."""
    lowest = alphas[np.isfinite(errors).any(axis=1)][0]
    return bool((chosen == lowest).any()), bool((chosen == alphas[-1]).any())


def _extension(alphas: Array) -> tuple[Array, Array]:
    """Return the penalties that come (before, after) the grid."""
    step = max(float(np.median(np.diff(np.log10(alphas)))), 0.1)
    beyond = 10.0 ** (step * np.arange(1, int(np.ceil(EXTENSION_DECADES / step)) + 1))
    return alphas[0] / beyond[::-1], alphas[-1] * beyond


def _warn_at_edge(chosen: Array, alphas: Array, errors: Array) -> None:
    lowest = alphas[np.isfinite(errors).any(axis=1)][0]
    for edge, name, meaning in (
        (lowest, "lowest", "the responses may be almost free of noise, or repeat trials across folds"),
        (alphas[-1], "highest", "the responses may not predict the latents"),
    ):
        count = int((chosen == edge).sum())
        if count:
            warnings.warn(
                f"the best ridge penalty is the {name} tried, {edge:.3g}, for {count} of {len(chosen)} latents: "
                f"{meaning}; else give other alphas",
                DataWarning,
                stacklevel=4,
            )
