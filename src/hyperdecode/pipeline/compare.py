"""Decoders side by side on simulated subjects whose noise is known: the comparison that decides defaults."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr

from hyperdecode.decoding.models import MODELS, Context
from hyperdecode.errors import UserError
from hyperdecode.evaluation.summary import evaluate_latents
from hyperdecode.files import atomic_path
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.bands import bands_of
from hyperdecode.pipeline.decode import decoded_averages, fit_decoder, n_averaged
from hyperdecode.pipeline.latents import LatentSpace, refuse_other_generator
from hyperdecode.pipeline.lock import study_lock
from hyperdecode.pipeline.records import Step, run_step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.simulate import StimulusBank, simulate
from hyperdecode.pipeline.subjects import subject_chain
from hyperdecode.pipeline.trials import read_trials
from hyperdecode.report.comparisonfigure import comparison_figure
from hyperdecode.study.bids import index_bids
from hyperdecode.study.config import StudyConfig, write_config
from hyperdecode.study.derivatives import write_json, write_table
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import FOLDER, StimulusSet
from hyperdecode.threads import default_threads

__all__ = ["CEILINGS", "METRICS", "compare"]

CEILINGS = (0.01, 0.03, 0.1)
"""Shares of a single trial's variance that the face explains, median over voxels that see."""

METRICS = ("identification", "cosine", "lsim", "attribute_r")

Tell = Callable[[str, int, int], None]


def compare(
    study: Path,
    config: StudyConfig,
    stimuli: StimulusSet,
    generator: Generator,
    *,
    ceilings: Sequence[float] = CEILINGS,
    spaces: Sequence[str] = ("w", "z"),
    models: Sequence[str] = ("weighted-ridge", "ridge", "dense"),
    tell: Tell | None = None,
) -> pd.DataFrame:
    """Fit every model to simulated subjects at several noise ceilings, and judge it on their test faces.

    The subjects are those of the study's settings, with its stimuli, simulated anew in
    ``STUDY/derivatives/comparison/ceiling-X`` and analysed up to masked trials as any study is. Each fit is a step: a
    killed comparison goes on, and a second one with more models adds to the first. Seconds are those of the fit alone,
    on as many threads as the table says.

    Parameters
    ----------
    study : pathlib.Path
        It has stimuli; its own BOLD is not used.
    config, stimuli, generator
        Of the study.
    ceilings : sequence of float
        Noise ceilings.
    spaces : sequence of {"w", "z"}
    models : sequence of str
        Names of `hyperdecode.decoding.models.MODELS`.
    tell : callable, optional
        Called with (what is done, steps done, steps in all).

    Returns
    -------
    pandas.DataFrame
        One row a fit: ``noise_ceiling``, ``space``, ``subject``, ``model``, `METRICS`, ``identification_p``,
        ``seconds``, ``threads``; everything that was ever compared in this study. It lies in ``comparison.tsv`` beside
        ``comparison.png``.

    Raises
    ------
    UserError
        For an unknown model, a space that the generator does not have, a ceiling out of range, or when another
        comparison of the study is at work.
    """
    refuse_other_generator(config, stimuli, generator)
    unknown = [name for name in models if name not in MODELS]
    if unknown:
        raise UserError(f"no decoder {unknown[0]!r}: choose among {', '.join(MODELS)}")
    missing = [space for space in spaces if space not in generator.spaces]
    if missing:
        raise UserError(f"{generator.name} has no latent space {missing[0]!r}, only {' and '.join(generator.spaces)}")
    if not all(0 < ceiling <= 1 for ceiling in ceilings):
        raise UserError(f"noise ceilings lie above 0 and at most at 1, got {list(ceilings)}")
    out = study / "derivatives" / "comparison"
    bank = StimulusBank(config, stimuli, generator)
    n_steps = len(ceilings) * (1 + len(config.subjects) * (1 + len(spaces) * len(models)))
    done = 0

    def say(what: str) -> None:
        nonlocal done
        if tell:
            tell(what, done, n_steps)
        done += 1

    with study_lock(out, out) as held:
        for ceiling in ceilings:
            noisy = _Noisy(out / f"ceiling-{ceiling:g}", _at(config, ceiling), stimuli, generator)
            say(f"noise ceiling {ceiling:g}: simulating")
            noisy.simulate(bank)
            for subject in config.subjects:
                say(f"noise ceiling {ceiling:g}: z-maps of sub-{subject}")
                noisy.preprocess(subject)
                for space in spaces:
                    for model in models:
                        held.check()
                        say(f"noise ceiling {ceiling:g}: {model} in {space}, sub-{subject}")
                        run_step(noisy.step(subject, space, model), noisy.folder, noisy.layout.records)
        table = _gathered(out)
        write_table(out / "comparison.tsv", table)
        with atomic_path(out / "comparison.png") as temporary:
            temporary.write_bytes(comparison_figure(table))
    return table


def _at(config: StudyConfig, ceiling: float) -> StudyConfig:
    made = config.simulation.model_copy(update={"noise_ceiling": float(ceiling), "null": False})
    return config.model_copy(update={"simulation": made, "name": f"{config.name}, noise ceiling {ceiling:g}"})


@dataclass(frozen=True)
class _Noisy:
    """The study's subjects at one noise ceiling, in a folder of their own."""

    folder: Path
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator

    @property
    def layout(self) -> Layout:
        return Layout(self.folder)

    def simulate(self, bank: StimulusBank) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_config(self.folder, self.config)
        here = self.folder / FOLDER
        if not here.exists():
            here.symlink_to(self.stimuli.folder.resolve(), target_is_directory=True)
        simulate(self.folder, self.config, self.stimuli, self.generator, bank=bank)

    def preprocess(self, subject: str) -> None:
        runs = [run for run in index_bids(self.folder).runs if run.subject == subject and run.task == self.config.task]
        for _, step in subject_chain(self.layout, self.config.bold, self.stimuli, subject, runs).steps():
            run_step(step, self.folder, self.layout.records)

    def step(self, subject: str, space: str, model: str) -> Step:
        inputs = (self.layout.masked(subject), self.layout.subject(subject, "trials.tsv"))
        output = self.layout.subject(subject, f"space-{space}_desc-{model.replace('-', '')}_comparison.json")
        settings = {
            "seed": self.config.seed,
            "n_folds": self.config.decoding.n_folds,
            "n_permutations": self.config.evaluation.n_permutations,
        }
        if MODELS[model].shrinks:
            settings["unshrink"] = self.config.decoding.unshrink
        name = f"compare_sub-{subject}_space-{space}_{model}"
        work = partial(self._work, subject, space, model, output)
        return Step(name, 2, settings, (*inputs, self.stimuli.folder / "latents.safetensors"), (output,), work)

    def _work(self, subject: str, space: str, model: str, output: Path) -> None:
        trials = read_trials(self.layout, self.stimuli, subject, space)
        scale = LatentSpace(self.generator, space, self.config.stimuli.truncation)
        mean, sd = scale.scale
        context = Context(
            seed=derived_seed(self.config.seed, "folds", subject),
            cv=self.config.decoding.cv,
            n_averaged=n_averaged(trials, self.config),
            generator=self.generator,
            space=space,
            truncation=self.config.stimuli.truncation,
            scale=(mean, sd),
            bands=bands_of(self.layout, self.config.bold, subject, trials.voxels) if model == "banded-ridge" else None,
        )
        fit = fit_decoder(trials, self.config, scale, model, context)
        predicted, _ = decoded_averages(trials, self.config, scale, model, lambda z: z @ fit.coef.T + fit.intercept)
        true = trials.test_latents
        judged = evaluate_latents(
            predicted,
            true,
            trials.training_latents.mean(0),
            mean=mean,
            sd=sd,
            n_permutations=self.config.evaluation.n_permutations,
            seed=derived_seed(self.config.seed, "permutation", subject),
        ).table.set_index("metric")
        scores = judged["decoder"]
        row = {
            "noise_ceiling": self.config.simulation.noise_ceiling,
            "space": space,
            "subject": f"sub-{subject}",
            "model": model,
            **{name: float(scores[name]) for name in METRICS if name in scores},
            "identification_p": float(judged["p_value"]["identification"]),
            "lsim_blind": float(judged["best_blind_score"]["lsim"]),
            "attribute_r": _attribute_r(scale, predicted, true),
            "seconds": round(fit.seconds, 3),
            "threads": default_threads(),
        }
        write_json(output, row)


def _attribute_r(space: LatentSpace, predicted: NDArray[np.float64], true: NDArray[np.float64]) -> float | None:
    """Pearson's r of decoded and true attribute scores, mean over the attributes; None where none are known."""
    normals = space.attributes
    if normals is None:
        return None
    decoded, shown = (normals.scores(torch.from_numpy(a).float()).numpy() for a in (predicted, true))
    return float(np.mean([pearsonr(decoded[:, k], shown[:, k])[0] for k in range(len(normals.names))]))


def _gathered(out: Path) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(out.glob("ceiling-*/derivatives/hyperdecode/sub-*/*_comparison.json"))
    ]
    order = list(MODELS)
    table = pd.DataFrame(rows)
    table["place"] = [order.index(name) for name in table["model"]]
    table = table.sort_values(["space", "noise_ceiling", "place", "subject"], kind="stable", ignore_index=True)
    return table.drop(columns="place")
