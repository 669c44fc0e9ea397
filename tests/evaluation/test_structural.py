import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from skimage.metrics import structural_similarity as peer

from hyperdecode.errors import UserError
from hyperdecode.evaluation import structural
from hyperdecode.evaluation.pictures import ms_ssim_pairs, ms_ssim_scores, resized, ssim_scores
from hyperdecode.evaluation.structural import MS_SSIM_WEIGHTS, multiscale_similarity, structural_similarity


def smooth(n, side, seed, shape=()):
    rng = np.random.default_rng(seed)
    return np.moveaxis(resized(rng.integers(0, 256, (n, 9, 9, 3)).astype(np.uint8), side), -1, 1)


def pairs(n, m):
    return tuple(a.ravel() for a in np.indices((n, m)))


@pytest.mark.parametrize("height", [7, 22, 23, 38, 61])
def test_pairs_of_any_height_are_those_of_scikit_image(height):
    """Whole bands, parts of one, and a single row of windows; odd widths too."""
    x, y = smooth(6, 61, 0)[:, :, :height, :50], smooth(3, 61, 1)[:, :, :height, :50]
    rows, columns = pairs(6, 3)
    order = np.random.default_rng(2).permutation(18)[:11]
    expected = [
        peer(x[i], y[j], channel_axis=0, data_range=255) for i, j in zip(rows[order], columns[order], strict=True)
    ]
    assert np.allclose(structural_similarity(x, y, rows[order], columns[order]), expected, rtol=0, atol=1e-12)
    floats = structural_similarity(x / 1.0, y / 1.0, rows[order], columns[order])
    assert np.allclose(floats, expected, rtol=0, atol=1e-10)


def test_unit_is_one_level():
    x, y = smooth(2, 40, 0), smooth(2, 40, 1)
    rows = columns = np.arange(2)
    plain = structural_similarity(x, y, rows, columns)
    assert np.allclose(structural_similarity(16 * x.astype(int), 16 * y.astype(int), rows, columns, unit=16), plain)
    assert not np.allclose(structural_similarity(16 * x.astype(int), 16 * y.astype(int), rows, columns), plain)


def test_flat_and_extreme_pictures_are_exact():
    """Sums of the brightest filtered pictures fit, and a flat picture has no variance by rounding."""
    white, black = np.full((1, 3, 30, 30), 255, np.uint8), np.zeros((1, 3, 30, 30), np.uint8)
    one = np.zeros(1, int)
    assert structural_similarity(white, white, one, one)[0] == 1
    c1 = (0.01 * 255) ** 2
    assert structural_similarity(white, black, one, one)[0] == pytest.approx(c1 / (255**2 + c1), rel=1e-12)
    checks = (255 * (np.indices((224, 224)).sum(0) // 8 % 2)).astype(np.uint8)
    checks = np.repeat(checks[None, :, :, None], 3, axis=-1)
    assert ssim_scores(checks, 255 - checks, "hyper-paper")[0, 0] < 0
    assert ssim_scores(checks, checks, "hyper-paper")[0, 0] == 1


def test_without_luminance_brightness_does_not_count():
    x = smooth(1, 40, 0) // 2
    one = np.zeros(1, int)
    assert structural_similarity(x, x + 100, one, one, luminance=False)[0] == pytest.approx(1)
    assert structural_similarity(x, x + 100, one, one)[0] < 0.9


def test_threads_do_not_change_a_number(monkeypatch):
    x, y = smooth(4, 100, 0), smooth(4, 100, 1)
    alone = structural_similarity(x, y, *pairs(4, 4))
    monkeypatch.setattr(structural, "default_threads", lambda: 3)
    assert np.array_equal(structural_similarity(x, y, *pairs(4, 4)), alone)


def textbook_ms_ssim(x, y):
    """Channel by channel, window by window, in plain NumPy."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    of_channels = []
    for a, b in zip(x.astype(float), y.astype(float), strict=True):
        factors = []
        for _ in range(5):
            wa, wb = (sliding_window_view(v, (7, 7)).reshape(-1, 49) for v in (a, b))
            ma, mb, va, vb = wa.mean(1), wb.mean(1), wa.var(1, ddof=1), wb.var(1, ddof=1)
            cov = ((wa - ma[:, None]) * (wb - mb[:, None])).sum(1) / 48
            cs = (2 * cov + c2) / (va + vb + c2)
            factors.append((np.mean(cs), np.mean(cs * (2 * ma * mb + c1) / (ma**2 + mb**2 + c1))))
            a, b = (
                v[: len(v) // 2 * 2, : v.shape[1] // 2 * 2].reshape(len(v) // 2, 2, -1, 2).mean((1, 3)) for v in (a, b)
            )
        terms = [cs for cs, _ in factors[:-1]] + [factors[-1][1]]
        of_channels.append(np.prod([max(t, 0) ** w for t, w in zip(terms, MS_SSIM_WEIGHTS, strict=True)]))
    return np.mean(of_channels)


@pytest.mark.parametrize("side", [112, 133])
def test_ms_ssim_is_the_textbooks(side):
    x, y = smooth(2, side, 0), smooth(2, side, 1)
    y[0] = x[0] // 2 + y[0] // 4
    expected = [[textbook_ms_ssim(a, b) for b in y] for a in x]
    assert expected[0][0] > 0.5
    assert np.allclose(multiscale_similarity(x, y, *pairs(2, 2)).reshape(2, 2), expected, atol=1e-9)


def test_ms_ssim_at_224_pixels():
    x, y = (np.moveaxis(smooth(3, 120, seed), 1, -1) for seed in (0, 1))
    scores = ms_ssim_scores(x, y)
    assert scores[1, 2] == pytest.approx(
        textbook_ms_ssim(*(np.moveaxis(resized(p, 224), -1, 1)[i] for p, i in ((x, 1), (y, 2))))
    )
    assert np.allclose(ms_ssim_pairs(x, y), np.diagonal(scores))
    assert np.allclose(ms_ssim_pairs(x, x), 1)
    assert sum(MS_SSIM_WEIGHTS) == pytest.approx(1, abs=1e-4)


def test_pictures_too_small_for_five_scales_are_refused():
    x = smooth(2, 111, 0)
    with pytest.raises(UserError, match="112 pixels or more"):
        multiscale_similarity(x, x, *pairs(2, 2))
    with pytest.raises(UserError, match="112 pixels or more"):
        ms_ssim_scores(np.moveaxis(x, 1, -1), np.moveaxis(x, 1, -1))
