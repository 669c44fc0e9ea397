import dataclasses
import pickle

import numpy as np
import pytest

from hyperdecode.decoding.activation_ridge import ActivationRidge
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import UserError
from hyperdecode.mapping.readout import LinearReadout, readout_of_activations, readout_of_latents

N, NEW, VOXELS, SHAPE = 30, 6, 45, (4, 3, 5)


def subject(seed=0):
    """Training and averaged test responses, and activations far from zero."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((N + NEW, 5))
    x = 3 + hidden @ rng.standard_normal((5, VOXELS)) + rng.standard_normal((N + NEW, VOXELS))
    a = 10 + hidden @ rng.standard_normal((5, 60)) + rng.standard_normal((N + NEW, 60)) * rng.uniform(0.1, 2, 60)
    a = a.reshape(-1, *SHAPE)
    return x[:N], a[:N], x[N:], a[N:]


def test_distances_are_those_of_all_features():
    x, a, new, shown = subject()
    ridge = ActivationRidge(alphas=[5.0]).fit(x, a, roles=["train"] * N)
    readout = readout_of_activations(ridge, new, ridge.compress(shown, a))
    full = np.empty((NEW, *SHAPE))
    ridge.expand(ridge.predict(new), a, out=full)
    away = full.reshape(NEW, 1, -1) - shown.reshape(1, NEW, -1)
    np.testing.assert_allclose(readout.squared_distances, (away**2).sum(-1), rtol=1e-9)
    assert readout.n_features == 60 and readout.n_voxels == VOXELS
    assert readout.variance == pytest.approx(a.reshape(N, -1).var(axis=0).mean(), rel=1e-9)
    assert readout.residuals.min() > 0.1  # or the test would not see them


def test_latents_are_counted_in_standard_deviations():
    x, _, new, _ = subject()
    y = np.random.default_rng(1).standard_normal((N + NEW, 7)) * np.arange(1, 8)
    ridge = RidgeDecoder(alphas=[5.0]).fit(x, y[:N])
    sd = y[:N].std(axis=0)
    readout = readout_of_latents(ridge.coef_, ridge.intercept_, new, y[N:], sd)
    expected = (((ridge.predict(new) / sd)[:, None] - (y[N:] / sd)[None]) ** 2).sum(-1)
    np.testing.assert_allclose(readout.squared_distances, expected, rtol=1e-9)
    assert (readout.n_features, readout.variance) == (7, 1.0)
    one = readout_of_latents(ridge.coef_, ridge.intercept_, new, y[N:], 2.0)
    np.testing.assert_allclose(one.predicted, ridge.predict(new) / 2, rtol=1e-9)


def readout_of(**changes):
    rng = np.random.default_rng(2)
    weights, predicted, true = rng.standard_normal((9, 4)), rng.standard_normal((5, 4)), rng.standard_normal((5, 4))
    return dataclasses.replace(LinearReadout(weights, predicted, true, np.ones(5), 20, 0.5), **changes)


def test_voxels_towards_truths_in_pieces(monkeypatch):
    readout = readout_of(weights=np.random.default_rng(3).standard_normal((9, 4)).astype(np.float32))
    expected = readout.weights.astype(float) @ readout.true.T
    np.testing.assert_allclose(readout.towards_true, expected, rtol=1e-12)
    back = pickle.loads(pickle.dumps(readout))
    np.testing.assert_array_equal(back.towards_true, readout.towards_true)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"weights": np.ones((9, 3))}, "weights .voxels, k."),
        ({"true": np.ones((4, 4))}, "weights .voxels, k."),
        ({"residuals": np.ones(4)}, "one residual a face"),
        ({"predicted": np.ones((1, 4)), "true": np.ones((1, 4)), "residuals": np.ones(1)}, "two faces or more"),
        ({"true": np.full((5, 4), np.nan)}, "truths of a readout hold values that are NaN"),
        ({"weights": np.full((9, 4), np.inf)}, "weights of a readout hold"),
        ({"variance": 0.0}, "vary in training"),
        ({"n_features": 0}, "vary in training"),
    ],
)
def test_what_is_no_readout(changes, match):
    with pytest.raises(UserError, match=match):
        readout_of(**changes)


def test_other_voxels_faces_and_bases():
    x, a, new, shown = subject()
    ridge = ActivationRidge(alphas=[5.0]).fit(x, a)
    true = ridge.compress(shown, a)
    with pytest.raises(UserError, match="reads 45 voxels, got responses of shape"):
        readout_of_activations(ridge, new[:, 1:], true)
    with pytest.raises(UserError, match="5 responses came with 6 true activations"):
        readout_of_activations(ridge, new[1:], true)
    fewer = dataclasses.replace(true, coordinates=true.coordinates[:, 1:])
    with pytest.raises(UserError, match="compress them with this decoder"):
        readout_of_activations(ridge, new, fewer)
    latents = np.ones((NEW, 3))
    with pytest.raises(UserError, match="do not fit"):
        readout_of_latents(np.ones((4, VOXELS)), np.ones(4), new, latents, 1.0)
    with pytest.raises(UserError, match="positive scale"):
        readout_of_latents(np.ones((3, VOXELS)), np.ones(3), new, latents, [1, 0, 1])
