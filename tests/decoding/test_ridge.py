import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut

from hyperdecode.decoding.blocks import Responses
from hyperdecode.decoding.penalties import chosen_alphas
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import DataWarning, LeakageError, UserError


def planted(n=120, voxels=200, latents=6, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((n, latents))
    pattern = rng.standard_normal((latents, voxels))
    x = 5 + 3 * (y @ pattern + noise * rng.standard_normal((n, voxels)))
    return x, y + 2


@pytest.mark.parametrize("shape", [(60, 150), (150, 40)])
@pytest.mark.parametrize("alpha", [0.1, 300.0])
@pytest.mark.parametrize("standardize", [True, False])
def test_equals_primal_ridge_at_a_fixed_alpha(shape, alpha, standardize):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape) * rng.uniform(0.5, 20, shape[1]) + rng.uniform(-5, 5, shape[1])
    y = rng.standard_normal((shape[0], 7)) + 3
    new = rng.standard_normal((9, shape[1]))

    decoder = RidgeDecoder(alphas=[alpha], standardize=standardize).fit(x, y)
    scale = x.std(axis=0) if standardize else 1.0
    z, z_new = (x - x.mean(axis=0)) / scale, (new - x.mean(axis=0)) / scale
    weights = np.linalg.solve(z.T @ z + alpha * np.eye(shape[1]), z.T @ (y - y.mean(axis=0)))

    assert np.allclose(decoder.predict(new), z_new @ weights + y.mean(axis=0), atol=1e-6)
    assert np.allclose(decoder.predict(new), Ridge(alpha=alpha).fit(z, y).predict(z_new), atol=1e-6)
    assert np.allclose(decoder.coef_, (weights / np.reshape(scale, (-1, 1))).T, atol=1e-6)
    assert hasattr(decoder, "dual_coef_") == (shape[0] < 2 * shape[1])
    if hasattr(decoder, "dual_coef_"):
        assert np.allclose(z.T @ decoder.dual_coef_, weights, atol=1e-6)
    assert decoder.alpha_ == alpha


def test_rounding_does_not_choose_the_penalty():
    alphas = np.array([1.0, 10.0, 100.0, 1000.0])
    flat = np.array([[2.0], [1 + 1e-12], [1.0], [1 + 1e-9]])
    assert chosen_alphas(alphas, flat).tolist() == chosen_alphas(alphas, flat[[0, 2, 1, 3]]).tolist() == [1000.0]
    told_apart = np.array([[np.nan, 1.0], [1.0, 1.1], [1 + 1e-4, 1.2], [2.0, 1.3]])
    assert chosen_alphas(alphas, told_apart, per_latent=True).tolist() == [10.0, 1.0]


def test_scores_are_those_of_plain_cross_validation():
    x, y = planted(n=60, voxels=30, noise=4.0)
    alphas = np.logspace(0, 5, 6)
    decoder = RidgeDecoder(alphas=alphas, cv=4, standardize=False, seed=3).fit(x, y)
    expected = np.zeros(len(alphas))
    for train, held in KFold(4, shuffle=True, random_state=3).split(x):
        for i, alpha in enumerate(alphas):
            expected[i] -= np.mean((Ridge(alpha).fit(x[train], y[train]).predict(x[held]) - y[held]) ** 2) / 4
    assert np.allclose(decoder.cv_scores_, expected, rtol=1e-6)
    assert decoder.alpha_ == alphas[np.argmax(expected)]


@pytest.mark.parametrize("cv", [3, "loo"])
@pytest.mark.parametrize("voxels", [80, 20])
def test_groups_stay_together_with_weights_and_all(cv, voxels):
    x, y = planted(n=60, voxels=voxels, noise=4.0)
    groups = np.repeat(np.arange(12), 5)
    weights = np.random.default_rng(2).uniform(0.3, 3, 60)
    decoder = RidgeDecoder(alphas=[100.0], cv=cv, standardize=False)
    decoder.fit(x, y, groups=list(groups), sample_weight=7 * weights)
    expected = np.empty_like(y)
    w = weights / weights.mean()
    for train, held in (LeaveOneGroupOut() if cv == "loo" else GroupKFold(cv)).split(x, groups=groups):
        expected[held] = Ridge(100.0).fit(x[train], y[train], sample_weight=w[train]).predict(x[held])
    assert np.allclose(decoder.cv_predictions_, expected, rtol=0, atol=1e-8)
    assert np.isclose(decoder.cv_scores_[0], -np.mean(w[:, None] * (expected - y) ** 2))
    full = Ridge(100.0).fit(x, y, sample_weight=w)
    assert np.allclose(decoder.coef_, full.coef_, rtol=0, atol=1e-8)
    assert np.allclose(decoder.intercept_, full.intercept_)
    with pytest.raises(UserError, match="5 folds need at least 5 groups of trials, got 2"):
        RidgeDecoder(cv=5).fit(x, y, groups=[0] * 30 + [1] * 30)
    with pytest.raises(UserError, match="needs at least 2 groups"):
        RidgeDecoder().fit(x, y, groups=[0] * 60)


def test_weights_shape_the_scale_of_voxels_as_repeats_would():
    x, y = planted(n=40, voxels=30, noise=4.0)
    times = np.random.default_rng(3).integers(1, 4, 40)
    weighed = RidgeDecoder(alphas=[50.0]).fit(x, y, sample_weight=times)
    # Weights are divided by their mean, and so is the penalty that goes with repeats.
    repeated = RidgeDecoder(alphas=[50.0 * times.mean()]).fit(np.repeat(x, times, axis=0), np.repeat(y, times, axis=0))
    assert np.allclose(weighed.x_mean_, repeated.x_mean_)
    assert np.allclose(weighed.x_scale_, repeated.x_scale_)
    assert np.allclose(weighed.coef_, repeated.coef_)
    assert np.allclose(weighed.intercept_, repeated.intercept_)


@pytest.mark.parametrize("shape", [(60, 150), (150, 40)])
@pytest.mark.parametrize("per_latent", [False, True])
def test_held_out_predictions_are_those_of_the_chosen_penalty(shape, per_latent):
    x, y = planted(*shape, noise=6)
    y[:, 0] += 2 * np.random.default_rng(9).standard_normal(len(y))
    decoder = RidgeDecoder(alphas=np.logspace(-1, 6, 8), per_latent=per_latent, cv=4, standardize=False, seed=1)
    decoder.fit(x, y)
    expected = np.empty_like(y)
    for train, held in KFold(4, shuffle=True, random_state=1).split(x):
        expected[held] = Ridge(decoder.alpha_).fit(x[train], y[train]).predict(x[held])
    assert np.allclose(decoder.cv_predictions_, expected, rtol=0, atol=1e-8)
    assert (len(np.unique(decoder.alpha_)) > 1) == per_latent
    scores = decoder.cv_scores_.max(axis=0)
    assert np.allclose(scores, -np.mean((expected - y) ** 2, axis=0 if per_latent else None))


def test_recovers_a_planted_map_on_trials_it_never_saw():
    x, y = planted(n=200, noise=1.0)
    decoder = RidgeDecoder(cv=5).fit(x[:150], y[:150], roles=["train"] * 150)
    error = np.mean((decoder.predict(x[150:]) - y[150:]) ** 2)
    assert error < 0.05 * np.mean((y[150:] - y[:150].mean(axis=0)) ** 2)


def test_per_latent_gives_the_noise_latent_a_heavier_penalty():
    x, y = planted(n=150, noise=8)
    y[:, 0] += 4 * np.random.default_rng(9).standard_normal(150)
    decoder = RidgeDecoder(alphas=np.logspace(0, 6, 13), per_latent=True).fit(x, y)
    assert decoder.alpha_.shape == (6,)
    assert decoder.cv_scores_.shape == (13, 6)
    assert decoder.alpha_[0] >= 3 * decoder.alpha_[1:].max()
    one = RidgeDecoder(alphas=[decoder.alpha_[0]]).fit(x, y)
    assert np.allclose(one.coef_[0], decoder.coef_[0])


def test_a_test_trial_is_refused():
    x, y = planted()
    with pytest.raises(LeakageError, match="1 among 120"):
        RidgeDecoder().fit(x, y, roles=["train"] * 119 + ["test"])


def test_grid_grows_once_and_warns_when_that_is_not_enough():
    x, y = planted(noise=8)
    inside = RidgeDecoder(alphas=[1e4, 1e5]).fit(x, y)
    assert inside.alphas_[0] < 1e4 == inside.alphas_[-2]
    assert inside.alphas_[0] < inside.alpha_ < 1e4
    noise = np.random.default_rng(5).standard_normal(y.shape)
    with pytest.warns(DataWarning, match="highest tried"):
        decoder = RidgeDecoder(alphas=[1e-3, 1e-2]).fit(x, noise)
    assert decoder.alpha_ == decoder.alphas_[-1] == pytest.approx(10)


def test_same_seed_same_result_and_sklearn_clone():
    x, y = planted(noise=8)
    decoder = RidgeDecoder(cv=5, seed=4).fit(x, y)
    again = clone(decoder).fit(x, y)
    assert np.array_equal(decoder.coef_, again.coef_)
    assert not np.array_equal(decoder.cv_scores_, RidgeDecoder(cv=5, seed=5).fit(x, y).cv_scores_)


def as_memmap(x, folder):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


def as_hdf5(x, folder):
    return h5py.File(folder / "x.h5", "w").create_dataset("x", data=x, chunks=(7, 13))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cv", ["loo", 3])
@pytest.mark.parametrize("store", [as_memmap, as_hdf5, lambda x, _: x])
@pytest.mark.parametrize(("shape", "memory"), [((60, 150), 280_000), ((150, 40), 130_000)])
def test_out_of_core_gives_the_same(tmp_path, monkeypatch, shape, memory, store, cv, weighted):
    x, y = planted(*shape, noise=8)
    weights = np.random.default_rng(2).uniform(0.3, 3, len(x)) if weighted else None
    blocks = []
    monkeypatch.setattr(Responses, "columns", noted(Responses.columns, blocks))
    monkeypatch.setattr(Responses, "rows", noted(Responses.rows, blocks))
    small = RidgeDecoder(cv=cv, memory=memory).fit(store(x, tmp_path), y, sample_weight=weights)
    predicted = small.predict(store(x, tmp_path))
    assert max(size for size in blocks[:-1]) < x.size / 2  # the last one is the prediction's
    whole = RidgeDecoder(cv=cv).fit(x, y, sample_weight=weights)
    assert small.alpha_ == whole.alpha_
    for name in ("coef_", "intercept_", "x_mean_", "x_scale_", "cv_scores_", "cv_predictions_"):
        assert np.allclose(getattr(small, name), getattr(whole, name), rtol=1e-9, atol=1e-11), name
    assert np.allclose(predicted, whole.predict(x))


def noted(read, sizes):
    def reading(self, *which):
        block = read(self, *which)
        sizes.append(block.numel())
        return block

    return reading


def test_predictions_of_what_lies_on_disk_are_made_in_blocks(tmp_path, monkeypatch):
    x, y = planted(n=50, voxels=40, noise=8)
    decoder = RidgeDecoder().fit(x, y)
    monkeypatch.setattr("hyperdecode.decoding.base.BLOCK_BYTES", 7 * 40 * 8)
    blocks = []
    monkeypatch.setattr(Responses, "rows", noted(Responses.rows, blocks))
    assert np.allclose(decoder.predict(as_memmap(x, tmp_path)), x @ decoder.coef_.T + decoder.intercept_)
    assert blocks == [280] * 7 + [40]
    x[44, 5] = np.nan
    with pytest.raises(UserError, match="1 of 40 columns"):
        decoder.predict(as_memmap(x, tmp_path))


@pytest.mark.parametrize("shape", [(60, 150), (150, 40)])
def test_what_is_wrong_is_found_out_of_core_too(tmp_path, shape):
    x, y = planted(*shape, noise=8)
    bad = x.copy()
    bad[3, [2, 9]] = np.nan
    decoder = RidgeDecoder(memory=300_000)
    with pytest.raises(UserError, match=f"2 of {shape[1]} columns hold NaN"):
        decoder.fit(as_memmap(bad, tmp_path), y)
    bad = x.copy()
    bad[:, [2, 9, 11]] = 7.1
    with pytest.raises(UserError, match=f"3 of {shape[1]} voxels are constant"):
        decoder.fit(as_memmap(bad, tmp_path), y)


def test_a_system_larger_than_memory_says_what_it_needs():
    x, y = planted()
    with pytest.raises(UserError, match=r"120 trials needs 0.714 MB .* may take 0.1 MB") as caught:
        RidgeDecoder(memory=100_000).fit(x, y)
    assert "\n" not in str(caught.value)
    x, y = planted(n=120, voxels=80, noise=8)
    dual, primal = (RidgeDecoder(memory=memory).fit(x, y) for memory in (800_000, 500_000))
    assert hasattr(dual, "dual_coef_")
    assert not hasattr(primal, "dual_coef_")
    assert np.allclose(dual.coef_, primal.coef_)
    assert np.allclose(dual.cv_scores_, primal.cv_scores_)
    with pytest.raises(UserError, match="bytes above 0"):
        RidgeDecoder(memory=0).fit(x, y)


@pytest.mark.parametrize("shape", [(60, 150), (150, 40)])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_torch_in_torch_out(shape, kind):
    x, y = (torch.from_numpy(a).to(kind) for a in planted(*shape, noise=8))
    decoder = RidgeDecoder().fit(x, y)
    predicted = decoder.predict(x)
    assert isinstance(predicted, torch.Tensor)
    assert predicted.dtype == kind
    assert isinstance(decoder.coef_, np.ndarray)
    assert decoder.coef_.dtype == decoder.predict(x.numpy()).dtype == x.numpy().dtype
    double = RidgeDecoder().fit(x.double().numpy(), y.double().numpy())
    assert decoder.alpha_ == double.alpha_
    close = 1e-10 if kind == torch.float64 else 2e-5
    for name in ("intercept_", "cv_predictions_"):
        assert np.allclose(getattr(decoder, name), getattr(double, name), rtol=0, atol=close)
    assert np.allclose(predicted.double().numpy(), double.predict(x.double().numpy()), rtol=0, atol=close)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(60, 150), (150, 40)])
@pytest.mark.parametrize("cv", ["loo", 3])
def test_gpu_equals_cpu(shape, cv):
    x, y = planted(*shape, noise=8)
    decoder = RidgeDecoder(cv=cv).fit(
        *(torch.from_numpy(a).cuda() for a in (x, y)), sample_weight=np.arange(1, len(x) + 1)
    )
    expected = RidgeDecoder(cv=cv).fit(x, y, sample_weight=np.arange(1, len(x) + 1))
    assert decoder.alpha_ == expected.alpha_
    assert np.allclose(decoder.coef_, expected.coef_, atol=1e-10)
    assert np.allclose(decoder.cv_predictions_, expected.cv_predictions_, atol=1e-8)
    predicted = decoder.predict(torch.from_numpy(x).cuda())
    assert predicted.is_cuda
    assert np.allclose(predicted.cpu().numpy(), expected.predict(x), atol=1e-8)


def test_one_latent_gives_one_number_a_trial():
    x, y = planted(noise=8)
    one, column = RidgeDecoder().fit(x, y[:, 2]), RidgeDecoder().fit(x, y[:, 2:3])
    assert one.predict(x).shape == (120,)
    assert np.array_equal(one.predict(x), column.predict(x)[:, 0])
    assert one.coef_.shape == (1, 200)
    assert one.cv_predictions_.shape == (120, 1)


def test_voxels_with_names_must_keep_their_order():
    x, y = planted(voxels=4)
    table = pd.DataFrame(x, columns=list("abcd"))
    decoder = RidgeDecoder().fit(table, y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        # A table lies in memory column by column, and sums of its rows may be rounded otherwise.
        np.testing.assert_allclose(decoder.predict(x), decoder.predict(table), rtol=1e-12)
    with pytest.raises(UserError, match="must be in the same order") as caught:
        decoder.predict(table[list("abdc")])
    assert "\n" not in str(caught.value)


def test_all_penalties_too_small_is_an_error_and_one_alone_gives_no_scores():
    x, y = planted(noise=8)
    x[1] = x[0]
    with pytest.raises(UserError, match=r"too singular for every penalty up to 1e-12"):
        RidgeDecoder(alphas=[1e-13, 1e-12]).fit(x, y)
    decoder = RidgeDecoder(alphas=[1e-13]).fit(x, y)
    assert np.isnan(decoder.cv_scores_).all()
    assert np.isnan(decoder.cv_predictions_).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (np.where(np.arange(200) == 3, np.nan, x), y), "1 of 200 columns hold NaN"),
        (lambda x, y: (np.where(np.arange(200) < 2, 7.1, x), y), "2 of 200 voxels are constant"),
        (lambda x, y: (x[:-1], y), "119 trials of responses and 120"),
        (lambda x, y: (x[:4], y[:4]), "5 folds need at least 5 trials, got 4"),
        (lambda x, y: (x.T[:150], y), "150 trials of responses and 120 rows of latents"),
        (lambda x, y: (x.T, np.zeros((120, 2))), "responses look swapped, voxels x trials"),
        (lambda x, y: (x[:0], y[:0]), "responses are empty: 0 trials of 200"),
        (lambda x, y: (x[:, :0], y), "responses are empty: 0 feature"),
        (lambda x, y: (x, y[:, :0]), "latents are empty"),
        (lambda x, y: (x, None), "y is None"),
        (lambda x, y: (x * 1j, y), "Complex"),
        (lambda x, y: (x[:, :, None], y), "one trial a row"),
        (lambda x, y: (x[0], y), "one trial a row"),
        (lambda x, y: (x, np.where(np.arange(6) == 1, np.inf, y)), "latents: 1 of 6"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    with pytest.raises(UserError, match=message) as caught:
        RidgeDecoder(cv=5).fit(*change(*planted()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphas": [0.0, 1.0]}, "positive"),
        ({"alphas": []}, "positive"),
        ({"cv": 1}, "at least 2 folds"),
        ({"cv": 2.5}, "at least 2 folds"),
        ({"cv": True}, "at least 2 folds"),
        ({"cv": "kfold"}, "cv='kfold'"),
    ],
)
def test_bad_parameters(settings, message):
    with pytest.raises(UserError, match=message):
        RidgeDecoder(**settings).fit(*planted())


def test_other_voxels_weights_and_groups_are_refused():
    x, y = planted(noise=8)
    decoder = RidgeDecoder().fit(x, y)
    with pytest.raises(UserError, match="fitted on 200 voxels and got 199"):
        decoder.predict(x[:, 1:])
    with pytest.raises(UserError, match="trials and voxels may be swapped"):
        decoder.predict(x.T)
    with pytest.raises(UserError, match="positive and finite"):
        decoder.fit(x, y, sample_weight=np.arange(120))
    with pytest.raises(UserError, match="one weight a trial"):
        decoder.fit(x, y, sample_weight=np.ones(119))
    with pytest.raises(UserError, match="one group a trial"):
        decoder.fit(x, y, groups=[1, 2])
    with pytest.raises(UserError, match="at least 3 trials, got 2"):
        decoder.fit(x[:2], y[:2])
    with pytest.raises(TypeError, match="sparse"):
        decoder.fit(csr_array(x), y)
