"""The step that tells what more training trials would bring: decoders fitted to parts of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.decoding.models import MODELS
from hyperdecode.errors import DataWarning, UserError
from hyperdecode.evaluation.metrics import standardise
from hyperdecode.evaluation.training_curve import SHARES, curve_point, learning_table, nested_trials
from hyperdecode.pipeline.decode import Decoding, fit_decoder
from hyperdecode.pipeline.fitted_on import FITTED_ON, fitted_on
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.trials import DecodingTrials, read_trials
from hyperdecode.split import Split
from hyperdecode.study.derivatives import write_table

__all__ = ["LEVEL", "WANTED", "TrainingCurve", "with_training_trials"]

LEVEL, WANTED = 0.05, 0.8
"""Of the test whose power is told, and the power that is enough."""
STAND_IN = "ridge"
"""For decoders trained by gradient descent, of which five fits would take an hour."""


@dataclass(frozen=True)
class TrainingCurve:
    """The learning curve of one study's decoder.

    Attributes
    ----------
    decoding : Decoding
    """

    decoding: Decoding

    @property
    def model(self) -> str:
        """The decoder that is fitted: that of the study, or ridge where it is trained by gradient descent."""
        model = self.decoding.config.decoding.model
        return model if MODELS[model].shrinks else STAND_IN

    def step(self, subject: str) -> Step:
        """Return the step of a subject.

        It writes ``desc-learning_scores.tsv``: the columns ``subject`` and those of
        `hyperdecode.evaluation.training_curve.learning_table`. Its record holds a sentence (``trials_words``), or the
        ``reason`` why there is no curve.
        """
        decoding, seed = self.decoding, derived_seed(self.decoding.config.seed, "learning", subject)
        settings = {
            **decoding.config.decoding.model_dump(include={"space", "cv", "repeats", "weights"}),
            "model": self.model,
            "generator": decoding.generator.fingerprint,
            "truncation": decoding.config.stimuli.truncation,
            "shares": list(SHARES),
            "seed": seed,
        }
        output = decoding.layout.subject(subject, "desc-learning_scores.tsv")
        work = partial(self._work, subject, seed)
        return Step(f"learning_sub-{subject}", 2, settings, decoding.inputs(subject), (output,), work)

    def _work(self, subject: str, seed: int) -> dict[str, Any]:
        decoding, space = self.decoding, self.decoding.space
        trials = read_trials(decoding.layout, decoding.stimuli, subject, space.space)
        rows: list[tuple[object, ...]] = []
        facts: dict[str, Any] = {}
        with warnings.catch_warnings():
            # Of small sets: the decoder's own step tells those of all trials.
            warnings.simplefilter("ignore", DataWarning)
            try:
                for part in nested_trials(trials.training_stimuli, seed=seed):
                    rows += self._point(subject, with_training_trials(trials, part), seed)
            except UserError as error:
                facts["reason"] = f"No learning curve: {error}"
        table = learning_table(rows)
        table.insert(0, "subject", f"sub-{subject}")
        write_table(decoding.layout.subject(subject, "desc-learning_scores.tsv"), table)
        facts[FITTED_ON] = [
            fitted_on("learning curve", trials.split.training_rows, trials.split.stimuli, note="in parts")
        ]
        return facts | ({"trials_words": _words(table, self.model)} if len(table) else {})

    def _point(self, subject: str, trials: DecodingTrials, seed: int) -> list[tuple[object, ...]]:
        decoding = self.decoding
        context = decoding.context(subject, self.model, trials)
        fit = fit_decoder(trials, decoding.config, decoding.space, self.model, context)
        mean, sd = decoding.space.scale
        predicted = trials.test_z @ fit.coef.T + fit.intercept
        decoded, true = (standardise(values, mean, sd) for values in (predicted, trials.test_latents))
        centre = standardise(trials.training_latents.mean(0), mean, sd)
        return curve_point(len(trials.training_roles), decoded, true, centre, level=LEVEL, seed=seed)


def with_training_trials(trials: DecodingTrials, kept: NDArray[np.intp]) -> DecodingTrials:
    """Return the trials with all test trials and only these of the training trials.

    Parameters
    ----------
    trials : DecodingTrials
    kept : array of int
        Numbers among the training trials.
    """
    rows = np.sort(np.concatenate([trials.split.training_rows[kept], trials.test_rows]))
    split = Split.of([trials.split.stimuli[row] for row in rows], [trials.split.roles[row] for row in rows])
    runs = tuple(trials.runs[row] for row in rows)
    return replace(trials, z=trials.z[rows], latents=trials.latents[rows], split=split, runs=runs)


def _words(table: pd.DataFrame, model: str) -> str:
    """Say how the accuracy, and the chance to find it, grew."""
    found = table[table["metric"] == "identification"]
    counts = ", ".join(str(n) for n in found["n_trials"])
    scores = ", ".join(f"{score:.3f}" for score in found["score"])
    words = f"{model} fitted to {counts} training trials reached a 2-way identification of {scores}"
    if not found["power"].notna().any():
        return f"{words}."
    enough = found.loc[found["power"] >= WANTED, "n_trials"]
    powers = ", ".join(f"{value:.2f}" for value in found["power"])
    words += f", found (p <= {LEVEL}) with probability {powers}"
    if not len(enough):
        return f"{words}: none of these numbers would do for {WANTED:.0%}."
    return f"{words}: {enough.min()} would do for {WANTED:.0%}."
