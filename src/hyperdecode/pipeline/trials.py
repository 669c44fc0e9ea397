"""Masked trials of one subject as decoders take them: training trials apart, test trials averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.decoding.views import fits_memory, taken
from hyperdecode.errors import UserError
from hyperdecode.memory import refuse_too_large
from hyperdecode.split import Split
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet
from hyperdecode.study.trial_store import open_store

__all__ = ["DecodingTrials", "read_trials"]

BLOCK_BYTES = 2**28
"""Of float64 test trials that are decoded at once."""


@dataclass(frozen=True)
class DecodingTrials:
    """Trials x voxels of one subject with the latents of what was shown.

    Attributes
    ----------
    z : ndarray of float32, (n_trials, n_voxels), or `hyperdecode.study.trial_store.TrialStore`
        In memory where it fits (`hyperdecode.decoding.views.fits_memory`), else on disk, where parts of it are read.
    latents : ndarray of float64, (n_trials, latent_dim)
    split : Split
    voxels : ndarray of int64, (n_voxels,)
        Places on the grid, flat in C order.
    test_names : tuple of str
        Test stimuli in the order of the manifest, which every later step goes by.
    runs : tuple of str, length n_trials
        Run of each trial; one name for all where that is not known.
    """

    z: Any
    latents: NDArray[np.float64]
    split: Split
    voxels: NDArray[np.int64]
    test_names: tuple[str, ...]
    runs: tuple[str, ...]

    @property
    def training_z(self) -> Any:
        """Responses of training trials: an array, or a view of them alone that is read in blocks."""
        if len(self.z) != len(self.split.roles):
            raise UserError(
                f"{len(self.split.roles)} trials came with {len(self.z)} rows of z: run the step mask again"
            )
        return taken(self.z, self.split.training_rows)

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
        self._refuse_large(len(self.test_names), "averages of test stimuli")
        return self._averages(self.test_names)

    @property
    def test_trials(self) -> NDArray[np.float32]:
        """Responses of all test trials, which are `test_rows`."""
        self._refuse_large(len(self.test_rows), "test trials")
        return np.asarray(self.z[self.test_rows], np.float32)

    def decoded_averages(self, decode: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.float64]:
        """Decode the averages of test stimuli, as many at a time as memory allows; in the order of `test_names`."""
        names, size = self.test_names, self._rows_at_once
        parts = [decode(self._averages(names[k : k + size])) for k in range(0, len(names), size)]
        return np.asarray(np.concatenate(parts), np.float64)

    def decoded_test_trials(self, decode: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        """Decode the test trials, as many at a time as memory allows; in the order of `test_rows`."""
        rows, size = self.test_rows, self._rows_at_once
        return np.concatenate([decode(self.z[rows[k : k + size]]) for k in range(0, len(rows), size)])

    @property
    def _rows_at_once(self) -> int:
        return max(1, BLOCK_BYTES // (8 * int(self.z.shape[1])))

    def _averages(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        shown = np.asarray(self.split.stimuli)
        return np.stack([self.z[np.flatnonzero(shown == name)].mean(axis=0) for name in names]).astype(np.float64)

    def _refuse_large(self, n: int, what: str) -> None:
        n_bytes = 2 * 8 * n * self.z.shape[1]
        refuse_too_large(n_bytes, f"{n} {what} x {self.z.shape[1]} voxels", "choose fewer voxels (bold.voxels)")

    @property
    def test_latents(self) -> NDArray[np.float64]:
        """Latents of test stimuli, in the order of `test_names`."""
        averages = self.split.test_averages(self.latents)
        order = [self.split.test_stimuli.index(name) for name in self.test_names]
        return np.asarray(averages[order], np.float64)

    @property
    def test_rows(self) -> NDArray[np.intp]:
        """Rows of the test trials."""
        return np.flatnonzero(np.asarray(self.split.roles) == "test")


def read_trials(layout: Layout, stimuli: StimulusSet, subject: str, space: str) -> DecodingTrials:
    """Read what the mask step of a subject left.

    Raises
    ------
    UserError
        When a test stimulus was never shown to the subject, or the file of masked trials is damaged.
    """
    store = open_store(layout.masked(subject))
    table = pd.read_csv(layout.subject(subject, "trials.tsv"), sep="\t")
    shown = list(table["stim_file"])
    split = Split.of(shown, list(table["role"]))
    test_names = tuple(stimuli.names("test"))
    unseen = sorted(set(test_names) - set(split.test_stimuli))
    if unseen:
        raise UserError(f"sub-{subject} never saw the test stimulus {unseen[0]}: give all runs, or another study.toml")
    latents = stimuli.latents(shown, space).double().numpy()
    runs = tuple(map(str, table["run"])) if "run" in table else ("",) * len(table)
    z = store[:] if fits_memory(store.shape) else store
    return DecodingTrials(z, latents, split, store.voxels, test_names, runs)
