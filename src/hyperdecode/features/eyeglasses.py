"""Does an aligned face wear glasses? A linear classifier on gradients and colours of the eye region."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.numpy import load
from skimage.feature import hog
from torch import Tensor

from hyperdecode.features.frames import checked

__all__ = ["eye_features", "eyeglasses_scores"]

SIDE = 128
ROWS, COLUMNS = slice(38, 82), slice(18, 110)
"""The eye region of an FFHQ-aligned face of `SIDE` pixels: from the brows to the middle of the nose."""
COLOUR_WEIGHT = 0.3


def eye_features(pictures: Tensor) -> NDArray[np.float32]:
    """Describe the eye region: histograms of oriented gradients, and its standardised colours in 4 px cells.

    Parameters
    ----------
    pictures : Tensor, (n, 3, s, s)
        FFHQ-aligned faces in -1..1, s at least 128; averaged to 128 px.

    Returns
    -------
    ndarray of float32, (n, 2199)

    Raises
    ------
    UserError
        When the pictures have another shape or are smaller.
    """
    small = F.interpolate(checked(pictures, SIDE), (SIDE, SIDE), mode="area") * 0.5 + 0.5
    regions = small[:, :, ROWS, COLUMNS]
    rows = [_describe(region) for region in regions.permute(0, 2, 3, 1).numpy()]
    return np.stack(rows).astype(np.float32) if rows else np.empty((0, len(_classifier()["weight"])), np.float32)


def _describe(region: NDArray[np.float32]) -> NDArray[np.float64]:
    gradients = hog(region.mean(2), orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2))
    height, width = region.shape[0] // 4, region.shape[1] // 4
    colours = region[: 4 * height, : 4 * width].reshape(height, 4, width, 4, 3).mean((1, 3))
    colours = (colours - colours.mean((0, 1))) / (colours.std() + 1e-3)
    return np.concatenate([gradients, COLOUR_WEIGHT * colours.ravel()])


def eyeglasses_scores(pictures: Tensor) -> NDArray[np.float32]:
    """Signed distance to the boundary between bare eyes (negative) and glasses or sunglasses (positive).

    ``score = weight . (features - mean) / sd + bias``, a linear SVM on `eye_features` of generated faces that
    were labelled by eye (``training/eyeglasses.py``).

    Parameters
    ----------
    pictures : Tensor, (n, 3, s, s)
        FFHQ-aligned faces in -1..1, s at least 128.

    Returns
    -------
    ndarray of float32, (n,)

    Raises
    ------
    UserError
        When the pictures have another shape or are smaller.
    """
    c = _classifier()
    scores = ((eye_features(pictures) - c["mean"]) / c["sd"]) @ c["weight"] + c["bias"]
    return np.asarray(scores, np.float32)


@lru_cache(maxsize=1)
def _classifier() -> dict[str, NDArray[np.float32]]:
    resource = resources.files("hyperdecode.features") / "data" / "eyeglasses.safetensors"
    return {name: value.astype(np.float32) for name, value in load(resource.read_bytes()).items()}
