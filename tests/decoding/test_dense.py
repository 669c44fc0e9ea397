from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
from sklearn.base import clone

from hyperdecode.decoding import adam, dense
from hyperdecode.decoding.adam import AdamState, Batches, BlockedLayer, Rule, WholeLayer
from hyperdecode.decoding.dense import DenseDecoder
from hyperdecode.errors import DataWarning, LeakageError, UserError


def planted(n=90, voxels=20, latents=4, seed=0):
    rng = np.random.default_rng(seed)
    x = 3 + 2 * rng.standard_normal((n, voxels))
    return x, (x - 3) @ rng.standard_normal((voxels, latents)) / 4 + 1 + 0.1 * rng.standard_normal((n, latents))


def order_and_start(n, voxels, latents, seed, half_width):
    source = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=source).numpy()
    return order, (2 * torch.rand(latents, voxels, generator=source).double().numpy() - 1) * half_width


def adam_by_hand(x, y, s, w, epochs, batch, rate, decay, decoupled=False):
    """Adam of MXNet 1.9 by its own formulas: gradient of the mean squared error, halved, plus decay times weights."""
    b = np.zeros(len(w))
    m, v, step = np.zeros((len(w), w.shape[1] + 1)), np.zeros((len(w), w.shape[1] + 1)), 0
    n_batches = -(-len(x) // batch)
    rows = np.arange(n_batches * batch) % len(x)
    losses = []
    for _ in range(epochs):
        losses.append(0.0)
        for k in range(n_batches):
            i = rows[k * batch : (k + 1) * batch]
            raw = x[i] @ w.T + b - y[i]
            losses[-1] += 0.5 * np.mean(s[i, None] * raw**2) / n_batches
            error = s[i, None] * raw / y.shape[1]
            whole = np.column_stack([w, b])
            gradient = np.column_stack([error.T @ x[i], error.sum(0)]) / batch
            if decoupled:
                whole *= 1 - rate * decay
            else:
                gradient += decay * whole
            step += 1
            m = 0.9 * m + 0.1 * gradient
            v = 0.999 * v + 0.001 * gradient**2
            whole -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            w, b = whole[:, :-1], whole[:, -1]
    return w, b, losses


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_step_is_that_of_adam_by_hand(decoupled, weighted):
    x, y = planted(n=25)
    s = np.random.default_rng(1).uniform(0.2, 3, 25) if weighted else np.ones(25)
    settings = {"n_epochs": 4, "batch_size": 10, "learning_rate": 0.01, "weight_decay": 0.1, "first_weights": 0.2}
    decoder = DenseDecoder(**settings, decoupled=decoupled, standardize=False, seed=5)
    given = s if weighted else None
    decoder.fit(x, y, sample_weight=given)
    order, start = order_and_start(25, 20, 4, 5, 0.2)
    w, b, losses = adam_by_hand(x[order], y[order], (s / s.mean())[order], start, 4, 10, 0.01, 0.1, decoupled)
    np.testing.assert_allclose(decoder.predict(x), x @ w.T + b, atol=1e-5)
    np.testing.assert_allclose(decoder.losses_, losses, rtol=1e-5)
    assert np.abs(w - start).max() > 0.05
    other = DenseDecoder(**settings, decoupled=not decoupled, standardize=False, seed=5)
    assert np.abs(other.fit(x, y, sample_weight=given).predict(x) - decoder.predict(x)).max() > 1e-3


@pytest.mark.parametrize("decoupled", [False, True])
def test_it_is_torch_adam_on_a_linear_layer(decoupled):
    x, y = planted(n=30)
    decoder = DenseDecoder(
        n_epochs=5, batch_size=10, learning_rate=0.01, weight_decay=0.1, decoupled=decoupled, standardize=False
    ).fit(x, y)
    order, start = order_and_start(30, 20, 4, 0, 0.07)
    inputs, targets = torch.from_numpy(x[order]).float(), torch.from_numpy(y[order]).float()
    layer = torch.nn.Linear(20, 4)
    layer.load_state_dict({"weight": torch.from_numpy(start).float(), "bias": torch.zeros(4)})
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(layer.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        for rows in torch.arange(30).view(3, 10):
            optimizer.zero_grad()
            (0.5 * torch.nn.functional.mse_loss(layer(inputs[rows]), targets[rows])).backward()
            optimizer.step()
    expected = layer(torch.from_numpy(x).float()).detach().numpy()
    np.testing.assert_allclose(decoder.predict(x), expected, atol=1e-5)


def layer_problem(latents=50, inputs=33, seed=0):
    source = torch.Generator().manual_seed(seed)
    batches = Batches(
        torch.randn(4, 6, inputs, generator=source),
        torch.randn(4, 6, latents, generator=source),
        torch.rand(4, 6, generator=source) + 0.5,
    )
    return AdamState.begin(0.1 * torch.randn(inputs, latents, generator=source)), batches


@pytest.mark.parametrize("rule", [Rule(0.01, 0.1, False), Rule(0.01, 0.1, True)])
def test_blocks_take_the_steps_of_the_whole_layer(rule, monkeypatch):
    state, batches = layer_problem()
    whole, one = WholeLayer(state, rule), BlockedLayer(state, rule)
    monkeypatch.setattr(adam, "MIN_WIDTH", 4)
    many = BlockedLayer(state, rule, block_bytes=1)
    expected, *losses = (layer.train(batches, 12) for layer in (whole, one, many))
    for found in losses:
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for layer in (one, many):
        for ours, theirs in zip(layer.state()[:3], whole.state()[:3], strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
        assert layer.state().steps == whole.state().steps == 48
    assert (whole.weights() - state.weights).abs().max() > 0.1


def test_threads_and_stretches_change_no_bit(monkeypatch):
    state, batches = layer_problem(latents=70)
    monkeypatch.setattr(adam, "MIN_WIDTH", 4)
    rule = Rule(0.01, 0.1, False)
    through = BlockedLayer(state, rule, block_bytes=1)
    losses = through.train(batches, 5)
    for threads in (1, 2):
        monkeypatch.setattr(adam, "default_threads", lambda n=threads: n)
        layer = BlockedLayer(state, rule, block_bytes=1)
        parts = [layer.train(batches, n) for n in (1, 3, 1)]
        assert torch.equal(layer.weights(), through.weights())
        np.testing.assert_array_equal(np.concatenate(parts), losses)


def test_the_threads_of_torch_are_as_before():
    state, batches = layer_problem()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        BlockedLayer(state, Rule(0.01, 0.1, False)).train(batches, 1)
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", [BlockedLayer, WholeLayer])
def test_a_layer_goes_on_from_its_state(kind):
    state, batches = layer_problem()
    rule = Rule(0.01, 0.1, False)
    through = kind(state, rule)
    through.train(batches, 5)
    half = kind(state, rule)
    half.train(batches, 2)
    rest = kind(half.state(), rule)
    rest.train(batches, 3)
    assert torch.equal(rest.weights(), through.weights())


def test_out_of_memory_halves_the_batch_and_not_the_result(monkeypatch):
    state, batches = layer_problem()
    rule = Rule(0.01, 0.1, False)
    expected = WholeLayer(state, rule)
    expected.train(batches, 2)
    multiply, refused = torch.mm, []

    def small_memory(a, b, **kwargs):
        if a.shape[0] > 3 and a.shape[1] == 33:
            refused.append(a.shape)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return multiply(a, b, **kwargs)

    monkeypatch.setattr(adam.torch, "mm", small_memory)
    layer = WholeLayer(state, rule)
    with pytest.warns(DataWarning, match="halved the batch to 3"):
        layer.train(batches, 2)
    assert len(refused) == 1
    torch.testing.assert_close(layer.weights(), expected.weights(), atol=1e-6, rtol=1e-5)


def test_bfloat16_multiplies_coarsely_and_learns_the_same():
    state, batches = layer_problem()
    exact, coarse = (WholeLayer(state, Rule(0.01, 0.0, False), name) for name in ("float32", "bfloat16"))
    losses = [layer.train(batches, 30) for layer in (exact, coarse)]
    assert not torch.equal(exact.weights(), coarse.weights())
    assert coarse.weights().dtype == torch.float32
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    assert losses[0][-1] < 0.5 * losses[0][0]


def test_it_learns_what_was_planted():
    x, y = planted(n=400)
    decoder = DenseDecoder(n_epochs=60, learning_rate=3e-3, weight_decay=0.0).fit(x[:300], y[:300])
    held = 1 - ((decoder.predict(x[300:]) - y[300:]) ** 2).sum() / ((y[300:] - y[:300].mean(0)) ** 2).sum()
    assert held > 0.95
    assert decoder.losses_[-1] < decoder.losses_[0] / 20
    assert (decoder.n_epochs_, decoder.best_epoch_, len(decoder.losses_)) == (60, 60, 60)
    assert decoder.validation_losses_.shape == (0,)


@pytest.mark.parametrize("standardize", [True, False])
def test_weights_are_for_raw_voxels(standardize):
    x, y = planted()
    decoder = DenseDecoder(n_epochs=2, standardize=standardize).fit(x, y)
    np.testing.assert_allclose(decoder.predict(x[:5]), x[:5] @ decoder.coef_.T + decoder.intercept_, atol=1e-9)
    z = (x[:5] - decoder.x_mean_) / decoder.x_scale_
    b = decoder.intercept_ + decoder.coef_ @ decoder.x_mean_
    np.testing.assert_allclose(decoder.predict(x[:5]), z @ (decoder.coef_ * decoder.x_scale_).T + b, atol=1e-9)
    assert np.allclose(decoder.x_mean_, x.mean(0) if standardize else 0)
    assert np.allclose(decoder.x_scale_, x.std(0) if standardize else 1)


def test_validation_stops_at_the_best_weights_and_never_trains_on_what_it_holds_out():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((60, 40)), rng.standard_normal((60, 3))
    groups, weights = [i // 2 for i in range(60)], rng.uniform(0.2, 3, 60)
    settings = {"learning_rate": 3e-3, "weight_decay": 0.0, "validation": 0.3, "seed": 2}
    decoder = DenseDecoder(n_epochs=400, patience=7, **settings).fit(x, y, groups=groups, sample_weight=weights)
    losses = decoder.validation_losses_
    assert decoder.best_epoch_ == 1 + np.argmin(losses)
    assert decoder.n_epochs_ == len(losses) == len(decoder.losses_) == decoder.best_epoch_ + 7 < 400
    assert decoder.best_epoch_ > 1
    held = dense.held_out(60, 0.3, groups, 2)
    assert held.sum() == 18
    per_trial = 0.5 * np.mean((decoder.predict(x[held]) - y[held]) ** 2, axis=1)
    error = np.average(per_trial, weights=weights[held])
    np.testing.assert_allclose(error, losses.min(), rtol=1e-5)

    changed = np.where(held[:, None], x + 5, x)
    fixed = {**settings, "n_epochs": decoder.best_epoch_, "patience": 400}
    same = DenseDecoder(**fixed).fit(changed, y, groups=groups, sample_weight=weights)
    np.testing.assert_array_equal(same.losses_, decoder.losses_[: decoder.best_epoch_])
    np.testing.assert_array_equal(same.x_mean_, decoder.x_mean_)
    alone = DenseDecoder(**{**fixed, "validation": 0.0}).fit(x[~held], y[~held], sample_weight=weights[~held])
    np.testing.assert_allclose(alone.predict(x), decoder.predict(x), atol=1e-6)
    np.testing.assert_allclose(alone.losses_, same.losses_, rtol=1e-6)


class Memory:
    """A checkpoint in memory, of copies."""

    def __init__(self, every=1):
        self.every, self.state, self.saved_at = every, None, []

    def load(self):
        return self.state

    def save(self, state):
        self.state = {name: np.array(value) for name, value in state.items()}
        self.saved_at.append(len(state["losses"]))


class KilledError(Exception):
    pass


def kill_at(epoch):
    def progress(done, _):
        if done >= epoch:
            raise KilledError

    return progress


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_killed_at_any_epoch_it_ends_at_the_same_bits(every, validation):
    x, y = planted(n=40)
    settings = {"n_epochs": 13, "batch_size": 12, "learning_rate": 1e-2, "validation": validation, "patience": 3}
    through = DenseDecoder(**settings).fit(x, y)
    for epoch in range(1, 14):
        memory = Memory(every)
        decoder = DenseDecoder(**settings, checkpoint=memory, progress=kill_at(epoch))
        with suppress(KilledError):
            decoder.fit(x, y)
        told = []
        again = clone(decoder).set_params(checkpoint=memory, progress=lambda *a, told=told: told.append(a)).fit(x, y)
        for name in ("coef_", "intercept_", "losses_", "validation_losses_", "n_epochs_", "best_epoch_"):
            np.testing.assert_array_equal(getattr(again, name), getattr(through, name), err_msg=name)
        assert not told or told[0][0] > min(epoch, 13) // every * every


def test_more_epochs_go_on_where_it_ended():
    x, y = planted(n=40)
    memory = Memory(every=2)
    DenseDecoder(n_epochs=5, checkpoint=memory).fit(x, y)
    assert memory.saved_at == [2, 4, 5]
    more = DenseDecoder(n_epochs=8, checkpoint=memory).fit(x, y)
    np.testing.assert_array_equal(more.coef_, DenseDecoder(n_epochs=8).fit(x, y).coef_)
    assert memory.saved_at == [2, 4, 5, 6, 8]
    np.testing.assert_array_equal(more.losses_[:5], DenseDecoder(n_epochs=5).fit(x, y).losses_)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"learning_rate": 1e-3}, None, "of other data or settings"),
        ({"seed": 1}, None, "of other data or settings"),
        ({}, "x", "of other data or settings"),
        ({}, "y", "of other data or settings"),
        ({"n_epochs": 3}, None, "of 6 epochs, more than n_epochs = 3"),
        ({}, "cut", "damaged"),
        ({}, "missing", "damaged"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_said_and_left(settings, change, message):
    x, y = planted(n=40)
    memory = Memory()
    DenseDecoder(n_epochs=6, checkpoint=memory).fit(x, y)
    x, y = x.copy(), y.copy()
    if change in ("x", "y"):
        {"x": x, "y": y}[change][7, 1] += 0.01
    elif change == "cut":
        memory.state["first"] = memory.state["first"][1:]
    elif change == "missing":
        del memory.state["losses"]
    whole = {"n_epochs": 6, **settings}
    with pytest.warns(DataWarning, match=message + ": training starts anew"):
        found = DenseDecoder(**whole, checkpoint=memory).fit(x, y)
    np.testing.assert_array_equal(found.coef_, DenseDecoder(**whole).fit(x, y).coef_)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_arrays_and_tensors_come_back_as_they_are(kind):
    x, y = planted()
    x, y = x.astype(kind), y.astype(kind)
    plain = DenseDecoder(n_epochs=3).fit(x, y)
    assert plain.coef_.dtype == plain.predict(x).dtype == kind
    tensors = DenseDecoder(n_epochs=3).fit(torch.from_numpy(x), torch.from_numpy(y))
    assert isinstance(tensors.coef_, np.ndarray)
    np.testing.assert_array_equal(tensors.coef_, plain.coef_)
    predicted = tensors.predict(torch.from_numpy(x))
    assert isinstance(predicted, torch.Tensor)
    np.testing.assert_array_equal(predicted.numpy(), plain.predict(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_takes_the_same_steps():
    x, y = (torch.from_numpy(a).float() for a in planted())
    settings = {"n_epochs": 10, "learning_rate": 1e-2, "validation": 0.2}
    here = DenseDecoder(**settings).fit(x, y)
    there = DenseDecoder(**settings).fit(x.cuda(), y.cuda())
    assert there.predict(x.cuda()).is_cuda
    np.testing.assert_allclose(there.predict(x), here.predict(x), atol=1e-4)


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
    ("change", "message"),
    [
        ({"n_epochs": 0}, "n_epochs must be above 0 and whole, got 0"),
        ({"n_epochs": 2.5}, "n_epochs must be above 0 and whole, got 2.5"),
        ({"batch_size": 0}, "batch_size must be above 0"),
        ({"patience": -1}, "patience must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0 and finite, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"first_weights": float("inf")}, "first_weights must be at least 0 and finite"),
        ({"validation": 1.0}, "from 0 to below 1"),
        ({"precision": "half"}, "float32 on a CPU, got 'half'"),
        ({"precision": "tf32"}, "float32 on a CPU, got 'tf32' on a CPU"),
        ({"checkpoint": Memory(every=0)}, "every 1 or more epochs, got 0"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(UserError, match=message):
        DenseDecoder(**{"n_epochs": 2, **change}).fit(*planted())


def test_bad_arrays():
    x, y = planted()
    with pytest.raises(UserError, match="1 of 20 voxels are constant"):
        DenseDecoder(n_epochs=1).fit(np.where(np.arange(20) == 3, 1.0, x), y)
    with pytest.raises(UserError, match="fitted on 20 voxels and got 19"):
        DenseDecoder(n_epochs=1).fit(x, y).predict(x[:, 1:])
    with pytest.raises(UserError, match="got 1 sample"):
        DenseDecoder(n_epochs=1).fit(x[:1], y[:1])
    with pytest.raises(UserError, match="90 trials and 3 groups"):
        DenseDecoder(n_epochs=1).fit(x, y, groups=[1, 2, 3])
    with pytest.raises(UserError, match="diverged at learning_rate = 1e\\+30: lower it"):
        DenseDecoder(n_epochs=3, learning_rate=1e30).fit(x, y)
