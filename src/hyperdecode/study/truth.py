"""What a simulated subject was made of, written beside the raw data: `derivatives/simulation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hyperdecode import __version__
from hyperdecode.files import atomic_path
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_json, write_table

__all__ = ["Truth"]

MOVED = (
    "of the head from where it lay at the first volume: a point p goes to R (p - c) + c + t, in the mm of the BOLD, "
    "with c the RotationCentre and R turning about x first, then y, then z."
)
MOTION = {
    f"{kind}_{axis}": {"Description": f"{word} {preposition} {axis} {MOVED}", "Units": unit}
    for kind, word, preposition, unit in (("trans", "Translation", "along", "mm"), ("rot", "Rotation", "about", "rad"))
    for axis in "xyz"
}
"""Columns of planted motion and what they mean."""


@dataclass(frozen=True)
class Truth:
    """Files that say what was planted in one simulated subject.

    The analysis never reads them.

    Attributes
    ----------
    study : pathlib.Path
    config : StudyConfig
    subject : str
        Label.
    """

    study: Path
    config: StudyConfig
    subject: str

    @property
    def root(self) -> Path:
        """The derivatives folder of all simulated subjects."""
        return self.study / "derivatives" / "simulation"

    def volume(self, name: str) -> Path:
        """Return the path of a truth volume on the BOLD's grid."""
        return self._folder / "func" / f"sub-{self.subject}_task-{self.config.task}_desc-{name}.nii.gz"

    @property
    def warp(self) -> Path:
        """MNI position, in mm, of each voxel of the BOLD's grid, (x, y, z, 3)."""
        return self._folder / "func" / f"sub-{self.subject}_task-{self.config.task}_desc-mniposition_map.nii.gz"

    @property
    def responses(self) -> Path:
        """Planted amplitudes and tuning of the voxels that respond, as tensors."""
        return self._folder / "func" / f"sub-{self.subject}_task-{self.config.task}_desc-planted_responses.safetensors"

    @property
    def settings(self) -> Path:
        """Settings of the simulation, names of layers and regions."""
        return self._folder / "func" / f"sub-{self.subject}_task-{self.config.task}_desc-planted_simulation.json"

    def motion(self, run: int) -> Path:
        """Return the path of a run's planted motion, one row a volume."""
        stem = f"sub-{self.subject}_task-{self.config.task}_run-{run:02d}"
        return self._folder / "func" / f"{stem}_desc-planted_motion.tsv"

    def motion_sidecar(self, run: int) -> Path:
        """Return the path of what the columns of `motion` mean and of the point about which the head turned."""
        return self.motion(run).with_suffix(".json")

    def trials(self, run: int) -> Path:
        """Return the path of a run's trials: the stimulus shown and the one that the voxels responded to."""
        stem = f"sub-{self.subject}_task-{self.config.task}_run-{run:02d}"
        return self._folder / "func" / f"{stem}_desc-planted_trials.tsv"

    @property
    def _folder(self) -> Path:
        return self.root / f"sub-{self.subject}"

    def prepare(self) -> None:
        """Write the description of the data set."""
        path = self.root / "dataset_description.json"
        if not path.exists():
            write_json(
                path,
                {
                    "Name": f"What was planted in the simulated subjects of {self.config.name}",
                    "BIDSVersion": "1.10.0",
                    "DatasetType": "derivative",
                    "GeneratedBy": [{"Name": "hyperdecode", "Version": __version__, "Description": "simulate"}],
                },
            )

    def write_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Write `responses`."""
        with atomic_path(self.responses) as temporary:
            save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, temporary)

    def write_motion(self, run: int, parameters: NDArray[np.float64], centre: NDArray[np.float64]) -> None:
        """Write translations (mm) and rotations (rad) of each volume, and beside them the centre of rotation (mm)."""
        write_table(self.motion(run), pd.DataFrame(parameters, columns=list(MOTION)))
        write_json(self.motion_sidecar(run), {"RotationCentre": centre.tolist(), "RotationCentreUnits": "mm", **MOTION})

    def write_trials(self, run: int, events: pd.DataFrame, evoked: list[str]) -> None:
        """Write which stimulus each trial showed and which one its responses are of (another one in a null subject)."""
        table = events[["onset", "duration", "trial_type", "stim_file"]].assign(responses_of=evoked)
        write_table(self.trials(run), table)
