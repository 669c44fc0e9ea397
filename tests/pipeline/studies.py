"""Tiny studies that several tests of the pipeline simulate."""

import shutil
from pathlib import Path

from hyperdecode.pipeline import present as presenting
from hyperdecode.pipeline.present import present
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.study.config import StudyConfig, write_config
from hyperdecode.study.stimulus_set import make_stimuli, read_stimuli
from tests.presentation.fakes import FakeSdl

TASK = "task-faces"


def settings(*, n_runs=2, one_back=0.1, timing=(), seed=1, subjects=("01",), **simulation):
    """Two runs of 15 trials for one subject; noiseless unless told."""
    return StudyConfig.model_validate(
        {
            "seed": seed,
            "subjects": subjects,
            "stimuli": {"n_train": 20, "n_test": 4, "test_repeats": 2, "render": 64, "size": 32, "truncation": 1.0},
            "schedule": {"n_runs": n_runs, "one_back": one_back},
            "timing": {"lead_in": 3.0, "lead_out": 9.0, **dict(timing)},
            "simulation": {"voxel_size": 8.0, "noise_ceiling": 1.0, **simulation},
        }
    )


def new_study(folder, config, generator, source=None):
    """Make a study's settings and stimuli, or copy the stimuli of another one."""
    write_config(folder, config)
    if source is None:
        make_stimuli(folder, config, generator)
    else:
        shutil.copytree(source / "stimuli", folder / "stimuli")
    return Path(folder)


def work(study, config, generator, **options):
    """Simulate a study that has its stimuli."""
    return simulate(study, config, read_stimuli(study), generator, **options)


def rehearse(monkeypatch, study, config, run, *, late=None, script=(), simulated=True):
    """Show a run on a display of the test's own clock; `late` flips miss so many refreshes."""
    screen = FakeSdl(list(script), late=late or {})
    monkeypatch.setattr(presenting, "open_screen", screen.open)
    return present(study, config, config.subjects[0], run, simulate_trigger=simulated)


def func(study, run, ending):
    """Path of a file of a run."""
    return study / "sub-01" / "func" / f"sub-01_{TASK}_run-0{run}_{ending}"


def planted(study, name):
    """Path of a file of the truth."""
    return study / "derivatives" / "simulation" / "sub-01" / "func" / f"sub-01_{TASK}_{name}"


def contents(study):
    """Bytes of every file but the records, which hold times of day."""
    return {
        path.relative_to(study).as_posix(): path.read_bytes()
        for path in study.rglob("*")
        if path.is_file() and path.parent.name != "records"
    }
