import himalaya.backend
import numpy as np
import pytest
import torch
from himalaya.kernel_ridge import solve_weighted_kernel_ridge_conjugate_gradient
from sklearn.linear_model import Ridge

from hyperdecode.decoding.banded import BandedRidgeDecoder
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import LeakageError, UserError

ALPHAS = (10.0, 100.0, 1000.0)
BANDS = ["V1"] * 20 + ["FFA"] * 30 + ["elsewhere"] * 150


def planted(n=120, n_new=200, seed=0, band=slice(20, 50)):
    """Latents that the voxels of one band follow, among others that are noise."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((n + n_new, 5))
    voxels = rng.standard_normal((n + n_new, 200)) * rng.uniform(0.5, 2, 200) + 3
    voxels[:, band] += latents @ rng.standard_normal((5, band.stop - band.start)) * 0.5
    return voxels[:n], latents[:n], voxels[n:], latents[n:]


def error(decoder, new, true):
    return float(np.square(decoder.predict(new) - true).mean())


def test_one_band_is_plain_ridge():
    x, y, new, _ = planted()
    plain = RidgeDecoder(alphas=ALPHAS, cv=5).fit(x, y)
    for banded in (BandedRidgeDecoder(alphas=ALPHAS, cv=5), BandedRidgeDecoder(BANDS, n_iter=0, alphas=ALPHAS, cv=5)):
        banded.fit(x, y)
        assert banded.alpha_ == plain.alpha_
        np.testing.assert_allclose(banded.predict(new), plain.predict(new), rtol=0, atol=1e-9)


@pytest.mark.parametrize("per_latent", [False, True])
def test_the_band_that_tells_is_found_and_helps(per_latent):
    x, y, new, true = planted()
    plain = RidgeDecoder(alphas=ALPHAS).fit(x, y)
    banded = BandedRidgeDecoder(BANDS, alphas=ALPHAS, per_latent=per_latent).fit(x, y)
    assert banded.bands_ == ("V1", "FFA", "elsewhere")
    weights = banded.band_weights_.reshape(3, -1)
    np.testing.assert_allclose(weights.sum(0), 1)
    assert (weights[1] > 0.6).all()
    assert error(banded, new, true) < 0.9 * error(plain, new, true)
    assert banded.cv_scores_.shape == (41,) and banded.cv_scores_.max() > banded.cv_scores_[0]


def test_weights_solve_the_problem_that_is_written():
    """Banded ridge is ridge on voxels scaled by the roots of their band weights; himalaya's solver agrees."""
    x, y, new, _ = planted()
    banded = BandedRidgeDecoder(BANDS, n_iter=6, alphas=(50.0,), seed=3).fit(x, y)
    labels = [banded.bands_.index(label) for label in BANDS]
    scale = np.sqrt(3 * banded.band_weights_[labels]) / banded.x_scale_
    assert banded.band_weights_.max() > 0.5, "the equal weights won: nothing is tested"
    reference = Ridge(50.0).fit(x * scale, y)
    np.testing.assert_allclose(banded.predict(new), reference.predict(new * scale), rtol=0, atol=1e-8)
    himalaya.backend.set_backend("numpy")
    z = (x - x.mean(0)) / banded.x_scale_
    kernels = np.stack([z[:, np.array(labels) == k] @ z[:, np.array(labels) == k].T for k in range(3)])
    deltas = np.log(3 * banded.band_weights_ / 50.0)
    centred = y - y.mean(0)
    dual = solve_weighted_kernel_ridge_conjugate_gradient(
        kernels, centred, np.tile(deltas[:, None], 5), max_iter=500, tol=1e-12
    )
    fitted = np.einsum("k,kij,jt->it", np.exp(deltas), kernels, dual)
    np.testing.assert_allclose(fitted + y.mean(0), banded.predict(x), rtol=0, atol=1e-6)


def test_groups_and_weights_of_trials_count():
    x, y, new, _ = planted(n=60)
    twice_x, twice_y = np.concatenate([x, x]), np.concatenate([y, y])
    groups = [*range(60), *range(60)]
    grouped = BandedRidgeDecoder(BANDS, n_iter=5, alphas=ALPHAS).fit(twice_x, twice_y, groups=groups)
    torn = BandedRidgeDecoder(BANDS, n_iter=5, alphas=ALPHAS).fit(twice_x, twice_y)
    assert torn.cv_scores_.max() > grouped.cv_scores_.max() + 0.1, "a trial's twin taught it"
    light = np.r_[np.ones(60), np.full(60, 1e-9)]
    weighted = BandedRidgeDecoder(BANDS, n_iter=0, alphas=(100.0,)).fit(np.r_[x, x + 5], twice_y, sample_weight=light)
    half = BandedRidgeDecoder(BANDS, n_iter=0, alphas=(50.0,)).fit(x, y)
    np.testing.assert_allclose(weighted.predict(new), half.predict(new), rtol=0, atol=1e-5)


def test_torch_comes_back_as_torch():
    x, y, new, _ = planted()
    fitted = BandedRidgeDecoder(BANDS, n_iter=4, alphas=ALPHAS).fit(torch.from_numpy(x).float(), torch.from_numpy(y))
    predicted = fitted.predict(torch.from_numpy(new).float())
    assert predicted.dtype == torch.float32
    exact = BandedRidgeDecoder(BANDS, n_iter=4, alphas=ALPHAS).fit(x, y).predict(new)
    np.testing.assert_allclose(predicted.numpy(), exact, rtol=0, atol=1e-4)


def test_what_cannot_be_used_is_refused():
    x, y, _, _ = planted()
    with pytest.raises(UserError, match="200 voxels and 199 labels"):
        BandedRidgeDecoder(BANDS[:-1]).fit(x, y)
    with pytest.raises(LeakageError, match="BandedRidgeDecoder must never see test trials"):
        BandedRidgeDecoder(BANDS).fit(x, y, roles=["train"] * 119 + ["test"])
    constant = x.copy()
    constant[:, :20] = 1.0
    with pytest.raises(UserError, match="20 of 200 voxels are constant"):
        BandedRidgeDecoder(BANDS).fit(constant, y)
    with pytest.raises(UserError, match="penalties must be positive"):
        BandedRidgeDecoder(BANDS, alphas=(0.0,)).fit(x, y)
    with pytest.raises(UserError, match="n_iter"):
        BandedRidgeDecoder(BANDS, n_iter=-1).fit(x, y)
    with pytest.raises(UserError, match="swapped"):
        BandedRidgeDecoder(BANDS).fit(x.T, y)
