"""Images as arrays with a voxel-to-mm matrix, and the few things done to matrices and points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hyperdecode.errors import UserError

__all__ = ["Volume", "apply_affine", "carry", "downsample", "grid_points", "inverse", "read_volume", "shift"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Volume:
    """A 3D image.

    Attributes
    ----------
    values : ndarray of float32, shape (x, y, z)
    affine : ndarray of float64, shape (4, 4)
        Voxel to mm.
    """

    values: NDArray[np.float32]
    affine: FloatArray

    def masked(self, inside: NDArray[np.bool_]) -> Volume:
        """Return the image with 0 outside a mask, and its brightest hundredth inside levelled."""
        levelled = np.minimum(self.values, np.percentile(self.values[inside], 99))
        return Volume(np.where(inside, levelled, 0).astype(np.float32), self.affine)

    def centre(self, inside: NDArray[np.bool_]) -> FloatArray:
        """Return the centre of a mask in mm, (3,)."""
        centre: FloatArray = apply_affine(self.affine, np.asarray(ndimage.center_of_mass(inside))[None])[0]
        return centre


def read_volume(image: Any, what: str) -> Volume:
    """Return a nibabel image's values with axes turned to point right, front and up, as nearly as they can.

    So a flipped image gives the same answer to the last bit.

    Parameters
    ----------
    image : nibabel spatial image, 3D
        Or 4D with one volume.
    what : str
        What to call it in an error.

    Raises
    ------
    UserError
        When the image is not 3D or is empty.
    """
    values = np.asarray(image.dataobj, dtype=np.float32)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise UserError(f"{what} must be a 3D image, got shape {values.shape}: average or pick one volume")
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if not values.any():
        raise UserError(f"{what} is all zeros: look for the right file")
    turned = nib.as_closest_canonical(nib.Nifti1Image(values, np.asarray(image.affine, dtype=np.float64)))
    return Volume(np.ascontiguousarray(turned.dataobj, dtype=np.float32), np.asarray(turned.affine, dtype=np.float64))


def apply_affine(affine: ArrayLike, points: ArrayLike) -> FloatArray:
    """Return ``A p + b`` for each row p of `points` (n, 3)."""
    matrix = np.asarray(affine, dtype=np.float64)
    moved: FloatArray = np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def grid_points(shape: tuple[int, ...], affine: ArrayLike) -> FloatArray:
    """Return the mm position of every voxel of a grid, (n_voxels, 3), C order."""
    index = np.indices(shape[:3]).reshape(3, -1).T
    return apply_affine(affine, index)


def inverse(matrix: ArrayLike) -> FloatArray:
    """Return the inverse of a (4, 4) matrix."""
    return np.asarray(np.linalg.inv(np.asarray(matrix, dtype=np.float64)), dtype=np.float64)


def shift(vector: ArrayLike) -> FloatArray:
    """Return the (4, 4) matrix of a translation."""
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


def downsample(volume: Volume, millimetres: float) -> Volume:
    """Smooth and resample a finer grid to about `millimetres`, same axes."""
    size = np.linalg.norm(volume.affine[:3, :3], axis=0)
    step = np.maximum(millimetres / size, 1.0)
    smooth = ndimage.gaussian_filter(volume.values, 0.35 * (step - 1.0))
    shape = np.floor((np.asarray(smooth.shape) - 1) / step).astype(int) + 1
    small = ndimage.affine_transform(smooth, np.diag(step), output_shape=tuple(shape), order=1)
    return Volume(small.astype(np.float32), volume.affine @ np.diag([*step, 1.0]))


def carry(
    values: NDArray[Any], affine: ArrayLike, from_there: ArrayLike, shape: tuple[int, ...], there: ArrayLike
) -> NDArray[np.float32]:
    """Resample values, linearly, onto another grid through ``from_there`` (mm of that grid to mm of this one)."""
    matrix = inverse(affine) @ np.asarray(from_there) @ np.asarray(there)
    moved = ndimage.affine_transform(
        values.astype(np.float32), matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=1
    )
    return np.asarray(moved, dtype=np.float32)
