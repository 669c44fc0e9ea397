import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError
from hyperdecode.simulation.features import feature_layers, picture_features
from hyperdecode.stimuli.pictures import stimulus_pictures


@pytest.fixture(scope="module")
def shown(tiny_generator):
    w = tiny_generator.to_w(tiny_generator.sample(12, 0))
    return w, np.stack(list(stimulus_pictures(tiny_generator, w, render=64, size=64)))


def test_layers_and_shapes(tiny_generator, shown):
    assert feature_layers(tiny_generator) == ("b4.conv", "b8.conv2", "b16.conv2", "b32.conv2")
    assert feature_layers(tiny_generator, deepest=8) == ("b4.conv", "b8.conv2")
    bank = picture_features(tiny_generator, *shown, seed=1, batch=5)
    assert bank.layers == ("b4.conv", "b8.conv2", "b16.conv2", "b32.conv2", "picture")
    assert [v.shape for v in bank.values] == [(12, 48, 4, 4), *[(12, 48, 8, 8)] * 3, (12, 4, 8, 8)]
    for values in bank.values:
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose((values**2).mean((0, 2, 3)), 1, rtol=1e-4)


def test_batches_change_nothing_and_the_seed_does(tiny_generator, shown):
    one, many = (picture_features(tiny_generator, *shown, seed=1, batch=b) for b in (1, 12))
    for a, b in zip(one.values, many.values, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    other = picture_features(tiny_generator, *shown, seed=2)
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(many.values[:-1], other.values[:-1], strict=True))
    np.testing.assert_array_equal(many.values[-1], other.values[-1])


def test_picture_features_follow_the_picture_shown_and_no_latent(tiny_generator, shown):
    w, pictures = shown
    bank = picture_features(tiny_generator, w, pictures, seed=1)
    dark = pictures.copy()
    dark[0] //= 4
    changed = picture_features(tiny_generator, w, dark, seed=1)
    assert np.abs(changed.values[-1][0] - bank.values[-1][0]).max() > 0.5
    for a, b in zip(bank.values[:-1], changed.values[:-1], strict=True):
        np.testing.assert_array_equal(a, b)
    # Colours are area means of the picture.
    cells = pictures[..., 0].reshape(12, 8, 8, 8, 8).mean((2, 4)) / 255
    red = (cells - cells.mean(0)) / np.sqrt(((cells - cells.mean(0)) ** 2).mean())
    np.testing.assert_allclose(bank.values[-1][:, 0], red, atol=1e-3)


def test_layer_features_are_mixed_activations(tiny_generator, shown):
    w, pictures = shown
    bank = picture_features(tiny_generator, w, pictures, seed=1, layers=["b8.conv2"])
    assert bank.layers == ("b8.conv2", "picture")
    activation = tiny_generator.activations(w, ["b8.conv2"])["b8.conv2"].flatten(2)
    activation = activation - activation.mean(0)
    # Every feature map is a fixed combination of the layer's 16 channels, at the same place.
    a = activation.permute(0, 2, 1).reshape(-1, 16)
    f = torch.from_numpy(bank.values[0]).flatten(2).permute(0, 2, 1).reshape(-1, 48)
    left = f - a @ torch.linalg.lstsq(a, f).solution
    assert left.abs().max() < 1e-3 and torch.linalg.matrix_rank(f) == 16


def test_counts_must_match(tiny_generator, shown):
    with pytest.raises(UserError, match="12 latents came with 11 pictures"):
        picture_features(tiny_generator, shown[0], shown[1][:11], seed=0)
