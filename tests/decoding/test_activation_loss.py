import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone

from hyperdecode.decoding import activation_targets
from hyperdecode.decoding.activation_loss import ActivationLossDecoder
from hyperdecode.decoding.activation_targets import LayerCrop, TargetActivations
from hyperdecode.decoding.activation_training import Problem, loss_and_gradient
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.decoding.training import held_out
from hyperdecode.errors import DataWarning, LeakageError, UserError
from hyperdecode.generators import PGGAN

LAYER = "b8.conv2"
VOXELS = 60


@pytest.fixture(scope="module")
def faces(tiny_generator):
    """Responses that carry latents w, (80, 60) and (80, 16), and 40 more of them."""
    rng = np.random.default_rng(0)
    w = tiny_generator.to_w(tiny_generator.sample(120, 1)).numpy()
    clean = (w - w.mean(0)) / w.std(0) @ rng.standard_normal((w.shape[1], VOXELS))
    voxels = 2 + 3 * (clean + 6 * rng.standard_normal(clean.shape))
    return (voxels[:80], w[:80]), (voxels[80:], w[80:])


def decoder(generator, **changes):
    settings = {"crop": 6, "n_epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "layer": LAYER}
    return ActivationLossDecoder(generator, **{**settings, **changes})


def activation_error(generator, predicted, true, layer=LAYER, crop=6, counts=None):
    made, seen = (
        generator.activations(torch.as_tensor(a).float(), [layer], crop=crop)[layer] for a in (predicted, true)
    )
    return float(np.average((made - seen).square().mean((1, 2, 3)).numpy(), weights=counts))


def memory(every=1, stop=None):
    """A checkpoint that keeps its states, and kills the run after some of them."""

    class Memory:
        def __init__(self):
            self.every, self.states = every, []

        def load(self):
            return self.states[-1] if self.states else None

        def save(self, state):
            self.states = [*self.states, {key: value.copy() for key, value in state.items()}]
            if len(self.states) == stop:
                raise KeyboardInterrupt

    return Memory()


@pytest.mark.parametrize("family", ["mobilestylegan", "pggan"])
@pytest.mark.parametrize("weights", [(0.7, 0.0), (0.0, 1.3), (0.7, 1.3)])
def test_gradient_is_that_of_finite_differences(make_tiny, make_tiny_pggan_tensors, family, weights):
    generator = (make_tiny() if family == "mobilestylegan" else PGGAN(make_tiny_pggan_tensors())).double()
    layer = LAYER if family == "mobilestylegan" else "6"
    true, decoded = (
        torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
    )
    scale = (np.linspace(-0.2, 0.2, 16), np.linspace(0.5, 1.5, 16))
    crop = LayerCrop(generator, layer, 3, scale=scale)
    of_trials = torch.tensor([0.5, 1.5, 1.0, 0.2, 1.8], dtype=torch.float64)
    problem = Problem(torch.zeros(5, 1), true, of_trials, TargetActivations(crop, true), crop, weights)
    rows = torch.tensor([3, 0, 4])

    def plain(values):
        """Return the loss written out once more."""
        a, b = (
            generator.activations(v * torch.tensor(scale[1]) + torch.tensor(scale[0]), [layer])[layer]
            for v in (values, true[rows])
        )
        start = (a.shape[-1] - 3) // 2
        inner = (..., slice(start, start + 3), slice(start, start + 3))
        away = (values - true[rows]).square().mean(1), (a[inner] - b[inner]).square().mean((1, 2, 3))
        return float((of_trials[rows] * (weights[0] * away[0] + weights[1] * away[1])).mean())

    loss, gradient = loss_and_gradient(problem, decoded[rows], rows)
    assert loss == pytest.approx(plain(decoded[rows]), rel=1e-9)
    assert gradient.shape == (3, 16) and gradient.abs().max() > 1e-4
    for row, column in ((0, 0), (1, 7), (2, 15)):
        step = torch.zeros(3, 16, dtype=torch.float64)
        step[row, column] = 1e-6
        slope = (plain(decoded[rows] + step) - plain(decoded[rows] - step)) / 2e-6
        assert float(gradient[row, column]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_the_decoders_first_steps_are_those_of_torchs_adam(tiny_generator, faces):
    """The whole training once more, by autograd through the weights themselves."""
    (x, w), _ = faces
    kwargs = {"start": "random", "validation": 0.0, "n_epochs": 2, "weight_decay": 0.3, "learning_rate": 1e-2}
    found = decoder(tiny_generator, **kwargs, latent_weight=0.5, seed=3).fit(x, w)
    z = torch.from_numpy((x - x.mean(0)) / x.std(0))
    y = torch.from_numpy(w).double()
    drawn = torch.rand(16, VOXELS, generator=torch.Generator().manual_seed(3))
    weights = ((2 * drawn - 1) * 0.07).double().requires_grad_()
    bias = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights, bias], lr=1e-2, weight_decay=0.3)
    seen = tiny_generator.activations(y.float(), [LAYER], crop=6)[LAYER].double()
    of_latents, of_activations = 0.5 / y.var(0, correction=0).mean(), 1 / seen.var(0, correction=0).mean()
    for epoch in (1, 2):
        order = np.random.default_rng([3, epoch]).permutation(80)
        for rows in order.reshape(10, 8):
            p = z[rows] @ weights.T + bias
            made = tiny_generator.activations(p.float(), [LAYER], crop=6)[LAYER].double()
            loss = of_latents * (p - y[rows]).square().mean() + of_activations * (made - seen[rows]).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    expected = weights.detach().numpy() / x.std(0)
    assert np.allclose(found.coef_, expected, atol=1e-4 * np.abs(expected).max())
    assert np.allclose(found.predict(x), (z @ weights.T + bias).detach(), atol=1e-4)
    assert found.latent_variance_ == pytest.approx(0.5 / float(of_latents), rel=1e-5)
    assert found.activation_variance_ == pytest.approx(1 / float(of_activations), rel=1e-4)


@pytest.mark.parametrize("start", ["ridge", "random"])
def test_the_activation_error_falls(tiny_generator, faces, start):
    (x, w), _ = faces
    settings = {"latent_weight": 0.0, "validation": 0.0, "n_epochs": 12, "weight_decay": 0.0}
    trained = decoder(tiny_generator, **settings, start=start, learning_rate=2e-3).fit(x, w)
    assert len(trained.losses_) == 12 and trained.losses_[-1] < 0.7 * trained.losses_[0]
    error = activation_error(tiny_generator, trained.predict(x), w) / trained.activation_variance_
    assert error < 0.7 * trained.losses_[0]
    if start == "ridge":
        ridge = RidgeDecoder(seed=0).fit(x, w)
        assert error < 0.8 * activation_error(tiny_generator, ridge.predict(x), w) / trained.activation_variance_


def test_held_out_trials_choose_the_epoch_and_get_better_than_where_it_began(tiny_generator, faces):
    (x, w), _ = faces
    settings = {"latent_weight": 0.0, "validation": 0.3, "n_epochs": 12, "patience": 12}
    kept = decoder(tiny_generator, **settings, refit=False).fit(x, w)
    losses, best = kept.validation_losses_, kept.best_epoch_
    assert best > 0 and len(losses) == 13 and losses[best] == losses.min() < losses[0]
    held = held_out(80, 0.3, None, 0)
    for fitted, loss in ((kept, losses[best]), (RidgeDecoder(seed=0).fit(x[~held], w[~held]), losses[0])):
        error = activation_error(tiny_generator, fitted.predict(x[held]), w[held])
        assert error / kept.activation_variance_ == pytest.approx(loss, rel=1e-4)
    refitted = decoder(tiny_generator, **settings).fit(x, w)
    plain = decoder(tiny_generator, **settings | {"validation": 0.0, "n_epochs": best}).fit(x, w)
    assert np.array_equal(refitted.coef_, plain.coef_) and len(refitted.losses_) == best


def test_where_training_helps_nobody_it_stays_at_ridge(tiny_generator, faces):
    (x, w), (new, _) = faces
    noise = np.random.default_rng(4).standard_normal(x.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # ridge finds nothing either, and says so
        ridge = RidgeDecoder(seed=0).fit(noise, w)
        kwargs = {"learning_rate": 0.3, "validation": 0.3, "patience": 1, "latent_weight": 1.0}
        trained = decoder(tiny_generator, **kwargs).fit(noise, w)
        kept = decoder(tiny_generator, **kwargs, refit=False).fit(noise, w)
    assert trained.best_epoch_ == kept.best_epoch_ == 0 and len(trained.validation_losses_) == 2
    assert np.allclose(trained.predict(new), ridge.predict(new), atol=1e-6)
    assert not np.allclose(kept.predict(new), ridge.predict(new), atol=1e-6)  # fewer trials


def test_weights_of_trials_count_from_the_start_on(tiny_generator, faces):
    (x, w), (new, _) = faces
    counts = np.linspace(0.2, 3, 80)
    ridge = RidgeDecoder(seed=0).fit(x, w, sample_weight=counts)
    settings = {"validation": 0.0, "n_epochs": 1, "weight_decay": 0.0}
    begun = decoder(tiny_generator, **settings, learning_rate=1e-12).fit(x, w, sample_weight=counts)
    assert np.allclose(begun.predict(new), ridge.predict(new), atol=1e-6)
    seen = activation_error(tiny_generator, ridge.predict(x), w, counts=counts) / begun.activation_variance_
    away = (counts[:, None] * np.square(ridge.predict(x) - w)).mean() / counts.mean() / begun.latent_variance_
    assert begun.losses_[0] == pytest.approx(seen + away, rel=1e-4)


def test_without_refit_the_best_weights_are_kept(tiny_generator, faces):
    (x, w), _ = faces
    kept = decoder(tiny_generator, validation=0.3, n_epochs=20, patience=3, refit=False, seed=2).fit(x, w)
    settings = {"patience": 3, "refit": False, "seed": 2}
    shorter = decoder(tiny_generator, validation=0.3, n_epochs=kept.best_epoch_, **settings).fit(x, w)
    assert 0 < kept.best_epoch_ == len(kept.losses_) - 3
    assert np.array_equal(kept.coef_, shorter.coef_)


def test_the_generator_stays_as_it_is(make_tiny, faces):
    (x, w), _ = faces
    generator = make_tiny()
    before = copy.deepcopy(generator.state_dict())
    decoder(generator).fit(x, w)
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in generator.parameters())


def test_latents_alone_ignore_the_layer_and_activations_alone_the_latents_scale(tiny_generator, faces):
    (x, w), _ = faces
    one, other = (decoder(tiny_generator, activation_weight=0.0, layer=name).fit(x, w) for name in (LAYER, "b4.conv"))
    assert np.array_equal(one.coef_, other.coef_)
    one, other = (decoder(tiny_generator, layer=name).fit(x, w) for name in (LAYER, "b4.conv"))
    assert not np.allclose(one.coef_, other.coef_)


def test_plain_squared_errors(tiny_generator, faces):
    (x, w), _ = faces
    plain = decoder(tiny_generator, normalised=False, validation=0.0).fit(x, w)
    weighted = decoder(
        tiny_generator,
        latent_weight=plain.latent_variance_,
        activation_weight=plain.activation_variance_,
        validation=0.0,
    ).fit(x, w)
    assert np.allclose(plain.coef_, weighted.coef_, rtol=1e-4)
    assert np.allclose(plain.losses_, weighted.losses_)


def test_standardised_latents_reach_the_generator_on_its_own_scale(tiny_generator, faces):
    (x, w), _ = faces
    mean, sd = w.mean(0), np.full(16, float(w.std()))
    raw = decoder(tiny_generator, start="random", validation=0.0, latent_weight=0.0, weight_decay=0.0).fit(x, w)
    scaled = decoder(tiny_generator, validation=0.0, scale=(mean, sd)).fit(x, (w - mean) / sd)
    assert scaled.activation_variance_ == pytest.approx(raw.activation_variance_, rel=1e-5)
    assert scaled.latent_variance_ == pytest.approx(raw.latent_variance_ / sd[0] ** 2, rel=1e-5)
    assert decoder(tiny_generator).fit(x, (w - mean) / sd).activation_variance_ != pytest.approx(
        raw.activation_variance_, rel=0.01
    )


def test_z_is_truncated_as_the_stimuli_were(tiny_generator):
    z = tiny_generator.sample(4, 0)
    crop = LayerCrop(tiny_generator, LAYER, 5, space="z", truncation=0.6)
    expected = tiny_generator.activations(tiny_generator.to_w(z, 0.6), [LAYER], crop=5)[LAYER]
    assert torch.allclose(crop(z), expected.flatten(1), atol=1e-6)
    whole = tiny_generator.activations(tiny_generator.to_w(z), [LAYER])[LAYER]
    assert torch.allclose(LayerCrop(tiny_generator, LAYER, None, space="z")(z), whole.flatten(1), atol=1e-5)


@pytest.mark.parametrize(
    ("limit", "dtype"), [(2**30, torch.float32), (80 * 6 * 6 * 16 * 3, torch.float16), (1000, None)]
)
def test_targets_are_kept_as_far_as_there_is_room(tiny_generator, faces, monkeypatch, limit, dtype):
    w = torch.from_numpy(faces[0][1])
    crop = LayerCrop(tiny_generator, LAYER, 6)
    expected = crop(w)
    monkeypatch.setattr(activation_targets, "TARGET_BYTES", limit)
    targets = TargetActivations(crop, w)
    assert (None if targets._kept is None else targets._kept.dtype) == dtype
    rows = torch.tensor([7, 7, 79, 0])
    assert torch.allclose(targets.of(rows), expected[rows], rtol=1e-3 if dtype == torch.float16 else 1e-5, atol=1e-3)
    assert targets.variance == pytest.approx(float(expected.var(0, correction=0).mean()), rel=1e-5)


def test_targets_beyond_the_range_of_float16_are_made_anew(tiny_generator, faces, monkeypatch):
    w, plain = torch.from_numpy(faces[0][1]), LayerCrop.__call__
    monkeypatch.setattr(LayerCrop, "__call__", lambda self, y: 1e6 * plain(self, y))
    monkeypatch.setattr(activation_targets, "TARGET_BYTES", 80 * 6 * 6 * 16 * 3)
    crop = LayerCrop(tiny_generator, LAYER, 6)
    targets = TargetActivations(crop, w)
    assert targets._kept is None and torch.allclose(targets.of(torch.arange(80)), crop(w), rtol=1e-4, atol=10)


def test_a_face_shown_twice_is_made_once_and_held_out_as_one(tiny_generator, faces, monkeypatch):
    (x, w), _ = faces
    w = w[np.arange(80) // 4]
    made = []
    plain = LayerCrop.__call__
    monkeypatch.setattr(LayerCrop, "__call__", lambda self, y: made.append(len(y)) or plain(self, y))
    targets = TargetActivations(LayerCrop(tiny_generator, LAYER, 6), torch.from_numpy(w))
    assert sum(made) == 20
    seen = tiny_generator.activations(torch.from_numpy(w), [LAYER], crop=6)[LAYER].flatten(1)
    assert torch.allclose(targets.of(torch.arange(80)), seen, atol=1e-5)
    assert targets.variance == pytest.approx(float(seen.var(0, correction=0).mean()), rel=1e-4)
    settings = {"validation": 0.2, "n_epochs": 1, "start": "random", "refit": False}
    by_default = decoder(tiny_generator, **settings).fit(x, w)
    numbers = np.unique(w, axis=0, return_inverse=True)[1]
    told = decoder(tiny_generator, **settings).fit(x, w, groups=list(numbers))
    alone = decoder(tiny_generator, **settings).fit(x, w, groups=range(80))
    assert np.array_equal(by_default.coef_, told.coef_) and not np.array_equal(by_default.coef_, alone.coef_)


def test_too_little_gpu_memory_halves_the_batch_with_the_same_result(make_tiny, faces, monkeypatch):
    (x, w), _ = faces
    generator = make_tiny()
    expected = decoder(generator, n_epochs=2, batch_size=4).fit(x, w)
    plain = generator.activations

    def small(latents, *args, **kwargs):
        if len(latents) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain(latents, *args, **kwargs)

    monkeypatch.setattr(generator, "activations", small)
    with pytest.warns(DataWarning, match="halved the batch to 2"):
        found = decoder(generator, n_epochs=2, batch_size=4).fit(x, w)
    assert np.allclose(found.coef_, expected.coef_, atol=1e-5 * np.abs(expected.coef_).max())
    assert np.allclose(found.losses_, expected.losses_, rtol=1e-5)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize("every", [1, 2])
def test_killed_and_begun_again_it_ends_at_the_same_weights(tiny_generator, faces, stop, every):
    (x, w), _ = faces
    settings = {"validation": 0.2, "patience": 4, "latent_weight": 0.3}
    expected = decoder(tiny_generator, **settings).fit(x, w)
    assert expected.best_epoch_ >= 2
    kept = memory(every, stop)
    try:
        decoder(tiny_generator, **settings, checkpoint=kept).fit(x, w)
        killed = False
    except KeyboardInterrupt:
        killed = True
    assert killed == (stop <= (4 + expected.best_epoch_) // every)
    epochs = []
    again = decoder(
        tiny_generator, **settings, checkpoint=kept, progress=lambda done, total: epochs.append((done, total))
    ).fit(x, w)
    assert np.array_equal(again.coef_, expected.coef_) and np.array_equal(again.intercept_, expected.intercept_)
    assert np.array_equal(again.losses_, expected.losses_)
    assert np.array_equal(again.validation_losses_, expected.validation_losses_)
    assert again.best_epoch_ == expected.best_epoch_
    if killed:
        assert len(epochs) == 4 + expected.best_epoch_ - every * stop and all(total == 8 for _, total in epochs)


def test_a_checkpoint_of_other_data_is_not_gone_on_from(tiny_generator, faces):
    (x, w), _ = faces
    kept = memory()
    decoder(tiny_generator, checkpoint=kept).fit(x, w)
    for changes, voxels in (({}, x + 1), ({"latent_weight": 2.0}, x)):
        with pytest.warns(DataWarning, match="other data or settings"):
            found = decoder(tiny_generator, checkpoint=kept, **changes).fit(voxels, w)
        assert np.array_equal(found.coef_, decoder(tiny_generator, **changes).fit(voxels, w).coef_)


def test_numpy_and_torch_and_both_types(tiny_generator, faces):
    (x, w), _ = faces
    double = decoder(tiny_generator).fit(x, w)
    assert double.coef_.dtype == np.float64 and double.predict(x).dtype == np.float64
    single = decoder(tiny_generator).fit(torch.from_numpy(x).float(), torch.from_numpy(w))
    assert single.coef_.dtype == np.float32 and isinstance(single.predict(torch.from_numpy(x)), torch.Tensor)
    assert np.allclose(single.predict(x), double.predict(x), atol=0.01)
    assert np.array_equal(clone(decoder(tiny_generator)).fit(x, w).coef_, double.coef_)


def test_mixed_precision_is_about_the_same(tiny_generator, faces):
    (x, w), _ = faces
    full, mixed = (decoder(tiny_generator, precision=p, validation=0.0).fit(x, w) for p in ("float32", "bfloat16"))
    assert not np.array_equal(full.losses_, mixed.losses_)
    assert np.allclose(full.losses_, mixed.losses_, rtol=0.05)
    assert np.corrcoef(full.coef_.ravel(), mixed.coef_.ravel())[0, 1] > 0.98


def test_a_test_trial_is_refused(tiny_generator, faces):
    (x, w), _ = faces
    with pytest.raises(LeakageError, match="1 among 80"):
        decoder(tiny_generator).fit(x, w, roles=["train"] * 79 + ["test"])


@pytest.mark.parametrize(
    ("changes", "data", "words"),
    [
        ({}, lambda x, w: (x, w[:, :-1]), "latents of another generator: got 15 dimensions"),
        ({"layer": "b7.conv"}, None, "no layer 'b7.conv'"),
        ({"space": "w\\+"}, None, "decode 'z' or 'w'"),
        ({"crop": 0}, None, "crop of 0 px"),
        ({"scale": (np.zeros(3), np.ones(3))}, None, "of 16 latents, got shapes"),
        ({"start": "zero"}, None, "ridge, random, got 'zero'"),
        ({"latent_weight": 0.0, "activation_weight": 0.0}, None, "both 0"),
        ({"latent_weight": -1.0}, None, "latent_weight must be at least 0"),
        ({"n_epochs": 0}, None, "n_epochs"),
        ({"batch_size": 2.5}, None, "batch_size"),
        ({"learning_rate": 0.0}, None, "learning_rate"),
        ({"precision": "float8"}, None, "float8"),
        ({"validation": 1.0}, None, "share of the trials"),
        ({"learning_rate": 1e30, "validation": 0.0}, None, "diverged at learning_rate"),
        ({"validation": 0.0}, lambda x, w: (x, np.repeat(w[:1], len(w), 0)), "does not differ"),
        ({}, lambda x, w: (np.where(np.arange(VOXELS) == 3, 7.0, x), w), "1 of 60 voxels are constant"),
        ({}, lambda x, w: (x[:-1], w), "79 trials of responses and 80"),
    ],
)
def test_mistakes_are_one_line(tiny_generator, faces, changes, data, words):
    x, w = data(*faces[0]) if data else faces[0]
    with pytest.raises(UserError, match=words) as mistake:
        decoder(tiny_generator, **changes).fit(x, w)
    assert "\n" not in str(mistake.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "allowed"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_a_gpu_trains_the_same(make_tiny, faces, precision, allowed):
    (x, w), (new, _) = faces
    expected = decoder(make_tiny()).fit(x.astype(np.float32), w)
    tensors = (torch.from_numpy(part).float().cuda() for part in (x, w))
    found = decoder(make_tiny().cuda(), precision=precision).fit(*tensors)
    assert np.allclose(found.losses_, expected.losses_, rtol=allowed)
    predicted = found.predict(torch.from_numpy(new).float().cuda())
    assert predicted.is_cuda and np.allclose(predicted.cpu(), expected.predict(new), atol=allowed)
