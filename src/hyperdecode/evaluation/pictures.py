"""Structural similarity and pixel correlation of pictures, by two named protocols."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.evaluation.metrics import correlation_scores

__all__ = ["SSIM_PROTOCOLS", "Protocol", "pixel_correlation_scores", "prepare", "resized", "ssim_pairs", "ssim_scores"]

Array = NDArray[np.float64]
Pictures = NDArray[np.uint8]
Protocol = Literal["hyper-paper", "hyper-code"]
SSIM_PROTOCOLS: tuple[Protocol, ...] = ("hyper-paper", "hyper-code")

PAPER_SIZE = 224
WINDOW = 7
UNBIASED = WINDOW**2 / (WINDOW**2 - 1)
BAND = 32
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim_scores(predicted: Pictures, true: Pictures, protocol: Protocol) -> Array:
    r"""Structural similarity of each prediction with each stimulus.

    .. math::
        \mathrm{SSIM} = \operatorname{mean} \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)},

    with means, variances and covariance over 7 x 7 pixels of each colour channel (unweighted, sample
    covariance), C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2; averaged over positions and channels. This is
    what ``skimage.metrics.structural_similarity(..., channel_axis=-1, data_range=255)`` computes; here it is
    computed in cache-sized bands, several times faster.

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
    ssim_pairs : only the pairs that are asked for; at full size the whole matrix is slow.
    """
    rows, columns = np.indices((len(predicted), len(true)))
    scores = ssim_pairs(predicted, true, protocol, rows.ravel(), columns.ravel())
    return scores.reshape(rows.shape)


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
    _check_pictures(predicted, true)
    if columns is None:
        columns = np.arange(len(true))
    if rows is None:
        rows = np.zeros_like(columns) if len(predicted) == 1 else np.arange(len(predicted))
    if len(rows) != len(columns):
        raise UserError(f"got {len(predicted)} pictures for {len(true)} stimuli: give one a stimulus, in their order")
    first, second = _channels_first(predicted, protocol), _channels_first(true, protocol)
    return np.array([_ssim(first[i], second[j]) for i, j in zip(rows, columns, strict=True)])


def pixel_correlation_scores(predicted: Pictures, true: Pictures, size: int = PAPER_SIZE) -> Array:
    """Pearson correlation over the pixels and channels of each pair, at `size` x `size` pixels.

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
    _check_pictures(predicted, true)
    flat = [np.asarray(resized(p, size), dtype=np.float64).reshape(len(p), -1) for p in (predicted, true)]
    return correlation_scores(flat[0], flat[1])


def resized(pictures: Pictures, size: int) -> Pictures:
    """Resize uint8 pictures (n, height, width, 3) to `size` x `size` by Pillow's anti-aliased bicubic filter."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    return np.stack([np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in pictures])


def prepare(pictures: Pictures, protocol: Protocol) -> Array:
    """Bring pictures (n, height, width, 3) to what `protocol` compares: float64 in 0..255, channels last."""
    if protocol == "hyper-code":
        return pictures.astype(np.float64)
    if protocol == "hyper-paper":
        return _blurred(resized(pictures, PAPER_SIZE).astype(np.float64))
    raise UserError(f"unknown SSIM protocol {protocol!r}: use one of {', '.join(SSIM_PROTOCOLS)}")


def _blurred(values: Array) -> Array:
    """Filter height and width by the kernel (1, 2, 1) / 4, edges mirrored without repeating the edge pixel."""
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    tall = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    blurred: Array = (tall[:, :, :-2] + 2 * tall[:, :, 1:-1] + tall[:, :, 2:]) / 4
    return blurred


def _channels_first(pictures: Pictures, protocol: Protocol) -> NDArray[np.generic]:
    """Return what `prepare` gives as (n, 3, height, width), but full-size pictures still as bytes."""
    prepared = pictures if protocol == "hyper-code" else prepare(pictures, protocol)
    return np.ascontiguousarray(np.moveaxis(prepared, -1, 1))


def _ssim(x: NDArray[np.generic], y: NDArray[np.generic]) -> float:
    """SSIM of two pictures (3, height, width), in bands of rows that stay in the processor's cache."""
    height, width = (s - WINDOW + 1 for s in x.shape[1:])
    total = 0.0
    for first in range(0, height, BAND):
        rows = slice(first, first + BAND + WINDOW - 1)
        for a, b in zip(x[:, rows], y[:, rows], strict=True):
            total += float(_ssim_map(a.astype(np.float64), b.astype(np.float64)).sum())
    return total / float(len(x) * height * width)


def _ssim_map(x: Array, y: Array) -> Array:
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance = UNBIASED * (_window_mean(x * y) - product)
    variances = UNBIASED * (_window_mean(x * x + y * y) - squares)
    result: Array = (2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))
    return result


def _window_mean(values: Array) -> Array:
    """Mean over 7 x 7 windows of (height, width), valid positions only: seven shifted sums each way."""
    height, width = (s - WINDOW + 1 for s in values.shape)
    across = values[:, :width].copy()
    for shift in range(1, WINDOW):
        across += values[:, shift : shift + width]
    down = across[:height].copy()
    for shift in range(1, WINDOW):
        down += across[shift : shift + height]
    down /= WINDOW**2
    return down


def _check_pictures(predicted: Pictures, true: Pictures) -> None:
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
