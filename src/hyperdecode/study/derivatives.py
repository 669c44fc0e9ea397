"""A BIDS derivatives folder: names, the data set's description, and records that say what is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

import hyperdecode
from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, write_text

__all__ = ["Derivatives", "write_image", "write_json", "write_table"]

MARKER = "dataset_description.json"


class Derivatives:
    """The folder that outputs go to.

    Parameters
    ----------
    root : path-like
        Made by `prepare` when missing.
    source : path-like
        The raw data set.
    """

    def __init__(self, root: str | os.PathLike[str], source: str | os.PathLike[str]) -> None:
        self.root, self.source = Path(root), Path(source)

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
                write_json(marker, _description(self.source))
            elif not os.access(self.root, os.W_OK):
                raise PermissionError
        except OSError as error:
            reason = error.strerror or "no permission"
            raise UserError(f"cannot write to {self.root} ({reason}): give OUT, a folder you may write to") from error

    def path(self, subject: str, session: str | None, name: str) -> Path:
        """Return the path of an output of a subject's functional run."""
        folder = self.root / f"sub-{subject}"
        return (folder / f"ses-{session}" if session else folder) / "func" / name

    @staticmethod
    def up_to_date(record: Path, settings: Mapping[str, Any], outputs: Iterable[Path], force: bool) -> bool:
        """Say whether a step's outputs stand already, made from the same inputs with the same settings.

        A step writes its record with ``complete: false`` before its outputs and with ``true`` after them, so one
        that was interrupted is done again.

        Raises
        ------
        UserError
            When outputs stand there that were made otherwise, and `force` is false.
        """
        files = list(outputs)
        if force:
            return False
        if not record.exists():
            there = [path for path in files if path.exists()]
            if there:
                raise UserError(
                    f"{there[0]} exists and no record says how it was made: use --force or give another OUT"
                )
            return False
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{record} is not a readable record: use --force or give another OUT") from error
        if content.get("settings") != json.loads(json.dumps(settings)):
            was = content.get("settings", {})
            changed = sorted(k for k in {*was, *settings} if was.get(k) != json.loads(json.dumps(settings.get(k))))
            raise UserError(f"{record} was made with other {', '.join(changed)}: use --force or give another OUT")
        return bool(content.get("complete")) and all(path.exists() for path in files)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, indented."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a BIDS table: tab-separated, n/a for missing."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep="n/a", float_format="%.6g")


def write_image(path: Path, values: np.ndarray[Any, Any], affine: Any, t_r: float | None = None) -> Any:
    """Write a NIfTI in mm and s with the MNI code, and return the image."""
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
    if t_r is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
    return image


def _ours(marker: Path) -> bool:
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        return any(tool.get("Name") == "hyperdecode" for tool in content.get("GeneratedBy", []))
    except (OSError, ValueError, AttributeError):
        return False


def _description(source: Path) -> dict[str, Any]:
    try:
        name = json.loads((source / MARKER).read_text(encoding="utf-8")).get("Name", source.name)
    except (OSError, ValueError):
        name = source.name
    return {
        "Name": f"hyperdecode: {name}",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "hyperdecode", "Version": hyperdecode.__version__}],
    }
