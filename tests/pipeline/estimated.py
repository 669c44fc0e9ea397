"""The cheapest honest study: responses made elsewhere, latents mixed linearly and noise; all steps from mask on."""

from pathlib import Path

import numpy as np
import pandas as pd

from hyperdecode.study.config import StudyConfig, write_config
from hyperdecode.study.stimulus_set import make_stimuli, read_stimuli

N_VOXELS = 40


def settings(**changes):
    base = {
        "seed": 1,
        "subjects": ["01"],
        "stimuli": {"n_train": 24, "n_test": 4, "test_repeats": 2, "render": 64, "size": 32, "truncation": 1.0},
        "bold": {"source": "estimates", "source_dir": "elsewhere", "voxels": "all"},
        "evaluation": {"n_permutations": 100},
        "decoding": {"posterior": 2},
    }
    return StudyConfig.model_validate(base | changes)


def estimated_study(folder, generator, config=None):
    """Make settings, stimuli and single-trial responses."""
    config = config or settings()
    write_config(folder, config)
    make_stimuli(folder, config, generator)
    stimuli = read_stimuli(folder)
    shown = [*stimuli.names("train"), *(name for name in stimuli.names("test") for _ in range(2))]
    rng = np.random.default_rng(0)
    latents = stimuli.latents(shown, "w").numpy()
    values = latents @ rng.normal(size=(latents.shape[1], N_VOXELS)) + 0.3 * rng.normal(size=(len(shown), N_VOXELS))
    elsewhere = Path(folder) / "elsewhere" / "sub-01"
    elsewhere.mkdir(parents=True)
    np.save(elsewhere / "sub-01_stat-z_trials.npy", values.astype(np.float32))
    pd.DataFrame({"stim_file": shown}).to_csv(elsewhere / "sub-01_stat-z_trials.tsv", sep="\t", index=False)
    return Path(folder)
