import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from hyperdecode.decoding import activation_ridge
from hyperdecode.decoding.activation_ridge import ActivationRidge
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import LeakageError, UserError

SHAPE = (5, 4, 3)


@pytest.fixture(params=["one block", "many blocks"], autouse=True)
def _blocks(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(activation_ridge, "BLOCK_BYTES", 7 * 40 * 8)  # seven features of 40 trials


def planted(n=40, voxels=70, noise=2.0, seed=0):
    """Responses, activations that follow from them, far from zero; 12 more of both."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((n + 12, 6))
    x = hidden @ rng.standard_normal((6, voxels)) + noise * rng.standard_normal((n + 12, voxels))
    a = 10 + hidden @ rng.standard_normal((6, 60)) + rng.standard_normal((n + 12, 60)) * rng.uniform(0.1, 2, 60)
    a = a.reshape(-1, *SHAPE)
    return x[:n], a[:n], x[n:], a[n:]


def full_ridge(x, a, new, alpha):
    mean, scale = x.mean(0), x.std(0)
    model = Ridge(alpha=alpha).fit((x - mean) / scale, a.reshape(len(a), -1))
    return model.predict((new - mean) / scale)


@pytest.mark.parametrize("alpha", [0.5, 200.0])
def test_equals_ridge_on_the_full_activations(alpha):
    x, a, new, _ = planted()
    ridge = ActivationRidge(alphas=[alpha]).fit(x, a, roles=["train"] * 40)
    made = np.empty((12, *SHAPE))
    ridge.expand(ridge.predict(new), a, out=made)
    assert np.abs(made.reshape(12, -1) - full_ridge(x, a, new, alpha)).max() < 1e-8
    assert ridge.coordinates_.shape == (40, 39) and ridge.predict(new).shape == (12, 39)
    by_default = ridge.expand(ridge.predict(new), a)
    assert by_default.dtype == np.float32 and np.allclose(by_default, made, rtol=1e-5)


@pytest.mark.parametrize("cv", ["loo", 4])
def test_the_penalty_and_its_errors_are_those_of_the_full_activations(cv):
    x, a, _, _ = planted()
    compressed = ActivationRidge(cv=cv).fit(x, a)
    full = RidgeDecoder(cv=cv).fit(x, a.reshape(40, -1))
    assert compressed.alpha_ == full.alpha_
    assert np.allclose(compressed.cv_scores_, full.cv_scores_, rtol=1e-9)
    groups = list(np.arange(40) // 2)
    weights = np.random.default_rng(1).uniform(0.5, 2, 40)
    compressed = ActivationRidge(cv=cv).fit(x, a, groups=groups, sample_weight=weights)
    full = RidgeDecoder(cv=cv).fit(x, a.reshape(40, -1), groups=groups, sample_weight=weights)
    assert np.allclose(compressed.cv_scores_, full.cv_scores_, rtol=1e-9)
    made = compressed.expand(compressed.predict(x), a)
    assert np.allclose(made.reshape(40, -1), full.predict(x), rtol=1e-6)


def test_leaving_a_trial_out_by_hand_gives_the_score():
    x, a, _, _ = planted(n=40)
    score = ActivationRidge(alphas=[30.0], standardize=False).fit(x, a).cv_scores_[0]
    errors = []
    for k in range(40):
        rest = np.arange(40) != k
        model = Ridge(alpha=30.0).fit(x[rest], a[rest].reshape(39, -1))
        errors.append(np.square(model.predict(x[k : k + 1]) - a[k].reshape(1, -1)).mean())
    assert score == pytest.approx(-np.mean(errors), rel=1e-8)


def test_similarities_and_errors_are_those_of_the_full_activations():
    x, a, new, a_new = planted()
    ridge = ActivationRidge(alphas=[50.0]).fit(x, a)
    predicted, mean = full_ridge(x, a, new, 50.0), a.reshape(40, -1).mean(0)
    true = a_new.reshape(12, -1)
    expected = np.corrcoef(predicted - mean, true - mean)[:12, 12:]
    seen = ridge.compress(a_new, a)
    assert np.allclose(ridge.similarity(ridge.predict(new), seen), expected, atol=1e-10)
    errors = ridge.squared_errors(ridge.predict(new), seen)
    assert np.allclose(errors, np.square(predicted - true).mean(1), rtol=1e-9)
    assert (seen.residuals > 0.1).all()  # 60 features, 39 dimensions: it must count
    without = np.array(seen.residuals) * 0
    assert not np.allclose(
        ridge.similarity(ridge.predict(new), type(seen)(seen.coordinates, without, seen.sums)), expected
    )


def test_training_activations_lie_in_the_basis():
    x, a, _, _ = planted()
    ridge = ActivationRidge(alphas=[50.0]).fit(x, a)
    seen = ridge.compress(a, a)
    assert np.allclose(seen.coordinates, ridge.coordinates_, atol=1e-9)
    assert (seen.residuals < 1e-9).all()
    assert np.allclose(ridge.expand(seen.coordinates, a), a, rtol=1e-5)
    distances = [np.square(a[0] - a[k]).sum() for k in range(40)]
    assert np.allclose(np.square(ridge.coordinates_ - ridge.coordinates_[0]).sum(1), distances)


def test_faces_shown_twice_take_no_dimension():
    x, a, new, _ = planted()
    a = a[np.arange(40) // 2]
    ridge = ActivationRidge(alphas=[50.0]).fit(x, a)
    assert ridge.coordinates_.shape == (40, 19)
    made = ridge.expand(ridge.predict(new), a).reshape(12, -1)
    assert np.allclose(made, full_ridge(x, a, new, 50.0), rtol=1e-5)


def test_activations_on_disk_and_in_torch(tmp_path):
    x, a, new, a_new = planted()
    a = a.astype(np.float32)
    expected = ActivationRidge(alphas=[50.0]).fit(x, a)
    stored = np.memmap(tmp_path / "activations", np.float32, "w+", shape=a.shape)
    stored[:] = a
    found = ActivationRidge(alphas=[50.0]).fit(x, np.memmap(tmp_path / "activations", np.float32, "r", shape=a.shape))
    assert np.array_equal(found.coef_, expected.coef_)
    written = np.memmap(tmp_path / "predicted", np.float32, "w+", shape=(12, *SHAPE))
    found.expand(found.predict(new), stored, out=written)
    assert np.allclose(written, expected.expand(expected.predict(new), a))
    tensors = ActivationRidge(alphas=[50.0]).fit(torch.from_numpy(x), torch.from_numpy(a))
    coordinates = tensors.predict(torch.from_numpy(new))
    assert isinstance(coordinates, torch.Tensor)
    seen = tensors.compress(torch.from_numpy(a_new).float(), torch.from_numpy(a))
    assert np.allclose(tensors.similarity(coordinates, seen), expected.similarity(expected.predict(new), seen))


def test_a_layer_of_a_generator(tiny_generator):
    """Of a linear code of latents the deeper activations are decoded better than by their mean."""
    rng = np.random.default_rng(0)
    w = tiny_generator.to_w(tiny_generator.sample(100, 1))
    x = (w.numpy() - w.mean(0).numpy()) @ rng.standard_normal((16, 50)) + 0.1 * rng.standard_normal((100, 50))
    crops = tiny_generator.activations(w, ["b8.conv1"], crop=5)["b8.conv1"]
    ridge = ActivationRidge().fit(x[:80], crops[:80])
    seen = ridge.compress(crops[80:], crops[:80])
    blind = ridge.squared_errors(np.zeros((20, ridge.coordinates_.shape[1])), seen).mean()
    assert ridge.squared_errors(ridge.predict(x[80:]), seen).mean() < 0.5 * blind
    similarity = ridge.similarity(ridge.predict(x[80:]), seen)
    assert (similarity.argmax(1) == np.arange(20)).mean() > 0.8


def test_a_test_trial_is_refused_before_anything_is_computed(monkeypatch):
    x, a, _, _ = planted()
    monkeypatch.setattr(activation_ridge, "_principal_axes", None)
    with pytest.raises(LeakageError, match="1 among 40"):
        ActivationRidge().fit(x, a, roles=["train"] * 39 + ["test"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r, x, a: ActivationRidge().fit(x[:-1], a), "39 trials of responses and 40"),
        (lambda r, x, a: ActivationRidge().fit(x, np.where(a == a[3, 1, 0, 0], np.nan, a)), "activations: 1 of"),
        (lambda r, x, a: ActivationRidge().fit(x, np.full_like(a, 7.3)), "do not differ"),
        (lambda r, x, a: r.compress(a[:, :4], a), r"shape \(4, 4, 3\) each"),
        (lambda r, x, a: r.compress(a, a[:-1]), "give the same again"),
        (lambda r, x, a: r.expand(r.predict(x), a[::-1]), "not the training activations"),
        (lambda r, x, a: r.expand(x, a), r"shape \(n, 39\)"),
        (lambda r, x, a: r.expand(r.predict(x), a, out=np.empty((40, 60))), "out must be contiguous"),
        (lambda r, x, a: r.predict(x[:, 1:]), "fitted on 70 voxels"),
    ],
)
def test_mistakes_are_one_line(call, words):
    x, a, _, _ = planted()
    with pytest.raises(UserError, match=words) as mistake:
        call(ActivationRidge(alphas=[50.0]).fit(x, a), x, a)
    assert "\n" not in str(mistake.value)
