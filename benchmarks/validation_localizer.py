"""Check the fMRI chain on real data whose truth is known: the studyforrest visual localizer.

    python benchmarks/validation_localizer.py BIDS_DIR OUT [--json FILE]

Prints the strongest ventral peaks of two contrasts with their MNI coordinates, whether they lie where the literature
puts them, and how well single trials tell the six categories apart when whole blocks are left out.

The rule for "ventral" was fixed before any map was looked at: |x| > 20, y < -40, -30 < z < 5 mm. It is wider than
the expected boxes on every side that matters, so a peak can miss them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from hyperdecode.evaluation.classification import classify_blocks, find_blocks
from hyperdecode.pipeline.peak_memory import process_peak
from hyperdecode.pipeline.preprocess import PreprocessedRun, preprocess
from hyperdecode.study.settings import BoldSettings

VOXEL_MM = 3
GRIDS_MM, SIZES = (3, 2), (1000, 2000, 4096)
"""Voxel size and voxels read: choices that the classification depends on, so all are shown. The last are defaults."""
VENTRAL = {"x": (20.0, np.inf), "y": (-np.inf, -40.0), "z": (-30.0, 5.0)}
EXPECTED = {
    "face > other": {"x": (32.0, 50.0), "y": (-85.0, -45.0), "z": (-25.0, 0.0)},
    "scene + house > other": {"x": (18.0, 34.0), "y": (-60.0, -35.0), "z": (-15.0, 5.0)},
}


def inside(peak: pd.Series, box: dict[str, tuple[float, float]]) -> bool:
    """Say whether a peak lies in a box given for |x|, y and z in mm."""
    at = {"x": abs(peak["x"]), "y": peak["y"], "z": peak["z"]}
    return all(low <= at[axis] <= high for axis, (low, high) in box.items())


def ventral_peaks(run: PreprocessedRun, contrast: str) -> dict[str, dict[str, Any] | None]:
    """Return the strongest ventral peak of each side."""
    found: dict[str, dict[str, Any] | None] = {}
    for side, sign in (("left", -1), ("right", 1)):
        peaks = run.peaks[[sign * row["x"] > 0 and inside(row, VENTRAL) for _, row in run.peaks.iterrows()]]
        if peaks.empty:
            found[side] = None
            continue
        best = peaks.loc[peaks["stat"].idxmax()]
        found[side] = {
            "mni_mm": [float(best[axis]) for axis in "xyz"],
            "z": float(best["stat"]),
            "in_expected_box": inside(best, EXPECTED[contrast]),
        }
    return found


def classify(run: PreprocessedRun, n_voxels: int) -> dict[str, Any]:
    """Classify the run's single trials by category, leaving blocks out."""
    trials = pd.read_csv(run.files["trials"], sep="\t")
    maps = np.asarray(nib.load(run.files["single_trial"]).dataobj, dtype=np.float32)
    # Voxels outside the brain are 0 in every trial, those that were not measured NaN.
    z = maps[np.isfinite(maps).all(axis=3) & (maps != 0).any(axis=3)].T
    blocks = find_blocks(list(trials["trial_type"]), trials["onset"])
    result = classify_blocks(z, list(trials["trial_type"]), blocks, n_voxels=n_voxels)
    return {
        "n_trials": len(trials),
        "n_blocks": int(blocks.max()) + 1,
        "n_voxels": n_voxels,
        "accuracy": result.accuracy,
        "chance": result.chance,
        "fold_accuracy": list(result.fold_accuracy),
        "p_value": result.p_value,
        "n_permutations": int(result.null.size),
        "null_mean": float(result.null.mean()),
        "null_max": float(result.null.max()),
        "categories": list(result.categories),
        "confusion": result.confusion.tolist(),
    }


def main() -> None:
    """Run the check and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()

    started = time.perf_counter()
    figures: dict[str, Any] = {"ventral_rule": {k: [str(v) for v in pair] for k, pair in VENTRAL.items()}}
    settings = BoldSettings(voxel_size=VOXEL_MM)
    for contrast in EXPECTED:
        (run,) = preprocess(arguments.bids_dir, arguments.out, contrast=contrast, bold=settings)
        figures[contrast] = ventral_peaks(run, contrast)
        for side, peak in figures[contrast].items():
            if peak is None:
                print(f"{contrast}, {side}: no ventral peak above z 3.1")
                continue
            x, y, z = peak["mni_mm"]
            where = f"{x:.0f},{y:.0f},{z:.0f} z {peak['z']:.2f}"
            verdict = "in" if peak["in_expected_box"] else "NOT in"
            print(f"{contrast}, {side}: strongest ventral peak {where}, {verdict} the expected box")
        for note in run.notes:
            print(f"  {note}")
    print("six categories, single trials, one of two blocks of each category left out at a time; chance 0.167")
    figures["classification"] = {}
    for grid in GRIDS_MM:
        (run,) = preprocess(arguments.bids_dir, arguments.out, bold=settings.model_copy(update={"voxel_size": grid}))
        for n_voxels in SIZES:
            c = figures["classification"][f"{grid} mm, {n_voxels} voxels"] = classify(run, n_voxels)
            folds = ", ".join(f"{a:.3f}" for a in c["fold_accuracy"])
            print(f"{grid} mm, {n_voxels} voxels: accuracy {c['accuracy']:.3f} (folds {folds}), p {c['p_value']:.4f}")
    print(f"permutations of blocks: {c['n_permutations']}, null mean {c['null_mean']:.3f}, largest {c['null_max']:.3f}")
    print(f"{grid} mm, {n_voxels} voxels:")
    print(pd.DataFrame(c["confusion"], index=c["categories"], columns=c["categories"]).to_string())
    figures["seconds"] = time.perf_counter() - started
    figures["peak_memory_gb"] = process_peak() * 2**20 / 1e9
    print(f"{figures['seconds']:.0f} s, peak memory {figures['peak_memory_gb']:.2f} GB")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
