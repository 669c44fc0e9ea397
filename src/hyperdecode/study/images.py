"""NIfTI files read once, volume by volume: whole or refused in one line, in memory or left on the disk.

A gzip stream shows only at its end whether it is whole. So each file is read through once before it is used, at most
one volume in memory at a time unless the caller wants the data.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, cast

import nibabel as nib
import numpy as np
from nibabel import imageglobals
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.study.reading import one_line

__all__ = [
    "ImageSpace",
    "check_grid",
    "image_space",
    "iterate_volumes",
    "open_image",
    "read_image",
    "repetition_time",
    "same_grid",
]

ImageSpace = Literal["mni", "talairach", "aligned", "scanner", "other", "unknown"]
"""What a NIfTI says of the space that its voxels are mapped to."""

XFORM_CODES: tuple[ImageSpace, ...] = ("unknown", "scanner", "aligned", "talairach", "mni", "other")
TIME_UNITS = 0x38
"""Bits of the header's ``xyzt_units`` that say the unit of time."""
SECONDS_PER_UNIT = {8: 1.0, 16: 1e-3, 24: 1e-6}
MAX_OFFSET = 256 * 2**20
PIECE = 2**16
DEFLATE_RATIO = 1040
"""Deflate makes at most 1,032 bytes of one: a header that asks for more than the file can hold is refused unread."""
LIKELY_RATIO, ANY_RATIO_BYTES = 128, 2**27
"""What unpacks to more than 128 MiB must not be packed more than 128 times: a mask may be, no series is."""
GRID_TOLERANCE = 1e-3


def image_space(image: Path | Any) -> ImageSpace:
    """Say by a NIfTI's header which space it is in; the data are not read.

    The code of the sform decides where it is above 0, else that of the qform.

    Parameters
    ----------
    image : path or nibabel.Nifti1Image

    Returns
    -------
    str
        ``"mni"`` (code 4), ``"talairach"`` (3), ``"aligned"`` to another image (2), ``"scanner"`` (1), ``"other"``
        template (5), ``"unknown"`` (0, or no code of NIfTI's).
    """
    header = (open_image(image) if isinstance(image, Path) else image).header
    code = int(header["sform_code"]) or int(header["qform_code"])
    return XFORM_CODES[code] if 0 <= code < len(XFORM_CODES) else "unknown"


def repetition_time(image: Any) -> float:
    """Return the repetition time in s that the header of a 4D image states, in whatever unit; 0 or NaN where none."""
    unit = int(image.header["xyzt_units"]) & TIME_UNITS
    return float(image.header.get_zooms()[3]) * SECONDS_PER_UNIT.get(unit, 1.0)


def same_grid(one: Any, other: Any) -> bool:
    """Whether two images have the same three sides and the same affine (to 1 micrometre)."""
    same = np.allclose(one.affine, other.affine, rtol=0, atol=GRID_TOLERANCE)
    return bool(one.shape[:3] == other.shape[:3] and same)


def check_grid(one: Any, path: Path, other: Any, other_path: Path) -> None:
    """Raise a `UserError` that names both files when two images do not lie on one grid."""
    if not same_grid(one, other):
        raise UserError(
            f"{other_path} {tuple(other.shape[:3])} lies on another grid than {path} {tuple(one.shape[:3])}: "
            "give files of one grid (the same space and resolution)"
        )


def read_image(path: Path, n_dimensions: int, *, in_memory: bool = True, blank: bool = False) -> Any:
    """Read a NIfTI through, or say in one line why it cannot be used.

    Parameters
    ----------
    path : pathlib.Path
        ``.nii`` or ``.nii.gz``.
    n_dimensions : int
        3 or 4; a last axis of length 1 counts as absent.
    in_memory : bool
        Return the data in memory. Otherwise a 4D file is read through all the same, a volume at a time, and its data
        stay on the disk (``image.dataobj`` is nibabel's proxy; `iterate_volumes` reads it in order).
    blank : bool
        Take one that is zero everywhere too: a map of what was found may show that nothing was.

    Returns
    -------
    nibabel.Nifti1Image
        Data in memory have the file's own type where it has no scaling and at most 4 bytes, else float32.

    Raises
    ------
    UserError
        When the file is missing, cut off, damaged, not of real numbers, of other dimensions, without a usable affine,
        or zero everywhere and not `blank`.
    """
    image = open_image(path)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != n_dimensions:
        kind = "a 4D series (one volume a repetition)" if n_dimensions == 4 else "one 3D volume"
        raise UserError(f"{path} has shape {shape}, expected {kind}: look for the right file")
    keep = in_memory or n_dimensions == 3
    stacked = _empty((*shape[:3], math.prod(shape[3:])), _type(image), path) if keep else None
    anything = False
    for k, volume in enumerate(_volumes(image, path)):
        anything = anything or bool(np.any(volume, where=np.isfinite(volume)))
        if stacked is not None:
            stacked[..., k] = volume
    if not anything and not blank:
        raise UserError(f"{path} holds nothing but zeros: convert or copy it again")
    if stacked is None:
        return image
    header = image.header.copy()
    header.set_data_dtype(stacked.dtype)
    return type(image)(stacked.reshape(shape), image.affine, header)


def iterate_volumes(path: Path) -> Iterator[NDArray[Any]]:
    """Yield the volumes of a NIfTI one after another, (x, y, z) each, at most one in memory.

    The file is read in one go: indexing the proxy of a ``.nii.gz`` would unpack it from the start for each volume.

    Raises
    ------
    UserError
        As `read_image`; a file that is cut off is found out only at its end.
    """
    yield from _volumes(open_image(path), path)


def open_image(path: Path) -> Any:
    """Open a NIfTI, leave its data on the disk, and check all that its header tells.

    Raises
    ------
    UserError
        When the file is missing, no NIfTI volume, not of real numbers, shorter than its header says, or without a
        usable affine.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no regular file: give a NIfTI (.nii or .nii.gz)")
    try:
        with _quiet():
            image: Any = nib.load(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: for git-annex or DataLad data, get the file's content first"
        ) from error
    except (EOFError, zlib.error, OSError, ImageFileError, HeaderDataError, ValueError, OverflowError) as error:
        raise _damaged(path, error) from error
    except MemoryError as error:
        raise _damaged(path, ValueError("it unpacks to more than any image's header has")) from error
    if not isinstance(image, nib.Nifti1Image):
        raise UserError(f"{path} is a {type(image).__name__}, expected a NIfTI volume (.nii or .nii.gz): convert it")
    shape, dtype, offset = image.shape, image.get_data_dtype(), int(cast(Any, image.dataobj).offset)
    if dtype.kind not in "iufb":
        raise UserError(f"{path} holds {dtype} values, expected real numbers: convert it")
    if len(shape) < 3 or min(shape) < 1:
        raise UserError(f"{path} has shape {shape}, expected a volume or a series of volumes: look for the right file")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError(f"{path} has no usable affine (sform and qform): convert it again")
    size, values = path.stat().st_size, math.prod(shape) * dtype.itemsize
    needed, ratio = offset + values, LIKELY_RATIO if values > ANY_RATIO_BYTES else DEFLATE_RATIO
    if offset > MAX_OFFSET or needed > size * (ratio if _compressed(path) else 1):
        raise _damaged(path, EOFError(f"{size} bytes, its header asks for {needed}"))
    return image


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep nibabel from printing what it mends in a header: what cannot be used is refused here."""
    before = imageglobals.logger.disabled
    imageglobals.logger.disabled = True
    try:
        yield
    finally:
        imageglobals.logger.disabled = before


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path} is truncated or not a NIfTI file ({one_line(error)}): copy it again")


def _compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


@contextmanager
def _stream(path: Path) -> Iterator[IO[bytes]]:
    with gzip.open(path, "rb") if _compressed(path) else path.open("rb") as stream:
        yield cast(IO[bytes], stream)


def _scaling(image: Any) -> tuple[float, float]:
    return float(image.dataobj.slope), float(image.dataobj.inter)


def _type(image: Any) -> np.dtype[Any]:
    dtype = image.get_data_dtype().newbyteorder("=")
    return dtype if _scaling(image) == (1.0, 0.0) and dtype.itemsize <= 4 else np.dtype(np.float32)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    try:
        return np.empty(shape, dtype, order="F")
    except (MemoryError, ValueError) as error:
        raise UserError(f"{path} has shape {shape}, too large for this machine's memory: crop or split it") from error


def _scaled(raw: NDArray[Any], slope: float, inter: float, wanted: np.dtype[Any]) -> NDArray[Any]:
    """Scale in double precision, as nibabel does, and round once; a slice at a time, which is all that needs room."""
    scaled = np.empty(raw.shape, wanted, order="F")
    for k in range(raw.shape[2]):
        scaled[..., k] = raw[..., k].astype(np.float64) * slope + inter
    return scaled


def _volumes(image: Any, path: Path) -> Iterator[NDArray[Any]]:
    shape, stored, wanted = image.shape[:3], image.get_data_dtype(), _type(image)
    n_volumes = math.prod(image.shape[3:])
    slope, inter = _scaling(image)
    n_bytes = math.prod(shape) * stored.itemsize
    try:
        with _stream(path) as stream:
            stream.seek(image.dataobj.offset)
            for k in range(n_volumes):
                data = stream.read(n_bytes)
                if len(data) < n_bytes:
                    raise EOFError(f"it ends in volume {k + 1} of {n_volumes}")
                raw = np.frombuffer(data, stored).reshape(shape, order="F")
                with np.errstate(over="ignore", invalid="ignore"):
                    yield raw.astype(wanted) if (slope, inter) == (1.0, 0.0) else _scaled(raw, slope, inter, wanted)
            # The check sum of a gzip stream is compared only at its end.
            for _ in range(MAX_OFFSET // PIECE):
                if not stream.read(PIECE):
                    break
    except (EOFError, zlib.error, OSError) as error:
        raise _damaged(path, error) from error
