import html
import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.report import sliceviewer
from hyperdecode.report.sliceviewer import interactive_slices

AFFINE = np.array([[6.0, 0, 0, -90], [0, 6, 0, -126], [0, 0, 6, -72], [0, 0, 0, 1]])


def image(values):
    return nib.Nifti1Image(np.asarray(values, np.float32), AFFINE)


@pytest.fixture
def brain():
    values = np.full((31, 38, 32), np.nan)
    values[8:24, 4:20, 8:20] = np.random.default_rng(0).normal(size=(16, 16, 12))
    return image(values)


def test_the_viewer_is_one_frame_that_asks_for_nothing(brain):
    background = image(np.random.default_rng(1).uniform(1, 2, (31, 38, 32)))
    fragment = interactive_slices(brain, background, title='loss of "layer 4"')
    assert fragment.startswith("<iframe") and fragment.count("<iframe") == 1
    attributes = re.match(r'<iframe class="slices" title="([^"]*)" srcdoc="([^"]*)" width', fragment)
    assert html.unescape(attributes[1]) == 'loss of "layer 4"'
    page = html.unescape(attributes[2])
    assert "brainsprite" in page and page.count("data:image/png;base64,") >= 2
    tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert "//" not in re.sub(r"data:image/png;base64,[\w+/=]*", "", tags)
    assert "<link" not in tags and "src=" not in tags.replace("src='data:", "").replace('src="data:', "")


def test_the_same_map_gives_the_same_viewer(brain):
    first, second = (html.unescape(interactive_slices(brain, title="x")) for _ in range(2))
    assert first == second
    # Every part by its one name, so that the script finds them.
    assert set(re.findall(r'id="\w*?-?(?:spriteImg|viewer|colorMap|overlayImg)-([^"]*)"', first)) == {"slices"}


def test_the_viewer_gets_coarser_until_it_fits(brain):
    fine = interactive_slices(brain, title="x", megabytes=1.5)
    coarse = interactive_slices(brain, title="x", megabytes=0.4)
    assert len(coarse) < 4e5 < len(fine) < 1.5e6
    with pytest.raises(UserError, match=r"more than 0.01 MB in voxels of 6 mm"):
        interactive_slices(brain, title="x", megabytes=0.01)


def test_a_viewer_that_would_fetch_something_is_refused(brain, monkeypatch):
    page = '<script src="https://example.org/a.js"></script>'
    monkeypatch.setattr(sliceviewer, "view_img", lambda *_, **__: SimpleNamespace(html=page))
    with pytest.raises(UserError, match=r"would ask for 'src=\"https://example"):
        interactive_slices(brain, title="x")


@pytest.mark.parametrize("values", [np.zeros((4, 4, 4)), np.full((4, 4, 4), np.nan), np.ones((4, 4))])
def test_nothing_to_show_is_refused(values):
    with pytest.raises(UserError, match="one 3D map with values in it"):
        interactive_slices(SimpleNamespace(dataobj=values, affine=AFFINE), title="x")
