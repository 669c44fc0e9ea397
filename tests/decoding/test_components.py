import warnings

import numpy as np
import pytest
import torch

from hyperdecode.decoding.components import ComponentRidgeDecoder
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import DataWarning, LeakageError, UserError

ALPHAS = np.logspace(0, 5, 16)


def world(n=150, n_new=300, seed=0):
    """Latents of which two oblique directions vary most; the voxels follow these alone, through noise."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    variances = np.r_[9.0, 9.0, np.full(6, 0.25)]
    latents = rng.standard_normal((n + n_new, 8)) * np.sqrt(variances) @ axes.T
    voxels = latents @ axes[:, :2] @ rng.standard_normal((2, 100)) * 0.25 + rng.standard_normal((n + n_new, 100)) * 3
    return voxels[:n], latents[:n], voxels[n:], latents[n:], axes * variances @ axes.T


def test_each_component_is_ridge_with_its_own_penalty():
    x, y, new, _, prior = world()
    fitted = ComponentRidgeDecoder(prior, ALPHAS).fit(x, y)
    values = np.diag(fitted.components_.T @ prior @ fitted.components_)
    assert (np.diff(values) < 1e-9).all()
    for k in (0, 7):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            alone = RidgeDecoder(ALPHAS).fit(x, y @ fitted.components_[:, k])
        assert fitted.alpha_[k] == alone.alpha_
        np.testing.assert_allclose(fitted.predict(new) @ fitted.components_[:, k], alone.predict(new), atol=1e-9)


def test_it_decodes_better_where_few_directions_are_told():
    errors = []
    for seed in range(5):
        x, y, new, true, prior = world(seed=seed)
        decoders = (RidgeDecoder(ALPHAS), RidgeDecoder(ALPHAS, per_latent=True), ComponentRidgeDecoder(prior, ALPHAS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            errors.append([np.square(d.fit(x, y).predict(new) - true).mean() for d in decoders])
    shared, latent, component = np.mean(errors, axis=0)
    assert component < shared and component < latent


def test_a_prior_without_directions_is_plain_ridge():
    x, y, new, _, _ = world()
    fitted = ComponentRidgeDecoder(np.eye(8), ALPHAS).fit(x, y)
    plain = RidgeDecoder(ALPHAS).fit(x, y)
    assert fitted.alpha_ == plain.alpha_
    np.testing.assert_allclose(fitted.predict(new), plain.predict(new), atol=1e-9)
    assert fitted.predict(torch.from_numpy(new).float()).dtype == torch.float32


def test_what_cannot_be_used_is_refused():
    x, y, _, _, prior = world()
    with pytest.raises(UserError, match=r"latents of 8 dimensions need a prior covariance .* \(7, 7\)"):
        ComponentRidgeDecoder(prior[:7, :7]).fit(x, y)
    with pytest.raises(LeakageError, match="must never see test trials"):
        ComponentRidgeDecoder(prior).fit(x, y, roles=["train"] * 149 + ["test"])
