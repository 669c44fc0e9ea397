import numpy as np
import pytest
import torch
from safetensors.torch import save

from hyperdecode.baselines import vaegan as module
from hyperdecode.baselines.base import Baseline, best_possible
from hyperdecode.baselines.networks import VaeGanSize
from hyperdecode.baselines.vaegan import VaeGan, load_vaegan, read_vaegan
from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.stimuli.pictures import resize, to_uint8

SIZE = VaeGanSize(latent_dim=7, side=16, widths=(5, 6), critic=(4,))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VaeGan(SIZE)


def pictures(n, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def test_keeps_the_protocol_whatever_the_batch(model):
    assert isinstance(model, Baseline)
    faces = pictures(35, 16)
    latents = model.encode(faces)
    images = model.images(latents)
    assert latents.shape == (35, 7) and images.shape == (35, 3, 16, 16)
    assert np.allclose(latents[33:34], model.encode(faces[33:34]), atol=1e-5)
    assert np.allclose(images[33:34], model.images(latents[33:34]), atol=1e-5)
    expected = ((images.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round()
    assert np.abs(best_possible(model, faces).astype(float) - expected).max() <= 1
    assert model.encode(faces[:0]).shape == (0, 7)


def test_large_pictures_are_averaged(model):
    small = pictures(2, 16)
    assert np.allclose(model.encode(small.repeat(4, 1).repeat(4, 2)), model.encode(small), atol=1e-5)


def test_saved_and_read_again(model):
    again = read_vaegan(save(model.tensors()), "file")
    assert again.size.widths == SIZE.widths
    assert np.allclose(again.encode(pictures(3, 16)), model.encode(pictures(3, 16)), atol=5e-3)


@pytest.mark.parametrize("harm", ["absent", "unknown", "nan", "shape", "cut"])
def test_damaged_weights_are_refused(model, harm):
    tensors = model.tensors()
    if harm == "absent":
        del tensors["decoder.dense.weight"]
    elif harm == "unknown":
        tensors["other"] = torch.zeros(1)
    elif harm == "nan":
        tensors["decoder.colours.bias"][0] = torch.nan
    elif harm == "shape":
        tensors["encoder.mean.weight"] = torch.zeros(7, 5)
    data = save(tensors)
    with pytest.raises(WeightFileError, match="file: "):
        read_vaegan(data[:-9] if harm == "cut" else data, "file")


def test_wrong_input_is_refused(model):
    with pytest.raises(UserError, match="uint8 of shape"):
        model.encode(np.zeros((2, 16, 16, 3)))
    with pytest.raises(UserError, match=r"takes latents \(n, 7\)"):
        model.images(np.zeros((2, 8)))
    with pytest.raises(UserError, match="NaN"):
        model.images(np.full((1, 7), np.nan))
    with pytest.raises(UserError, match="2 widths make pictures of 16 px"):
        VaeGanSize(latent_dim=7, side=32, widths=(5, 6), critic=(4,))


def test_an_installation_without_weights_says_how_to_make_them(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"no VAE-GAN weights: make them with `python training/vaegan.py`"):
        load_vaegan()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vaegan.safetensors").write_bytes(save(model.tensors()))
    assert load_vaegan().fingerprint == model.fingerprint


def test_the_fingerprint_tells_weights_apart(model):
    changed = {key: value.clone() for key, value in model.tensors().items()}
    assert VaeGan.from_tensors(changed).fingerprint == model.fingerprint
    changed["decoder.colours.bias"][0] += 0.01
    assert VaeGan.from_tensors(changed).fingerprint != model.fingerprint
    assert model.latent_units.tolist() == [1.0] * 7


def test_the_weights_that_ship_give_held_out_faces_back(face_generator):
    """Faces of seeds that training kept out (training/vaegan.py), at the size that the network has."""
    model = load_vaegan()
    assert (model.latent_dim, model.side) == (1024, 128)
    w = face_generator.to_w(torch.cat([face_generator.sample(1, 2_500_000 + k) for k in range(6)]), 0.7)
    shown = to_uint8(resize(face_generator.images(w, resolution=128), 128))
    made = best_possible(model, shown)
    x, y = shown.reshape(6, -1) / 127.5 - 1, made.reshape(6, -1) / 127.5 - 1
    assert (1 - np.square(y - x).mean(1) / x.var(1)).mean() > 0.85
    mean = np.square(x - x.mean(0)).mean(1) / x.var(1)
    assert mean.mean() > 0.15, "one face is not the other"
