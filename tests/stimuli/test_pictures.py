import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError
from hyperdecode.stimuli.pictures import crop_centre, resize, stimulus_pictures, to_uint8


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


@pytest.mark.parametrize(
    ("side", "share", "kept"),
    [(8, 1.0, 8), (8, 0.5, 4), (8, 0.6, 6), (8, 0.75, 6), (9, 0.5, 5), (10, 0.8, 8), (1024, 0.9, 922), (5, 0.01, 1)],
)
def test_crops_keep_the_centre(side, share, kept):
    picture = torch.arange(side * side, dtype=torch.float32).reshape(1, 1, side, side).expand(2, 3, side, side)
    inner = crop_centre(picture, share)
    assert inner.shape == (2, 3, kept, kept) and kept >= share * side - 1e-9
    margin = (side - kept) // 2
    assert side - kept == 2 * margin
    assert inner[1, 2, 0, 0] == margin * side + margin
    # The mean of these levels is the level of the middle: it stays where it is.
    torch.testing.assert_close(inner.double().mean(), picture.double().mean())


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_crops_that_are_none(share):
    with pytest.raises(UserError, match="above 0 and at most at 1"):
        crop_centre(torch.zeros(1, 3, 8, 8), share)


def test_stimuli_are_cropped_before_they_are_resized(tiny_generator):
    w = tiny_generator.to_w(tiny_generator.sample(3, 2))
    made = np.stack(list(stimulus_pictures(tiny_generator, w, render=64, size=16, crop=0.5, batch=2)))
    expected = resize(tiny_generator.images(w)[..., 16:48, 16:48], 16)
    np.testing.assert_array_equal(made, to_uint8(expected))
    whole = np.stack(list(stimulus_pictures(tiny_generator, w, render=64, size=16, crop=1.0)))
    np.testing.assert_array_equal(whole, np.stack(list(stimulus_pictures(tiny_generator, w, render=64, size=16))))
    assert (whole != made).any()


def test_a_crop_that_leaves_too_little(tiny_generator):
    with pytest.raises(UserError, match=r"33 px .* 64 px of which a crop of 0\.5 keeps 32"):
        stimulus_pictures(tiny_generator, torch.zeros(1, 16), render=64, size=33, crop=0.5)
    assert next(stimulus_pictures(tiny_generator, torch.zeros(1, 16), render=64, size=32, crop=0.5)).shape[0] == 32
