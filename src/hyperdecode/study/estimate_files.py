"""Files of single-trial estimates, read without running anything that is in them: plain arrays, GLMsingle's output.

GLMsingle (Python) keeps a dictionary of arrays by ``np.save``, which is a pickle. It is read by this package's inert
pickle machine: only the names of NumPy's arrays may stand in it. With ``wanthdf5`` it keeps HDF5, which is read by this
package's own small reader. MATLAB's ``.mat`` is compressed HDF5 and is not read.

Source of the layout: Prince et al. 2022, *Improving the accuracy of single-trial fMRI response estimates using
GLMsingle*, eLife; ``betasmd`` is (x, y, z, trials), in percent signal change, trials in the order of time.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.study.reading import one_line
from hyperdecode.weights.hdf5 import HDF5File
from hyperdecode.weights.limits import read_bytes, shown
from hyperdecode.weights.pickled_values import NUMPY_SYMBOLS, array_of, is_array
from hyperdecode.weights.pickles import read_pickle

__all__ = ["GLMSINGLE", "MAX_VALUES_BYTES", "Kind", "check_size", "kind_of", "read_array", "read_glmsingle"]

Kind = Literal["z", "beta"]

GLMSINGLE = ("TYPED_FITHRF_GLMDENOISE_RR", "TYPEC_FITHRF_GLMDENOISE", "TYPEB_FITHRF")
"""GLMsingle's models of single trials, the best one first."""
BETAS = "betasmd"
MAX_VALUES_BYTES = 16 * 2**30
ROWS = 256
"""Rows that are checked together."""
NAMES: dict[str, Kind | None] = {"z": "z", "beta": "beta", "betas": "beta", "values": None}
"""Tensors of a safetensors file that hold the estimates, and the kind that the name says."""
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("z", "zmap", "zmaps", "zstat", "zstats", "zscore", "zscores"), "z"),
    **dict.fromkeys(("beta", "betas", "effect", "betamap", "betamaps"), "beta"),
}
"""Words of a file name -> what the file holds."""


def kind_of(path: Path) -> Kind:
    """Tell z-values from betas by the name: ``stat-z`` or ``_zmaps``, ``stat-beta``, ``stat-effect`` or ``_betas``.

    Raises
    ------
    UserError
        When the name says neither, or both.
    """
    parts = path.name.partition(".")[0].lower().split("_")
    words = [part.removeprefix("stat-") for part in parts if "-" not in part or part.startswith("stat-")]
    found = {KINDS[word] for word in words if word in KINDS}
    if len(found) != 1:
        raise UserError(
            f"{path} does not say by its name whether it holds z-values or betas: put stat-z or stat-beta into it"
        )
    return found.pop()


def check_size(shape: tuple[int, ...], path: Path) -> None:
    """Raise a `UserError` when float32 values of a shape would not fit the limit of 16 GiB."""
    if 4 * math.prod(shape) > MAX_VALUES_BYTES:
        raise UserError(
            f"{path}: estimates of shape {shape} take more than {MAX_VALUES_BYTES // 2**30} GiB: mask them first"
        )


def read_array(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64] | None, Kind]:
    """Read trials x voxels from ``.npy`` (a plain array) or ``.safetensors``.

    Parameters
    ----------
    path : pathlib.Path
        Of a safetensors file the tensor ``z``, ``beta``, ``betas`` or ``values``, else its only one; ``voxels``, where
        it has that, gives the flat indices of the columns.

    Returns
    -------
    values : ndarray, (n_trials, n_voxels)
        float32, finite; a ``.npy`` of that type is mapped to memory, not read.
    voxels : ndarray, (n_voxels,), or None
    kind : str

    Raises
    ------
    UserError
        When the file is damaged, holds pickled objects, other than one matrix of real numbers, or NaN.
    """
    if not path.is_file():
        raise UserError(f"{path} is no regular file: for git-annex or DataLad data, get the file's content first")
    voxels: NDArray[Any] | None = None
    said: Kind | None = None
    if path.suffix == ".npy":
        values = _plain_npy(path)
    else:
        values, voxels, said = _safetensors(path)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise UserError(
            f"{path} holds {values.dtype} values of shape {values.shape}, expected real numbers, trials x voxels"
        )
    check_size(values.shape, path)
    matrix = values
    if values.dtype != np.float32 or not values.flags.c_contiguous:  # else a large file stays on the disk
        with np.errstate(over="ignore", invalid="ignore"):
            matrix = np.ascontiguousarray(values, dtype=np.float32)
    for first in range(0, len(matrix), ROWS):
        bad = ~np.isfinite(matrix[first : first + ROWS])
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise UserError(
                f"{path}: row {first + row + 1}, column {column + 1} is no finite number: leave out voxels without a "
                "value"
            )
    if voxels is not None and (voxels.dtype.kind not in "iu" or voxels.shape != matrix.shape[1:]):
        raise UserError(
            f"{path}: voxels is {voxels.dtype} of shape {voxels.shape}, expected one integer for each of the "
            f"{matrix.shape[1]} columns"
        )
    return matrix, None if voxels is None else voxels.astype(np.int64), said or kind_of(path)


def read_glmsingle(path: Path) -> NDArray[np.generic]:
    """Read ``betasmd`` from a file of GLMsingle.

    Parameters
    ----------
    path : pathlib.Path
        ``.npy`` or ``.hdf5`` of one of `GLMSINGLE`.

    Returns
    -------
    ndarray, (x, y, z, n_trials) or (n_voxels, n_trials)
        Percent signal change; NaN where a voxel has no signal.

    Raises
    ------
    UserError
        When the file is MATLAB's, damaged, names anything but NumPy's arrays, or has no such ``betasmd``.
    """
    if path.suffix == ".mat":
        raise UserError(
            f"{path} is MATLAB's compressed HDF5, which is not read: save {BETAS} with niftiwrite, its trials in a "
            "table of the same name, both with stat-beta in the name"
        )
    try:
        betas = _pickled_betas(path) if path.suffix == ".npy" else _hdf5_betas(path)
    except WeightFileError as error:
        raise UserError(
            f"{path} cannot be used as GLMsingle's output ({one_line(error, 240)}): save its {BETAS} as a plain array, "
            'np.save("sub-01_stat-beta_trials.npy", betas), trials x voxels'
        ) from error
    if betas.ndim not in (2, 4) or 0 in betas.shape or betas.dtype.kind not in "fiu":
        raise UserError(f"{path}: {BETAS} has shape {betas.shape}, expected (x, y, z, trials) of real numbers")
    check_size(betas.shape, path)
    return betas


def _npy_header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except (OSError, ValueError, SyntaxError, TokenError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(f"{path} is no NumPy file ({one_line(error)}): save it anew with np.save") from error
    return shape, dtype


def _plain_npy(path: Path) -> NDArray[Any]:
    with path.open("rb") as stream:
        shape, dtype = _npy_header(stream, path)
        missing = math.prod(shape) * dtype.itemsize + stream.tell() - path.stat().st_size
    if dtype.hasobject:
        raise UserError(
            f"{path} holds pickled Python objects, which are not loaded: save one plain array, trials x voxels, by "
            "np.save"
        )
    if missing > 0:
        raise UserError(f"{path} is cut off: {missing} bytes of shape {shape} are missing, copy it again")
    if 0 in shape:
        return np.empty(shape, dtype)
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, OverflowError, TypeError) as error:
        raise UserError(f"{path} is no NumPy file ({one_line(error)}): save it anew with np.save") from error
    return found


def _safetensors(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None, Kind | None]:
    try:
        with safe_open(path, framework="np") as file:
            keys = list(file.keys())
            others = [key for key in keys if key != "voxels"]
            named = [key for key in others if key in NAMES] or others
            if len(named) != 1:
                raise UserError(
                    f"{path} holds the tensors {shown(', '.join(keys))}: expected one of {', '.join(NAMES)}, and "
                    "voxels where there are any"
                )
            voxels = file.get_tensor("voxels") if "voxels" in keys else None
            return file.get_tensor(named[0]), voxels, NAMES.get(named[0])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not readable as safetensors ({one_line(error)}): save it anew") from error


def _pickled_betas(path: Path) -> NDArray[np.generic]:
    data = read_bytes(path)
    stream = io.BytesIO(data)
    shape, dtype = _npy_header(stream, path)
    if not dtype.hasobject or shape != ():
        raise WeightFileError(f"it holds an array of {dtype}, not a dictionary")
    root = read_pickle(stream, NUMPY_SYMBOLS, path.name, "dictionary of NumPy arrays")
    # np.save packs the dictionary into an array without dimensions; its one value is the dictionary.
    state = root.state if is_array(root) else None
    packed = state[4] if isinstance(state, tuple) and len(state) == 5 else None
    content = packed[0] if isinstance(packed, list) and len(packed) == 1 else None
    if not isinstance(content, dict) or not is_array(content.get(BETAS)):
        raise WeightFileError(f"it holds no dictionary with the array {BETAS}")
    return array_of(content[BETAS], path.name, BETAS)


def _hdf5_betas(path: Path) -> NDArray[np.generic]:
    file = HDF5File(read_bytes(path), path.name)
    address = file.child(file.root, BETAS)
    if address is None:
        raise WeightFileError(f"it holds no dataset {BETAS}")
    return file.array(address, BETAS)
