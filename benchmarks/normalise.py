"""What registration finds of simulated heads whose way to MNI space is known, and what it costs.

    python benchmarks/normalise.py [--json] [--heads N] [--seed N] [--voxel-size MM] [--starts N]

Each head has a shape of its own (`hyperdecode.simulation.head.grow_head`): a mean EPI and a T1w with skull and scalp,
and for each voxel of the EPI its true MNI position. For each head:

- rigid: the EPI is moved by up to 20 mm and 15 degrees, ``--starts`` times, and put back on the T1w (`normalise`); the
  error is the distance from the true place, mean over the brain, the largest of the starts;
- with T1w: `register_anatomy` and `normalise`; without: `register_epi`. A template point p is taken from ``to_epi(p)``,
  whose true MNI position is known; the error is their distance, mean and 95th percentile over the template's brain
  in the field of view. Beside it: the same without any registration, and the overlap (Dice) of the head's grey
  matter, carried to the template, with the template's own, before and after.

CPU seconds are those of the process, all threads. A claim that is missed is printed as missed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
from nilearn.datasets import load_mni152_gm_template
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from hyperdecode.fmri.normalise import (
    Anatomy,
    Template,
    apply_affine,
    grid_points,
    mni_template,
    normalise,
    register_anatomy,
    register_epi,
)
from hyperdecode.simulation.head import GREY_MATTER, Head, grow_head
from hyperdecode.threads import set_threads
from hyperdecode.weights.atlas import load_atlas

Array = NDArray[np.float64]
VOXEL = 2
FARTHEST_MM, FARTHEST_DEG = 20.0, 15.0
GOALS = {"rigid": 1.0, "with T1w": 1.0, "without T1w": 2.0}
"""mm, mean."""


def sampled(values: NDArray[Any], head: Head, points: Array) -> Array:
    """Return values on the head's grid at subject points, NaN outside."""
    index = apply_affine(np.linalg.inv(head.affine), points).T
    return np.asarray(map_coordinates(values.astype(np.float64), index, order=1, mode="constant", cval=np.nan))


def judged(
    head: Head, template: Template, grey: NDArray[np.bool_], to_epi: Callable[[Array], Array]
) -> dict[str, float]:
    """Return error in mm and overlap of grey matter of one way to the template."""
    p = grid_points(template.mask.shape, template.affine)[template.mask.ravel()]
    q = to_epi(p)
    true = np.stack([sampled(head.mni[..., k], head, q) for k in range(3)], axis=1)
    error = np.linalg.norm(true - p, axis=1)
    seen = np.isfinite(error)
    ours, theirs = sampled(head.grey, head, q)[seen] > GREY_MATTER, grey[template.mask][seen]
    return {
        "mean_mm": float(error[seen].mean()),
        "p95_mm": float(np.percentile(error[seen], 95)),
        "dice": float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())),
    }


def rigid_errors(head: Head, anatomy: Anatomy, starts: int, seed: int) -> tuple[list[float], float]:
    """Return the mean error in mm from each start, and the CPU seconds of one."""
    rng = np.random.default_rng(seed)
    brain = apply_affine(head.affine, np.argwhere(head.brain))
    centre = brain.mean(axis=0)
    errors, used = [], 0.0
    for start in range(starts):
        turn, moved = rng.standard_normal((2, 3))
        away = np.eye(4)
        if start:  # the first is the scanner's own
            away[:3, :3] = Rotation.from_rotvec(np.radians(FARTHEST_DEG) * turn / np.linalg.norm(turn)).as_matrix()
            shift = FARTHEST_MM * moved / np.linalg.norm(moved)
            away[:3, 3] = centre + shift - away[:3, :3] @ centre
        clock = time.process_time()
        found = normalise(nib.Nifti1Image(head.epi, away @ head.affine), anatomy).epi_from_t1
        used += time.process_time() - clock
        errors.append(float(np.linalg.norm(apply_affine(found, brain) - apply_affine(away, brain), axis=1).mean()))
    return errors, used / starts


def one_head(seed: int, voxel_size: float, starts: int) -> list[dict[str, Any]]:
    """Return one record a claim."""
    head = grow_head(load_atlas(), seed=seed, voxel_size=voxel_size, coverage="whole", shape="own")
    template = mni_template(VOXEL)
    grey = np.asarray(load_mni152_gm_template(resolution=VOXEL).dataobj) > GREY_MATTER
    epi, t1w = nib.Nifti1Image(head.epi, head.affine), head.t1w
    before = judged(head, template, grey, lambda p: p)

    clock = time.process_time()
    anatomy = register_anatomy(t1w)
    anatomy_s = time.process_time() - clock
    errors, rigid_s = rigid_errors(head, anatomy, starts, seed)
    with_t1 = judged(head, template, grey, normalise(epi, anatomy).to_epi)
    clock = time.process_time()
    without = judged(head, template, grey, register_epi(epi).to_epi)
    epi_s = time.process_time() - clock

    records: list[dict[str, Any]] = [
        {
            "claim": f"head {seed}, rigid",
            "starts": starts,
            "mean_mm": max(errors),
            "spread_mm": max(errors) - min(errors),
            "cpu_s": rigid_s,
        }
    ]
    for name, found, seconds in (("with T1w", with_t1, anatomy_s + rigid_s), ("without T1w", without, epi_s)):
        records.append({"claim": f"head {seed}, {name}", **found, "cpu_s": seconds, "before": before})
    for record in records:
        goal = GOALS[record["claim"].split(", ")[1]]
        record |= {"goal": f"<= {goal} mm", "met": record["mean_mm"] <= goal}
    return records


def words(record: dict[str, Any]) -> str:
    """Return a record as one line."""
    first = f"{'met   ' if record['met'] else 'MISSED'} {record['claim']}: {record['mean_mm']:.2f} mm"
    if "starts" in record:
        rest = f", the worst of {record['starts']} starts (they differ by {record['spread_mm']:.3f} mm)"
    else:
        was = record["before"]
        rest = (
            f" (95th percentile {record['p95_mm']:.2f} mm), grey matter Dice {record['dice']:.3f}; "
            f"before {was['mean_mm']:.2f} mm, {was['dice']:.3f}"
        )
    return f"{first}{rest}; {record['cpu_s']:.1f} CPU s (goal {record['goal']})"


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line a claim")
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first head; the next ones count on")
    parser.add_argument("--voxel-size", type=float, default=3.0, help="of the EPI in mm")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    set_threads(options.threads)
    for seed in range(options.seed, options.seed + options.heads):
        for record in one_head(seed, options.voxel_size, options.starts):
            print(json.dumps(record) if options.json else words(record), flush=True)


if __name__ == "__main__":
    main()
