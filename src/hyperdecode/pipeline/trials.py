"""Masked trials of one subject as decoders take them: training trials apart, test trials averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hyperdecode.errors import UserError
from hyperdecode.split import Split
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["DecodingTrials", "read_trials"]


@dataclass(frozen=True)
class DecodingTrials:
    """Trials x voxels of one subject with the latents of what was shown.

    Attributes
    ----------
    z : ndarray of float32, (n_trials, n_voxels)
    latents : ndarray of float64, (n_trials, latent_dim)
    split : Split
    voxels : ndarray of int64, (n_voxels,)
        Places on the grid, flat in C order.
    test_names : tuple of str
        Test stimuli in the order of the manifest, which every later step goes by.
    runs : tuple of str, length n_trials
        Run of each trial; one name for all where that is not known.
    """

    z: NDArray[np.float32]
    latents: NDArray[np.float64]
    split: Split
    voxels: NDArray[np.int64]
    test_names: tuple[str, ...]
    runs: tuple[str, ...]

    @property
    def training_z(self) -> NDArray[np.float32]:
        """Responses of training trials."""
        return np.asarray(self.split.training(self.z), np.float32)

    @property
    def training_latents(self) -> NDArray[np.float64]:
        """Latents of training trials."""
        return np.asarray(self.split.training(self.latents), np.float64)

    @property
    def training_roles(self) -> list[str]:
        """Roles of training trials, for what is fitted to check."""
        return [self.split.roles[row] for row in self.split.training_rows]

    @property
    def training_stimuli(self) -> list[str]:
        """Stimuli of training trials."""
        return [self.split.stimuli[row] for row in self.split.training_rows]

    @property
    def training_runs(self) -> list[str]:
        """Runs of training trials."""
        return [self.runs[row] for row in self.split.training_rows]

    @property
    def test_z(self) -> NDArray[np.float64]:
        """Responses to test stimuli, averaged over repeats, in the order of `test_names`."""
        return self._in_order(self.split.test_averages(self.z))

    @property
    def test_latents(self) -> NDArray[np.float64]:
        """Latents of test stimuli, in the order of `test_names`."""
        return self._in_order(self.split.test_averages(self.latents))

    @property
    def test_rows(self) -> NDArray[np.intp]:
        """Rows of the test trials."""
        return np.flatnonzero(np.asarray(self.split.roles) == "test")

    def _in_order(self, averages: NDArray[np.floating]) -> NDArray[np.float64]:
        order = [self.split.test_stimuli.index(name) for name in self.test_names]
        return np.asarray(averages[order], np.float64)


def read_trials(layout: Layout, stimuli: StimulusSet, subject: str, space: str) -> DecodingTrials:
    """Read what the mask step of a subject left.

    Raises
    ------
    UserError
        When a test stimulus was never shown to the subject.
    """
    masked = load_file(layout.subject(subject, "desc-masked_zmaps.safetensors"))
    table = pd.read_csv(layout.subject(subject, "trials.tsv"), sep="\t")
    shown = list(table["stim_file"])
    split = Split.of(shown, list(table["role"]))
    test_names = tuple(stimuli.names("test"))
    unseen = sorted(set(test_names) - set(split.test_stimuli))
    if unseen:
        raise UserError(f"sub-{subject} never saw the test stimulus {unseen[0]}: give all runs, or another study.toml")
    latents = stimuli.latents(shown, space).double().numpy()
    runs = tuple(map(str, table["run"])) if "run" in table else ("",) * len(table)
    return DecodingTrials(masked["z"], latents, split, masked["voxels"], test_names, runs)
