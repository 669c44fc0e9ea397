"""Structural similarity of many pairs of pictures: exact window sums, counted once a picture, and one pass a pair."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.threads import default_threads

__all__ = ["MS_SSIM_SMALLEST", "MS_SSIM_WEIGHTS", "WINDOW", "multiscale_similarity", "structural_similarity"]

Array = NDArray[np.float64]
Numbers = NDArray[Any]
Pairs = NDArray[np.intp]

WINDOW = 7
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, fine to coarse (Wang et al. 2003)."""
MS_SSIM_SMALLEST = WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
"""Side in pixels below which the coarsest scale is smaller than a window."""

BAND = 16
"""Rows of windows worked on at a time, so that sums of a few pictures stay in the processor's cache."""
TILE = 4
"""Predictions that meet a stimulus while it lies in the cache."""
K1, K2, RANGE = 0.01, 0.03, 255.0


def structural_similarity(
    first: Numbers, second: Numbers, rows: Pairs, columns: Pairs, *, unit: float = 1.0, luminance: bool = True
) -> Array:
    r"""Mean structural similarity of pairs of pictures (Wang et al. 2004).

    .. math::
        \mathrm{SSIM} = \operatorname{mean} \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)},

    with means, variances and covariance over 7 x 7 pixels of each channel (unweighted, divided by 48),
    C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2; averaged over positions inside the picture and over channels.

    Parameters
    ----------
    first : array of shape (n_first, channels, height, width)
        Pictures. Of integers from 0 to 6600 the sums are exact; of floats they are rounded.
    second : array of shape (n_second, channels, height, width)
        Pictures of the same kind and size, 7 pixels or more.
    rows, columns : arrays of int, shape (n_pairs,)
        Which of `first` meets which of `second`.
    unit : float
        The number that stands for one level of 0..255.
    luminance : bool
        With False the factor of the means is left out (contrast and structure alone).

    Returns
    -------
    array of shape (n_pairs,)
        Similarities in the order of the pairs, 1 for equal pictures.

    Notes
    -----
    Sums of a picture and of its squares are counted once; of a pair only the sum of products is new. It runs down a
    band of rows: columns of seven products take in a row and drop one, then seven neighbours are added in three steps.
    """
    # Pairs that share pictures follow each other, TILE predictions at a time.
    order = np.lexsort((rows, columns, rows // TILE))
    pairs = np.stack([rows[order], columns[order]])
    height, width = (side - WINDOW + 1 for side in first.shape[2:])

    def of_band(start: int) -> Array:
        band = slice(start, start + BAND + WINDOW - 1)
        x, y = (np.ascontiguousarray(_countable(p[:, :, band])) for p in (first, second))
        c1, c2 = (K1 * RANGE * unit) ** 2, (K2 * RANGE * unit) ** 2
        return _band_sums(x, y, _sums(x), _sums(y), pairs[0], pairs[1], c1, c2, float(luminance))

    starts = range(0, height, BAND)
    with ThreadPoolExecutor(min(default_threads(), len(starts))) as pool:
        total = np.sum(list(pool.map(of_band, starts)), axis=0)
    scores = np.empty(len(rows))
    scores[order] = total / (first.shape[1] * height * width)
    return scores


def multiscale_similarity(first: Numbers, second: Numbers, rows: Pairs, columns: Pairs) -> Array:
    r"""Structural similarity over five scales of pairs of pictures (MS-SSIM).

    .. math:: \mathrm{SSIM}_5^{w_5} \prod_{s=1}^{4} \mathrm{CS}_s^{w_s}

    where CS is `structural_similarity` without its luminance, scale s + 1 is scale s averaged over 2 x 2 pixels (a last
    odd row or column is dropped), and the weights are `MS_SSIM_WEIGHTS`. Of each channel, then averaged over channels;
    a negative factor counts as 0.

    Parameters
    ----------
    first, second, rows, columns
        As for `structural_similarity`, in levels of 0..255, `MS_SSIM_SMALLEST` pixels or more.

    Returns
    -------
    array of shape (n_pairs,)
        Similarities in the order of the pairs, 1 for equal pictures.

    Raises
    ------
    UserError
        When pictures are too small for five scales: with fewer ones the number would mean something else.

    References
    ----------
    Wang, Simoncelli & Bovik (2003), Asilomar Conf. Signals Syst. Comput. 37:1398. Theirs is a Gaussian window of 11
    pixels on grey pictures; here the window is that of our SSIM.
    """
    if min(first.shape[2:]) < MS_SSIM_SMALLEST:
        raise UserError(
            f"MS-SSIM has five scales and needs pictures of {MS_SSIM_SMALLEST} pixels or more a side, "
            f"got {first.shape[2:]}: use SSIM"
        )
    n_channels, last = first.shape[1], len(MS_SSIM_WEIGHTS) - 1
    product = np.ones((n_channels, len(rows)))
    x, y = first.astype(np.float64), second.astype(np.float64)
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        for channel, factor in enumerate(product):
            of_channel = slice(channel, channel + 1)
            found = structural_similarity(x[:, of_channel], y[:, of_channel], rows, columns, luminance=scale == last)
            factor *= np.maximum(found, 0) ** weight
        x, y = _halved(x), _halved(y)
    return np.asarray(product.mean(axis=0))


def _countable(pictures: Numbers) -> Numbers:
    return pictures.astype(np.int32 if np.issubdtype(pictures.dtype, np.integer) else np.float64)


def _halved(pictures: Array) -> Array:
    height, width = (side // 2 * 2 for side in pictures.shape[2:])
    p = pictures[:, :, :height, :width]
    return np.asarray((p[:, :, ::2, ::2] + p[:, :, 1::2, ::2] + p[:, :, ::2, 1::2] + p[:, :, 1::2, 1::2]) / 4)


def _sums(pictures: Numbers) -> Array:
    """Return (n, channels, 2, rows, columns): sums of windows, and 49 x their sums of squares - squared sums."""
    n, channels, height, width = pictures.shape
    sums = np.empty((n, channels, 2, height - WINDOW + 1, width - WINDOW + 1))
    _picture_sums(pictures, sums)
    return sums


@njit(cache=True, nogil=True, fastmath={"contract"})
def _seven(column: Numbers, two: Numbers, four: Numbers, out: Numbers) -> None:
    """Add each seven neighbours of `column`."""
    width = out.size
    for c in range(width + 5):
        two[c] = column[c] + column[c + 1]
    for c in range(width):
        four[c] = two[c] + two[c + 2]
    for c in range(width):
        out[c] = four[c] + two[c + 4] + column[c + 6]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _slide(x: Numbers, y: Numbers, row: int, column: Numbers) -> None:
    """Move columns of seven products from the windows of `row` - 1 to those of `row`."""
    width = column.size
    if row == 0:
        column[:] = 0
        for r in range(6):
            for c in range(width):
                column[c] += x[r, c] * y[r, c]
    else:
        for c in range(width):
            column[c] -= x[row - 1, c] * y[row - 1, c]
    for c in range(width):
        column[c] += x[row + 6, c] * y[row + 6, c]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _picture_sums(pictures: Numbers, sums: Array) -> None:
    n, channels, _, width = pictures.shape
    height = sums.shape[3]
    work = np.empty((4, width), pictures.dtype)
    column, two, four, out = work[0], work[1], work[2], work[3, : width - 6]
    ones = np.ones_like(pictures[0, 0])
    for k in range(n):
        for channel in range(channels):
            x = pictures[k, channel]
            for row in range(height):
                _slide(x, ones, row, column)
                _seven(column, two, four, out)
                for c in range(out.size):
                    sums[k, channel, 0, row, c] = out[c]
            for row in range(height):
                _slide(x, x, row, column)
                _seven(column, two, four, out)
                for c in range(out.size):
                    mean = sums[k, channel, 0, row, c]
                    sums[k, channel, 1, row, c] = 49.0 * out[c] - mean * mean


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _row_sum(
    products: Numbers, a: Array, b: Array, va: Array, vb: Array, c1: float, c2: float, luminance: float
) -> float:
    """Sum the similarity over one row of windows; everything is scaled by 49^2 (means) or 49 x 48 (variances)."""
    total = 0.0
    for c in range(products.size):
        both = a[c] * b[c]
        covariance = 49.0 * products[c] - both
        squares = a[c] * a[c] + b[c] * b[c]
        above = (2.0 * luminance * both + c1) * (2.0 * covariance + c2)
        below = (luminance * squares + c1) * (va[c] + vb[c] + c2)
        total += above / below
    return total


@njit(cache=True, nogil=True, fastmath={"contract"})
def _band_sums(
    first: Numbers,
    second: Numbers,
    first_sums: Array,
    second_sums: Array,
    rows: Pairs,
    columns: Pairs,
    c1: float,
    c2: float,
    luminance: float,
) -> Array:
    channels, width = first.shape[1], first.shape[3]
    height = first_sums.shape[3]
    work = np.empty((4, width), first.dtype)
    column, two, four, out = work[0], work[1], work[2], work[3, : width - 6]
    c1, c2 = 49.0 * 49.0 * c1, 49.0 * 48.0 * c2
    totals = np.zeros(rows.size)
    for channel in range(channels):
        for k in range(rows.size):
            x, y = first[rows[k], channel], second[columns[k], channel]
            sx, sy = first_sums[rows[k], channel], second_sums[columns[k], channel]
            for row in range(height):
                _slide(x, y, row, column)
                _seven(column, two, four, out)
                totals[k] += _row_sum(out, sx[0, row], sy[0, row], sx[1, row], sy[1, row], c1, c2, luminance)
    return totals
