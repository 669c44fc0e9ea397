"""Write raw BIDS: what a scanner, a screen or a simulated subject hands to the analysis."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode import __version__
from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, write_text
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_json, write_table
from hyperdecode.study.planned import events_sidecar
from hyperdecode.study.reading import load_table, one_line
from hyperdecode.study.settings import SimulationSettings

__all__ = [
    "RunFiles",
    "Series",
    "anat_path",
    "bids_image",
    "run_files",
    "run_stem",
    "space_code",
    "write_dataset",
    "write_series",
]

README = """{name}

Faces made by {generator} from known latents (stimuli/), shown to {n} subjects. Raw data as BIDS; what hyperdecode
computes from them lies in derivatives/hyperdecode. {origin}
"""
NOT_BIDS = ("study.toml", "report.html", "table.tsv")
"""Files of a study at the root that BIDS does not know."""


@dataclass(frozen=True)
class RunFiles:
    """Files of one run."""

    events: Path
    sidecar: Path
    bold: Path


@dataclass(frozen=True)
class Series:
    """A 4D series that comes in pieces.

    Attributes
    ----------
    chunks : iterable of ndarray of int16, each (x, y, z, k)
        Volumes in their order.
    shape : tuple of int
        (x, y, z, n_volumes).
    affine : ndarray, (4, 4)
        Voxel to mm.
    t_r : float
        Repetition time in seconds.
    space : str
        NIfTI's code, ``"mni"`` or ``"scanner"``.
    """

    chunks: Iterable[NDArray[np.int16]]
    shape: tuple[int, int, int, int]
    affine: NDArray[np.float64]
    t_r: float
    space: str


def write_dataset(study: Path, config: StudyConfig, origin: str) -> None:
    """Write the files that make the folder a BIDS dataset; existing ones are kept, absent participants added.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    origin : str
        Sentence of the README that says where the data come from.
    """
    description = {
        "Name": config.name,
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "hyperdecode", "Version": __version__}],
    }
    readme = README.format(name=config.name, generator=config.generator, n=len(config.subjects), origin=origin)
    files = {
        "dataset_description.json": json.dumps(description, indent=2) + "\n",
        "README": readme,
        ".bidsignore": "".join(f"{name}\n" for name in NOT_BIDS),
    }
    for name, text in files.items():
        if not (study / name).exists():
            write_text(study / name, text)
    _add_participants(study / "participants.tsv", [f"sub-{label}" for label in config.subjects])


def _add_participants(path: Path, wanted: list[str]) -> None:
    table = pd.DataFrame({"participant_id": wanted})
    if path.exists():
        try:
            found = load_table(path, dtype=str, keep_default_na=False)
        except (ValueError, OSError) as error:
            raise UserError(f"{path} is no table ({one_line(error)}): mend it or move it away") from None
        if "participant_id" not in found:
            raise UserError(f"{path} lacks the column participant_id: mend it or move it away")
        table = table[~table["participant_id"].isin(found["participant_id"])]
        if table.empty:
            return
        table = pd.concat([found, table], ignore_index=True)
    write_table(path, table)


def space_code(made: SimulationSettings) -> Literal["mni", "scanner"]:
    """Return NIfTI's code of the space of simulated BOLD: a head that moves lies nowhere but in its scanner."""
    return "mni" if made.head == "mni" and made.motion == 0 else "scanner"


def run_stem(study: Path, config: StudyConfig, subject: str, run: int) -> Path:
    """Return the path of a run's files up to the suffix."""
    return study / f"sub-{subject}" / "func" / f"sub-{subject}_task-{config.task}_run-{run:02d}"


def run_files(study: Path, config: StudyConfig, subject: str, run: int) -> RunFiles:
    """Return the paths of a run's events, BOLD sidecar and BOLD."""
    stem = run_stem(study, config, subject, run)
    return RunFiles(*(stem.with_name(f"{stem.name}_{e}") for e in ("events.tsv", "bold.json", "bold.nii.gz")))


def anat_path(study: Path, subject: str) -> Path:
    """Return the path of a subject's T1w."""
    return study / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz"


def write_events(path: Path, events: pd.DataFrame) -> None:
    """Write the events of a run, times to their last digit."""
    write_text(path, events.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))


def write_events_sidecar(study: Path, config: StudyConfig) -> None:
    """Write what the columns of all events mean, unless it stands there already."""
    path = study / f"task-{config.task}_events.json"
    if not path.exists():
        write_json(path, events_sidecar())


def write_series(path: Path, series: Series) -> None:
    """Write a 4D NIfTI piece by piece, so that no more than a piece is ever in memory.

    The compressed bytes depend on the values alone (no time stamp).

    Raises
    ------
    UserError
        When the pieces are not of the stated shape.
    """
    header = _header(series)
    with atomic_path(path) as temporary, open(temporary, "wb") as raw:
        # Noise hardly shrinks: more than level 1 costs time and saves a few percent.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as stream:
            stream.write(header.binaryblock + bytes(4))
            n_volumes = 0
            for chunk in series.chunks:
                if chunk.shape[:3] != series.shape[:3] or chunk.dtype != np.int16:
                    raise UserError(f"a piece of {path.name} is {chunk.dtype} {chunk.shape}, not int16 {series.shape}")
                n_volumes += chunk.shape[3]
                stream.write(chunk.tobytes(order="F"))
        if n_volumes != series.shape[3]:
            raise UserError(f"{path.name} was to have {series.shape[3]} volumes and got {n_volumes}")


def _header(series: Series) -> Any:
    image = nib.Nifti1Image(np.empty(series.shape[:3], np.int16), series.affine)
    header = image.header
    header.set_data_dtype("<i2")
    header.set_data_shape(series.shape)
    header.set_zooms((*header.get_zooms()[:3], series.t_r))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(series.affine, code=series.space)
    header.set_qform(series.affine, code=series.space)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    return header


def bids_image(image: Any, space: str) -> Any:
    """Return a NIfTI in mm with the code of the space that it lies in, and times of day left out."""
    named = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine)
    named.header.set_xyzt_units("mm", "sec")
    named.set_sform(image.affine, code=space)
    named.set_qform(image.affine, code=space)
    return named
