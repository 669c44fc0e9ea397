"""p-values of simulated subjects who see nothing of the faces are uniform, and the check of it can fail.

Level: the alarm (Bonferroni over every test of every metric) rings falsely in less than one of a thousand sets of
subjects. The seeds are fixed, so a test that passes goes on passing until the code changes what is drawn.
"""

import numpy as np
import pandas as pd
import pytest

from benchmarks.null_subjects import ALPHA, LEAKS, Size, alarm, collect, make_world, noticed, scanned, uniformity
from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.stimulus_set import make_stimuli
from hyperdecode.study.truth import Truth

TINY = Size(n_train=48, n_test=10, test_repeats=2, n_runs=1)
N_SUBJECTS, N_CONTROLS = 40, 8
LATENT_METRICS = ["lsim", "cosine", "r_squared", "identification", "lsim_raw"]


@pytest.fixture(scope="module")
def world():
    try:
        return make_world(size=TINY)
    except WeightFileError:
        raise
    except UserError as error:
        pytest.skip(f"the atlas is neither in the cache nor to be had: {error}")


@pytest.fixture(scope="module")
def nulls(world):
    return [scanned(world, k, null=True) for k in range(N_SUBJECTS)]


def test_null_subjects_are_null(world, nulls):
    rows = uniformity(collect(world, nulls))
    assert [row.metric for row in rows[:5]] == LATENT_METRICS and len(rows) == 10
    assert all(row.n == N_SUBJECTS for row in rows)
    assert alarm(rows) >= ALPHA, rows


@pytest.mark.parametrize("leak", LEAKS)
def test_an_analysis_that_leaks_is_noticed(world, nulls, leak):
    rows = uniformity(collect(world, nulls[:N_CONTROLS], leak))
    assert alarm(rows) < ALPHA, rows


def test_subjects_who_see_are_told_from_null_ones(world):
    seeing = collect(world, (scanned(world, k, null=False) for k in range(N_CONTROLS)))
    assert alarm(uniformity(seeing)) < ALPHA
    assert np.median(seeing["lsim"]) <= 0.05


def test_what_a_null_subject_responds_to(tmp_path, tiny_generator):
    """`simulate` draws faces for a null subject's voxels without regard to those that it shows."""
    config = StudyConfig.model_validate(
        {
            "seed": 3,
            "subjects": ["01"],
            "stimuli": {"n_train": 40, "n_test": 5, "test_repeats": 6, "render": 64, "size": 32},
            "schedule": {"n_runs": 2},
            "simulation": {"voxel_size": 10.0, "null": True},
        }
    )
    simulate(tmp_path, config, make_stimuli(tmp_path, config, tiny_generator), tiny_generator)
    truth = Truth(tmp_path, config, "01")
    tables = [pd.read_csv(truth.trials(run), sep="\t") for run in (1, 2)]
    trials = pd.concat(tables, ignore_index=True)
    assert len(trials) == 70
    # 45 faces: one or two trials are right by chance, more than 9 in less than one of 10,000 subjects.
    assert (trials["responses_of"] == trials["stim_file"]).sum() <= 9
    # Repeats of a test face have nothing in common either, and training and test faces are drawn alike.
    tests = trials[trials["trial_type"] == "test"]
    assert (tests.groupby("stim_file")["responses_of"].nunique() >= 4).all()
    assert trials["responses_of"].str.startswith("test").mean() < 0.3
    assert list(tables[0]["responses_of"]) != list(tables[1]["responses_of"])


@pytest.mark.slow
def test_two_hundred_null_subjects_are_null(world):
    """Latents, pictures and attributes of studies of the benchmark's size."""
    large = make_world(seed=1)
    subjects = (scanned(large, k, null=True, seed=1) for k in range(200))
    rows = uniformity(collect(large, subjects, seed=1, protocols=("hyper-code",)))
    assert [row.metric for row in rows[5:7]] == ["ssim_hyper-code", "pixcorr"] and len(rows) == 12
    assert alarm(rows) >= ALPHA, rows
    assert noticed(200, 2 * len(rows)) <= 0.15
