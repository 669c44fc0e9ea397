import numpy as np
import pytest
from scipy.ndimage import correlate
from skimage.metrics import structural_similarity

from hyperdecode.errors import UserError
from hyperdecode.evaluation.pictures import ms_ssim_scores, resized
from hyperdecode.evaluation.structural import multiscale_scores, structural_pairs, structural_scores


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (3, 11, 13, 3)).astype(np.uint8)
    return np.moveaxis(resized(small, 180), -1, 1)


def test_any_shape_and_number_of_channels_equals_scikit_image():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 255, (2, 2, 19, 33)), rng.uniform(0, 255, (3, 2, 19, 33))
    y[1] = 0.5 * x[0] + 60
    expected = [[structural_similarity(a, b, channel_axis=0, data_range=255) for b in y] for a in x]
    np.testing.assert_allclose(structural_scores(x, y), expected, atol=1e-11)
    np.testing.assert_allclose(structural_pairs(x, y, [1, 0], [2, 1]), [expected[1][2], expected[0][1]], atol=1e-11)


def test_flat_and_bright_pictures_lose_no_digits():
    x = np.full((1, 1, 40, 40), 255.0)
    y = x - np.indices((40, 40)).sum(axis=0) % 2
    expected = structural_similarity(x[0], y[0], channel_axis=0, data_range=255)
    assert structural_scores(x, y)[0, 0] == pytest.approx(expected, abs=1e-11)
    assert structural_scores(x, x)[0, 0] == pytest.approx(1, abs=1e-12)


def reference_ms_ssim(x, y):
    """Wang et al. 2003 with full 11 x 11 windows, one pair at a time."""
    a, b = (np.tensordot([0.299, 0.587, 0.114], p.astype(float), axes=1) for p in (x, y))
    r, c = np.indices((11, 11)) - 5
    window = np.exp(-(r**2 + c**2) / 4.5)
    window /= window.sum()

    def mean(values):
        return correlate(values, window)[5:-5, 5:-5]

    score = 1.0
    for scale, weight in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):
        ma, mb = mean(a), mean(b)
        cs = (2 * (mean(a * b) - ma * mb) + 58.5225) / (mean(a * a) - ma**2 + mean(b * b) - mb**2 + 58.5225)
        luminance = (2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025)
        score *= (np.mean(cs * luminance) if scale == 4 else np.mean(cs)) ** weight
        h, w = (s // 2 * 2 for s in a.shape)
        a, b = ((v[:h:2, :w:2] + v[1:h:2, :w:2] + v[:h:2, 1:w:2] + v[1:h:2, 1:w:2]) / 4 for v in (a, b))
    return score


def test_ms_ssim_equals_a_plain_reference(pictures):
    noise = np.random.default_rng(2).normal(0, 30, pictures.shape)
    noisy = np.clip(0.8 * pictures + 20 + noise, 0, 255).astype(np.uint8)
    got = multiscale_scores(noisy, pictures)
    for i in range(3):
        assert got[i, i] == pytest.approx(reference_ms_ssim(noisy[i], pictures[i]), abs=1e-10)
    mixed = (0.6 * pictures[0] + 0.4 * pictures[1]).astype(np.uint8)
    assert multiscale_scores(mixed[None], pictures)[0, 1] == pytest.approx(
        reference_ms_ssim(mixed, pictures[1]), abs=1e-10
    )
    assert np.allclose(np.diagonal(multiscale_scores(pictures, pictures)), 1, atol=1e-12)


def test_ms_ssim_needs_five_scales(pictures):
    with pytest.raises(UserError, match="at least 176 px"):
        multiscale_scores(pictures[:, :, :100], pictures[:, :, :100])
    last = np.moveaxis(pictures, 1, -1)
    assert ms_ssim_scores(last, last[:2]).shape == (3, 2)
