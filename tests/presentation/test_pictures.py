import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.presentation.pictures import Viewing, blank, enlarged, require_memory

VIEW = Viewing(picture_deg=10, target_deg=1.5, pixels_per_deg=20, background=90)


def test_a_picture_is_enlarged_around_its_target():
    ramp = np.repeat(np.linspace(20, 200, 50).astype(np.uint8)[None, :, None], 50, axis=0).repeat(3, axis=2)
    (shown,) = enlarged([ramp], VIEW)
    assert shown.shape == (200, 200, 3) and shown.dtype == np.uint8
    assert np.abs(shown[3, 8:-8, 0].astype(float) - np.linspace(20, 200, 200)[8:-8]).max() < 4
    target = shown[85:115, 85:115]
    assert (target[15, 15] == 0).all() and (target[15, 3] == 90).all() and (target[7, 7] == 0).all()
    np.testing.assert_array_equal(ramp[0, 0], 20)


def test_the_target_alone():
    alone = blank(VIEW)
    away = np.hypot(*(np.indices((200, 200)) - 99.5)) > 15.8
    assert alone.shape == (200, 200, 3) and (alone[away] == 90).all() and (alone[~away] != 90).any()
    (white,) = enlarged([np.full((10, 10, 3), 255, np.uint8)], VIEW)
    inside = np.hypot(*(np.indices((200, 200)) - 99.5)) < 14
    np.testing.assert_array_equal(white[inside], alone[inside])


def test_memory_is_bounded():
    require_memory(111, Viewing())
    with pytest.raises(UserError, match=r"1000 pictures of 900 px need 3.0 GiB, more than 2"):
        require_memory(1000, Viewing(pixels_per_deg=60))
