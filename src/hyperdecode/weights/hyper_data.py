"""Read the HYPER authors' data files, ``data_1.dat``: responses of voxels and latents of the faces shown."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.limits import TensorTable, read_bytes
from hyperdecode.weights.pickled_values import NUMPY_SYMBOLS, array_of, is_array
from hyperdecode.weights.pickles import read_pickle

__all__ = ["HyperData", "read_hyper_data"]

KIND = "pickle of NumPy arrays"
PARTS = ("x_train", "t_train", "x_test", "t_test")
MAX_ROWS = 100_000


@dataclass(frozen=True)
class HyperData:
    """One subject: responses x and latents t, a row a face.

    Attributes
    ----------
    x_train, x_test : ndarray, (faces, voxels)
        float32 z-values of the voxels.
    t_train, t_test : ndarray, (faces, latent_dim)
        float32 latents z of the faces.
    """

    x_train: NDArray[np.float32]
    t_train: NDArray[np.float32]
    x_test: NDArray[np.float32]
    t_test: NDArray[np.float32]


def read_hyper_data(path: str | os.PathLike[str]) -> HyperData:
    """Read a pickled (X_train, T_train, X_test, T_test), each an array or a list of arrays of one row.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    HyperData

    Raises
    ------
    WeightFileError
        When the file is damaged, holds anything else, NaN or infinite values, or its shapes do not fit together.
    """
    source, data = Path(path).name, read_bytes(path)
    root = read_pickle(io.BytesIO(data), NUMPY_SYMBOLS, source, KIND)
    if not isinstance(root, tuple | list) or len(root) != len(PARTS):
        raise WeightFileError(f"{source}: holds no four parts (X_train, T_train, X_test, T_test)")
    table = TensorTable(source, len(data))
    for name, part in zip(PARTS, root, strict=True):
        table.add(name, _matrix(part, name, source))
    found = HyperData(**table.tensors)
    for x, t in ((found.x_train, found.t_train), (found.x_test, found.t_test)):
        if len(x) != len(t):
            raise WeightFileError(f"{source}: responses to {len(x)} faces and latents of {len(t)}")
    if found.x_train.shape[1] != found.x_test.shape[1] or found.t_train.shape[1] != found.t_test.shape[1]:
        raise WeightFileError(f"{source}: training and test rows differ in their length")
    return found


def _matrix(part: Any, name: str, source: str) -> NDArray[np.generic]:
    """Stack the rows of one part."""
    if is_array(part):
        matrix = array_of(part, source, name)
    else:
        if not isinstance(part, tuple | list) or not 0 < len(part) <= MAX_ROWS:
            raise WeightFileError(f"{source}: {name} is neither an array nor a list of arrays")
        rows = [np.atleast_1d(array_of(row, source, f"a row of {name}").squeeze()) for row in part]
        if len({row.shape for row in rows}) != 1:
            raise WeightFileError(f"{source}: the rows of {name} differ in their length")
        matrix = np.stack(rows)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise WeightFileError(f"{source}: {name} has shape {matrix.shape}, expected (faces, values)")
    return matrix
