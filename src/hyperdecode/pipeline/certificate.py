"""The leakage certificate of a study, from what its records and tables say and from nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.decoding.views import TrialRows
from hyperdecode.errors import UserError
from hyperdecode.files import sha256_file
from hyperdecode.pipeline.fitted_on import FITTED_ON, trials_sha256
from hyperdecode.pipeline.near_duplicates import check_stimuli_apart
from hyperdecode.pipeline.records import read_facts
from hyperdecode.report.certificate import Certificate, FittedOn, NearDuplicate
from hyperdecode.stimuli.duplicates import NeighbourCheck
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.saved_decoder import read_decoder, training_fingerprint
from hyperdecode.study.stimulus_set import StimulusSet
from hyperdecode.study.trial_store import open_store

__all__ = ["study_certificate", "subject_records", "training_hashes"]

SELECTED = {"active": "most active", "reliable": "most reliable"}
"""Voxel masks that are fitted to responses; others are anatomy."""


def study_certificate(
    layout: Layout,
    config: StudyConfig,
    stimuli: StimulusSet,
    models: Sequence[str],
    *,
    axes: str = "",
    checks: Mapping[str, NeighbourCheck] | None = None,
    skipped: Mapping[str, str] | None = None,
) -> Certificate:
    """Say on which trials everything of a study was fitted, as far as that is on record.

    Each fitting step leaves in its record how many trials it was handed and the SHA-256 of their list
    (`hyperdecode.pipeline.fitted_on`). The list is looked for among those that the subject's table of trials makes,
    with the role of each face taken from the stimuli's manifest; a decoder is checked by what it was saved with, the
    fingerprint of all numbers that it was fitted to. What has no record, or one of another table, is "not recorded".

    Parameters
    ----------
    layout : Layout
    config : StudyConfig
    stimuli : StimulusSet
    models : sequence of str
        Decoders of the study.
    axes : str
        Where the attribute axes come from; empty where the study has none.
    checks : mapping of str to NeighbourCheck, optional
        Of `check_stimuli_apart`, where that was asked already.
    skipped : mapping of str to str, optional
        Runs of BOLD that were left out on demand, and why.

    Returns
    -------
    Certificate
    """
    found = checks if checks is not None else check_stimuli_apart(stimuli)
    records: list[FittedOn] = []
    test_lists: list[str] = []
    for label in config.subjects:
        records += subject_records(layout, config, stimuli, label, models)
        table = _Trials.of(layout, stimuli, label)
        if table is not None and table.test.size:
            test_lists.append(table.hash(table.test))
    if "eigenfaces" in config.evaluation.baselines:
        n = read_facts(layout.records, "baseline_eigenfaces").get("training_faces", "an unrecorded number of")
        note = f"pictures of {n} training faces"
        records.append(FittedOn("components of eigenfaces", "baseline_eigenfaces", "outside", note=note))
    if axes:
        words = f"generated faces outside the study: {axes}"
        records.append(FittedOn("attribute axes", "", "outside", note=words))
    overrides = tuple(f"a run that cannot be used ({name}: {why})" for name, why in (skipped or {}).items())
    return Certificate(tuple(records), _pairs(found, stimuli), overrides, tuple(test_lists))


def subject_records(
    layout: Layout, config: StudyConfig, stimuli: StimulusSet, label: str, models: Sequence[str]
) -> list[FittedOn]:
    """Say what was fitted on which trials of one subject, in the order of the analysis."""
    reader = _Reader(layout, stimuli, label)
    found: list[FittedOn] = []
    if config.bold.source == "estimates":
        note = "made elsewhere: no record here says which trials their model was tuned on"
        found.append(FittedOn("single-trial maps", "", "unknown", subject=reader.who, note=note))
    elif config.bold.hrf == "library":
        found += reader.step(f"hrf_sub-{label}", "choice of the HRF")
    mask = f"mask_sub-{label}"
    if config.bold.voxels in SELECTED:
        found += reader.step(mask, f"voxel mask, {SELECTED[config.bold.voxels]}")
    else:
        where = "an atlas" if config.bold.voxels == "regions" else "all voxels of the brain"
        found.append(FittedOn("voxel mask", mask, "outside", subject=reader.who, note=where))
    for model in models:
        found += reader.decoder(model, config.decoding.space)
    if config.decoding.posterior:
        found += reader.step(f"posterior_sub-{label}", "posterior")
    found += reader.step(f"learning_sub-{label}", "learning curve")
    if config.mapping.readout != "none":
        found += reader.step(f"map_sub-{label}", "activations of layers")
    for name in config.evaluation.baselines:
        found += reader.step(f"decode_sub-{label}_{name}", f"decoder of {name}")
    return found


def training_hashes(layout: Layout, stimuli: StimulusSet, label: str) -> dict[str, str]:
    """Return the SHA-256 of the lists of a subject's ``"train"`` and ``"test"`` trials, roles as in the manifest."""
    table = _Trials.of(layout, stimuli, label)
    if table is None:
        raise UserError(f"sub-{label} has no table of trials: run the earlier steps first")
    return {"train": table.hash(table.train), "test": table.hash(table.test)}


@dataclass(frozen=True)
class _Trials:
    """A subject's table of trials, with the role that the stimuli's manifest gives each face.

    `used` are the rows that steps take for training trials: those whose role in the table is "train".
    """

    path: Path
    stimuli: tuple[str, ...]
    used: NDArray[np.intp]
    train: NDArray[np.intp]
    test: NDArray[np.intp]

    @classmethod
    def of(cls, layout: Layout, stimuli: StimulusSet, label: str) -> _Trials | None:
        path = layout.subject(label, "trials.tsv")
        if not path.is_file():
            return None
        table = pd.read_csv(path, sep="\t")
        names = tuple(map(str, table["stim_file"]))
        roles = np.asarray(stimuli.roles(list(names)))
        rows = [np.flatnonzero(values == role) for values, role in ((roles, "train"), (roles, "test"))]
        return cls(path, names, np.flatnonzero(table["role"].to_numpy() == "train"), rows[0], rows[1])

    def hash(self, rows: NDArray[np.intp]) -> str:
        return trials_sha256(rows, self.stimuli)

    def leaked(self, rows: NDArray[np.intp]) -> int:
        """Count the test faces' trials among rows."""
        return int(np.isin(rows, self.test).sum())

    def known(self, sha256: str) -> NDArray[np.intp] | None:
        """Return the rows of a list by its hash: those used as training trials, test trials, all; None of another."""
        everything = np.arange(len(self.stimuli))
        return next(
            (rows for rows in (self.used, self.train, self.test, everything) if self.hash(rows) == sha256), None
        )


class _Reader:
    """Reads what the records of one subject say of fitted trials."""

    def __init__(self, layout: Layout, stimuli: StimulusSet, label: str) -> None:
        self.layout, self.stimuli, self.label, self.who = layout, stimuli, label, f"sub-{label}"
        self.table = _Trials.of(layout, stimuli, label)

    def step(self, name: str, what: str) -> list[FittedOn]:
        """Return what a step fitted; one line "not recorded" where its record does not say."""
        record = _record(self.layout.records / f"{name}.toml")
        if not record.get("key"):
            return [self._unknown(what, name, "there is no record of this step")]
        facts = record.get("facts", {}).get(FITTED_ON, [])
        if not facts:
            return [self._unknown(what, name, "the record does not say on which trials")]
        return [self._fact(name, record, fact) for fact in facts]

    def decoder(self, model: str, space: str) -> list[FittedOn]:
        """Return what a decoder was fitted on, by the fingerprint that it was saved with; and what stretched it."""
        name, what = f"decode_{self.who}_{model}", f"{model}: scaling, weights, penalty"
        record = _record(self.layout.records / f"{name}.toml")
        facts = record.get("facts", {})
        if not record.get("key"):
            return [self._unknown(what, name, "there is no record of this step")]
        penalty = f"penalty {facts['alpha']:.4g}, chosen on the same trials" if "alpha" in facts else ""
        found = [self._fitted(name, what, record, model, space, penalty)]
        if float(facts.get("stretch", 1.0)) != 1.0 and self.table is not None:
            note = f"{facts['stretch']:.2f} times, the same for all faces shown as often"
            found.append(self._trials("stretch of averages", name, "scatter", self.table.test, note))
        return found + [self._fact(name, record, fact) for fact in facts.get(FITTED_ON, [])]

    def _fitted(
        self, name: str, what: str, record: Mapping[str, Any], model: str, space: str, penalty: str
    ) -> FittedOn:
        problem = self._other_table(record)
        if problem or self.table is None:
            return self._unknown(what, name, problem)
        try:
            saved = read_decoder(self.layout.decoded(self.label, model, "decoder"))
        except UserError as error:
            return self._unknown(what, name, str(error))
        rows = self.table.used
        names = [self.table.stimuli[row] for row in rows]
        z = TrialRows(open_store(self.layout.masked(self.label)), rows)
        handed = training_fingerprint(names, z, self.stimuli.latents(names, space).double().numpy())
        if handed != saved.training_fingerprint:
            return self._unknown(what, name, "it was saved with the fingerprint of other numbers than these trials")
        return self._trials(what, name, "train", rows, penalty)

    def _fact(self, name: str, record: Mapping[str, Any], fact: Mapping[str, Any]) -> FittedOn:
        """Judge one fact by the table that the step read."""
        what, note = str(fact.get("what", "?")), str(fact.get("note", ""))
        problem = self._other_table(record, fitted_before="hrf_" in name)
        rows = None if self.table is None else self.table.known(str(fact.get("trials_sha256", "")))
        if problem or rows is None or len(rows) != fact.get("n_trials"):
            return self._unknown(what, name, problem or "its list of trials is none that the table of trials makes")
        return self._trials(what, name, "scatter" if fact.get("uses") == "scatter" else "train", rows, note)

    def _trials(self, what: str, step: str, role: str, rows: NDArray[np.intp], note: str) -> FittedOn:
        assert self.table is not None
        leaked = self.table.leaked(rows)
        if leaked and role != "scatter":
            role, note = "test", f"{leaked} of {len(rows)} are trials of test faces" + (f"; {note}" if note else "")
        return FittedOn(what, step, role, len(rows), self.table.hash(rows), self.who, note)

    def _unknown(self, what: str, step: str, why: str) -> FittedOn:
        return FittedOn(what, step, "unknown", subject=self.who, note=why)

    def _other_table(self, record: Mapping[str, Any], fitted_before: bool = False) -> str:
        """Say what is wrong when a step did not read, or write, the table of trials as it is now."""
        if self.table is None:
            return "the table of trials is gone"
        if fitted_before:
            # The HRF is chosen before there is a table; its list must be one of that table all the same.
            return ""
        files = {
            Path(str(path)).name: sha256
            for part in ("inputs", "outputs")
            for path, sha256 in record.get(part, {}).items()
        }
        if self.table.path.name not in files:
            return "the record names no table of trials"
        if files[self.table.path.name] != sha256_file(self.table.path):
            return "the table of trials was changed since"
        return ""


def _record(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _pairs(checks: Mapping[str, NeighbourCheck], stimuli: StimulusSet) -> tuple[NearDuplicate, ...]:
    test, train = stimuli.names("test"), stimuli.names("train")
    return tuple(
        NearDuplicate(test[row], train[int(check.index[row])], space, float(check.distance[row]))
        for space, check in checks.items()
        for row in map(int, check.flagged)
    )
