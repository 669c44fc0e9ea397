"""Where in a map occlusion loses more than chance, with the error of the whole map kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from hyperdecode.errors import UserError
from hyperdecode.evaluation.permutation import null_moments
from hyperdecode.mapping.assign import LayerMap, Standardise, chosen_layers, layer_of

__all__ = ["Family", "MapInference", "Permuted", "max_statistic", "pairings", "permuted_layers", "permuted_losses"]

Array = NDArray[np.float64]
Family = Literal["map", "layer"]
Losses = NDArray[np.floating] | Sequence[Any]
Progress = Callable[[int, int], None]

BLOCK_BYTES = 2**26
"""Of the statistics and of the losses that are in memory at once, each; some temporary arrays are as large."""
FEWEST_PAIRINGS = 4
ROUNDING = 1e-9
"""Standardised losses that differ by less are the same."""


@dataclass(frozen=True)
class MapInference:
    """Result of `max_statistic`.

    Attributes
    ----------
    losses : ndarray, shape (n_layers, n_centres)
        Mean loss over faces of prediction and own face: the statistic.
    null_mean, null_sd : ndarray, shape (n_layers, n_centres)
        Of the statistic, exact over all n! pairings.
    standardised : ndarray, shape (n_layers, n_centres)
        ``(losses - null_mean) / null_sd``; 0 where the loss is the same for all pairings.
    p_values : ndarray, shape (n_layers, n_centres)
        One-sided, of each layer and centre by itself.
    p_corrected : ndarray, shape (n_layers, n_centres)
        One-sided, family-wise over `family`.
    threshold : ndarray, shape (n_layers,)
        Standardised loss beyond which ``p_corrected <= alpha``; the same for all layers where they are one family.
    maxima : ndarray, shape (n_layers, n_pairings)
        Largest standardised loss of each layer's map under each pairing, the true one first.
    family : {"map", "layer"}
        What the error is kept over: all centres of all layers, or those of each layer.
    alpha : float
        Level of `threshold`.
    exhaustive : bool
        Whether the pairings are all there are.
    """

    losses: Array
    null_mean: Array
    null_sd: Array
    standardised: Array
    p_values: Array
    p_corrected: Array
    threshold: Array
    maxima: Array
    family: Family
    alpha: float
    exhaustive: bool

    @property
    def significant(self) -> NDArray[np.bool_]:
        """Where ``p_corrected <= alpha``, shape (n_layers, n_centres)."""
        return np.asarray(self.standardised > self.threshold[:, None])

    def layer_map(self, standardise: Standardise = "permutation", thresholded: bool = False) -> LayerMap:
        """Give each centre its layer; `thresholded`: only centres where any layer's loss is significant."""
        passed = self.significant.any(axis=0) if thresholded else None
        return layer_of(self.losses, standardise, null_mean=self.null_mean, null_sd=self.null_sd, passed=passed)


class Permuted(NamedTuple):
    """Statistics of some centres under all pairings.

    Attributes
    ----------
    centres : slice
        Which they are.
    losses : ndarray, shape (n_pairings, n_layers, n_some)
        Mean loss over faces; the true pairing first.
    standardised : ndarray, shape (n_pairings, n_layers, n_some)
        Less the null's mean, over its standard deviation.
    null_mean, null_sd : ndarray, shape (n_layers, n_some)
        Exact over all pairings.
    """

    centres: slice
    losses: Array
    standardised: Array
    null_mean: Array
    null_sd: Array


def pairings(n_faces: int, n_permutations: int = 1000, seed: int = 0) -> NDArray[np.intp]:
    """Return pairings of predictions and faces, the true one first.

    Parameters
    ----------
    n_faces : int
    n_permutations : int
        Random ones, uniform over all. All are taken, each once, where there are no more than these and the true one.
    seed : int
        Of the random ones.

    Returns
    -------
    array of intp, shape (n_pairings, n_faces)
        Row p pairs prediction i with face ``[p, i]``.

    Raises
    ------
    UserError
        When there are fewer than 4 pairings, or no permutation is asked for.
    """
    if n_permutations < 1:
        raise UserError(f"a permutation test needs at least one permutation, got {n_permutations}")
    if n_faces < 2 or factorial(n_faces) < FEWEST_PAIRINGS:
        raise UserError(f"{n_faces} test faces have fewer than {FEWEST_PAIRINGS} pairings: show at least 4 test faces")
    if factorial(n_faces) <= n_permutations + 1:
        return np.array(list(permutations(range(n_faces))), dtype=np.intp)
    own = np.arange(n_faces)
    drawn = np.random.default_rng(seed).permuted(np.tile(own, (n_permutations, 1)), axis=1)
    return np.concatenate([own[None], drawn]).astype(np.intp)


def permuted_losses(losses: Losses, pairs: NDArray[np.intp]) -> Iterator[Permuted]:
    r"""Yield the statistics of the map under each pairing, some centres at a time.

    .. math:: T_{lc}(\pi) = \frac1n \sum_i D_{lc,i\pi(i)}, \qquad z = \frac{T - E\,T}{\mathrm{sd}\,T}

    with D the loss of prediction i against each face, the same pairing for all layers and centres. Mean and standard
    deviation are those over all n! pairings (`hyperdecode.evaluation.permutation.null_moments`), which no pairing
    changes: true and permuted maps are treated alike. Memory does not grow with the map.

    Parameters
    ----------
    losses : array of shape (n_layers, n_centres, n, n), or a sequence of n_layers arrays of (n_centres, n, n)
        By `hyperdecode.mapping.linear_occlusion.occlude_linear`, say; may be `numpy.memmap`.
    pairs : array of intp, shape (n_pairings, n)
        By `pairings`.

    Yields
    ------
    Permuted

    Raises
    ------
    UserError
        When losses have another shape or are not finite.
    """
    n_layers, n_centres, n = _checked_shape(losses)
    count = len(pairs)
    if pairs.shape[1:] != (n,):
        raise UserError(f"pairings of {pairs.shape[1:]} faces do not fit losses of {n} faces")
    entries = (pairs + n * np.arange(n)).ravel()
    sums = sparse.csr_array((np.ones(count * n), entries, np.arange(0, count * n + 1, n)), shape=(count, n * n))
    width = max(1, BLOCK_BYTES // (8 * n_layers * max(count, n * n)))
    for start in range(0, n_centres, width):
        some = slice(start, min(start + width, n_centres))
        given = np.stack([np.asarray(layer[some]) for layer in losses])
        block = given.astype(np.float64).reshape(-1, n, n)
        if not np.isfinite(block).all():
            raise UserError(f"losses of centres {some.start} to {some.stop - 1} are NaN or infinite: not all were done")
        mean, sd = null_moments(block)
        # What float32 rounded is no difference between pairings.
        rounding = np.finfo(given.dtype).eps if given.dtype.kind == "f" else 0.0
        sd = np.where(sd > rounding * np.abs(block).max(axis=(1, 2)), sd, 0.0)
        t = np.asarray(sums @ np.ascontiguousarray(block.reshape(len(block), -1).T)) / n
        z = np.divide(t - mean, sd, out=np.zeros_like(t), where=np.broadcast_to(sd > 0, t.shape))
        shape = (n_layers, some.stop - some.start)
        yield Permuted(some, t.reshape(-1, *shape), z.reshape(-1, *shape), mean.reshape(shape), sd.reshape(shape))


def max_statistic(
    losses: Losses,
    n_permutations: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
    family: Family = "map",
    progress: Progress | None = None,
) -> MapInference:
    r"""Test each centre of each layer by permuting which face each prediction belongs to.

    .. math::
        p_{lc} = \frac{\#\{\pi : \max_{l'c'} z_{l'c'}(\pi) \ge z_{lc}(\mathrm{id})\}}{\#\{\pi\}}

    over the true pairing and the random ones, so that p is never 0 (or over all pairings, where they are few). z is the
    standardised loss of `permuted_losses`. Where predictions tell nothing of which face was shown, the chance that
    any p of the family is at most alpha is at most alpha, whatever the dependence between voxels and layers.

    Parameters
    ----------
    losses : array of shape (n_layers, n_centres, n, n), or a sequence of n_layers arrays of (n_centres, n, n)
        Loss of similarity of prediction i against face j without the voxels around each centre.
    n_permutations : int
        Random pairings.
    alpha : float
        Family-wise level of `threshold`.
    seed : int
        Of the pairings.
    family : {"map", "layer"}
        Keep the error over all centres of all layers, or over the centres of each layer.
    progress : callable, optional
        Called with the number of centres done and of all.

    Returns
    -------
    MapInference

    Raises
    ------
    UserError
        When no p could reach alpha with so few faces or permutations, or losses have another shape or are not finite.

    References
    ----------
    Westfall & Young (1993), Resampling-based multiple testing; Nichols & Holmes (2002), Hum. Brain Mapp. 15:1;
    Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9:39.
    """
    n_layers, n_centres, n = _checked_shape(losses)
    if family not in ("map", "layer"):
        raise UserError(f"family is 'map' or 'layer', got {family!r}")
    if not 0 < alpha < 1:
        raise UserError(f"alpha lies between 0 and 1, got {alpha}")
    pairs = pairings(n, n_permutations, seed)
    exhaustive = len(pairs) == factorial(n)
    if len(pairs) * alpha < 1 - ROUNDING:
        mend = "show more test faces" if exhaustive else f"take at least {int(np.ceil(1 / alpha)) - 1} permutations"
        raise UserError(f"with {len(pairs)} pairings of {n} test faces no p-value can be {alpha:g}: {mend}")
    observed, mean, sd, z, p_values = np.empty((5, n_layers, n_centres))
    maxima = np.full((n_layers, len(pairs)), -np.inf)
    for found in permuted_losses(losses, pairs):
        some = (slice(None), found.centres)
        observed[some], mean[some], sd[some] = found.losses[0], found.null_mean, found.null_sd
        z[some] = found.standardised[0]
        p_values[some] = (found.standardised >= found.standardised[0] - ROUNDING).mean(axis=0)
        np.maximum(maxima, found.standardised.max(axis=2).T, out=maxima)
        if progress is not None:
            progress(found.centres.stop, n_centres)
    rivals = np.broadcast_to(maxima.max(axis=0), maxima.shape) if family == "map" else maxima
    ordered = np.sort(rivals, axis=1)
    smaller = np.stack([np.searchsorted(row, own - ROUNDING) for row, own in zip(ordered, z, strict=True)])
    corrected = (len(pairs) - smaller) / len(pairs)
    # As many as alpha allows are larger than this: what passes lies beyond it.
    threshold = ordered[:, len(pairs) - 1 - int(alpha * len(pairs) + ROUNDING)] + ROUNDING
    return MapInference(observed, mean, sd, z, p_values, corrected, threshold, maxima, family, alpha, exhaustive)


def permuted_layers(
    losses: Losses,
    n_permutations: int = 1000,
    seed: int = 0,
    standardise: Standardise = "permutation",
    threshold: ArrayLike | None = None,
) -> NDArray[np.int8]:
    """Return the layer of each centre under each random pairing, as `MapInference.layer_map` does for the true one.

    Parameters
    ----------
    losses, n_permutations, seed
        As in `max_statistic`; with the same seed the pairings are the same.
    standardise : {"permutation", "voxels", "none"}
        As in `hyperdecode.mapping.assign.layer_of`; "voxels" over the centres of each permuted map.
    threshold : float or array of shape (n_layers,), optional
        ``MapInference.threshold``: centres whose standardised loss (by permutation) is beyond it in no layer belong to
        none.

    Returns
    -------
    array of int8, shape (n_pairings, n_centres)
        -1 for none. Without the true pairing: `n_permutations` rows, or n! - 1 where all pairings are taken.

    Raises
    ------
    UserError
        As `max_statistic`.
    """
    n_layers, n_centres, n = _checked_shape(losses)
    pairs = pairings(n, n_permutations, seed)
    least = None if threshold is None else np.broadcast_to(np.asarray(threshold, np.float64), (n_layers,))[:, None]
    mean, sd = _over_centres(losses, pairs) if standardise == "voxels" else (np.zeros(()), np.ones(()))
    layers = np.empty((len(pairs), n_centres), np.int8)
    for found in permuted_losses(losses, pairs):
        allowed = (found.losses != 0).any(axis=1)
        if least is not None:
            allowed &= (found.standardised > least).any(axis=1)
        if standardise == "permutation":
            values = found.standardised
        else:
            away = found.losses - mean
            values = np.divide(away, sd, out=np.zeros_like(away), where=np.broadcast_to(sd > 0, away.shape))
        layers[:, found.centres] = chosen_layers(values, allowed)
    return layers[1:]


def _over_centres(losses: Losses, pairs: NDArray[np.intp]) -> tuple[Array, Array]:
    """Return mean and standard deviation of each permuted map, (n_pairings, n_layers, 1)."""
    total, largest, count = 0.0, 0.0, 0
    for found in permuted_losses(losses, pairs):
        total = total + found.losses.sum(axis=2, keepdims=True)
        largest = np.maximum(largest, np.abs(found.losses).max())
        count = found.centres.stop
    mean, squares = np.asarray(total / count), 0.0
    for found in permuted_losses(losses, pairs):
        squares = squares + np.square(found.losses - mean).sum(axis=2, keepdims=True)
    sd = np.sqrt(np.asarray(squares) / count)
    return mean, np.where(sd > 1e-12 * largest, sd, 0.0)


def _checked_shape(losses: Losses) -> tuple[int, int, int]:
    """Return numbers of layers, centres and faces."""
    shapes = [tuple(getattr(layer, "shape", ())) for layer in losses]
    first = shapes[0] if shapes else ()
    if len(first) != 3 or first[1] != first[2] or not first[0] or any(shape != first for shape in shapes):
        raise UserError(
            f"losses of each layer must have shape (centres, faces, faces), the same for all, got {shapes[:5]}: "
            "occlude with pairs=True"
        )
    return len(shapes), int(first[0]), int(first[1])
