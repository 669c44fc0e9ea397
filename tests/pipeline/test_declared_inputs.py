"""A step names every file that it reads: what makes a step stale, and what it waits for, is read from these names."""

import shutil

import pytest

from hyperdecode.pipeline.records import run_step
from hyperdecode.pipeline.run import planned_steps
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.estimated import estimated_study
from tests.pipeline.estimated import settings as estimated_settings
from tests.pipeline.studies import new_study, settings

EVERYTHING = {
    "decoding": {"posterior": 2, "beside": ["ridge"]},
    "evaluation": {"n_permutations": 100, "baselines": ["eigenfaces"]},
    "subjects": ["01"],
}


def everything(folder, generator):
    config = estimated_settings(**EVERYTHING)
    return estimated_study(folder, generator, config), config


def bold(folder, generator, **given):
    plan = settings(**given)
    config = plan.model_copy(
        update={
            "bold": plan.bold.model_copy(update={"n_voxels": 60, "keep_bold": True}),
            "mapping": plan.mapping.model_copy(update={"readout": "linear", "layers": (4, 9), "n_permutations": 20}),
            "evaluation": plan.evaluation.model_copy(update={"n_permutations": 100}),
        }
    )
    study = new_study(folder, config, generator)
    simulate(study, config, read_stimuli(study), generator)
    return study, config


def raw(folder, generator):
    return bold(folder, generator, motion=0.5, head="own")


@pytest.mark.filterwarnings("ignore::hyperdecode.errors.DataWarning")  # eight-millimetre voxels
@pytest.mark.parametrize("kind", [everything, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (bold, raw))])
def test_a_step_finds_all_that_it_needs_among_its_inputs(kind, tmp_path, tiny_generator):
    """What other steps made, their records too, is out of sight while a step works, and it makes the same."""
    study, config = kind(tmp_path / "study", tiny_generator)
    stimuli, layout = read_stimuli(study), Layout(study)
    steps = [step for kind_, step in planned_steps(study, config, stimuli, tiny_generator) if kind_ != "report"]
    for step in steps:
        run_step(step, study, layout.records)
    made = {path: path.read_bytes() for step in steps for path in step.outputs}
    hidden = tmp_path / "hidden"
    for step in steps:
        out_of_sight = [path for path in (*made, *layout.records.glob("*.toml")) if path not in step.inputs]
        for path in out_of_sight:
            (hidden / path.relative_to(study)).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, hidden / path.relative_to(study))
        step.work()
        assert [path.name for path in step.outputs if path.read_bytes() != made[path]] == [], step.name
        for path in step.outputs:
            path.unlink()
        for path in out_of_sight:
            shutil.move(hidden / path.relative_to(study), path)
    assert len(steps) > 6
