import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from hyperdecode.decoding.explained import explained_shares
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.decoding.weighted import Moments, WeightedRidgeDecoder
from hyperdecode.errors import LeakageError, UserError

ALPHAS = (10.0, 100.0, 1000.0)
TELLING = slice(30, 50)


def planted(n=150, n_new=200, seed=0, strength=0.5, n_latents=5):
    """Latents that some voxels follow, among others that are noise."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((n + n_new, n_latents))
    voxels = rng.standard_normal((n + n_new, 300)) * rng.uniform(0.5, 2, 300) + 3
    voxels[:, TELLING] += strength * latents @ rng.standard_normal((n_latents, 20))
    return voxels[:n], latents[:n], voxels[n:], latents[n:]


def error(decoder, new, true):
    return float(np.square(decoder.predict(new) - true).mean())


def left_out_r2(x, y, alpha):
    """Share of each voxel that ridge from latents predicts of trials left out, trial by trial."""
    predicted, blind = np.empty_like(x), np.empty_like(x)
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        predicted[i] = Ridge(alpha).fit(y[rest], x[rest]).predict(y[[i]])[0]
        blind[i] = x[rest].mean(0)
    return 1 - np.square(x - predicted).sum(0) / np.square(x - blind).sum(0)


def test_shares_are_what_latents_explain_of_trials_left_out():
    x, y, _, _ = planted(n=40)
    z, latents = (x - x.mean(0)) / x.std(0), y - y.mean(0)
    unit = np.square(latents).sum(1).mean()
    shares = explained_shares(*map(torch.from_numpy, (latents, z)), torch.ones(40).double()).numpy()
    assert shares.mean() == pytest.approx(1) and (shares > 0).all()
    shuffled = np.random.default_rng(0).permuted(z, axis=0)
    matches = []
    for alpha in unit * np.logspace(-2, 3, 11):
        r2, chance = (left_out_r2(values, latents, alpha) for values in (z, shuffled))
        r2, chance = r2 - chance.mean(), chance - chance.mean()
        sure = max(0, 1 - chance.var() / r2.var())
        least = np.sort(np.abs(chance))[(len(chance) - 1) // 2]
        expected = np.maximum(r2.mean() + sure * (r2 - r2.mean()), least)
        matches.append(np.abs(shares - expected / expected.mean()).max())
    assert min(matches) < 1e-9, "no penalty of the encoding model gives these shares"


def test_voxels_that_cannot_be_told_apart_are_alike():
    """All know as little: what R^2 differs by is chance, and weights by it would throw most voxels away."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((400, 60))
    voxels = latents @ rng.standard_normal((60, 500)) / np.sqrt(60) + 8 * rng.standard_normal((400, 500))
    alike = explained_shares(torch.from_numpy(latents), torch.from_numpy(voxels), torch.ones(400).double()).numpy()
    voxels[:, :100] = voxels[:, 400:] + 4 * latents[:, :1]
    apart = explained_shares(torch.from_numpy(latents), torch.from_numpy(voxels), torch.ones(400).double()).numpy()
    assert 1 / np.square(alike).mean() > 0.85, "about as many voxels count as there are"
    assert np.median(apart[:100]) > 2 * np.median(apart[100:])


def test_voxels_that_tell_are_found_and_help():
    x, y, new, true = planted()
    plain, weighted = RidgeDecoder().fit(x, y), WeightedRidgeDecoder().fit(x, y)
    others = np.ones(300, bool)
    others[TELLING] = False
    assert weighted.voxel_weights_[TELLING].min() > np.quantile(weighted.voxel_weights_[others], 0.95)
    assert error(weighted, new, true) < 0.7 * error(plain, new, true)


def test_weights_solve_the_problem_that_is_written():
    x, y, new, _ = planted()
    fitted = WeightedRidgeDecoder(alphas=(50.0,)).fit(x, y)
    by = np.sqrt(fitted.voxel_weights_) / x.std(0)
    reference = Ridge(50.0).fit(x * by, y).predict(new * by)
    np.testing.assert_allclose(fitted.predict(new) - y.mean(0), fitted.scale_ * (reference - y.mean(0)), atol=1e-9)
    assert 0.5 < fitted.scale_ < 2 and fitted.scale_ != 1


def test_the_penalty_for_averages_is_lower_and_better_for_them():
    """Much noise, few trials: what is too noisy for a trial is worth knowing of an average."""
    gains, lower = [], 0
    for seed in range(6):
        x, y, new, true = planted(n=300, n_new=40 * 20, seed=seed, strength=0.15)
        repeats = np.repeat(true[:40], 20, axis=0)
        rng = np.random.default_rng(100 + seed)
        basis = np.linalg.lstsq(true, new - new.mean(0), rcond=None)[0]
        trials = new.mean(0) + repeats @ basis + rng.standard_normal(new.shape) * (new - true @ basis).std(0)
        averages = trials.reshape(40, 20, -1).mean(1)
        one, many = (WeightedRidgeDecoder(n_averaged=n).fit(x, y) for n in (1, 20))
        lower += many.alpha_ < one.alpha_
        cosines = [
            np.mean(np.sum(p * true[:40], 1) / np.linalg.norm(p, axis=1) / np.linalg.norm(true[:40], axis=1))
            for p in (d.predict(averages) - y.mean(0) for d in (one, many))
        ]
        gains.append(cosines[1] - cosines[0])
        assert many.alpha_ <= one.alpha_
    assert lower >= 2 and np.mean(gains) > 0


def test_left_out_trials_are_predicted_by_fits_that_never_saw_them():
    """Each penalty's score, from separate fits, voxel weights included, to all groups but one."""
    x, y, _, _ = planted(n=90)
    x = x - x.mean(0)
    groups = np.arange(90) % 3
    n_averaged = 4
    fitted = WeightedRidgeDecoder(alphas=(100.0, 300.0, 1000.0), standardize=False, n_averaged=n_averaged)
    fitted.set_params(cv=3).fit(x, y, groups=groups)
    for alpha, score in zip(fitted.alphas_, fitted.cv_scores_, strict=True):
        predicted, true = np.empty_like(y), np.empty_like(y)
        for group in range(3):
            rest, left = groups != group, groups == group
            mean = y[rest].mean(0)
            shares = explained_shares(*map(torch.from_numpy, (y[rest] - mean, x[rest])), torch.ones(60).double())
            by = np.sqrt(shares.numpy())
            predicted[left] = Ridge(alpha).fit(x[rest] * by, y[rest]).predict(x[left] * by) - mean
            true[left] = y[left] - mean
        variance, shared = np.square(predicted).sum() / 90, (true * predicted).sum() / 90
        design = np.c_[np.ones(90), y]
        residual = predicted - design @ np.linalg.lstsq(design, predicted, rcond=None)[0]
        noise = np.square(residual).sum() / (90 - 6)
        kept = np.sqrt(variance * (variance - (1 - 1 / n_averaged) * noise))
        assert score == pytest.approx(-(np.square(true).sum() / 90 - shared**2 / kept) / 5, rel=1e-9)
        if alpha == fitted.alpha_:
            assert fitted.scale_ == pytest.approx(shared / variance, rel=1e-9)


@pytest.mark.filterwarnings("ignore:the best ridge penalty:hyperdecode.errors.DataWarning")
@pytest.mark.parametrize("n_averaged", [1, 14])
def test_of_voxels_that_know_nothing_next_to_nothing_is_predicted(n_averaged):
    edges = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((200, 300)), rng.standard_normal((200, 5))
        new, true = rng.standard_normal((300, 300)), rng.standard_normal((300, 5))
        fitted = WeightedRidgeDecoder(n_averaged=n_averaged).fit(x, y)
        blind = float(np.square(true - y.mean(0)).mean())
        assert error(fitted, new, true) < 1.02 * blind, seed
        edges += fitted.alpha_ == fitted.alphas_[-1]
    assert edges >= 4, "mostly no penalty helps, and then the highest is taken"


def test_moments():
    moments = Moments(total=10.0, shared=2.0, spread=4.0, noise=3.0)
    assert moments.error(1) == 10 - 4 / 4 and moments.slope == 0.5
    assert moments.error(3) == pytest.approx(10 - 4 / np.sqrt(4 * 2))
    assert Moments(10.0, -2.0, 4.0, 0.0).error(1) == 10 + 4 + 4 and Moments(10.0, -2.0, 4.0, 0.0).slope == 1
    assert Moments(10.0, 0.0, 0.0, 0.0).error(5) == 10


def test_latents_that_do_not_differ_leave_plain_ridge():
    rng = np.random.default_rng(1)
    x, new = rng.standard_normal((60, 30)), rng.standard_normal((9, 30))
    constant = WeightedRidgeDecoder(alphas=(50.0,)).fit(x, np.ones((60, 2)))
    np.testing.assert_array_equal(constant.voxel_weights_, np.ones(30))
    np.testing.assert_allclose(constant.predict(new), 1)


def test_trial_weights_count():
    x, y, new, _ = planted(n=60)
    light = np.r_[np.ones(60), np.full(60, 1e-9)]
    rng = np.random.default_rng(3)
    groups = [*range(60), *range(60)]
    spoiled = np.r_[x, x + 5 * rng.standard_normal(x.shape)]
    plain = WeightedRidgeDecoder(alphas=(100.0,), cv=5).fit(x, y, groups=groups[:60])
    weighted = WeightedRidgeDecoder(alphas=(100.0,), cv=5).fit(spoiled, np.r_[y, y], groups=groups, sample_weight=light)
    # Weights of mean 1 double the equations: the same problem at half the penalty.
    doubled = WeightedRidgeDecoder(alphas=(200.0,), cv=5).fit(spoiled, np.r_[y, y], groups=groups, sample_weight=light)
    np.testing.assert_allclose(doubled.voxel_weights_, weighted.voxel_weights_)
    near, far = (np.abs(d.predict(new) - plain.predict(new)).max() for d in (doubled, weighted))
    assert near < far


def test_refusals():
    x, y, _, _ = planted(n=20)
    with pytest.raises(LeakageError):
        WeightedRidgeDecoder().fit(x, y, roles=["train"] * 19 + ["test"])
    with pytest.raises(UserError, match="n_averaged must be 1 trial or more, got 0"):
        WeightedRidgeDecoder(n_averaged=0).fit(x, y)
    with pytest.raises(UserError, match="5 folds need at least 5 trials, got 4"):
        WeightedRidgeDecoder().fit(x[:4], y[:4])
    with pytest.raises(UserError, match="constant"):
        WeightedRidgeDecoder().fit(np.c_[x, np.ones(20)], y)
