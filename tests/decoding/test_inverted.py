import numpy as np
import pytest
import torch
from sklearn.base import clone

from hyperdecode.decoding.inverted import InvertedEncodingDecoder
from hyperdecode.decoding.posterior import LatentPosterior
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import LeakageError, UserError


def world(seed=0, n=250, voxels=150):
    """Latents of which few directions vary much, and noise that voxels share."""
    rng = np.random.default_rng(seed)
    root = np.linalg.qr(rng.standard_normal((20, 20)))[0] * np.geomspace(3, 0.1, 20)
    pattern, shared = rng.standard_normal((20, voxels)), 6 * rng.standard_normal((5, voxels))

    def trials(count):
        y = 2 + rng.standard_normal((count, 20)) @ root.T
        return y @ pattern + rng.standard_normal((count, 5)) @ shared + 12 * rng.standard_normal((count, voxels)), y

    return trials(n), trials(1000), (np.full(20, 2.0), root @ root.T)


def test_it_is_the_posterior_s_mean():
    (x, y), (new, _), prior = world()
    decoder = clone(InvertedEncodingDecoder(*prior)).fit(x, y, roles=["train"] * len(x))
    expected = LatentPosterior(*prior).fit(x, y).predict(new)
    assert np.allclose(decoder.predict(new), expected, atol=1e-8)
    assert np.allclose(new @ decoder.coef_.T + decoder.intercept_, expected, atol=1e-8)
    single = decoder.predict(torch.from_numpy(new).float())
    assert single.dtype == torch.float32
    assert np.allclose(single, expected, atol=1e-3)


def test_it_decodes_about_as_well_as_ridge():
    # Neither is always better (hyperdecode compare tells for a study); a wrong gain or intercept would be far worse.
    for seed in range(3):
        (x, y), (new, true), prior = world(seed)
        ours, ridge = (d.fit(x, y).predict(new) for d in (InvertedEncodingDecoder(*prior), RidgeDecoder()))
        blind = ((true - 2) ** 2).mean()
        assert ((ridge - true) ** 2).mean() < 0.4 * blind
        assert ((ours - true) ** 2).mean() < 1.15 * ((ridge - true) ** 2).mean()


def test_bad_input_is_refused():
    (x, y), _, prior = world()
    with pytest.raises(LeakageError, match="InvertedEncodingDecoder must never see test trials, got 1"):
        InvertedEncodingDecoder(*prior).fit(x, y, roles=["test"] + ["train"] * (len(x) - 1))
    with pytest.raises(UserError, match="prior mean of as many"):
        InvertedEncodingDecoder(prior[0][:3], prior[1]).fit(x, y)
