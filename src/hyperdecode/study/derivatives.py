"""A BIDS derivatives folder: its description, and what writes its JSON, tables and images."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import hyperdecode
from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, write_text
from hyperdecode.study.reading import load_json

__all__ = ["Derivatives", "write_image", "write_json", "write_table", "write_volumes"]

MARKER = "dataset_description.json"


class Derivatives:
    """The folder that outputs go to.

    Parameters
    ----------
    root : path-like
        Made by `prepare` when missing.
    source : path-like
        The raw data set.
    name : str
        What it is called where it has no description of its own; by default as its folder.
    """

    def __init__(self, root: str | os.PathLike[str], source: str | os.PathLike[str], name: str = "") -> None:
        self.root, self.source = Path(root), Path(source)
        self.name = name or self.source.name

    def prepare(self) -> None:
        """Make the folder and its description, before the first output.

        Raises
        ------
        UserError
            When the folder cannot be written to, or is a data set that this package did not write.
        """
        marker = self.root / MARKER
        if marker.exists() and not _ours(marker):
            raise UserError(f"{self.root} is another data set, not this package's output: give another folder as OUT")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                write_json(marker, _description(self.source, self.name))
            elif not os.access(self.root, os.W_OK):
                raise PermissionError
        except OSError as error:
            reason = error.strerror or "no permission"
            raise UserError(f"cannot write to {self.root} ({reason}): give OUT, a folder you may write to") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, indented."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a BIDS table: tab-separated, n/a for missing."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep="n/a", float_format="%.6g")


def write_image(
    path: Path, values: np.ndarray[Any, Any], affine: Any, t_r: float | None = None, space: str = "mni"
) -> Any:
    """Write a NIfTI in mm and s with NIfTI's code of its space (``"mni"``, ``"scanner"``), and return the image."""
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=space)
    image.set_qform(affine, code=space)
    if t_r is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
    return image


def write_volumes(
    path: Path, volumes: Iterable[NDArray[np.float32]], shape: tuple[int, int, int, int], affine: Any, space: str
) -> None:
    """Write a ``.nii.gz`` of float32 as `write_image` does, to the byte, with one volume in memory at a time.

    Raises
    ------
    ValueError
        When the volumes are not those of `shape`.
    """
    n_volumes = 0
    with atomic_path(path) as temporary, open(temporary, "wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as stream:
            stream.write(_header(shape, affine, space))
            for volume in volumes:
                if volume.shape != shape[:3] or volume.dtype != np.float32:
                    raise ValueError(f"a volume is {volume.dtype} {volume.shape}, not float32 {shape[:3]}")
                n_volumes += 1
                stream.write(volume.tobytes(order="F"))
        if n_volumes != shape[3]:
            raise ValueError(f"{n_volumes} volumes came, {shape[3]} were to come")


def _header(shape: tuple[int, int, int, int], affine: Any, space: str) -> bytes:
    """Return the header that nibabel writes for float32, and the four bytes that say that nothing follows it."""
    image = nib.Nifti1Image(np.broadcast_to(np.float32(0), shape), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=space)
    image.set_qform(affine, code=space)
    image.header["magic"] = b"n+1"
    image.header["vox_offset"] = 352
    image.header.set_slope_inter(1, 0)
    return bytes(image.header.binaryblock) + bytes(4)


def _ours(marker: Path) -> bool:
    try:
        tools = load_json(marker)["GeneratedBy"]
        return any(tool["Name"] == "hyperdecode" for tool in tools)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _description(source: Path, otherwise: str) -> dict[str, Any]:
    try:
        name = load_json(source / MARKER)["Name"]
    except (OSError, ValueError, LookupError, TypeError):
        name = None
    return {
        "Name": f"hyperdecode: {name if isinstance(name, str) else otherwise}",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "hyperdecode", "Version": hyperdecode.__version__}],
    }
