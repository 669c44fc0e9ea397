"""Transforms on disk, for a run that goes on and for other programs: matrices and displacement fields.

All of them map points from where a value is wanted to where it is taken. In BIDS names that is ``from-T1w_to-boldref``
with ``mode-points``: the same numbers bring an *image* of the boldref onto the T1w, ``from-boldref_to-T1w`` with
``mode-image``.

- Matrices: JSON, (n, 4, 4) in RAS+ mm, to the last bit; one matrix for a registration, one a volume for motion.
- A warp: NIfTI of float32, (x, y, z, 3), displacement in RAS+ mm at each voxel.
- For ITK and ANTs, in whose LPS+ mm x and y have the other sign: `write_itk_matrix` and `write_itk_warp`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, write_text
from hyperdecode.study.images import iterate_volumes, open_image
from hyperdecode.study.reading import load_json

__all__ = [
    "read_matrices",
    "read_warp",
    "write_itk_matrix",
    "write_itk_warp",
    "write_matrices",
    "write_warp",
]

FloatArray = NDArray[np.float64]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
POINTS = "Each matrix maps a point, in RAS+ mm, from where a value is wanted to where it is taken."
RIGID_TOLERANCE = 1e-6
LARGEST_MM = 2000.0
"""No shift of a head is longer: beyond, a file was damaged or is in other units."""
LARGEST_WARP_MM = 200.0
LARGEST_FILE = 1 << 30
"""Bytes. A warp at 1 mm on the largest template has 110 million, the motion of a run one."""
LARGEST_VOXELS = 50_000_000


def write_matrices(path: Path, matrices: ArrayLike) -> Path:
    """Write matrices, (n, 4, 4) or one (4, 4), as JSON, to the last bit.

    Raises
    ------
    UserError
        When they are not affine matrices in mm.
    """
    checked = _checked(np.asarray(matrices, dtype=np.float64), str(path), rigid=False)
    return write_text(path, json.dumps({"Points": POINTS, "Units": "mm", "Matrices": checked.tolist()}) + "\n")


def read_matrices(path: Path, *, rigid: bool = False) -> FloatArray:
    """Read what `write_matrices` wrote, (n, 4, 4).

    Parameters
    ----------
    path : pathlib.Path
    rigid : bool
        Refuse anything but rotations and shifts, as motion is.

    Raises
    ------
    UserError
        When the file is missing, is no such JSON, or holds no matrices of that kind.
    """
    try:
        values = np.asarray(load_json(path, LARGEST_FILE)["Matrices"], dtype=np.float64)
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is no readable file of matrices: {_again(path)}") from error
    return _checked(values, str(path), rigid=rigid)


def write_warp(path: Path, warp: NDArray[np.floating], affine: ArrayLike) -> Path:
    """Write a displacement field, (x, y, z, 3) in mm, as a NIfTI of float32 with the NIfTI intent of vectors.

    Parameters
    ----------
    path : pathlib.Path
        ``*.nii`` or ``*.nii.gz``.
    warp : ndarray, shape (x, y, z, 3)
    affine : array-like, shape (4, 4)
        Voxel of the field to mm.

    Raises
    ------
    UserError
        When the field has another shape, is not finite, or moves farther than a head is wide.
    """
    values, matrix = np.asarray(warp, dtype=np.float32), np.asarray(affine, dtype=np.float64)
    _check_warp(values.shape, str(path))
    _check_field(values, matrix, str(path))
    _save(path, values, matrix)
    return path


def read_warp(path: Path) -> tuple[NDArray[np.float32], FloatArray]:
    """Read what `write_warp` wrote: displacement, (x, y, z, 3), and affine, (4, 4).

    Raises
    ------
    UserError
        When the file is missing, damaged, larger than any warp, or no displacement field in mm.
    """
    try:
        image: Any = open_image(path)
    except UserError as error:
        raise UserError(f"{path} is no readable displacement field: {_again(path)}") from error
    _check_warp(image.shape, str(path))
    try:
        values = np.stack(list(iterate_volumes(path)), axis=-1).astype(np.float32)
    except UserError as error:
        raise UserError(f"{path} is no readable displacement field: {_again(path)}") from error
    affine = np.asarray(image.affine, dtype=np.float64)
    _check_field(values, affine, str(path))
    return values, affine


def write_itk_matrix(path: Path, matrix: ArrayLike) -> Path:
    """Write one matrix as ITK's text (``.txt``, ``AffineTransform_double_3_3``), in LPS+ mm.

    ITK's transforms map points as ours do, so ANTs takes the file without ``invert``.

    Raises
    ------
    UserError
        As `write_matrices`.
    """
    turned = LPS @ _checked(np.asarray(matrix, dtype=np.float64), str(path), rigid=False)[0] @ LPS
    numbers = [*turned[:3, :3].ravel(), *turned[:3, 3]]
    lines = (
        "#Insight Transform File V1.0",
        "#Transform 0",
        "Transform: AffineTransform_double_3_3",
        f"Parameters: {' '.join(repr(float(number)) for number in numbers)}",
        "FixedParameters: 0 0 0",
    )
    return write_text(path, "\n".join(lines) + "\n")


def write_itk_warp(path: Path, warp: NDArray[np.floating], affine: ArrayLike) -> Path:
    """Write a displacement field as ITK and ANTs read it: NIfTI (x, y, z, 1, 3), vectors in LPS+ mm.

    Raises
    ------
    UserError
        As `write_warp`.
    """
    values, matrix = np.asarray(warp, dtype=np.float32), np.asarray(affine, dtype=np.float64)
    _check_warp(values.shape, str(path))
    _check_field(values, matrix, str(path))
    _save(path, (values * np.array([-1, -1, 1], np.float32))[:, :, :, None, :], matrix)
    return path


def _save(path: Path, values: NDArray[np.float32], affine: FloatArray) -> None:
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent("vector")
    image.set_sform(affine, code="aligned")
    image.set_qform(affine, code="aligned")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def _checked(matrices: FloatArray, where: str, *, rigid: bool) -> FloatArray:
    """Return matrices (n, 4, 4) that map mm to mm."""
    if matrices.ndim == 2:
        matrices = matrices[None]
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4) or not len(matrices):
        raise UserError(f"{where}: expected matrices of shape (n, 4, 4), got {matrices.shape}: estimate them again")
    linear, moved = matrices[:, :3, :3], matrices[:, :3, 3]
    if not np.isfinite(matrices).all() or not (matrices[:, 3] == [0, 0, 0, 1]).all():
        raise UserError(f"{where}: expected finite matrices with last row 0 0 0 1: estimate them again")
    if np.abs(moved).max() > LARGEST_MM or not (np.abs(np.linalg.det(linear)) > 1e-3).all():
        raise UserError(
            f"{where}: expected invertible matrices that move by less than {LARGEST_MM:g} mm: estimate them again"
        )
    if rigid:
        off = np.abs(np.swapaxes(linear, 1, 2) @ linear - np.eye(3)).max()
        if off > RIGID_TOLERANCE or (np.linalg.det(linear) < 0).any():
            raise UserError(f"{where}: expected rotations and shifts alone, off by {off:.1g}: estimate them again")
    return matrices


def _check_warp(shape: tuple[int, ...], where: str) -> None:
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1 or int(np.prod(shape[:3])) > LARGEST_VOXELS:
        raise UserError(f"{where}: expected a displacement field of shape (x, y, z, 3), got {shape}: estimate it again")


def _check_field(values: NDArray[np.float32], affine: FloatArray, where: str) -> None:
    _checked(affine, f"{where}, its affine", rigid=False)
    largest = float(np.abs(values).max())
    if not largest <= LARGEST_WARP_MM:  # also when it is NaN
        raise UserError(
            f"{where}: expected finite displacements up to {LARGEST_WARP_MM:g} mm, got {largest:g}: estimate it again"
        )


def _again(path: Path) -> str:
    return "remove it to have it estimated again" if path.exists() else "it does not exist, estimate it first"
