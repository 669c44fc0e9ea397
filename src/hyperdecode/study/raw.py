"""Write raw BIDS: what a scanner, or a simulated subject, hands to the analysis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd

from hyperdecode import __version__
from hyperdecode.files import atomic_path, write_text
from hyperdecode.study.config import StudyConfig

__all__ = ["run_files", "run_stem", "write_dataset", "write_run"]

README = """{name}

Faces made by {generator} from known latents (stimuli/), shown to {n} subjects. Raw data as BIDS; what hyperdecode
computes from them lies in derivatives/hyperdecode. {origin}
"""


def write_dataset(study: Path, config: StudyConfig, origin: str) -> None:
    """Write the files that make the folder a BIDS dataset (existing ones are kept)."""
    description = {
        "Name": config.name,
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "hyperdecode", "Version": __version__}],
    }
    people = pd.DataFrame({"participant_id": [f"sub-{label}" for label in config.subjects]})
    readme = README.format(name=config.name, generator=config.generator, n=len(config.subjects), origin=origin)
    files = {
        "dataset_description.json": json.dumps(description, indent=2) + "\n",
        "participants.tsv": people.to_csv(sep="\t", index=False),
        "README": readme,
    }
    for name, text in files.items():
        if not (study / name).exists():
            write_text(study / name, text)


def run_stem(study: Path, config: StudyConfig, subject: str, run: int) -> Path:
    """Path of a run's files up to the suffix."""
    return study / f"sub-{subject}" / "func" / f"sub-{subject}_task-{config.task}_run-{run:02d}"


def run_files(stem: Path) -> tuple[Path, Path, Path]:
    """Events, sidecar and BOLD of a run."""
    events, sidecar, bold = (
        stem.with_name(stem.name + suffix) for suffix in ("_events.tsv", "_bold.json", "_bold.nii.gz")
    )
    return events, sidecar, bold


def write_run(stem: Path, bold: nib.Nifti1Image, events: pd.DataFrame, sidecar: dict[str, Any]) -> tuple[Path, ...]:
    """Write the BOLD, events and sidecar of one run and return their paths.

    The BOLD comes last, so a run whose BOLD exists is complete.
    """
    paths = run_files(stem)
    write_text(paths[0], events.to_csv(sep="\t", index=False))
    write_text(paths[1], json.dumps(sidecar, indent=2) + "\n")
    with atomic_path(paths[2]) as temporary:
        nib.save(bold, temporary)
    return paths
