"""The step that tells how far repeats go: noise ceilings, accuracy by averaged repeats, and the power of the test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.evaluation.ceiling import (
    Ceiling,
    averaged_repeats,
    correlation_ceiling,
    metric_ceiling,
    signal_share,
    split_half_reliability,
)
from hyperdecode.evaluation.metrics import correlation_scores, standardise
from hyperdecode.evaluation.power import Effect, at_reliability, faces_needed, pilot_effect, power, power_interval
from hyperdecode.evaluation.repeats_curve import CURVE_METRICS, latent_scorer, repeats_curve
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.trials import DecodingTrials, read_trials
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_table
from hyperdecode.study.layout import Layout
from hyperdecode.study.saved_decoder import read_decoder
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["CEILING_COLUMNS", "LEVEL", "Ceilings"]

CEILING_COLUMNS = ("subject", "what", "ceiling", "low", "high", "n")
LEVEL = 0.05
"""Of the test whose power is told."""

WANTED = 0.8
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ceilings:
    """The ceiling step of one study, for the decoder that its verdict rests on.

    It looks at repeats of test faces, and nothing that is fitted reads what it writes.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
    stimuli : StimulusSet
    generator : Generator
    """

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator

    def step(self, subject: str) -> Step:
        """Return the step of a subject.

        It writes ``desc-MODEL_repeats.tsv`` and ``desc-ceiling_scores.tsv``: ``voxels`` (share of variance over faces
        that the face explains, pooled over voxels), ``latents`` and attributes by name (bound of the correlation over
        faces), ``identification`` and ``cosine`` (bound of the score), all for averages of ``n`` trials, the repeats of
        a face (harmonic mean); ``voxels_single`` and ``latents_single`` for one trial. Where no face was shown twice
        there are no ceilings, and the facts say so.
        """
        model, seed = self.config.decoding.model, derived_seed(self.config.seed, "ceiling", subject)
        settings = {
            "model": model,
            "space": self.config.decoding.space,
            "generator": self.generator.fingerprint,
            "truncation": self.config.stimuli.truncation,
            "seed": seed,
        }
        inputs = (
            self.layout.masked(subject),
            self.layout.subject(subject, "trials.tsv"),
            self.layout.decoded(subject, model, "decoder.safetensors"),
            self.layout.decoded(subject, model, "decoder.json"),
            self.stimuli.folder / "latents.safetensors",
        )
        outputs = (
            self.layout.decoded(subject, model, "repeats.tsv"),
            self.layout.subject(subject, "desc-ceiling_scores.tsv"),
        )
        return Step(f"ceiling_sub-{subject}", 1, settings, inputs, outputs, partial(self._work, subject, seed))

    def _work(self, subject: str, seed: int) -> dict[str, Any]:
        model, space = self.config.decoding.model, self.config.decoding.space
        scale = LatentSpace(self.generator, space, self.config.stimuli.truncation)
        trials = read_trials(self.layout, self.stimuli, subject, space)
        decoder = read_decoder(self.layout.decoded(subject, model, "decoder"))
        decoder.require_generator(self.generator)
        decoder.require_voxels(trials.voxels, decoder.shape, decoder.affine)
        faces = [trials.split.stimuli[row] for row in trials.test_rows]
        # In double precision, as the study's averages are decoded: a decoder that found little says little.
        latents = trials.decoded_test_trials(lambda z: decoder.predict(np.asarray(z, np.float64)))
        mean, sd = scale.scale
        decoded, true = (standardise(values, mean, sd) for values in (latents, trials.test_latents))
        centre = standardise(decoder.latent_mean, mean, sd)

        curve = repeats_curve(decoded, faces, true, trials.test_names, centre, seed=seed)
        curve.insert(0, "subject", f"sub-{subject}")
        write_table(self.layout.decoded(subject, model, "repeats.tsv"), curve)

        facts: dict[str, Any] = {"n_faces": len(true), "n_repeats": round(averaged_repeats(faces), 3)}
        found: dict[str, Ceiling] = {}
        try:
            found = _ceilings(trials, faces, decoded, centre, seed) | _of_attributes(scale, latents, faces, seed)
            facts |= _reliability(decoded, faces, seed)
        except UserError as error:
            facts["reason"] = str(error)
        write_table(self.layout.subject(subject, "desc-ceiling_scores.tsv"), _table(subject, found))
        averages = np.stack([decoded[np.asarray(faces) == name].mean(axis=0) for name in trials.test_names])
        return facts | _power_facts(correlation_scores(averages, true, centre), decoded, faces, facts["n_repeats"])


def _ceilings(
    trials: DecodingTrials,
    faces: Sequence[str],
    decoded: Array,
    centre: Array,
    seed: int,
) -> dict[str, Ceiling]:
    z = np.asarray(trials.test_trials, np.float64)
    single: tuple[tuple[str, Callable[..., Ceiling], Array], ...] = (
        ("voxels", signal_share, z),
        ("latents", correlation_ceiling, decoded),
    )
    found = {what: measure(values, faces, seed=seed) for what, measure, values in single}
    found |= {f"{what}_single": measure(values, faces, 1, seed=seed) for what, measure, values in single}
    for metric in CURVE_METRICS:
        found[metric] = metric_ceiling(decoded, faces, latent_scorer(metric, centre), seed=seed)
    return found


def _of_attributes(scale: LatentSpace, latents: Array, faces: Sequence[str], seed: int) -> dict[str, Ceiling]:
    if scale.attributes is None:
        return {}
    scores = latents @ scale.attributes.normals.double().numpy().T
    return {
        name: correlation_ceiling(scores[:, [k]], faces, seed=seed) for k, name in enumerate(scale.attributes.names)
    }


def _reliability(decoded: Array, faces: Sequence[str], seed: int) -> dict[str, Any]:
    return {
        "reliability_single": round(signal_share(decoded, faces, 1, n_draws=1).value, 4),
        "reliability_average": round(signal_share(decoded, faces, n_draws=1).value, 4),
        "split_half_reliability": round(split_half_reliability(decoded, faces, seed=seed), 4),
    }


def _table(subject: str, found: dict[str, Ceiling]) -> pd.DataFrame:
    rows = [(f"sub-{subject}", what, c.value, c.low, c.high, c.n_averaged) for what, c in found.items()]
    return pd.DataFrame(rows, columns=list(CEILING_COLUMNS))


def _power_facts(scores: Array, decoded: Array, faces: Sequence[str], n_repeats: float) -> dict[str, Any]:
    """Return the power of the test of identification, in numbers and in a sentence."""
    try:
        effect = pilot_effect(scores, "identification")
    except UserError as error:
        return {"power_words": f"The power of the test is not known: {error}."}
    n = effect.n_faces
    low, high = power_interval(effect, n, LEVEL)
    needed = faces_needed(effect, WANTED, LEVEL)
    accuracy = 0.5 + effect.size
    facts: dict[str, Any] = {
        "accuracy": round(accuracy, 4),
        "power": round(power(effect, n, LEVEL), 4),
        "power_low": round(low, 4),
        "power_high": round(high, 4),
        "faces_needed": needed,
    }
    if effect.size <= 0:
        words = (
            f"With {n} test faces, {_times(n_repeats)}, 2-way identification was {accuracy:.3f}, not above chance: "
            "from this no number of faces can be told that would show decoding."
        )
    else:
        words = (
            f"With {n} test faces, {_times(n_repeats)}, 2-way identification of {accuracy:.3f}, as measured here, is "
            f"found (p <= {LEVEL}) with probability {facts['power']:.2f} ({low:.2f} to {high:.2f} at the 95% limits of "
            "the measured accuracy); "
        )
        words += (
            "no number of faces would suffice" if needed is None else f"{needed} faces would suffice"
        ) + f" for {WANTED:.0%}."
        words += _with_more_repeats(effect, decoded, faces)
    return facts | {"power_words": words}


def _with_more_repeats(effect: Effect, decoded: Array, faces: Sequence[str]) -> str:
    """Say what twice the repeats would do; nothing where noise cannot be told from faces."""
    try:
        now, then = (signal_share(decoded, faces, times * averaged_repeats(faces), n_draws=1).value for times in (1, 2))
        more = at_reliability(effect, now, then)
    except UserError:
        return ""
    return (
        f" Twice the repeats would raise the accuracy to about {0.5 + more.size:.3f}, and that probability to "
        f"{power(more, effect.n_faces, LEVEL):.2f}."
    )


def _times(n_repeats: float) -> str:
    if n_repeats == 1:
        return "each shown once"
    return f"each shown {n_repeats:g} times" if float(n_repeats).is_integer() else f"shown {n_repeats:.1f} times"
