"""How the paper's own decoder does on simulated subjects, beside the figures that the paper publishes.

    hyperdecode init STUDY && hyperdecode stimuli STUDY && hyperdecode simulate STUDY && hyperdecode run STUDY
    python benchmarks/calibration.py STUDY [--space w|z] [--epochs N] [--json]

For each subject of an analysed study, fitted on the training trials' z-maps of the masked voxels and judged on the
averaged test trials: the dense layer of the paper's notebook (Adam, 1500 epochs, weight decay 0.01; some minutes on one
core), the same layer without weight decay, and ridge regression. Latents are on the generator's own scale (each
dimension of unit variance), so that lsim compares with the paper's, whose latents are N(0, I). Attribute scores are
those of the shipped normals; r is Pearson's over test faces, p is Student's, as the paper computes them. ``blind zero``
is what a predictor that never saw the brain gets.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr

from hyperdecode.decoding.dense import DenseDecoder
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.evaluation.metrics import standardise
from hyperdecode.evaluation.summary import evaluate_latents
from hyperdecode.generators import load_generator
from hyperdecode.generators.attribute_store import load_attributes
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.split import Split
from hyperdecode.study.config import StudyConfig, read_config
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, read_stimuli
from hyperdecode.study.trial_store import open_store
from hyperdecode.threads import set_threads

PAPER = {"lsim": (0.4521, 0.4447)}
"""Published latent similarity of the two subjects."""

LECUN = (3 / 4096) ** 0.5
"""First weights of Chainer's `Linear` (variance 1 / voxels), the library of the authors' published models."""

Array = NDArray[np.float64]


def scale_of(generator: Generator, config: StudyConfig, space: str) -> tuple[Array, Array]:
    """Return mean and standard deviation of each latent, from the generator, not from trials."""
    if space == "z":
        return np.zeros(generator.latent_dim), np.ones(generator.latent_dim)
    mean, sd = (value.double().numpy() for value in generator.w_statistics())
    return mean, sd * config.stimuli.truncation


def decoders(seed: int, epochs: int) -> dict[str, Any]:
    """Return the paper's decoder and ours."""

    def announce(done: int, total: int) -> None:
        if done % 100 == 0:
            print(f"  dense layer: epoch {done} of {total}", file=sys.stderr)

    return {
        "dense layer, notebook's settings": DenseDecoder(n_epochs=epochs, seed=seed, progress=announce),
        "dense layer, no decay": DenseDecoder(
            n_epochs=epochs, weight_decay=0.0, first_weights=LECUN, seed=seed, progress=announce
        ),
        "ridge": RidgeDecoder(cv=5, seed=seed),
    }


def judged(
    study: Path, config: StudyConfig, stimuli: StimulusSet, generator: Generator, subject: str, space: str, epochs: int
) -> list[dict[str, Any]]:
    """Return one row a decoder: scores beside the blind predictor, and the attributes."""
    layout = Layout(study)
    z = open_store(layout.masked(subject))[:]
    trials = pd.read_csv(layout.subject(subject, "trials.tsv"), sep="\t")
    split = Split.of(list(trials["stim_file"]), list(trials["role"]))
    mean, sd = scale_of(generator, config, space)
    latents = standardise(stimuli.latents(list(trials["stim_file"]), space).numpy(), mean, sd)
    train, true = np.asarray(split.training(latents), np.float64), split.test_averages(latents)
    roles = [split.roles[row] for row in split.training_rows]
    normals = load_attributes(config.generator, space)
    rows = []
    for name, decoder in decoders(derived_seed(config.seed, "calibration", subject), epochs).items():
        predicted = decoder.fit(split.training(z), train, roles=roles).predict(split.test_averages(z))
        table = evaluate_latents(predicted, true, train.mean(0), seed=config.seed).table.set_index("metric")
        lengths = np.linalg.norm(predicted, axis=1).mean() / np.linalg.norm(true, axis=1).mean()
        row = {
            "subject": f"sub-{subject}",
            "space": space,
            "decoder": name,
            "lsim": float(table.loc["lsim", "decoder"]),
            "lsim_blind_zero": float(table.loc["lsim", "blind_zero"]),
            "identification": float(table.loc["identification", "decoder"]),
            "identification_p": float(table.loc["identification", "p_value"]),
            "r_squared": float(table.loc["r_squared", "decoder"]),
            "length": float(lengths),
            "attributes": {},
        }
        scores = [normals.scores(torch.from_numpy(a * sd + mean).float()).numpy() for a in (true, predicted)]
        for k, attribute in enumerate(normals.names):
            r, p = pearsonr(scores[0][:, k], scores[1][:, k])
            row["attributes"][attribute] = {"r": float(r), "p": float(p)}
        rows.append(row)
    return rows


def shown(row: dict[str, Any]) -> str:
    """Say a row in words."""
    attributes = ", ".join(f"{k} {v['r']:.2f} (p {v['p']:.1g})" for k, v in row["attributes"].items())
    return (
        f"{row['subject']}, {row['space']}, {row['decoder']}: lsim {row['lsim']:.4f} (blind zero "
        f"{row['lsim_blind_zero']:.4f}, paper {PAPER['lsim'][0]} and {PAPER['lsim'][1]}), two-way "
        f"{row['identification']:.3f} (p {row['identification_p']:.2g}), R2 {row['r_squared']:.3f}, length of "
        f"predictions {row['length']:.2f} of the true\n    {attributes}"
    )


def main() -> None:
    """Print one line a subject and decoder."""
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    words.add_argument("study", type=Path)
    words.add_argument("--space", choices=("w", "z"), help="latents (default: those that the study decodes)")
    words.add_argument("--epochs", type=int, default=1500)
    words.add_argument("--threads", type=int)
    words.add_argument("--json", action="store_true")
    given = words.parse_args()
    set_threads(given.threads)
    config = read_config(given.study)
    stimuli, generator = read_stimuli(given.study), load_generator(config.generator)
    space = given.space or config.decoding.space
    for subject in config.subjects:
        for row in judged(given.study, config, stimuli, generator, subject, space, given.epochs):
            print(json.dumps(row) if given.json else shown(row), flush=True)


if __name__ == "__main__":
    main()
