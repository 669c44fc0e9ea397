"""Whether 90 % intervals of the posterior over latents hold what they promise, and how wide they are.

    python benchmarks/posterior.py [--replications 30] [--json]
    python benchmarks/posterior.py STUDY [--space w|z] [--folds 5] [--json]

Without a study: trials of a linear Gaussian world (40 latents, 300 voxels, 400 training trials, 60 test stimuli shown 8
times, noise that neighbouring voxels share in part, and a misfit that repeats do not average out) at three levels of
noise, many worlds each. Coverage is over all latents, and over 20 random directions; its interval is t's over worlds.

With an analysed study: each subject's single test trials and averages, and training trials that were held out of
everything (mask apart). Latents, and scores by the shipped attribute normals. One face counts as one observation for
the interval of coverage (t over faces), because its latents and trials stand or fall together.

``naive`` is ridge regression with the covariance of its held-out training errors (shrunk), for trials and averages
alike. ``noise`` says where the noise of averages was taken from: ``spread`` is the scatter of the decoded trials
around their own means (`LatentPosterior.noise_from_repeats`), ``training`` that of repeated training stimuli, ``none``
takes an average for as noisy as a trial, which can only be too wide. ``gaussian`` is the coverage of the same posterior
by the normal distribution's quantiles instead of those of the held-out errors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import KFold

from hyperdecode.decoding.posterior import LatentPosterior, Posterior, latent_prior
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.generators import load_generator
from hyperdecode.generators.attribute_store import load_attributes
from hyperdecode.split import Split
from hyperdecode.study.config import read_config
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli
from hyperdecode.study.trial_store import open_store
from hyperdecode.threads import set_threads

LEVEL = 0.9
NOISE = {"low": 1.0, "middle": 3.0, "high": 10.0}
"""Standard deviation of a voxel's noise, where its signal has one of 1."""

Array = NDArray[np.float64]
Row = dict[str, Any]


class Trials(NamedTuple):
    """Responses, latents and stimulus of trials."""

    x: Array
    y: Array
    stimuli: list[str]

    def averages(self) -> tuple[Array, Array]:
        """Return mean responses and latents of each stimulus."""
        names = np.asarray(self.stimuli)
        first = [np.flatnonzero(names == name) for name in sorted(set(self.stimuli))]
        return np.stack([self.x[rows].mean(0) for rows in first]), np.stack([self.y[rows[0]] for rows in first])

    def part(self, rows: NDArray[np.intp]) -> Trials:
        """Return some of the trials."""
        return Trials(self.x[rows], self.y[rows], [self.stimuli[row] for row in rows])


class World:
    """A linear Gaussian world: ``x = B y + misfit(stimulus) + noise(trial)``."""

    def __init__(self, noise: float, seed: int, n_latents: int = 40, n_voxels: int = 300) -> None:
        self.random = np.random.default_rng(seed)
        spectrum = np.linspace(3, 0.1, n_latents)
        turn = np.linalg.qr(self.random.standard_normal((n_latents, n_latents)))[0]
        self.mean, self.root = self.random.standard_normal(n_latents), turn * np.sqrt(spectrum)
        self.covariance = self.root @ self.root.T
        signal = self.random.standard_normal((n_voxels, n_latents))
        self.encoding = signal / np.sqrt(np.einsum("vi,ij,vj->v", signal, self.covariance, signal))[:, None]
        self.noise, self.misfit = noise, 0.5

    def trials(self, n_stimuli: int, repeats: int, name: str) -> Trials:
        """Show new stimuli, each `repeats` times."""
        y = self.mean + self.random.standard_normal((n_stimuli, len(self.mean))) @ self.root.T
        response = y @ self.encoding.T + self.misfit * self._smooth(n_stimuli)
        which = np.repeat(np.arange(n_stimuli), repeats)
        x = response[which] + self.noise * self._smooth(len(which))
        return Trials(x, y[which], [f"{name}{k}" for k in which])

    def _smooth(self, n: int) -> Array:
        """Return unit noise that neighbouring voxels share in part."""
        own, white = self.random.standard_normal((2, n, len(self.encoding) + 2))
        shared = (white[:, :-2] + white[:, 1:-1] + white[:, 2:]) / np.sqrt(3)
        noise: Array = np.sqrt(0.7) * own[:, 1:-1] + np.sqrt(0.3) * shared
        return noise


def naive(train: Trials, x: Array) -> Posterior:
    """Return ridge predictions with the shrunk covariance of held-out training errors, as a posterior."""
    errors = np.empty_like(train.y)
    for rows, held in KFold(5, shuffle=True, random_state=0).split(train.x):
        errors[held] = train.y[held] - RidgeDecoder().fit(train.x[rows], train.y[rows]).predict(train.x[held])
    factor = np.linalg.cholesky(ledoit_wolf(errors, assume_centered=True)[0])
    return Posterior(RidgeDecoder().fit(train.x, train.y).predict(x), factor, errors, factor)


def covered(posterior: Posterior, y: Array, directions: Array, calibrated: bool = True) -> NDArray[np.bool_]:
    """Return whether each true ``latent . direction`` lies in its interval, (n, k)."""
    low, high = posterior.projected_interval(directions, LEVEL, calibrated)
    true = y @ directions.T
    inside: NDArray[np.bool_] = (low <= true) & (true <= high)
    return inside


def scored(
    posterior: Posterior, y: Array, units: list[str], sets: dict[str, Array], covariance: Array, calibrated: bool = True
) -> Row:
    """Return coverage, its interval over independent units, and widths, for each set of directions."""
    row: Row = {}
    for name, directions in sets.items():
        inside = covered(posterior, y, directions, calibrated)
        of_unit = pd.Series(inside.mean(1)).groupby(units).mean().to_numpy()
        low, high = posterior.projected_interval(directions, LEVEL, calibrated)
        prior_sd = np.sqrt(np.einsum("kd,de,ke->k", directions, covariance, directions))
        row[name] = {
            "coverage": float(inside.mean()),
            "of_unit": of_unit,
            "gaussian": float(covered(posterior, y, directions, calibrated=False).mean()),
            "width": float(np.mean((high - low) / (2 * student.ppf((1 + LEVEL) / 2, 1e9) * prior_sd))),
        }
    return row


def summarised(rows: list[Row], about: Row) -> Row:
    """Pool scores of the same posterior; the interval of coverage is Student's over its independent units."""
    pooled: Row = dict(about)
    for name in rows[0]:
        units = np.concatenate([row[name]["of_unit"] for row in rows])
        half = student.ppf(0.975, len(units) - 1) * units.std(ddof=1) / np.sqrt(len(units))
        pooled[name] = {
            key: float(np.mean([row[name][key] for row in rows])) for key in ("coverage", "gaussian", "width")
        }
        pooled[name] |= {"coverage_95": [float(units.mean() - half), float(units.mean() + half)], "units": len(units)}
    return pooled


def synthetic(replications: int) -> Iterator[Row]:
    """Yield a row a level of noise and kind of posterior."""
    for level, noise in NOISE.items():
        rows: dict[tuple[str, str, str], list[Row]] = {}
        for seed in range(replications):
            world = World(noise, seed)
            once, repeated = world.trials(400, 1, "a"), world.trials(200, 2, "b")
            test = world.trials(60, 8, "t")
            x, y = test.averages()
            directions = np.random.default_rng(seed).standard_normal((20, len(world.mean)))
            sets = {"latents": np.eye(len(world.mean)), "directions": directions}
            plain = LatentPosterior(world.mean, world.covariance).fit(once.x, once.y)
            twice = LatentPosterior(world.mean, world.covariance).fit(repeated.x, repeated.y)
            ridge, spread = naive(once, np.concatenate([test.x, x])), plain.noise_from_repeats(test.x, test.stimuli)
            n = len(test.x)
            for key, posterior, true in (
                (("trials", "posterior", "-"), plain.posterior(test.x), test.y),
                (("trials", "naive", "-"), Posterior(ridge.mean[:n], *_rest(ridge)), test.y),
                (("averages", "posterior", "spread"), plain.posterior(x, 8, spread), y),
                (("averages", "posterior", "training"), twice.posterior(x, 8), y),
                (("averages", "posterior", "none"), plain.posterior(x, 8), y),
                (("averages", "naive", "-"), Posterior(ridge.mean[n:], *_rest(ridge)), y),
            ):
                found = scored(posterior, true, ["world"] * len(true), sets, world.covariance, key[1] != "naive")
                rows.setdefault(key, []).append(found)
        for (what, model, source), found_rows in rows.items():
            yield summarised(
                found_rows, {"noise_sd": noise, "level": level, "of": what, "model": model, "noise": source}
            )


def _rest(posterior: Posterior) -> tuple[Array, Array, Array]:
    return posterior.factor, posterior.errors, posterior.error_factor


def study_rows(study: Path, space: str | None, n_folds: int) -> Iterator[Row]:
    """Yield a row a subject and kind of posterior."""
    config = read_config(study)
    stimuli, generator = read_stimuli(study), load_generator(config.generator)
    space = space or config.decoding.space
    mean, covariance = latent_prior(generator, space, config.stimuli.truncation)
    sets = {
        "latents": np.eye(len(mean)),
        "attributes": load_attributes(config.generator, space).normals.double().numpy(),
    }
    for subject in config.subjects:
        layout = Layout(study)
        z = open_store(layout.masked(subject))[:].astype(np.float64)
        table = pd.read_csv(layout.subject(subject, "trials.tsv"), sep="\t")
        split = Split.of(list(table["stim_file"]), list(table["role"]))
        everything = Trials(z, stimuli.latents(list(split.stimuli), space).double().numpy(), list(split.stimuli))
        train = everything.part(split.training_rows)
        test = everything.part(np.flatnonzero(np.asarray(split.roles) == "test"))
        yield from _subject_rows(f"sub-{subject}", space, train, test, (mean, covariance), sets, n_folds)


def _subject_rows(
    subject: str,
    space: str,
    train: Trials,
    test: Trials,
    prior: tuple[Array, Array],
    sets: dict[str, Array],
    n_folds: int,
) -> Iterator[Row]:
    x, y = test.averages()
    names, repeats = sorted(set(test.stimuli)), len(test.x) // len(x)
    model = LatentPosterior(*prior).fit(train.x, train.y, roles=["train"] * len(train.x))
    spread, ridge = model.noise_from_repeats(test.x, test.stimuli), naive(train, np.concatenate([test.x, x]))
    n = len(test.x)
    for what, name, source, posterior, true, units in (
        ("trials", "posterior", "-", model.posterior(test.x), test.y, test.stimuli),
        ("trials", "naive", "-", Posterior(ridge.mean[:n], *_rest(ridge)), test.y, test.stimuli),
        ("averages", "posterior", "spread", model.posterior(x, repeats, spread), y, names),
        ("averages", "posterior", "none", model.posterior(x, repeats), y, names),
        ("averages", "naive", "-", Posterior(ridge.mean[n:], *_rest(ridge)), y, names),
    ):
        about = {"subject": subject, "space": space, "of": f"test {what}", "model": name, "noise": source}
        yield summarised([scored(posterior, true, units, sets, prior[1], name != "naive")], about)
    held_out = []
    for rows, held in KFold(n_folds, shuffle=True, random_state=1).split(train.x):
        part, rest = train.part(rows), train.part(held)
        posterior = LatentPosterior(*prior).fit(part.x, part.y).posterior(rest.x)
        held_out.append(scored(posterior, rest.y, rest.stimuli, sets, prior[1]))
    about = {"subject": subject, "space": space, "of": "training trials held out", "model": "posterior", "noise": "-"}
    yield summarised(held_out, about)


def shown(row: Row) -> str:
    """Say a row in words."""
    about = ", ".join(f"{key} {value}" for key, value in row.items() if not isinstance(value, dict))
    scores = "; ".join(
        f"{name} {value['coverage']:.3f} (95 % {value['coverage_95'][0]:.3f} to {value['coverage_95'][1]:.3f}, "
        f"gaussian {value['gaussian']:.3f}), width {value['width']:.2f} of the prior's"
        for name, value in row.items()
        if isinstance(value, dict)
    )
    return f"{about}: {scores}"


def main() -> None:
    """Print one line a posterior."""
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    words.add_argument("study", type=Path, nargs="?")
    words.add_argument("--space", choices=("w", "z"), help="latents (default: those that the study decodes)")
    words.add_argument("--folds", type=int, default=5, help="of training trials, held out one after the other")
    words.add_argument("--replications", type=int, default=30, help="worlds a level of noise, without a study")
    words.add_argument("--threads", type=int)
    words.add_argument("--json", action="store_true")
    given = words.parse_args()
    set_threads(given.threads)
    rows = study_rows(given.study, given.space, given.folds) if given.study else synthetic(given.replications)
    for row in rows:
        print(json.dumps(row) if given.json else shown(row), flush=True)


if __name__ == "__main__":
    main()
