"""What `hyperdecode preprocess` finds of a simulated head whose motion and whose way to MNI space are known.

    python benchmarks/known_head.py [--heads N] [--seed N] [--voxel-size MM] [--motion MM] [--keep DIR]
        [--json]

For each head of a shape of its own: one short run of the whole brain is simulated into a BIDS folder, as `hyperdecode
simulate` does (real generator, few faces, default noise), and `hyperdecode preprocess` works on that folder. One line a
claim and head:

- motion: translation (at the head's centre) and rotation of each volume against the first, root mean square of what
  was planted and of the error; the mean framewise displacement planted and found;
- brain: overlap (Dice) of the brain that is cut out of the T1w with the true one;
- rigid: how far the mean EPI is put from where it is on the T1w, mean over the brain;
- normalisation: a template point p is taken from the subject at ``q = to_epi(p)``; the true warp says to which MNI
  position q belongs, and the error is the distance of that position from p. Mean and 95th percentile over the
  template's brain and over the visual regions; beside it the same for the affine part alone and without any
  registration (the head's own shape).

A claim that is missed is printed as missed. ``--keep`` leaves study, transforms and pictures there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from hyperdecode.fmri.normalise import Anatomy, Normalisation, Template, apply_affine, grid_points, mni_template
from hyperdecode.fmri.realign import Motion, framewise_displacement
from hyperdecode.generators import load_generator
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline import spatial
from hyperdecode.pipeline.preprocess import preprocess
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.simulation.bold import head_centre
from hyperdecode.simulation.head import Head, grow_head
from hyperdecode.simulation.motion import rigid_matrices
from hyperdecode.study.config import StudyConfig, preset, write_config
from hyperdecode.study.raw import run_files
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.stimulus_set import make_stimuli
from hyperdecode.study.truth import Truth
from hyperdecode.threads import set_threads
from hyperdecode.weights.atlas import load_atlas

SUBJECT, VOXEL = "01", 3
GOALS = {"translation": 0.1, "rotation": 0.1, "dice": 0.9, "rigid": 1.0, "mean": 2.0, "p95": 4.0}
"""mm, degrees, overlap, mm; mean and 95th percentile of the normalisation in mm: half a voxel and a voxel at 4 mm."""

Array = NDArray[np.float64]


@dataclass
class Found:
    """What the steps of `preprocess` returned while it worked."""

    motion: list[Motion] = field(default_factory=list)
    anatomy: list[Anatomy] = field(default_factory=list)
    normalisation: list[Normalisation] = field(default_factory=list)


def study_of(seed: int, voxel_size: float, motion: float) -> StudyConfig:
    """Return the smallest study of one subject with a head of its own."""
    return preset(
        "quick",
        seed=seed,
        subjects=(SUBJECT,),
        stimuli={"n_train": 20, "n_test": 3, "test_repeats": 2, "render": 256},
        schedule={"n_runs": 1},
        simulation={"coverage": "whole", "head": "own", "voxel_size": voxel_size, "motion": motion},
    )


def head_of(config: StudyConfig) -> Head:
    """Grow the head of the simulated subject again: the truth on disk holds neither brain nor centre of rotation."""
    made = config.simulation
    return grow_head(
        load_atlas(),
        seed=derived_seed(config.seed, "head", SUBJECT),
        voxel_size=made.voxel_size,
        coverage=made.coverage,
        shape=made.head,
    )


def preprocessed(study: Path) -> tuple[Found, float]:
    """Run `preprocess` on a study and note what its steps return; seconds it took."""
    found = Found()
    places: dict[str, list[Any]] = {
        "realign": found.motion,
        "register_anatomy": found.anatomy,
        "normalise": found.normalisation,
    }
    steps = {name: getattr(spatial, name) for name in places}

    def noting(step: Callable[..., Any], place: list[Any]) -> Callable[..., Any]:
        def noted(*given: Any, **more: Any) -> Any:
            place.append(step(*given, **more))
            return place[-1]

        return noted

    start = time.perf_counter()
    try:
        for name, step in steps.items():
            setattr(spatial, name, noting(step, places[name]))
        preprocess(study, contrast="train > test", bold=BoldSettings(source="raw", voxel_size=VOXEL))
    finally:
        for name, step in steps.items():
            setattr(spatial, name, step)
    return found, time.perf_counter() - start


def positions(head: Head, points: Array) -> Array:
    """Return the true MNI position of subject points (n, 3), NaN outside the grid of the EPI."""
    index = apply_affine(np.linalg.inv(head.affine), points).T
    parts = [map_coordinates(head.mni[..., k], index, order=1, mode="constant", cval=np.nan) for k in range(3)]
    return np.stack(parts, axis=1).astype(np.float64)


def motion_errors(found: Motion, planted: Array, centre: Array) -> dict[str, float]:
    """Compare motion against the first volume, as matrices: the two may turn about different centres."""
    true = rigid_matrices(planted, centre)
    ours = found.matrices @ np.linalg.inv(found.matrices[0])
    off = apply_centre(ours, centre) - apply_centre(true, centre)
    turn = Rotation.from_matrix(ours[:, :3, :3] @ np.swapaxes(true[:, :3, :3], 1, 2)).magnitude()
    moved, turned = planted[:, :3], Rotation.from_matrix(true[:, :3, :3]).magnitude()
    return {
        "translation": rms(np.linalg.norm(off, axis=1)),
        "translation_planted": rms(np.linalg.norm(moved, axis=1)),
        "rotation": float(np.degrees(rms(turn))),
        "rotation_planted": float(np.degrees(rms(turned))),
        "displacement": float(found.framewise_displacement[1:].mean()),
        "displacement_planted": float(framewise_displacement(planted)[1:].mean()),
    }


def apply_centre(matrices: Array, centre: Array) -> Array:
    """Where each matrix puts the centre, (n, 3)."""
    return np.asarray(matrices[:, :3, :3] @ centre + matrices[:, :3, 3])


def rms(values: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def brain_overlap(anatomy: Anatomy, head: Head) -> float:
    """Dice coefficient of the T1w's brain with the true one, on the grid of the T1w."""
    points = grid_points(anatomy.brain.shape, anatomy.affine)
    index = apply_affine(np.linalg.inv(head.affine), points).T
    true = map_coordinates(head.brain.astype(np.float32), index, order=1, mode="constant") > 0.5
    ours = anatomy.brain.ravel() > 0
    return float(2 * (true & ours).sum() / (true.sum() + ours.sum()))


@dataclass(frozen=True)
class Places:
    """Template points over which errors are averaged."""

    brain: Array
    visual: NDArray[np.bool_]


def template_places(template: Template, head: Head) -> Places:
    """Return the points of the template's brain, and which of them lie in regions that respond."""
    points = grid_points(template.mask.shape, template.affine)[template.mask.ravel()]
    atlas = load_atlas()
    index = np.rint(apply_affine(np.linalg.inv(atlas.affine), points)).astype(int)
    inside = ((index >= 0) & (index < atlas.labels.shape)).all(axis=1)
    visual = np.zeros(len(points), bool)
    visual[inside] = np.isin(atlas.labels[tuple(index[inside].T)], list(head.table))
    return Places(points, visual)


def spread(error: Array) -> tuple[float, float, float]:
    """Mean and 95th percentile over the points that lie in the field of view, and their share."""
    seen = np.isfinite(error)
    return float(error[seen].mean()), float(np.percentile(error[seen], 95)), float(seen.mean())


def normalisation_errors(found: Found, head: Head, places: Places) -> dict[str, Any]:
    """Distances in mm between template points and the true MNI positions of what is taken there."""
    motion, to_mni = found.motion[0], found.normalisation[0]
    # The mean functional lies where the volumes lie on average, the truth is told of the first.
    first = motion.matrices[0]
    p = places.brain
    affine = apply_affine(to_mni.epi_from_t1, apply_affine(to_mni.t1_from_template, p))
    taken = {
        "found": apply_affine(first, to_mni.to_epi(p)),
        "affine alone": apply_affine(first, affine),
        "T1w alone": to_mni.to_t1(p),
        "no registration": p,
    }
    errors = {name: np.linalg.norm(positions(head, q) - p, axis=1) for name, q in taken.items()}
    inner = apply_affine(head.affine, np.argwhere(head.brain))
    rigid = apply_affine(first @ to_mni.epi_from_t1, inner) - inner
    return {
        "rigid": float(np.linalg.norm(rigid, axis=1).mean()),
        "rigid_shift": rigid.mean(axis=0).tolist(),
        "brain": {name: spread(error) for name, error in errors.items()},
        "visual": {name: spread(error[places.visual]) for name, error in errors.items()},
    }


def draw(folder: Path, study: Path, config: StudyConfig, head: Head, found: Found) -> None:
    """Draw T1w, its cut brain, the mean EPI and the errors, three cuts each."""
    t1, anatomy = head.t1w, found.anatomy[0]
    cut = (np.asarray(t1.dataobj), t1.affine, "T1w"), (anatomy.brain, anatomy.affine, "brain of the T1w")
    mean = (found.motion[0].mean, head.affine, "mean EPI")
    for values, affine, name in (*cut, mean):
        at = np.rint(apply_affine(np.linalg.inv(affine), head_centre(head)[None]))[0].astype(int)
        figure, axes = plt.subplots(1, 3, figsize=(12, 4.5))
        for axis, plot in enumerate(axes):
            plot.imshow(np.take(values, at[axis], axis=axis).T, origin="lower", cmap="gray")
            plot.set_axis_off()
        figure.suptitle(f"seed {config.seed}: {name}")
        figure.savefig(folder / f"seed-{config.seed}_{name.replace(' ', '-')}.png", dpi=80)
        plt.close(figure)
    for picture in study.glob("derivatives/hyperdecode/**/*registration*.png"):
        (folder / f"seed-{config.seed}_registration.png").write_bytes(picture.read_bytes())


def claims(seed: int, moved: dict[str, float], dice: float, errors: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one record a claim."""
    found = errors["brain"]["found"], errors["visual"]["found"]
    shift = " ".join(f"{value:+.2f}" for value in errors["rigid_shift"])
    others = "; ".join(
        f"{name}: brain {errors['brain'][name][0]:.2f} and {errors['brain'][name][1]:.2f} mm, "
        f"visual {errors['visual'][name][0]:.2f} and {errors['visual'][name][1]:.2f} mm"
        for name in ("T1w alone", "affine alone", "no registration")
    )
    said = [
        (
            f"motion: error {moved['translation']:.3f} mm of {moved['translation_planted']:.3f} mm, "
            f"{moved['rotation']:.3f} deg of {moved['rotation_planted']:.3f} deg (root mean square); mean framewise "
            f"displacement {moved['displacement']:.3f} mm, planted {moved['displacement_planted']:.3f} mm",
            f"<= {GOALS['translation']} mm and {GOALS['rotation']} deg",
            moved["translation"] <= GOALS["translation"] and moved["rotation"] <= GOALS["rotation"],
            moved,
        ),
        (f"brain of the T1w: Dice {dice:.3f}", f">= {GOALS['dice']}", dice >= GOALS["dice"], {"dice": dice}),
        (
            f"mean EPI to T1w: {errors['rigid']:.2f} mm off, mean over the brain; its centre by {shift} mm",
            f"<= {GOALS['rigid']} mm",
            errors["rigid"] <= GOALS["rigid"],
            {"rigid": errors["rigid"], "shift": errors["rigid_shift"]},
        ),
        *(
            (
                f"normalisation over the {words}: mean {mean:.2f} mm, 95th percentile {p95:.2f} mm, "
                f"{share:.1%} of it in the field of view" + (f" ({others})" if words == "brain" else ""),
                f"<= {GOALS['mean']} mm and {GOALS['p95']} mm",
                mean <= GOALS["mean"] and p95 <= GOALS["p95"],
                errors[key],
            )
            for words, key, (mean, p95, share) in (
                ("brain", "brain", found[0]),
                ("visual regions", "visual", found[1]),
            )
        ),
    ]
    return [
        {"claim": f"head {seed}, {words}", "goal": goal, "met": bool(met), "numbers": numbers}
        for words, goal, met, numbers in said
    ]


def one_head(folder: Path, config: StudyConfig, generator: Generator, pictures: Path | None) -> list[dict[str, Any]]:
    """Simulate, preprocess, compare."""
    study = folder / f"seed-{config.seed}"
    study.mkdir()
    write_config(study, config)
    simulate(study, config, make_stimuli(study, config, generator), generator)
    head, truth = head_of(config), Truth(study, config, SUBJECT)
    written = np.asarray(nib.load(truth.warp).dataobj)
    if not np.array_equal(written, head.mni):
        raise RuntimeError("the head that was grown again is not the one in the study: the benchmark is out of date")
    planted = pd.read_csv(truth.motion(1), sep="\t").to_numpy(np.float64)
    found, seconds = preprocessed(study)
    shape = nib.load(run_files(study, config, SUBJECT, 1).bold).shape
    moved = motion_errors(found.motion[0], planted, head_centre(head))
    places = template_places(mni_template(VOXEL), head)
    records = claims(
        config.seed, moved, brain_overlap(found.anatomy[0], head), normalisation_errors(found, head, places)
    )
    if pictures:
        draw(pictures, study, config, head, found)
    words = " x ".join(map(str, shape))
    records.append({"claim": f"head {config.seed}, {words}: preprocess took {seconds:.0f} s", "goal": "", "met": True})
    return records


def main() -> None:
    """Print one line a claim."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--heads", type=int, default=1)
    words.add_argument("--seed", type=int, default=0, help="of the first head; the next ones count on")
    words.add_argument("--voxel-size", type=float, default=3.0)
    words.add_argument("--motion", type=float, default=0.15, help="mean framewise displacement in mm")
    words.add_argument("--keep", type=Path, help="folder for the studies and for pictures")
    words.add_argument("--threads", type=int)
    words.add_argument("--json", action="store_true")
    given = words.parse_args()
    set_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(given.seed, given.seed + given.heads):
            config = study_of(seed, given.voxel_size, given.motion)
            for record in one_head(folder, config, load_generator(config.generator), given.keep):
                if given.json:
                    print(json.dumps(record), flush=True)
                else:
                    goal = f" (goal {record['goal']})" if record["goal"] else ""
                    print(f"{'met   ' if record['met'] else 'MISSED'} {record['claim']}{goal}", flush=True)


if __name__ == "__main__":
    main()
