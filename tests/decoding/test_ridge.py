import himalaya.backend
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold

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
    assert np.allclose(z.T @ decoder.dual_coef_, weights, atol=1e-6)
    assert decoder.alpha_ == alpha


def test_scores_are_those_of_plain_cross_validation():
    x, y = planted(n=60, voxels=30, noise=4.0)
    alphas = np.logspace(0, 5, 6)
    decoder = RidgeDecoder(alphas=alphas, n_folds=4, standardize=False, seed=3).fit(x, y)
    expected = np.zeros(len(alphas))
    for train, held in KFold(4, shuffle=True, random_state=3).split(x):
        for i, alpha in enumerate(alphas):
            expected[i] -= np.mean((Ridge(alpha).fit(x[train], y[train]).predict(x[held]) - y[held]) ** 2) / 4
    assert np.allclose(decoder.cv_scores_, expected, rtol=1e-6)
    assert decoder.alpha_ == alphas[np.argmax(expected)]


def test_groups_stay_in_one_fold():
    x, y = planted(n=60, voxels=30, noise=4.0)
    groups = np.repeat(np.arange(12), 5)
    decoder = RidgeDecoder(alphas=[100.0], n_folds=3, standardize=False).fit(x, y, groups=list(groups))
    expected = np.mean(
        [
            -np.mean((Ridge(100.0).fit(x[train], y[train]).predict(x[held]) - y[held]) ** 2)
            for train, held in GroupKFold(3).split(x, groups=groups)
        ]
    )
    assert np.isclose(decoder.cv_scores_[0], expected)
    with pytest.raises(UserError, match="5 groups of trials, got 2"):
        RidgeDecoder().fit(x, y, groups=[0] * 30 + [1] * 30)


def test_recovers_a_planted_map_on_trials_it_never_saw():
    x, y = planted(n=200, noise=1.0)
    decoder = RidgeDecoder().fit(x[:150], y[:150], roles=["train"] * 150)
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


def test_himalaya_backend_is_left_as_it_was():
    x, y = planted()
    himalaya.backend.set_backend("torch")
    try:
        decoder = RidgeDecoder().fit(x, y)
        assert himalaya.backend.get_backend().name == "torch"
    finally:
        himalaya.backend.set_backend("numpy")
    assert isinstance(decoder.coef_, np.ndarray)
    assert decoder.coef_.dtype == np.float64


def test_same_seed_same_result_and_sklearn_clone():
    x, y = planted()
    decoder = RidgeDecoder(seed=4).fit(x.astype(np.float32), y)
    again = clone(decoder).fit(x.astype(np.float32), y)
    assert np.array_equal(decoder.coef_, again.coef_)
    assert not np.array_equal(decoder.cv_scores_, RidgeDecoder(seed=5).fit(x.astype(np.float32), y).cv_scores_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (np.where(np.arange(200) == 3, np.nan, x), y), "1 of 200 columns hold NaN"),
        (lambda x, y: (np.where(np.arange(200) < 2, 7.1, x), y), "2 of 200 voxels are constant"),
        (lambda x, y: (x[:-1], y), "119 trials of responses and 120"),
        (lambda x, y: (x[:4], y[:4]), "5 folds need at least 5 trials, got 4"),
        (lambda x, y: (x[0], y), "one trial a row"),
        (lambda x, y: (x, np.where(np.arange(6) == 1, np.inf, y)), "latents: 1 of 6"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    with pytest.raises(UserError, match=message) as caught:
        RidgeDecoder().fit(*change(*planted()))
    assert "\n" not in str(caught.value)


def test_bad_parameters_and_wrong_voxels():
    x, y = planted()
    with pytest.raises(UserError, match="positive"):
        RidgeDecoder(alphas=[0.0, 1.0]).fit(x, y)
    with pytest.raises(UserError, match="at least 2 folds"):
        RidgeDecoder(n_folds=1).fit(x, y)
    decoder = RidgeDecoder().fit(x, y)
    with pytest.raises(UserError, match="fitted on 200 voxels and got 199"):
        decoder.predict(x[:, 1:])
