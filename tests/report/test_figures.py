"""A figure with its words, and the colours that subjects are told apart by."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from hyperdecode.report.figures import SUBJECT_COLOURS, Figure, jpeg_bytes

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_subjects_are_told_apart_with_fewer_colours(sight):
    rgb = np.array([[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in SUBJECT_COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(SIGHT[sight]).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)[None])[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)]
    # A difference of 2.3 is just noticeable side by side.
    assert apart.min() > 15
    assert apart.size == 15


def test_words_of_a_figure_are_escaped_and_its_kind_is_that_of_its_bytes():
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(stream, "PNG")
    jpeg = jpeg_bytes(Image.new("RGB", (4, 4), "red"))
    html = Figure("T <i>", stream.getvalue(), "says <b> & more", 'alt "x"').html()
    assert 'src="data:image/png;base64,' + base64.b64encode(stream.getvalue()).decode() in html
    assert "says &lt;b&gt; &amp; more" in html and 'alt="alt &#34;x&#34;"' in html and "<b>" not in html
    assert Figure("t", jpeg, "").uri.startswith("data:image/jpeg;base64,")
    assert 'alt="T &lt;i&gt; of sub-01"' in Figure("T <i>", jpeg, "").html("sub-01")


def test_a_sheet_of_noise_can_be_written():
    noise = np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8)
    assert Image.open(io.BytesIO(jpeg_bytes(Image.fromarray(noise)))).size == (300, 400)
