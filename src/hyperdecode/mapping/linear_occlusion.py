"""Searchlight-occlusion of a linear readout: exact, from one running prediction instead of one prediction a cube."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from hyperdecode.errors import UserError
from hyperdecode.mapping.neighbourhoods import Neighbourhoods
from hyperdecode.mapping.readout import LinearReadout
from hyperdecode.threads import default_threads

__all__ = ["occlude_block", "occlude_linear", "occlusion_blocks", "similarity", "similarity_loss"]

Array = NDArray[np.float64]
Losses = NDArray[np.float64] | NDArray[np.float32]
Progress = Callable[[int, int], None]

BLOCK_CENTRES = 128
"""Centres that are done one after the other, each from the last: what one piece of work is."""


def similarity(squared_distance: ArrayLike, n_features: int, variance: float) -> Array:
    r"""Return the Euclidean similarity of activations.

    .. math:: s = \frac{1}{1 + d}, \qquad d = \frac{\|a - p\|}{\sqrt{F v}}

    with F features whose variance over the training faces is v on average: d = 1 says as far as an average training
    face lies from their mean, whatever the layer.

    Parameters
    ----------
    squared_distance : array
        :math:`\|a - p\|^2`, over all features.
    n_features : int
        F.
    variance : float
        v.

    Returns
    -------
    array
        Of the same shape, from 0 to 1 (equal).
    """
    return np.asarray(1 / (1 + np.sqrt(np.asarray(squared_distance, np.float64) / (n_features * variance))))


def similarity_loss(squared_distance: ArrayLike, change: ArrayLike, n_features: int, variance: float) -> Array:
    r"""Return how much similarity is lost where a squared distance grows by `change`.

    .. math::
        s - s' = \frac{d' - d}{(1 + d)(1 + d')}, \qquad d' - d = \frac{d'^2 - d^2}{d' + d},

    so that a small loss is not the difference of two similarities, which would lose its digits.

    Parameters
    ----------
    squared_distance : array
        Before, over all features.
    change : array
        What is added to it; broadcast against `squared_distance`.
    n_features, variance
        As in `similarity`.

    Returns
    -------
    array
        Positive where the prediction got worse.
    """
    scale = n_features * variance
    before, grown = np.asarray(squared_distance, np.float64) / scale, np.asarray(change, np.float64) / scale
    # Rounding may take a distance of zero below it.
    grown = np.maximum(grown, -before)
    d, occluded = np.sqrt(before), np.sqrt(before + grown)
    total = d + occluded
    return np.asarray(grown / np.where(total > 0, total, 1) / ((1 + d) * (1 + occluded)))


def occlusion_blocks(neighbourhoods: Neighbourhoods) -> list[NDArray[np.intp]]:
    """Cut the centres into the pieces that `occlude_block` does.

    They depend on the number of centres alone: whoever does them, in whatever order, the losses are the same to the
    last bit (with a BLAS of one thread: others may round differently).

    Returns
    -------
    list of arrays of intp
        Numbers of centres (0 to ``len(neighbourhoods) - 1``), in order.
    """
    centres = np.arange(len(neighbourhoods))
    return [centres[start : start + BLOCK_CENTRES] for start in range(0, len(centres), BLOCK_CENTRES)]


def occlude_block(
    readout: LinearReadout,
    x: ArrayLike,
    neighbourhoods: Neighbourhoods,
    block: NDArray[np.intp],
    *,
    pairs: bool = True,
) -> Losses:
    """Occlude the neighbourhoods of some centres; see `occlude_linear`.

    Parameters
    ----------
    readout, x, neighbourhoods, pairs
        As in `occlude_linear`.
    block : array of intp, shape (m,)
        One of `occlusion_blocks`.

    Returns
    -------
    array of float32, shape (m, n, n), or of float64, shape (m, n)
    """
    responses = _checked(readout, x)
    return _losses(readout, responses, neighbourhoods, block, pairs)


def occlude_linear(
    readout: LinearReadout,
    x: ArrayLike,
    neighbourhoods: Neighbourhoods,
    *,
    pairs: bool = True,
    progress: Progress | None = None,
) -> Losses:
    r"""Return the similarity lost when the voxels around each centre are set to their training mean.

    With x the responses less the training mean of each voxel, W the weights and S a neighbourhood, the prediction
    becomes :math:`p_i - y_i`, :math:`y_i = x_{iS} W_S`, and

    .. math:: \|a_j - p_i + y_i\|^2 = \|a_j - p_i\|^2 + 2\, y_i^\top a_j - 2\, y_i^\top p_i + \|y_i\|^2 .

    Nothing is left out: these are the losses of predicting anew from occluded responses. The y of a centre is that of
    the one before plus the voxels that come in less those that go out; cubes of neighbours share most of theirs.
    Nothing larger than a few hundred rows of W is copied. Blocks of centres run side by side in as many threads as
    `hyperdecode.threads.default_threads` says, each with a BLAS of one: their number changes no bit.

    Parameters
    ----------
    readout : LinearReadout
        Of one layer.
    x : array of shape (n, n_voxels)
        Responses to the faces of the readout less ``fill``, the training mean of each voxel.
    neighbourhoods : Neighbourhoods
        Of the same voxels. Fast where voxels are ordered as ``numpy.argwhere(mask)`` gives them.
    pairs : bool
        Whether prediction i is compared with all faces, for tests of the pairing, or with its own.
    progress : callable, optional
        Called with the number of centres done and of all.

    Returns
    -------
    array
        With `pairs` float32 (n_centres, n, n), entry (c, i, j) the loss of prediction i against face j; else float64
        (n_centres, n), its diagonal. Positive: the prediction got worse without the voxels.

    Raises
    ------
    UserError
        When faces or voxels of the three do not fit, or responses are not finite.

    References
    ----------
    Dado et al. (2022), Sci. Rep. 12:141, searchlight-occlusion.
    """
    responses = _checked(readout, x)
    n, total = len(responses), len(neighbourhoods)
    found = np.empty((total, n, n), np.float32) if pairs else np.empty((total, n))
    blocks = occlusion_blocks(neighbourhoods)
    with threadpool_limits(1), ThreadPoolExecutor(min(default_threads(), len(blocks))) as pool:
        if pairs:
            _ = readout.towards_true  # made once, before threads ask for it
        parts = pool.map(lambda block: _losses(readout, responses, neighbourhoods, block, pairs), blocks)
        for block, losses in zip(blocks, parts, strict=True):
            found[block[0] : block[-1] + 1] = losses
            if progress is not None:
                progress(int(block[-1]) + 1, total)
    return found


def _checked(readout: LinearReadout, x: ArrayLike) -> Array:
    responses = np.asarray(x, np.float64)
    if responses.shape != (len(readout.predicted), readout.n_voxels):
        raise UserError(
            f"the readout is of {len(readout.predicted)} faces and {readout.n_voxels} voxels, the responses have shape "
            f"{responses.shape}: give those it was made from, less the training mean"
        )
    return responses


def _losses(
    readout: LinearReadout, x: Array, neighbourhoods: Neighbourhoods, block: NDArray[np.intp], pairs: bool
) -> Losses:
    """Occlude the centres of `block`, each from the one before."""
    n, k = readout.predicted.shape
    gone, along = np.zeros((n, k)), np.zeros((n, n))
    lengths, overlaps = np.empty((len(block), n)), np.empty((len(block), n, n) if pairs else (len(block), n))
    inside = np.zeros(readout.n_voxels, dtype=bool)
    last = neighbourhoods.members[:0]
    for row, centre in enumerate(block):
        members = neighbourhoods.of(centre)
        if members[-1] >= readout.n_voxels:
            raise UserError(
                f"a neighbourhood names voxel {members[-1]}, the readout has {readout.n_voxels}: make neighbourhoods "
                "from the mask that was decoded"
            )
        come, go = _difference(inside, last, members)
        if len(come) + len(go) >= len(members):
            come, go = members, members[:0]
            gone[:], along[:] = 0, 0
        voxels = np.concatenate([come, go])
        change = x[:, voxels]
        change[:, len(come) :] *= -1
        gone += change @ np.asarray(readout.weights[voxels], np.float64)
        lengths[row] = _row_products(gone, gone) - 2 * _row_products(gone, readout.predicted)
        if pairs:
            along += change @ readout.towards_true[voxels]
            overlaps[row] = along
        else:
            overlaps[row] = _row_products(gone, readout.true)
        last = members
    if pairs:
        distances, grown = readout.squared_distances, lengths[:, :, None] + 2 * overlaps
    else:
        distances, grown = np.diag(readout.squared_distances), lengths + 2 * overlaps
    losses = similarity_loss(distances, grown, readout.n_features, readout.variance)
    if not np.isfinite(losses).all():
        raise UserError("responses hold values that are NaN or infinite: drop those voxels before decoding")
    return losses.astype(np.float32) if pairs else losses


def _difference(
    inside: NDArray[np.bool_], last: NDArray[np.int32], members: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return which of `members` are new and which of `last` are left out; `inside` is all False, before and after."""
    inside[last] = True
    come = members[~inside[members]]
    inside[members] = False
    go = last[inside[last]]
    inside[last] = False
    return come, go


def _row_products(a: Array, b: Array) -> Array:
    return cast(Array, np.einsum("ij,ij->i", a, b))
