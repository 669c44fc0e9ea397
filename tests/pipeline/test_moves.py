"""The pictures behind the report's sliders: which latents they are of, where they stand, when they are made again."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from hyperdecode.generators import attribute_store
from hyperdecode.pipeline import latents as latents_module
from hyperdecode.pipeline import moves as moves_module
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.moves import Moves
from hyperdecode.pipeline.records import read_facts, run_step
from hyperdecode.pipeline.run import run_study
from hyperdecode.pipeline.strips import attribute_axes
from hyperdecode.report.moves import COLUMNS, move_sheet
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.estimated import estimated_study, settings

CONFIG = settings(report={"moves": [1.0, 2.5], "moves_px": 16}, decoding={"posterior": 0})


@pytest.fixture(autouse=True)
def two_attributes(monkeypatch, tiny_generator):
    normals = torch.eye(tiny_generator.latent_dim)[[3, 5]]
    known = attribute_store.AttributeNormals(("age", "smile"), normals, torch.zeros(2), torch.ones(2), "w")
    monkeypatch.setattr(latents_module, "attribute_spaces", lambda name: {"w": known})


@pytest.fixture(scope="module")
def decoded(tmp_path_factory, tiny_generator):
    study = estimated_study(tmp_path_factory.mktemp("moves") / "study", tiny_generator, CONFIG)
    stimuli = read_stimuli(study)
    for step in ("mask", "decode"):
        run_study(study, CONFIG, stimuli, tiny_generator, only=step)
    return study


@pytest.fixture
def study(decoded, tmp_path):
    return Path(shutil.copytree(decoded, tmp_path / "study"))


def reported(**changes):
    return CONFIG.model_copy(update={"report": CONFIG.report.model_copy(update=changes)})


def moves(study, generator, config=CONFIG):
    return Moves(Layout(study), config, read_stimuli(study), generator)


def made(study, generator, config=CONFIG):
    some = moves(study, generator, config)
    run_step(some.step("01"), study, Layout(study).records)
    return some.read("01")


def test_each_tile_is_the_face_that_its_place_says(study, tiny_generator, monkeypatch):
    handed = []
    monkeypatch.setattr(moves_module, "move_sheet", lambda pictures: handed.append(pictures) or move_sheet(pictures))
    found = made(study, tiny_generator)
    assert found.amounts == [-2.5, -1.0, 1.0, 2.5] and list(found.between) == [0, 0.25, 0.5, 0.75, 1]
    latents = load_file(Layout(study).decoded("01", "weighted-ridge", "latents.safetensors"))
    space = LatentSpace(tiny_generator, "w", 1.0)
    spread = attribute_axes(space).spread
    for face, tiles in enumerate(handed):
        start, end = latents["drawn"][face], latents["true"][face]
        expected = [start + share * (end - start) for share in (0, 0.25, 0.5, 0.75, 1)]
        for k, dimension in enumerate((3, 5)):
            for amount in found.amounts:
                there = start.copy()
                there[dimension] += amount * spread[k]
                expected.append(there)
        drawn = space.pictures(np.stack(expected), 16).astype(int)
        assert np.abs(tiles - drawn).max() <= 1, "but for the rounding of float32"
    assert len(handed) == 4 and found.sheets[3] == move_sheet(handed[3])


def test_scores_are_of_the_decoded_and_the_shown_face_and_rise_by_the_amount(study, tiny_generator):
    found = made(study, tiny_generator)
    latents = load_file(Layout(study).decoded("01", "weighted-ridge", "latents.safetensors"))
    axes = attribute_axes(LatentSpace(tiny_generator, "w", 1.0))
    np.testing.assert_allclose(found.decoded, axes.scores(latents["drawn"]), atol=1e-6)
    np.testing.assert_allclose(found.true, axes.scores(latents["true"]), atol=1e-6)
    rise = axes.scores(latents["drawn"] + 2.5 * axes.steps[1]) - axes.scores(latents["drawn"])
    np.testing.assert_allclose(rise, [[0, 2.5]] * 4, atol=1e-9)


def test_the_step_is_repeated_bit_by_bit_and_only_when_it_must(study, tiny_generator):
    layout, step = Layout(study), moves(study, tiny_generator).step("01")
    assert run_step(step, study, layout.records) and not run_step(step, study, layout.records)
    before = {path: path.read_bytes() for path in step.outputs}
    assert run_step(step, study, layout.records, force=True)
    assert {path: path.read_bytes() for path in step.outputs} == before
    assert read_facts(layout.records, "moves_sub-01") == {"n_pictures": 4 * (5 + 2 * 4), "drawn_px": 16}
    fewer = reported(moves=(1.0,))
    assert run_step(moves(study, tiny_generator, fewer).step("01"), study, layout.records)
    assert len(moves(study, tiny_generator, fewer).read("01").amounts) == 2


def test_without_attributes_there_is_the_way_to_the_shown_face(study, tiny_generator, monkeypatch):
    monkeypatch.setattr(latents_module, "attribute_spaces", lambda name: {})
    found = made(study, tiny_generator)
    assert found.amounts == [] and found.decoded.shape == (4, 0)
    assert Image.open(io.BytesIO(found.sheets[0])).size == (COLUMNS * 16, 16)


class Full:
    """A generator without early exits."""

    resolutions = (64,)

    def __init__(self, generator):
        self.generator = generator

    def __getattr__(self, name):
        return getattr(self.generator, name)


def test_where_no_exit_is_small_enough_the_full_picture_is_scaled_down(study, tiny_generator):
    found = made(study, Full(tiny_generator), reported(moves_px=48))
    assert found.side == 48 and Image.open(io.BytesIO(found.sheets[0])).size[0] == COLUMNS * 48
    exit_ = made(study, tiny_generator, reported(moves_px=48))
    assert exit_.side == 16, "the largest exit that is not too large"
