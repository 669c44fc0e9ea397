"""Test whether the p-values of subjects whose voxels tell nothing of the faces are uniform.

    python benchmarks/null_subjects.py [--subjects N] [--controls N] [--seed N] [--paper-ssim] [--json]

Many small studies, each a simulated null subject (as ``[simulation] null = true`` makes them: every trial evokes the
response to a face drawn at random) with 10 mm voxels, the default noise, a schedule, tuning and noise of its
own, analysed by the product's own code: single-trial z-maps, voxel mask, split, ridge, scores with the permutation test
of the pairing, and Student's p of the attributes. The latents are one fixed seeded set; only the generator is
replaced by random smooth maps, which the tests do not know about. For every p-value that is printed:

- Kolmogorov-Smirnov's test against the uniform distribution, two-sided;
- the share of p <= 0.05 with its exact 95 % interval, and its exact binomial test. Permutation p-values are multiples
  of 1 / (999 + 1), so that this share is exactly 0.05 when all is well.

p-values of one subject depend on each other, so every metric is tested apart, over subjects. An alarm is the least of
all these tests' p, times their number, below `ALPHA`: a false one is rarer than that.

Three controls show that the check can fail: subjects that do see, with the same noise; and the same null subjects with
analyses that leak: one fits mask and decoder on all trials, one picks voxels by their correlation with the latents over
all trials. Each must raise the alarm.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest, kstest, pearsonr

from hyperdecode.decoding.rescale import match_norm
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import DataWarning
from hyperdecode.evaluation.pictures import Protocol
from hyperdecode.evaluation.summary import evaluate_latents, evaluate_pictures
from hyperdecode.fmri.mask import voxel_mask
from hyperdecode.fmri.singletrial import single_trial_zmaps
from hyperdecode.generators.attributes import ATTRIBUTES, AttributeNormals
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.simulation.bold import simulate_run
from hyperdecode.simulation.features import FeatureBank
from hyperdecode.simulation.head import Head, grow_head
from hyperdecode.simulation.noise import noise_sd
from hyperdecode.simulation.responses import grow_subject
from hyperdecode.split import Split
from hyperdecode.stimuli.schedule import scan_time, schedule_runs
from hyperdecode.threads import set_threads
from hyperdecode.weights.atlas import load_atlas

ALPHA = 1e-3
"""Rate of false alarms of `alarm`, at most."""
LEVEL = 0.05
VOXEL_SIZE = 10.0
N_LATENTS, N_VOXELS, N_PERMUTATIONS = 16, 100, 999
ON, OFF, LEAD_IN, LEAD_OUT, T_R = 1.5, 3.0, 6.0, 15.0, 1.5

Array = NDArray[np.float64]
Analysis = Literal["honest", "leaky decoder", "leaky voxels"]
LEAKS: tuple[Analysis, ...] = ("leaky decoder", "leaky voxels")


@dataclass(frozen=True)
class Size:
    """How large each study is."""

    n_train: int = 120
    n_test: int = 12
    test_repeats: int = 4
    n_runs: int = 3


@dataclass(frozen=True)
class World:
    """What all studies share: faces with their latents and features, attributes, and a head."""

    size: Size
    head: Head
    latents: Array
    mean: Array
    sd: Array
    bank: FeatureBank
    pixels: Array
    normals: AttributeNormals

    @property
    def names(self) -> list[str]:
        """Names of the faces, training faces first."""
        size = self.size
        return [f"{role}-{k:04d}.png" for role, n in (("train", size.n_train), ("test", size.n_test)) for k in range(n)]

    def pictures(self, latents: Array) -> NDArray[np.uint8]:
        """Return what stands for the generator: smooth pictures of 32 px that follow the latents."""
        values = np.tensordot((latents - self.mean) / self.sd, self.pixels, 1)
        return np.clip(np.rint(127.5 + 40 * values), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Trials:
    """All trials of one subject: z-maps (n_trials, n_voxels), faces and roles."""

    z: NDArray[np.float32]
    split: Split


@dataclass(frozen=True)
class Uniformity:
    """How far the p-values of one metric are from uniform ones."""

    metric: str
    n: int
    ks_p: float
    share: float
    interval: tuple[float, float]
    share_p: float


def make_world(seed: int = 0, size: Size | None = None) -> World:
    """Make faces that only the latents decide about: features and pictures are random functions of them."""
    rng, size = np.random.default_rng(derived_seed(seed, "world")), size or Size()
    standard = rng.standard_normal((size.n_train + size.n_test, N_LATENTS))
    mean, sd = rng.standard_normal(N_LATENTS), rng.uniform(0.3, 1.5, N_LATENTS)
    layers = {f"b{side}": (8, side) for side in (2, 4, 8)} | {"picture": (3, 8)}
    features = tuple(_features(rng, standard, *shape) for shape in layers.values())
    pixels = gaussian_filter(rng.standard_normal((N_LATENTS, 32, 32, 3)), (0, 3, 3, 0))
    normals = rng.standard_normal((len(ATTRIBUTES), N_LATENTS))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    none = torch.zeros(len(ATTRIBUTES))
    return World(
        size=size,
        head=grow_head(load_atlas(), seed=seed, voxel_size=VOXEL_SIZE),
        latents=mean + sd * standard,
        mean=mean,
        sd=sd,
        bank=FeatureBank(tuple(layers), features),
        pixels=pixels / pixels.std(axis=(1, 2, 3), keepdims=True) / N_LATENTS**0.5,
        normals=AttributeNormals(ATTRIBUTES, torch.from_numpy(normals), none, none + 1, "w"),
    )


def _features(rng: np.random.Generator, latents: Array, channels: int, side: int) -> NDArray[np.float32]:
    weights = rng.standard_normal((latents.shape[1], channels * side * side)) / latents.shape[1] ** 0.5
    values = np.tanh(latents @ weights).reshape(len(latents), channels, side, side)
    return np.asarray((values - values.mean(0)) / values.std(), np.float32)


def scanned(world: World, index: int, *, null: bool, seed: int = 0, noise_ceiling: float = 0.1) -> Trials:
    """Simulate one subject and estimate a z-map a trial, as `hyperdecode simulate` and `run` do."""
    own = derived_seed(seed, "null" if null else "seeing", index)
    names, size = world.names, world.size
    runs = schedule_runs(
        names[: size.n_train],
        names[size.n_train :],
        size.test_repeats,
        size.n_runs,
        on=ON,
        off=OFF,
        lead_in=LEAD_IN,
        seed=derived_seed(own, "schedule"),
    )
    n_volumes = scan_time(runs, off=OFF, lead_out=LEAD_OUT, t_r=T_R).volumes
    subject = grow_subject(world.bank, world.head, seed=derived_seed(own, "subject"), noise_ceiling=noise_ceiling)
    noise = noise_sd(subject, runs[0], t_r=T_R, n_volumes=n_volumes[0])
    row_of = {name: row for row, name in enumerate(names)}
    maps = []
    for number, (events, length) in enumerate(zip(runs, n_volumes, strict=True), start=1):
        rows = np.array([row_of[name] for name in events["stim_file"]])
        if null:
            rows = np.random.default_rng(derived_seed(own, "faces", number)).integers(len(names), size=len(rows))
        run = simulate_run(
            subject,
            events,
            rows,
            t_r=T_R,
            n_volumes=length,
            noise=noise,
            motion=None,
            seed=derived_seed(own, "noise", number),
            chunk=length,
        )
        bold = np.concatenate(list(run.volumes()), axis=-1)
        series = bold.reshape(-1, length).T
        maps.append(single_trial_zmaps(series, events["onset"], events["duration"], T_R, slice_time_ref=0.5).z)
    shown = [name for events in runs for name in events["stim_file"]]
    roles = [role for events in runs for role in events["trial_type"]]
    return Trials(np.concatenate(maps), Split.of(shown, roles))


def decoded(world: World, trials: Trials, analysis: Analysis, seed: int) -> dict[str, Array]:
    """Return ``predicted``, ``drawn`` and ``true`` latents of the test faces, and the ``training_mean``."""
    split, names = trials.split, world.names
    latents = world.latents[[names.index(name) for name in split.stimuli]]
    train, roles = split.training_rows, [split.roles[row] for row in split.training_rows]
    usable = np.isfinite(trials.z).all(axis=0)
    if analysis == "honest":
        chosen = voxel_mask(np.where(usable, split.training(trials.z), np.nan), roles, N_VOXELS).selected
    elif analysis == "leaky decoder":
        chosen = voxel_mask(np.where(usable, trials.z, np.nan), None, N_VOXELS).selected
    else:
        chosen = np.isin(np.arange(usable.size), _telling_voxels(np.where(usable, trials.z, 0), latents))
    z, decoder = trials.z[:, chosen], RidgeDecoder(cv=5, seed=seed)
    with warnings.catch_warnings():
        # Nothing can be decoded here, and the decoder says so.
        warnings.simplefilter("ignore", DataWarning)
        if analysis == "leaky decoder":
            decoder.fit(z, latents)
        else:
            decoder.fit(z[train], latents[train], roles=roles)
    # Rounded and stretched as the pipeline does.
    predicted = decoder.predict(split.test_averages(z)).astype(np.float32)
    mean = latents[train].mean(axis=0)
    norm = float(np.linalg.norm(latents[train] - mean, axis=1).mean())
    return {
        "predicted": predicted.astype(np.float64),
        "drawn": np.asarray(match_norm(predicted, mean, norm), np.float64),
        "true": world.latents[[names.index(name) for name in split.test_stimuli]],
        "training_mean": mean,
    }


def _telling_voxels(z: NDArray[np.float32], latents: Array) -> NDArray[np.intp]:
    """Voxels of the highest sum of squared correlations with the latents, over test trials too."""
    a, b = (np.asarray(v, np.float64) - v.mean(axis=0) for v in (z, latents))
    a /= np.maximum(np.linalg.norm(a, axis=0), 1e-12)
    b /= np.linalg.norm(b, axis=0)
    return np.asarray(np.argsort(-((a.T @ b) ** 2).sum(axis=1), kind="stable")[:N_VOXELS])


def p_values(
    world: World, trials: Trials, analysis: Analysis, seed: int, protocols: Sequence[Protocol] | None = None
) -> dict[str, float]:
    """Return every p-value that is printed for one subject, by metric; of pictures only when given SSIM protocols."""
    latents, own = decoded(world, trials, analysis, seed), derived_seed(seed, "permutation")
    predicted, true = latents["predicted"], latents["true"]
    judged = evaluate_latents(
        predicted,
        true,
        latents["training_mean"],
        mean=world.mean,
        sd=world.sd,
        n_permutations=N_PERMUTATIONS,
        n_noise_draws=1,
        seed=own,
    )
    if protocols is not None:
        drawn, shown = world.pictures(latents["drawn"]), world.pictures(true)
        judged = judged.joined(
            evaluate_pictures(drawn, shown, protocols=protocols, n_permutations=N_PERMUTATIONS, seed=own)
        )
    found = {str(row["metric"]): float(row["p_value"]) for _, row in judged.table.iterrows()}
    scores = [world.normals.scores(torch.from_numpy(values)).numpy() for values in (true, predicted)]
    for k, name in enumerate(world.normals.names):
        found[f"r of {name}"] = float(pearsonr(scores[0][:, k], scores[1][:, k])[1])
    return found


def uniformity(p: dict[str, Array]) -> list[Uniformity]:
    """Test the p-values of each metric, one a subject."""
    rows = []
    for metric, values in p.items():
        counted = binomtest(int((values <= LEVEL).sum()), len(values), LEVEL)
        low, high = counted.proportion_ci(0.95)
        ks = float(kstest(values, "uniform").pvalue)
        rows.append(
            Uniformity(metric, len(values), ks, float(counted.statistic), (float(low), float(high)), counted.pvalue)
        )
    return rows


def alarm(rows: Sequence[Uniformity]) -> float:
    """Return the p-value of all tests together (Bonferroni); below `ALPHA` something is wrong."""
    tests = [p for row in rows for p in (row.ks_p, row.share_p)]
    return min(1.0, len(tests) * min(tests))


def noticed(n: int, n_tests: int) -> float:
    """Return the least share of p <= 0.05 among n subjects that raises the alarm on its own; infinity if none does."""
    enough = (k for k in range(int(LEVEL * n), n + 1) if n_tests * float(binomtest(k, n, LEVEL).pvalue) < ALPHA)
    return next((k / n for k in enough), float("inf"))


def collect(
    world: World,
    subjects: Iterable[Trials],
    analysis: Analysis = "honest",
    *,
    seed: int = 0,
    protocols: Sequence[Protocol] | None = None,
) -> dict[str, Array]:
    """Analyse every subject and return the p-values by metric, one a subject."""
    found = [
        p_values(world, trials, analysis, derived_seed(seed, "analysis", index), protocols)
        for index, trials in enumerate(subjects)
    ]
    return {metric: np.array([one[metric] for one in found]) for metric in found[0]}


def records(words: str, rows: Sequence[Uniformity], expected: bool) -> list[dict[str, Any]]:
    """Return one record a metric, and one of them all."""
    n, together = rows[0].n, alarm(rows)
    lines: list[dict[str, Any]] = [
        {
            "claim": f"{words}, {row.metric}: {row.share:.3f} of {n} p-values <= {LEVEL} "
            f"(95 % interval {row.interval[0]:.3f} to {row.interval[1]:.3f}, p {row.share_p:.2g}), "
            f"Kolmogorov-Smirnov p {row.ks_p:.2g}",
            "goal": "",
            "met": None,
            "numbers": vars(row),
        }
        for row in rows
    ]
    goal = f">= {ALPHA}" if not expected else f"< {ALPHA}: must be noticed"
    lines.append(
        {
            "claim": f"{words}, {2 * len(rows)} tests of {len(rows)} metrics together: p {together:.2g} "
            f"(a share of {noticed(n, 2 * len(rows)):.3f} alone would raise the alarm)",
            "goal": goal,
            "met": (together < ALPHA) == expected,
            "numbers": {"p": together, "n": n},
        }
    )
    return lines


def main() -> None:
    """Print one line a metric, and whether all is well."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--subjects", type=int, default=200, help="null subjects")
    words.add_argument("--controls", type=int, default=30, help="subjects of each control")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--paper-ssim", action="store_true", help="the slow SSIM of the paper's text too")
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--json", action="store_true")
    given = words.parse_args()
    set_threads(given.threads)
    world = make_world(given.seed)
    start = time.perf_counter()
    protocols: tuple[Protocol, ...] = ("hyper-paper", "hyper-code") if given.paper_ssim else ("hyper-code",)
    nulls = (scanned(world, k, null=True, seed=given.seed) for k in range(given.subjects))
    honest = collect(world, nulls, seed=given.seed, protocols=protocols)
    seconds = time.perf_counter() - start
    lines = records("null subjects", uniformity(honest), expected=False)
    few = [scanned(world, k, null=True, seed=given.seed) for k in range(given.controls)]
    for analysis in LEAKS:
        leaked = collect(world, few, analysis, seed=given.seed)
        lines += records(f"null subjects, {analysis}", uniformity(leaked), expected=True)
    seeing = (scanned(world, k, null=False, seed=given.seed) for k in range(given.controls))
    lines += records("seeing subjects", uniformity(collect(world, seeing, seed=given.seed)), expected=True)
    lines.append(
        {
            "claim": f"{given.subjects} null subjects: {seconds:.0f} s",
            "goal": "",
            "met": None,
            "numbers": {"seconds": seconds},
        }
    )
    for line in lines:
        if given.json:
            print(json.dumps(line))
        else:
            mark = {True: "met   ", False: "MISSED", None: "      "}[line["met"]]
            print(mark, line["claim"] + (f" (goal {line['goal']})" if line["goal"] else ""))


if __name__ == "__main__":
    main()
