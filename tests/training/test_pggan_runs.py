"""PGGAN runs in a folder, resumed to the bit, and the command line."""

import itertools
import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hyperdecode.errors import UserError
from hyperdecode.generators.pggan import PGGAN
from tests.training.helpers import TINY, assert_same, parameters, random_pictures, steps, tiny_trainer
from training.pggan import checkpoint, data
from training.pggan.__main__ import main
from training.pggan.loop import Machine
from training.pggan.run import LOG, Pace, train
from training.pggan.settings import Settings

# Runs in a folder


@pytest.mark.parametrize(
    ("n", "channels_last"), [(1, False), (3, False), (7, False), (7, True)]
)  # stopped while stabilising, in the middle of a fade-in, and of the last one
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, n, channels_last):
    machine = Machine(channels_last=channels_last)
    once = tiny_trainer(machine=machine, flip=True)
    steps(once, 2 * n)
    first = tiny_trainer(machine=machine, flip=True)
    steps(first, n)
    checkpoint.save(first, tmp_path)
    second = tiny_trainer(machine=machine, flip=True)
    checkpoint.resume(second, tmp_path)
    assert (second.shown, second.steps, second.trained) == (first.shown, n, first.trained)
    torch.manual_seed(99)  # the process's own stream plays no part
    figures = steps(second, n)
    assert_same(parameters(second), parameters(once))
    assert torch.equal(second.random.get_state(), once.random.get_state())
    for weight, moments in second.generator_optimizer.state.items():
        assert moments["exp_avg_sq"].stride() == weight.stride()
    assert math.isfinite(float(figures[-1].critic)) and second.shown == once.shown


def test_seeds_and_pictures_matter():
    runs = [tiny_trainer(), tiny_trainer(), tiny_trainer(seed=1), tiny_trainer(random_pictures(seed=1))]
    for run in runs:
        steps(run, 2)
    weights = [run.average.conv["1"].weight for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])


def test_training_in_a_folder(tmp_path):
    settings, pictures = Settings(**TINY), random_pictures()
    whole = train(tmp_path / "a", settings, pictures, Pace(images=40, log_every=8, save_every=16))
    part = train(tmp_path / "b", settings, pictures, Pace(images=20, log_every=8, save_every=10**6))
    assert part.shown == 20
    with (tmp_path / "b" / LOG).open("a") as stream:  # what a killed run leaves behind its last state
        stream.write('{"images": 32, "seconds": 1.0}\n{"images": 7')
    rest = train(tmp_path / "b", settings, pictures, Pace(log_every=8, save_every=16))
    assert rest.shown == settings.total_images == whole.shown == 40
    assert_same(parameters(rest), parameters(whole))
    for run, images in (("a", [8, 16, 24, 32, 40]), ("b", [8, 16, 20, 28, 36, 40])):
        rows = [json.loads(line) for line in (tmp_path / run / LOG).read_text().splitlines()]
        assert [row["images"] for row in rows] == images
        names = ["images", "steps", "side", "alpha", "critic", "generator", "wasserstein", "penalty", "seconds"]
        assert all(list(row) == names for row in rows)
        assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(rows))
        assert (rows[0]["side"], rows[-1]["side"]) == (4, 16)
    assert len(list((tmp_path / "a").glob("tensors-*"))) == 1
    assert [Image.open(p).size for p in sorted((tmp_path / "a").glob("*.png"))] == [(512, 128)] + [(512, 512)] * 3
    assert not list(tmp_path.rglob(".*"))


def test_minutes_end_a_run_which_then_goes_on(tmp_path):
    settings, pictures = Settings(**TINY), random_pictures()
    assert train(tmp_path, settings, pictures, Pace(minutes=0.0)).shown == 0
    assert checkpoint.exists(tmp_path)
    assert train(tmp_path, settings, pictures, Pace(images=8)).shown == 8


def test_figures_that_are_not_finite_stop_a_run_before_they_are_saved(tmp_path):
    with pytest.raises(UserError, match="no longer finite at 40 images"):
        train(tmp_path, Settings(**(TINY | {"rate": 1e30})), random_pictures(), Pace(log_every=1000))
    assert not checkpoint.exists(tmp_path)


@pytest.fixture
def saved(tmp_path):
    trainer = tiny_trainer()
    steps(trainer, 5)
    checkpoint.save(trainer, tmp_path)
    return tmp_path


def refusal(run, trainer):
    before = parameters(trainer)
    with pytest.raises(UserError) as error:
        checkpoint.resume(trainer, run)
    assert "\n" not in str(error.value)
    assert_same(parameters(trainer), before)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rate": 2e-3}, "rate 0.001 (now 0.002)"), ({"width_max": 4}, "width_max 8 (now 4)"), ({"seed": 1}, "seed 0")],
)
def test_a_run_of_other_settings_is_refused(saved, changes, words):
    assert f"other settings, {words}" in refusal(saved, tiny_trainer(**changes))


def test_a_run_on_other_pictures_is_refused(saved):
    assert "on 12 other pictures (13 now)" in refusal(saved, tiny_trainer(random_pictures(13)))
    changed = random_pictures()
    changed.values[3, 1, 2, 5] ^= 1
    assert "other pictures" in refusal(saved, tiny_trainer(changed))


def edited(run, **changes):
    path = run / checkpoint.STATE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_a_byte(run):
    path = next(run.glob("tensors-*"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


def other_tensors(run):
    path = next(run.glob("tensors-*"))
    tensors = load_file(path)
    tensors["generator.conv.1.weight"] = tensors["generator.conv.1.weight"][:1].clone()
    save_file(tensors, path)
    edited(run, tensors_sha256=checkpoint.sha256_file(path))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / checkpoint.STATE).unlink(), "holds no run"),
        (lambda run: (run / checkpoint.STATE).write_text("{"), "is damaged"),
        (lambda run: (run / checkpoint.STATE).write_text("[]"), "no JSON object"),
        (lambda run: (run / checkpoint.STATE).write_bytes(bytes(2**20 + 1)), "of a usual size"),
        (lambda run: edited(run, settings_sha256="0"), "other settings, another SHA-256"),
        (lambda run: edited(run, settings=None), "other settings"),
        (lambda run: edited(run, tensors="../../etc/passwd"), "lacks passwd"),
        (lambda run: next(run.glob("tensors-*")).unlink(), "lacks tensors-0000000020.safetensors"),
        (flip_a_byte, "is not the file that state.json names"),
        (other_tensors, "do not fit"),
    ],
)
def test_damaged_runs_are_refused(saved, damage, words):
    damage(saved)
    assert words in refusal(saved, tiny_trainer())


def test_a_state_without_its_stream_is_refused(saved):
    edited(saved, random="AAAA")
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.resume(tiny_trainer(), saved)


# The command line


def test_commands(tmp_path, capsys):
    folder, run, target = tmp_path / "pictures", tmp_path / "run", tmp_path / "w.safetensors"
    folder.mkdir()
    for k, picture in enumerate(random_pictures(6, 8).values):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{k}.png")
    command = [
        "train",
        "--data",
        str(folder),
        "--out",
        str(run),
        "--side",
        "8",
        "--latent-dim",
        "6",
        "--width-max",
        "4",
    ]
    command += [
        "--batches",
        "4:8,8:4",
        "--rates",
        "8:0.002",
        "--stabilise-images",
        "16",
        "--fade-images",
        "8",
        "--flip",
    ]
    command += ["--threads", "1", "--log-every", "16"]
    assert main([*command, "--images", "20"]) == 0
    assert main(command) == 0
    state = json.loads((run / checkpoint.STATE).read_text())
    assert state["shown"] == 40 and state["settings"]["rates"] == {"8": 0.002} and state["settings"]["flip"]
    assert main(["export", "--run", str(run), "--to", str(target), "--licence", "CC BY 4.0"]) == 0
    assert "MB" in capsys.readouterr().out
    assert PGGAN(load_file(target)).resolution == 8
    assert main([*command, "--rate", "0.5"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "rate 0.001 (now 0.5)" in told and told.count("\n") == 1
    assert data.from_folder(folder, 8).digest == state["pictures_sha256"]
