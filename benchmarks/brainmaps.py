"""Compare brain maps with what was planted, and count how often their tests reject where nothing was.

    python benchmarks/brainmaps.py --null [--subjects 1000] [--json]
    python benchmarks/brainmaps.py STUDY [--json]        # simulated subjects, after `hyperdecode map STUDY`

`STUDY`: rank correlation (Spearman) over voxels of the mask between the layer that the map gives and the planted depth,
the mean place of the generator layers that a simulated voxel reads, weighed by their share of its variance. Voxels that
answer to no layer take no part.

`--null`: voxels on a grid, smooth over neighbours, whose responses know nothing of the faces; activations of four
layers that resemble each other. All steps are those of a study: ridge, occlusion of cubes, permuted pairings, regions
(the eight octants of the grid). Printed is how often each test has p <= 0.05.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from hyperdecode.decoding.activation_ridge import ActivationRidge
from hyperdecode.mapping.linear_occlusion import occlude_linear
from hyperdecode.mapping.map_inference import max_statistic, permuted_layers
from hyperdecode.mapping.neighbourhoods import cube_neighbourhoods
from hyperdecode.mapping.readout import readout_of_activations
from hyperdecode.mapping.region_test import order_test, region_layer_test
from hyperdecode.mapping.regions import RegionSet
from hyperdecode.pipeline.map_files import MapFiles
from hyperdecode.study.config import read_config
from hyperdecode.study.layout import Layout
from hyperdecode.threads import set_threads

SIDE, N_TRAINING, N_TEST, N_PERMUTATIONS = 6, 80, 12, 99
LAYERS = ("first", "second", "third", "last")
LEVEL, LEAST_RHO, MOST = 0.05, 0.6, 0.065


def main() -> None:
    """Print one line a claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?")
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    if not wanted.null and wanted.study is None:
        parser.error("name a study, or give --null")
    set_threads(1)
    claims = recovered(wanted.study) if wanted.study else iter(())
    lines = [*claims, *(level(wanted.subjects, wanted.seed) if wanted.null else ())]
    for line in lines:
        words = f"{line['claim']}: {line['measured']:.4g} (goal {line['goal']}): {'met' if line['met'] else 'MISSED'}"
        print(json.dumps(line) if wanted.json else words)
    sys.exit(not all(line["met"] for line in lines))


def recovered(study: Path) -> Iterator[dict[str, Any]]:
    """Compare the maps of a simulated study with what was planted."""
    layout, config = Layout(study), read_config(study)
    for label in config.subjects:
        found = nib.load(MapFiles(layout, label).path("desc-layers_dseg.nii.gz"))
        folder = study / "derivatives" / "simulation" / f"sub-{label}" / "func"
        planted = sorted(folder.glob("*desc-mix_map.nii.gz"))
        if not planted:
            raise SystemExit(f"{folder} holds no *desc-mix_map.nii.gz: give a study of simulated subjects")
        mix = np.asarray(nib.load(planted[0]).dataobj) ** 2
        if found.shape != mix.shape[:3]:
            raise SystemExit(f"sub-{label}: the map has the grid {found.shape}, what was planted {mix.shape[:3]}")
        layers, answers = np.asarray(found.dataobj), mix.sum(-1)
        here = (layers > 0) & (answers > 0)
        depth = (mix @ np.arange(mix.shape[-1]))[here] / answers[here]
        rho = float(spearmanr(layers[here], depth)[0])
        yield {
            "claim": f"sub-{label}: layer and planted depth, Spearman over {int(here.sum())} voxels",
            "measured": rho,
            "goal": f"at least {LEAST_RHO}",
            "met": rho >= LEAST_RHO,
        }


def level(n_subjects: int, seed: int) -> Iterator[dict[str, Any]]:
    """Count how often tests of null subjects reject."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame([null_subject(rng) for _ in range(n_subjects)])
    for name in table:
        share = float((table[name] <= LEVEL + 1e-9).mean())
        yield {
            "claim": f"{n_subjects} null subjects: {name} rejects at {LEVEL}",
            "measured": share,
            "goal": f"at most {MOST}",
            "met": share <= MOST,
        }


def null_subject(rng: np.random.Generator) -> dict[str, float]:
    """Return the p-values of one subject whose voxels know nothing."""
    where = np.argwhere(np.ones((SIDE,) * 3, bool))
    responses = rng.standard_normal((N_TRAINING + N_TEST, SIDE, SIDE, SIDE))
    responses = gaussian_filter(responses, (0, 1, 1, 1)).reshape(len(responses), -1)
    z, x = responses[:N_TRAINING], responses[N_TRAINING:]
    shared = rng.standard_normal((len(responses), 30))
    around = cube_neighbourhoods(where, np.diag([2.0, 2.0, 2.0, 1.0]), side_voxels=3)
    losses = []
    for k in range(len(LAYERS)):
        activations = shared @ rng.standard_normal((30, 40 + 40 * k)) + rng.standard_normal((len(shared), 40 + 40 * k))
        ridge = ActivationRidge(alphas=np.logspace(0, 6, 7)).fit(z, activations[:N_TRAINING])
        true = ridge.compress(activations[N_TRAINING:], activations[:N_TRAINING])
        losses.append(occlude_linear(readout_of_activations(ridge, x, true), x - z.mean(0), around))
    seed = int(rng.integers(2**31))
    inference = max_statistic(losses, N_PERMUTATIONS, LEVEL, seed)
    octant = (2 * where // SIDE) @ [4, 2, 1]
    regions = RegionSet(tuple(f"octant {k}" for k in range(8)), octant.astype(np.intp))
    found = {"max-statistic of the map": float(inference.p_corrected.min())}
    for standardise in ("voxels", "permutation"):
        layers = inference.layer_map(standardise).layers
        permuted = permuted_layers(losses, N_PERMUTATIONS, seed, standardise)
        tested = region_layer_test(layers, permuted, regions, LAYERS)
        order = order_test(layers, permuted, regions, len(LAYERS))
        found |= {
            f"region x layer, largest cell ({standardise})": float(tested.p_family.min()),
            f"region x layer, first cell alone ({standardise})": float(tested.p_cell[0, 0]),
            f"region x layer, whole table ({standardise})": tested.p_deviation,
            f"region x layer, interaction ({standardise})": tested.p_association,
            f"order of regions ({standardise})": order.p_value,
        }
    return found


if __name__ == "__main__":
    main()
