import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError
from hyperdecode.stimuli.pictures import resize, stimulus_pictures, to_uint8


def test_levels():
    values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 1.2, -1 + 2 * 100 / 255]).reshape(1, 1, 2, 3).expand(1, 3, 2, 3)
    levels = to_uint8(values)
    assert levels.dtype == np.uint8 and levels.shape == (1, 2, 3, 3)
    assert levels[0, :, :, 1].reshape(-1).tolist() == [0, 0, 128, 255, 255, 100]


def test_channels_come_last():
    picture = torch.zeros(1, 3, 4, 4)
    picture[0, 2, 1, 3] = 1
    assert np.argwhere(to_uint8(picture)[0] == 255).tolist() == [[1, 3, 2]]


def test_resize_averages_areas():
    x = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    small = resize(x, 4)
    torch.testing.assert_close(
        small, (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    )
    assert resize(x, 8) is x
    # Sides that do not divide: still an average of what lies under the pixel, so means stay and stripes vanish.
    stripes = torch.tensor([-1.0, 1.0]).repeat(48).expand(1, 1, 96, 96).contiguous()
    odd = resize(stripes, 28)
    assert odd.shape[-1] == 28 and odd.abs().max() < 0.35
    torch.testing.assert_close(resize(x, 3).mean(), x.mean(), rtol=1e-3, atol=0)


def test_stimuli_are_the_resized_pictures_of_their_latents(tiny_generator):
    w = tiny_generator.to_w(tiny_generator.sample(5, 2))
    made = list(stimulus_pictures(tiny_generator, w, render=64, size=32, batch=2))
    assert len(made) == 5
    np.testing.assert_array_equal(made[4], to_uint8(resize(tiny_generator.images(w[4:]), 32))[0])
    np.testing.assert_array_equal(
        next(stimulus_pictures(tiny_generator, w, render=16, size=16)),
        to_uint8(tiny_generator.images(w[:1], resolution=16))[0],
    )


def test_stimuli_are_not_blown_up(tiny_generator):
    with pytest.raises(UserError, match="32 px cannot come from pictures of 16 px"):
        next(stimulus_pictures(tiny_generator, torch.zeros(1, 16), render=16, size=32))
