import numpy as np
import pytest
from sklearn.base import clone

from hyperdecode.decoding.dense import DenseDecoder
from hyperdecode.errors import LeakageError, UserError


def planted(n=90, voxels=20, latents=4, seed=0):
    rng = np.random.default_rng(seed)
    x = 3 + 2 * rng.standard_normal((n, voxels))
    return x, (x - 3) @ rng.standard_normal((voxels, latents)) / 4 + 1 + 0.1 * rng.standard_normal((n, latents))


def adam_by_hand(x, y, start, seed, epochs, batch, rate, decay):
    """Adam of MXNet 1.9 by its own formulas: gradient of the mean squared error, halved, plus decay times weights."""
    w, b = start
    m, v, step = np.zeros((len(w), w.shape[1] + 1)), np.zeros((len(w), w.shape[1] + 1)), 0
    n_batches = -(-len(x) // batch)
    rows = np.arange(n_batches * batch) % len(x)
    for _ in range(epochs):
        for k in range(n_batches):
            i = rows[k * batch : (k + 1) * batch]
            error = (x[i] @ w.T + b - y[i]) / y.shape[1]
            whole = np.column_stack([w, b])
            gradient = np.column_stack([error.T @ x[i], error.sum(0)]) / batch + decay * whole
            step += 1
            m = 0.9 * m + 0.1 * gradient
            v = 0.999 * v + 0.001 * gradient**2
            whole -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            w, b = whole[:, :-1], whole[:, -1]
    return w, b


def test_every_step_is_that_of_adam_by_hand():
    import torch

    x, y = planted(n=25)
    decoder = DenseDecoder(n_epochs=3, batch_size=10, learning_rate=0.01, weight_decay=0.1, standardize=False, seed=5)
    decoder.set_params(first_weights=0.2).fit(x, y)
    source = torch.Generator().manual_seed(5)
    order = torch.randperm(25, generator=source).numpy()
    start = (2 * torch.rand(4, 20, generator=source).double().numpy() - 1) * 0.2
    w, b = adam_by_hand(x[order], y[order], (start, np.zeros(4)), 5, 3, 10, 0.01, 0.1)
    np.testing.assert_allclose(decoder.coef_, w, atol=2e-5)
    np.testing.assert_allclose(decoder.intercept_, b, atol=2e-5)
    assert np.abs(w - start).max() > 0.05


def test_it_learns_what_was_planted():
    x, y = planted(n=400)
    decoder = DenseDecoder(n_epochs=60, learning_rate=3e-3, weight_decay=0.0).fit(x[:300], y[:300])
    held = 1 - ((decoder.predict(x[300:]) - y[300:]) ** 2).sum() / ((y[300:] - y[:300].mean(0)) ** 2).sum()
    assert held > 0.95
    assert decoder.losses_[-1] < decoder.losses_[0] / 20


@pytest.mark.parametrize("standardize", [True, False])
def test_weights_are_for_raw_voxels(standardize):
    x, y = planted()
    decoder = DenseDecoder(n_epochs=2, standardize=standardize).fit(x, y)
    np.testing.assert_allclose(decoder.predict(x[:5]), x[:5] @ decoder.coef_.T + decoder.intercept_, atol=1e-9)
    z = (x[:5] - decoder.x_mean_) / decoder.x_scale_
    b = decoder.intercept_ + decoder.coef_ @ decoder.x_mean_
    np.testing.assert_allclose(decoder.predict(x[:5]), z @ (decoder.coef_ * decoder.x_scale_).T + b, atol=1e-9)
    assert np.allclose(decoder.x_mean_, x.mean(0) if standardize else 0)


def test_the_seed_makes_the_fit():
    x, y = planted()
    one, again, other = (DenseDecoder(n_epochs=2, seed=s).fit(x, y).coef_ for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_a_clone_has_the_same_settings():
    assert clone(DenseDecoder(n_epochs=7, weight_decay=0.5)).get_params()["weight_decay"] == 0.5


def test_test_trials_are_refused():
    x, y = planted()
    with pytest.raises(LeakageError, match="DenseDecoder must never see test trials, got 1 among 90"):
        DenseDecoder(n_epochs=1).fit(x, y, roles=["train"] * 89 + ["test"])


@pytest.mark.parametrize(
    "change", [{"n_epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"first_weights": -1.0}]
)
def test_settings_out_of_range(change):
    with pytest.raises(UserError, match="must be above 0"):
        DenseDecoder(**change).fit(*planted())


def test_bad_arrays():
    x, y = planted()
    with pytest.raises(UserError, match="1 of 20 voxels are constant"):
        DenseDecoder(n_epochs=1).fit(np.where(np.arange(20) == 3, 1.0, x), y)
    with pytest.raises(UserError, match="fitted on 20 voxels and got 19"):
        DenseDecoder(n_epochs=1).fit(x, y).predict(x[:, 1:])
    with pytest.raises(UserError, match="diverged"):
        DenseDecoder(n_epochs=3, learning_rate=1e30).fit(x, y)
