"""Similarity of pictures: structural similarity by two named protocols, over scales, and correlation of pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.evaluation.structural import (
    MS_SSIM_SMALLEST,
    WINDOW,
    multiscale_similarity,
    structural_similarity,
)

__all__ = [
    "COMPARED_SIZE",
    "SSIM_PROTOCOLS",
    "Pictures",
    "Protocol",
    "check_pictures",
    "ms_ssim_pairs",
    "ms_ssim_scores",
    "pixel_correlation_scores",
    "prepare",
    "resized",
    "ssim_pairs",
    "ssim_scores",
]

Array = NDArray[np.float64]
Pictures = NDArray[np.uint8]
Protocol = Literal["hyper-paper", "hyper-code"]
SSIM_PROTOCOLS: tuple[Protocol, ...] = ("hyper-paper", "hyper-code")

COMPARED_SIZE = 224
"""Side in pixels at which pictures are compared, but by ``hyper-code``."""
KERNEL_SUM = 16
"""Of the kernel (1, 2, 1) in both directions."""


def ssim_scores(predicted: Pictures, true: Pictures, protocol: Protocol) -> Array:
    """Structural similarity of each prediction with each stimulus.

    The formula is that of `hyperdecode.evaluation.structural.structural_similarity`: 7 x 7 pixels, each colour channel.
    This is what ``skimage.metrics.structural_similarity(..., channel_axis=-1, data_range=255)`` computes, a picture
    prepared as the protocol says.

    Parameters
    ----------
    predicted : uint8 array of shape (n_predictions, height, width, 3)
        Reconstructions.
    true : uint8 array of shape (n_stimuli, height, width, 3)
        Stimuli of the same size.
    protocol : {"hyper-paper", "hyper-code"}
        ``"hyper-paper"``: all pictures to 224 x 224, Gaussian filter with a kernel of 3 pixels, then SSIM (text of
        Dado et al. 2022, Sci. Rep. 12:141, methods; the kernel is read as 1-2-1 in each direction).
        ``"hyper-code"``: the full-size pictures in colour, unfiltered (their published code).

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Similarities, 1 for equal pictures.

    Raises
    ------
    UserError
        When pictures are not uint8 RGB of one size, or the protocol is unknown.

    See Also
    --------
    ssim_pairs : only the pairs that are asked for.
    """
    return _of_all(lambda rows, columns: ssim_pairs(predicted, true, protocol, rows, columns), predicted, true)


def ssim_pairs(
    predicted: Pictures,
    true: Pictures,
    protocol: Protocol,
    rows: NDArray[np.intp] | None = None,
    columns: NDArray[np.intp] | None = None,
) -> Array:
    """Structural similarity of chosen pairs (see `ssim_scores`).

    Parameters
    ----------
    predicted, true : uint8 arrays of shape (n, height, width, 3)
        Reconstructions and stimuli.
    protocol : {"hyper-paper", "hyper-code"}
        How pictures are prepared.
    rows, columns : arrays of int, shape (n_pairs,), optional
        Indices into `predicted` and `true`. Default: prediction i with stimulus i; one single prediction goes
        with every stimulus.

    Returns
    -------
    array of shape (n_pairs,)
        Similarities in the order of the pairs.
    """
    check_pictures(predicted, true)
    rows, columns = _chosen(predicted, true, rows, columns)
    unit = float(KERNEL_SUM) if protocol == "hyper-paper" else 1.0
    first, second = (_counts(p, protocol) for p in (predicted, true))
    return structural_similarity(first, second, rows, columns, unit=unit)


def ms_ssim_scores(predicted: Pictures, true: Pictures) -> Array:
    """Structural similarity over five scales of each prediction with each stimulus, at 224 x 224 pixels.

    The formula is that of `hyperdecode.evaluation.structural.multiscale_similarity`.

    Parameters
    ----------
    predicted, true : uint8 arrays of shape (n, height, width, 3)
        Reconstructions and stimuli of one size, 112 pixels or more; resized to 224 first.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Similarities, 1 for equal pictures.

    Raises
    ------
    UserError
        When pictures are smaller (the coarsest of five scales would be less than a window), or not uint8 RGB of one
        size.
    """
    return _of_all(lambda rows, columns: ms_ssim_pairs(predicted, true, rows, columns), predicted, true)


def ms_ssim_pairs(
    predicted: Pictures,
    true: Pictures,
    rows: NDArray[np.intp] | None = None,
    columns: NDArray[np.intp] | None = None,
) -> Array:
    """Structural similarity over five scales of chosen pairs (see `ms_ssim_scores`, and `ssim_pairs` for the pairs)."""
    check_pictures(predicted, true)
    if min(true.shape[1:3]) < MS_SSIM_SMALLEST:
        raise UserError(
            f"MS-SSIM has five scales and needs pictures of {MS_SSIM_SMALLEST} pixels or more a side, "
            f"got {true.shape[1:3]}: use SSIM"
        )
    rows, columns = _chosen(predicted, true, rows, columns)
    first, second = (np.moveaxis(resized(p, COMPARED_SIZE), -1, 1) for p in (predicted, true))
    return multiscale_similarity(first, second, rows, columns)


def pixel_correlation_scores(predicted: Pictures, true: Pictures, size: int = COMPARED_SIZE) -> Array:
    r"""Pearson correlation over the pixels and channels of each pair, at `size` x `size` pixels (PixCorr).

    .. math::
        r = \frac{N \sum x y - \sum x \sum y}{\sqrt{N \sum x^2 - (\sum x)^2} \sqrt{N \sum y^2 - (\sum y)^2}}

    Up to 224 pixels all of these are whole numbers that a float64 holds, so that nothing but the last step is rounded.

    Parameters
    ----------
    predicted, true : uint8 arrays of shape (n, height, width, 3)
        Reconstructions and stimuli.
    size : int
        Both are resized to this first.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Correlations; a picture of one colour scores 0.
    """
    check_pictures(predicted, true)
    x, y = (resized(p, size).reshape(len(p), -1).astype(np.float64) for p in (predicted, true))
    spread_x, spread_y = _spread(x), _spread(y)
    covariance = x.shape[1] * (x @ y.T) - np.outer(x.sum(axis=1), y.sum(axis=1))
    product = np.sqrt(np.outer(spread_x, spread_y))
    return np.divide(covariance, product, out=np.zeros_like(product), where=product > 0)


def resized(pictures: Pictures, size: int) -> Pictures:
    """Resize uint8 pictures (n, height, width, 3) to `size` x `size` by Pillow's anti-aliased bicubic filter."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    return np.stack([np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in pictures])


def prepare(pictures: Pictures, protocol: Protocol) -> Array:
    """Bring pictures (n, height, width, 3) to what `protocol` compares: float64 in 0..255, channels last."""
    return np.moveaxis(_counts(pictures, protocol), 1, -1) / (KERNEL_SUM if protocol == "hyper-paper" else 1)


def _counts(pictures: Pictures, protocol: Protocol) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return (n, 3, height, width) as integers: filtered pictures in sixteenths of a level, so that they are exact."""
    if protocol == "hyper-code":
        return np.moveaxis(pictures, -1, 1)
    if protocol != "hyper-paper":
        raise UserError(f"unknown SSIM protocol {protocol!r}: use one of {', '.join(SSIM_PROTOCOLS)}")
    levels = np.moveaxis(resized(pictures, COMPARED_SIZE), -1, 1).astype(np.uint16)
    # Edges are mirrored without repeating the edge pixel.
    padded = np.pad(levels, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    tall = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return np.asarray(tall[..., :-2] + 2 * tall[..., 1:-1] + tall[..., 2:])


def _spread(flat: Array) -> Array:
    """Variance of each row times the square of its length."""
    found: Array = flat.shape[1] * np.einsum("ij,ij->i", flat, flat) - flat.sum(axis=1) ** 2
    return found


def _of_all(pairs: Callable[[NDArray[np.intp], NDArray[np.intp]], Array], predicted: Pictures, true: Pictures) -> Array:
    """Return the scores of all pairs as a matrix."""
    rows, columns = np.indices((len(predicted), len(true)))
    return pairs(rows.ravel(), columns.ravel()).reshape(rows.shape)


def _chosen(
    predicted: Pictures, true: Pictures, rows: NDArray[np.intp] | None, columns: NDArray[np.intp] | None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs: those given, else each prediction with its stimulus, one single one with every stimulus."""
    if columns is None:
        columns = np.arange(len(true))
    if rows is None:
        rows = np.zeros_like(columns) if len(predicted) == 1 else np.arange(len(predicted))
    if len(rows) != len(columns):
        raise UserError(f"got {len(predicted)} pictures for {len(true)} stimuli: give one a stimulus, in their order")
    return rows, columns


def check_pictures(predicted: Pictures, true: Pictures) -> None:
    """Refuse pictures that are not uint8 RGB of one size, 7 pixels or more a side.

    Raises
    ------
    UserError
        What came in, and what is expected.
    """
    for name, pictures in (("reconstructions", predicted), ("stimuli", true)):
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or min(pictures.shape) == 0:
            raise UserError(
                f"{name} must be uint8 of shape (n, height, width, 3), got {pictures.dtype} of shape {pictures.shape}"
            )
        if min(pictures.shape[1:3]) < WINDOW:
            raise UserError(f"{name} must be at least {WINDOW} pixels wide and high, got {pictures.shape[1:3]}")
    if predicted.shape[1:] != true.shape[1:]:
        raise UserError(
            f"reconstructions are {predicted.shape[1:3]} pixels and stimuli {true.shape[1:3]}: resize one to the other"
        )
