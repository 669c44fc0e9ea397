"""How sure decoded latents are: posterior of each test face, faces drawn from it, intervals of attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hyperdecode.decoding.posterior import LatentPosterior, latent_prior
from hyperdecode.decoding.views import COPIES
from hyperdecode.files import atomic_path
from hyperdecode.generators.base import Generator
from hyperdecode.memory import refuse_too_large
from hyperdecode.pipeline.decode import training_data
from hyperdecode.pipeline.fitted_on import FITTED_ON, fitted_on
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.trials import DecodingTrials, read_trials
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_table
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, write_picture

__all__ = ["LEVEL", "Uncertainty"]

LEVEL = 0.9
"""Of the intervals."""

COLUMNS = ("stim_file", "attribute", "decoded", "low", "high", "true", "inside")

Array = NDArray[np.float64]

SMALL = 256
"""Side of the pictures of draws, from an early exit where the generator has one."""


@dataclass(frozen=True)
class Uncertainty:
    """The posterior step of one study.

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
        """Return the step of a subject."""
        settings = {
            **self.config.decoding.model_dump(include={"space", "repeats", "weights", "posterior", "n_folds"}),
            "generator": self.generator.fingerprint,
            "truncation": self.config.stimuli.truncation,
            "seed": derived_seed(self.config.seed, "posterior", subject),
        }
        inputs = (
            self.layout.masked(subject),
            self.layout.subject(subject, "trials.tsv"),
            self.stimuli.folder / "latents.safetensors",
        )
        outputs = (
            self.layout.subject(subject, "desc-posterior_latents.safetensors"),
            self.layout.subject(subject, "desc-posterior_attributes.tsv"),
            *(
                self.layout.drawn(subject, name, draw)
                for name in self.stimuli.names("test")
                for draw in range(self.config.decoding.posterior)
            ),
        )
        return Step(f"posterior_sub-{subject}", 1, settings, inputs, outputs, partial(self._work, subject, settings))

    def _work(self, subject: str, settings: dict[str, Any]) -> dict[str, Any]:
        n_draws, space = self.config.decoding.posterior, self.config.decoding.space
        scale = LatentSpace(self.generator, space, self.config.stimuli.truncation)
        trials = read_trials(self.layout, self.stimuli, subject, space)
        mean, covariance = latent_prior(self.generator, space, self.config.stimuli.truncation)
        model = LatentPosterior(mean, covariance, n_folds=self.config.decoding.n_folds or 5, seed=settings["seed"])
        data = training_data(trials, self.config)
        n_trials, n_voxels = data["X"].shape
        refuse_too_large(
            4 * COPIES * n_trials * n_voxels,
            f"the posterior works on {n_trials} trials x {n_voxels} voxels in memory, which",
            "leave it out (decoding.posterior = 0), choose fewer voxels (bold.voxels, bold.n_voxels)",
        )
        model.fit(**data)
        normals = scale.attributes
        directions = np.zeros((0, len(mean))) if normals is None else normals.normals.double().numpy()
        open_faces = _allowed(model, trials, directions, n_draws, settings["seed"])
        result = {name: open_faces[name] for name in ("mean", "sd", "draws")} | {"true": trials.test_latents}
        with atomic_path(self.layout.subject(subject, "desc-posterior_latents.safetensors")) as temporary:
            save_file({key: np.ascontiguousarray(value, np.float32) for key, value in result.items()}, temporary)
        names = () if normals is None else normals.names
        table = _attribute_table(open_faces, directions, (mean, covariance), names, trials)
        write_table(self.layout.subject(subject, "desc-posterior_attributes.tsv"), table)
        self._draw(subject, scale, open_faces["draws"], trials.test_names)
        inside = (open_faces["low"] <= trials.test_latents) & (trials.test_latents <= open_faces["high"])
        return {
            "level": LEVEL,
            "latents_inside": float(inside.mean()),
            "attributes_inside": float(table["inside"].mean()) if len(table) else None,
            FITTED_ON: _fitted_on(trials),
        }

    def _draw(self, subject: str, space: LatentSpace, draws: NDArray[np.float64], names: tuple[str, ...]) -> None:
        side = max((s for s in self.generator.resolutions if s <= SMALL), default=self.generator.resolution)
        for draw, latents in enumerate(draws):
            for name, picture in zip(names, space.pictures(latents, side), strict=True):
                write_picture(self.layout.drawn(subject, name, draw), picture)


def _fitted_on(trials: DecodingTrials) -> list[dict[str, Any]]:
    shown = trials.split.stimuli
    facts = [fitted_on("posterior", trials.split.training_rows, shown)]
    repeated = [shown[row] for row in trials.test_rows]
    if len(repeated) - len(set(repeated)):
        facts.append(fitted_on("noise of the posterior", trials.test_rows, shown, uses="scatter"))
    return facts


def _allowed(
    model: LatentPosterior, trials: DecodingTrials, directions: Array, n_draws: int, seed: int
) -> dict[str, Array]:
    """Return what the responses to each test face allow, faces that were averaged over as many trials together."""
    rows = trials.test_rows
    shown = [trials.split.stimuli[row] for row in rows]
    counts = np.array([shown.count(name) for name in trials.test_names])
    # The spread of the repeats among themselves, never which face they were of: it sets widths, and no score.
    noise = model.noise_from_repeats(trials.test_trials, shown) if (counts > 1).sum() > 1 else None
    n, d = trials.test_latents.shape
    found = {name: np.empty((n, d)) for name in ("mean", "sd", "low", "high")}
    found |= {name: np.empty((n, len(directions))) for name in ("score", "score_low", "score_high")}
    found["draws"] = np.empty((n_draws, n, d))
    for count in np.unique(counts):
        mine = counts == count
        posterior = model.posterior(trials.test_z[mine], n_repeats=int(count), noise=noise)
        found["mean"][mine], found["sd"][mine] = posterior.mean, posterior.sd
        found["draws"][:, mine] = posterior.sample(n_draws, seed)
        found["low"][mine], found["high"][mine] = posterior.interval(LEVEL)
        if len(directions):
            found["score"][mine], _ = posterior.project(directions)
            found["score_low"][mine], found["score_high"][mine] = posterior.projected_interval(directions, LEVEL)
    return found


def _attribute_table(
    found: dict[str, Array],
    directions: Array,
    prior: tuple[Array, Array],
    attributes: Sequence[str],
    trials: DecodingTrials,
) -> pd.DataFrame:
    """One row a face and attribute: decoded score, interval, true score; in sd over the generator's faces."""
    mean, covariance = prior
    centre, spread = directions @ mean, np.sqrt(np.einsum("kd,de,ke->k", directions, covariance, directions))
    scores = [found[name] for name in ("score", "score_low", "score_high")] + [trials.test_latents @ directions.T]
    decoded, low, high, true = ((values - centre) / spread for values in scores)
    inside = (low <= true) & (true <= high)
    rows = [
        (name, attribute, decoded[i, k], low[i, k], high[i, k], true[i, k], bool(inside[i, k]))
        for i, name in enumerate(trials.test_names)
        for k, attribute in enumerate(attributes)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
