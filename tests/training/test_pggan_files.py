"""What PGGAN training reads and what it exports."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hyperdecode.errors import UserError
from hyperdecode.generators.pggan import PGGAN
from hyperdecode.pipeline.face_pool import chunk_path
from tests.training.helpers import TINY, noise, random_pictures, steps, tiny_trainer, with_biases
from training.pggan import checkpoint
from training.pggan.data import POOL, Pictures, area_average, from_folder, from_pool
from training.pggan.export import canonical_tensors, export
from training.pggan.networks import Generator
from training.pggan.run import sheet
from training.pggan.settings import Settings

# Export


@pytest.mark.parametrize("n", [1, 3, 4, 6, 8, 12])  # 4 px; 8 px at alpha 0 and 0.5; 8 px; 16 px at alpha 0.5; 16 px
def test_exported_pictures_are_those_of_the_averaged_generator(tmp_path, n):
    trainer = tiny_trainer(rate=0.02, decay=0.5)
    with_biases(trainer.average)
    steps(trainer, n)
    checkpoint.save(trainer, tmp_path)
    phase = trainer.trained
    target = export(tmp_path, tmp_path / "out" / "w.safetensors", half=False)
    tensors = load_file(target)
    assert ("lod" in tensors) == (phase.alpha < 1)
    generator = PGGAN(tensors, "mine")
    assert (generator.resolution, generator.latent_dim) == (phase.side, 6)
    z = noise(5, 6, seed=8)
    expected = trainer.samples(z)
    assert float(expected.std()) > 0.05
    # Of the largest value: float32 rounds sums of terms as large as that.
    torch.testing.assert_close(generator.images(z), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)
    # The plain pass of the class, taken with gradients, and a length of z that must not matter.
    torch.testing.assert_close(
        generator.images((7 * z).requires_grad_()).detach(),
        expected,
        atol=1e-5 * float(expected.abs().max()),
        rtol=1e-4,
    )


def test_the_fade_in_was_among_the_exports_tested():
    settings = Settings(**TINY)
    alphas = [settings.phase(shown).alpha for shown in (0, 8, 12, 20, 28, 44)]
    assert alphas == [1, 0, 0.5, 1, 0.5, 1]


def test_weight_file_says_what_it_is(tmp_path):
    trainer = tiny_trainer(Pictures(random_pictures().values, "12 pictures of noise", "CC0"))
    steps(trainer, 2)
    checkpoint.save(trainer, tmp_path)
    target = export(tmp_path, tmp_path / "w.safetensors")
    with safe_open(target, framework="pt") as file:
        metadata = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert metadata["family"] == "pggan" and metadata["licence"] == "CC0"
    told = json.loads(metadata["settings"])
    assert told["pictures"] == "12 pictures of noise" and told["images_shown"] == 8
    assert Settings.from_json(told["training"]) == trainer.settings
    exact = PGGAN(canonical_tensors(trainer.average, 4))
    z = noise(3, 6)
    half = PGGAN({name: value.float() for name, value in load_file(target).items()})
    torch.testing.assert_close(half.images(z), exact.images(z), atol=5e-3, rtol=0)


def test_the_usual_network_of_128_px_is_small_enough_to_ship(tmp_path):
    settings = Settings()
    tensors = canonical_tensors(Generator(settings.latent_dim, settings.widths), 128)
    assert settings.widths == {4: 224, 8: 224, 16: 224, 32: 224, 64: 128, 128: 64}
    assert tensors["conv.1.weight"].shape == (224, 512, 4, 4) and tensors["to_rgb.128.weight"].shape == (3, 64)
    save_file({name: value.half() for name, value in tensors.items()}, tmp_path / "w.safetensors")
    assert 10.9e6 < (tmp_path / "w.safetensors").stat().st_size < 11.1e6


def test_no_run_to_export(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        export(tmp_path, tmp_path / "w.safetensors")


# Data


def test_area_average():
    values = random_pictures(3).values
    expected = values.double().numpy().reshape(3, 3, 4, 4, 4, 4).mean((3, 5))
    np.testing.assert_array_equal(area_average(values, 4).numpy(), np.rint(expected))
    assert area_average(values, 16) is values
    for side in (5, 32):
        with pytest.raises(UserError, match="choose a divisor"):
            area_average(values, side)


def test_folder_of_pictures(tmp_path):
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (32, 48, 3), np.uint8)
    (tmp_path / "more").mkdir()
    Image.fromarray(wide).save(tmp_path / "more" / "b.png")
    Image.fromarray(wide[:, :32, 0]).save(tmp_path / "c.PNG")
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    found = from_folder(tmp_path, 16)
    assert found.values.shape == (3, 3, 16, 16) and found.values.dtype == torch.uint8
    assert (found.values[0].float() - 200).abs().max() <= 2
    grey, middle = found.values[1], wide[:, 8:40].astype(float).reshape(16, 2, 16, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert torch.equal(grey[0], grey[2])
    assert np.abs(found.values[2].numpy() - middle).max() <= 1
    assert len(from_folder(tmp_path, 16, limit=2)) == 2
    assert from_folder(tmp_path, 16).digest == found.digest != from_folder(tmp_path, 16, limit=2).digest


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="holds 0 files"):
        from_folder(tmp_path, 16)
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((12, 30, 3), np.uint8)).save(path)
    with pytest.raises(UserError, match="30 x 12 px, too small for 16"):
        from_folder(tmp_path, 16)
    with pytest.raises(UserError, match="holds 1 files"):
        from_folder(tmp_path, 4, limit=2)
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(UserError, match=r"a\.png cannot be read") as error:
        from_folder(tmp_path, 4)
    assert "\n" not in str(error.value)


def test_pool_of_faces(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"holds 0 faces.*face_pool"):
        from_pool(16)
    pictures = [random_pictures(5, 128, seed).values for seed in (0, 1)]
    for k, values in enumerate(pictures):
        chunk_path(POOL, k).parent.mkdir(parents=True, exist_ok=True)
        save_file({"pictures": values.permute(0, 2, 3, 1).contiguous()}, chunk_path(POOL, k))
    found = from_pool(16)
    assert torch.equal(found.values, area_average(torch.cat(pictures), 16))
    assert "MobileStyleGAN".lower() in found.source and "Apache-2.0" in found.licence
    assert torch.equal(from_pool(32, limit=7).values, area_average(torch.cat(pictures), 32)[:7])
    with pytest.raises(UserError, match="holds 10 faces, not the first 11"):
        from_pool(16, limit=11)
    chunk_path(POOL, 1).write_bytes(b"\x08" + bytes(20))
    with pytest.raises(UserError, match="is damaged"):
        from_pool(16)


def test_sheet_lays_pictures_out_row_by_row():
    levels = torch.linspace(-1, 1, 10)[:, None, None, None].expand(10, 3, 4, 4)
    made = sheet(levels)
    assert made.shape == (128, 512, 3)
    for k in range(10):
        tile = made[64 * (k // 8) : 64 * (k // 8 + 1), 64 * (k % 8) : 64 * (k % 8 + 1)]
        assert (tile == np.rint((float(levels[k, 0, 0, 0]) + 1) * 127.5)).all()
    assert (made[64:, 128:] == 0).all()
