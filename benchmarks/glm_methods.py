"""Compare single-trial models on simulated subjects, from planted amplitudes to decoded faces.

    python benchmarks/glm_methods.py [--subjects N] [--spacing S ...] [--seed N] [--threads N] [--json]

Each subject (a tuning, a schedule and noise of its own; voxels of 10 mm, 80 of them decoded from; 300 training faces
once and 36 test faces 4 times in 6 runs; no motion) is scanned once for every time from onset to onset; all models see
the same BOLD. The noise of a voxel is what the simulator sets for 4.5 s, at every spacing. The faces are those of
``benchmarks/null_subjects.py``: 16 latents behind random features, so that only the generator is left out. Responses
peak late or early by region, as the simulator plants them; no model is told. Each model's maps go the product's way:
voxel mask and ridge decoder on training trials, test trials averaged. Printed, mean and standard error over subjects:

- ``amplitude``: correlation over trials of z with the planted amplitude, run means taken out, mean over the
  voxels that respond;
- ``latents``: correlation of decoded and true latents of a test face over dimensions, mean over faces;
- ``identification``: two-way identification by that correlation (chance 0.5);
- each minus that of ``lss ols spm``, paired by subject.

``library`` means the HRF chosen for each voxel by the training trials of all runs (`choose_hrf`); ``true delay`` the
entry of the library that is most like the response that was planted, which no analysis can know: what a perfect
choice would be worth.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from null_subjects import LEAD_IN, LEAD_OUT, ON, T_R, Size, World, make_world
from numpy.typing import NDArray

from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import DataWarning
from hyperdecode.evaluation.identification import identification_accuracy
from hyperdecode.evaluation.metrics import correlation_scores
from hyperdecode.fmri.design import frame_times, trial_columns
from hyperdecode.fmri.hrf import CANONICAL, best_hrf, choose_hrf, hrf_library
from hyperdecode.fmri.mask import voxel_mask
from hyperdecode.fmri.singletrial import Hrf, Method, NoiseModel, single_trial_zmaps
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.simulation.bold import simulate_run
from hyperdecode.simulation.head import grow_head
from hyperdecode.simulation.hrf import SLICE_TIME_REF, delayed_response
from hyperdecode.simulation.noise import noise_sd
from hyperdecode.simulation.responses import SimulatedSubject, grow_subject
from hyperdecode.split import Split
from hyperdecode.stimuli.schedule import scan_time, schedule_runs
from hyperdecode.threads import set_threads
from hyperdecode.weights.atlas import load_atlas

SIZE = Size(n_train=300, n_test=36, test_repeats=4, n_runs=6)
VOXEL_SIZE, N_VOXELS = 10.0, 80
SPACINGS = (3.0, 4.5, 6.0)
NOISE_SPACING = 4.5
TRUE_DELAY: Final = "true delay"
MODELS: tuple[tuple[Method, NoiseModel, Hrf | Literal["true delay"]], ...] = (
    ("lss", "ols", "spm"),
    ("lss", "ar1", "spm"),
    ("lsa", "ols", "spm"),
    ("lsa", "ar1", "spm"),
    ("ridge", "ols", "spm"),
    ("ridge", "ar1", "spm"),
    ("lss", "ols", "spm + derivative"),
    ("lss", "ols", "library"),
    ("lss", "ols", TRUE_DELAY),
    ("ridge", "ols", "library"),
    ("ridge", "ols", TRUE_DELAY),
)
REFERENCE = MODELS[0]
SCORES = ("amplitude", "latents", "identification")

Array = NDArray[np.float64]
Run = tuple[pd.DataFrame, NDArray[np.intp], NDArray[np.float32]]


def scheduled(world: World, own: int, spacing: float) -> tuple[list[pd.DataFrame], list[int]]:
    """Return the events of every run and how many volumes it has: the same order of faces at every spacing."""
    names, size = world.names, world.size
    runs = schedule_runs(
        names[: size.n_train],
        names[size.n_train :],
        size.test_repeats,
        size.n_runs,
        on=ON,
        off=spacing - ON,
        lead_in=LEAD_IN,
        seed=derived_seed(own, "schedule"),
    )
    return runs, list(scan_time(runs, off=spacing - ON, lead_out=LEAD_OUT, t_r=T_R).volumes)


def scanned(world: World, subject: SimulatedSubject, own: int, spacing: float) -> list[Run]:
    """Return events, rows of the faces and BOLD (n_volumes, n_voxels) of every run."""
    events, lengths = scheduled(world, own, NOISE_SPACING)
    noise = noise_sd(subject, events[0], t_r=T_R, n_volumes=lengths[0])
    row_of = {name: row for row, name in enumerate(world.names)}
    runs = []
    for number, (table, length) in enumerate(zip(*scheduled(world, own, spacing), strict=True)):
        rows = np.array([row_of[name] for name in table["stim_file"]])
        run = simulate_run(
            subject,
            table,
            rows,
            t_r=T_R,
            n_volumes=length,
            noise=noise,
            motion=None,
            seed=derived_seed(own, "noise", number),
            chunk=length,
        )
        bold = np.concatenate(list(run.volumes()), axis=-1)
        brain = bold[subject.head.brain].T.astype(np.float32)
        runs.append((table, rows, brain))
    return runs


def hrf_of_voxels(runs: list[Run]) -> NDArray[np.intp]:
    """Choose every voxel's HRF by the training trials of all runs."""
    scores = [
        choose_hrf(
            bold, t["onset"], t["duration"], T_R, (t["trial_type"] == "train").to_numpy(), slice_time_ref=SLICE_TIME_REF
        )
        for t, _, bold in runs
    ]
    return best_hrf(np.sum(scores, axis=0))


def true_hrf(subject: SimulatedSubject) -> NDArray[np.intp]:
    """Return the library's entry closest to each brain voxel's planted response."""
    times = frame_times(100, 0.4, SLICE_TIME_REF)
    library = trial_columns([0.0], [ON], times, hrf_library(0.4))[:, :, 0]
    library /= np.linalg.norm(library, axis=1, keepdims=True)
    delays, of = np.unique(subject.hrf_delay, return_inverse=True)
    planted = np.stack([delayed_response([0.0], [ON], times, float(delay))[:, 0] for delay in delays])
    index = np.full(subject.head.brain.size, CANONICAL)
    index[subject.voxels] = (library @ planted.T).argmax(axis=0)[of]
    return index[subject.head.brain.ravel()]


def scored(world: World, subject: SimulatedSubject, runs: list[Run], maps: list[Array], seed: int) -> dict[str, float]:
    """Return amplitude, latents and identification for one model's z-maps."""
    where = np.cumsum(subject.head.brain.ravel()) - 1
    inside = subject.head.brain.ravel()[subject.voxels]
    voxels = where[subject.voxels[inside]]
    found = np.concatenate([z[:, voxels] - z[:, voxels].mean(axis=0) for z in maps])
    truth = [subject.responses[rows][:, inside] for _, rows, _ in runs]
    planted = np.concatenate([a - a.mean(axis=0) for a in truth])
    products = (found * planted).sum(axis=0)
    r = products / np.sqrt((found**2).sum(axis=0) * (planted**2).sum(axis=0))

    z = np.concatenate(maps)
    split = Split.of(
        [name for t, _, _ in runs for name in t["stim_file"]], [role for t, _, _ in runs for role in t["trial_type"]]
    )
    latents = (world.latents - world.mean) / world.sd
    names = {name: row for row, name in enumerate(world.names)}
    train, roles = split.training_rows, [split.roles[row] for row in split.training_rows]
    chosen = voxel_mask(split.training(z), roles, N_VOXELS).selected
    targets = latents[[names[split.stimuli[row]] for row in train]]
    with warnings.catch_warnings():
        # Some maps tell nothing, and the decoder says so.
        warnings.simplefilter("ignore", DataWarning)
        decoder = RidgeDecoder(cv=5, seed=seed).fit(z[train][:, chosen], targets, roles=roles)
    predicted = decoder.predict(split.test_averages(z[:, chosen]))
    similar = correlation_scores(predicted, latents[[names[name] for name in split.test_stimuli]], targets.mean(axis=0))
    return {
        "amplitude": float(r.mean()),
        "latents": float(np.diag(similar).mean()),
        "identification": float(identification_accuracy(similar).mean()),
    }


def compared(world: World, index: int, spacing: float, seed: int) -> list[dict[str, Any]]:
    """Return one row a model for one subject at one spacing."""
    own = derived_seed(seed, "subject", index)
    subject = grow_subject(world.bank, world.head, seed=derived_seed(own, "tuning"), noise_ceiling=0.1)
    runs = scanned(world, subject, own, spacing)
    hrfs: dict[str, NDArray[np.intp]] = {"library": hrf_of_voxels(runs), TRUE_DELAY: true_hrf(subject)}
    rows = []
    for method, noise_model, hrf in MODELS:
        maps = []
        for table, _, bold in runs:
            z = single_trial_zmaps(
                bold,
                table["onset"],
                table["duration"],
                T_R,
                method=method,
                noise_model=noise_model,
                hrf="library" if hrf == TRUE_DELAY else hrf,
                hrf_index=hrfs.get(hrf),
                slice_time_ref=SLICE_TIME_REF,
            ).z
            maps.append(z.astype(np.float64))
        model = f"{method} {noise_model} {hrf}"
        rows.append({"spacing": spacing, "model": model, "subject": index} | scored(world, subject, runs, maps, seed))
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard error over subjects of every score, and of its difference to the reference model."""
    reference = " ".join(REFERENCE)
    lines = []
    for (spacing, model), part in rows.groupby(["spacing", "model"], sort=False):
        base = rows[(rows["spacing"] == spacing) & (rows["model"] == reference)].set_index("subject")
        line: dict[str, Any] = {"spacing": spacing, "model": model, "n": len(part)}
        for score in SCORES:
            values = part.set_index("subject")[score]
            difference = values - base[score]
            line |= {
                score: values.mean(),
                f"{score}_se": values.sem(),
                f"{score}_gain": difference.mean(),
                f"{score}_gain_se": difference.sem(),
            }
        lines.append(line)
    return pd.DataFrame(lines)


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--spacing", type=float, nargs="+", default=SPACINGS, help="seconds from onset to onset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON line a model and spacing")
    given = parser.parse_args()
    set_threads(given.threads)
    world = make_world(given.seed, SIZE)
    world = replace(world, head=grow_head(load_atlas(), seed=given.seed, voxel_size=VOXEL_SIZE))
    rows = [
        row
        for spacing in given.spacing
        for index in range(given.subjects)
        for row in compared(world, index, spacing, given.seed)
    ]
    table = summary(pd.DataFrame(rows))
    if given.json:
        for line in table.to_dict("records"):
            print(json.dumps(line))
        return
    for line in table.to_dict("records"):
        cells = [
            f"{score} {line[score]:.3f} ({line[score + '_gain']:+.3f} +- {line[score + '_gain_se']:.3f})"
            for score in SCORES
        ]
        print(f"{line['spacing']:.1f} s  {line['model']:24s} " + "  ".join(cells))


if __name__ == "__main__":
    main()
