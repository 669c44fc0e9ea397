import io

import numpy as np
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.report.duplicatesfigure import duplicates_caption, duplicates_figure
from hyperdecode.report.figures import BLUE, ORANGE
from hyperdecode.stimuli.duplicates import nearest_neighbours

NAMES = [f"test-{i}.png" for i in range(6)]


def check(copied=()):
    x = np.random.default_rng(0).standard_normal((206, 40))
    for test, train in copied:
        x[test] = x[6 + train] + 1e-3
    return nearest_neighbours(x[:6], x[6:])


def places(png, colour):
    """Left edges of the marks of a colour in the lower half, without the legend."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    mask = (np.abs(picture - wanted) < 60).all(-1)[picture.shape[0] // 2 :]
    return np.flatnonzero(mask.any(0))


def test_near_duplicates_stand_apart():
    clean = duplicates_figure({"latents": check(), "pictures": check()}, dpi=100)
    assert Image.open(io.BytesIO(clean)).size == (1000, 320)
    assert places(clean, ORANGE).size and not places(clean, BLUE).size
    found = duplicates_figure({"latents": check([(2, 50)])}, dpi=100)
    assert places(found, BLUE).max() < places(found, ORANGE).min()


def test_caption_names_what_was_found():
    none = duplicates_caption({"latents": check(), "pictures": check()}, NAMES)
    limit = f"{check().limit:.2f}"
    assert f"({limit} in latents and {limit} in pictures)" in none and "There is none" in none
    assert f"{check().distance.min():.2f} in latents" in none
    some = duplicates_caption({"latents": check([(2, 50), (5, 7)]), "pictures": check()}, NAMES)
    assert "Near-duplicates: test-2.png in latents (0.00), test-5.png in latents (0.00)." in some
    assert "There is none" not in some


def test_refused():
    with pytest.raises(UserError, match="at least one check"):
        duplicates_figure({})
