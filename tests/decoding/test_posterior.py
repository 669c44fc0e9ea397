import numpy as np
import pytest
import torch

from hyperdecode.decoding.posterior import LatentPosterior, latent_prior
from hyperdecode.errors import LeakageError, UserError

D, V = 8, 60


def world(seed=0, singular=False):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0]
    spectrum = np.linspace(2, 0.2, D)
    if singular:
        spectrum[-1] = 0
    root = turn * np.sqrt(spectrum)
    return rng, root, rng.standard_normal((V, D)) @ turn.T


def shown(rng, root, encoding, n, repeats=1, noise=2.0, misfit=0.5):
    y = 3 + rng.standard_normal((n, D)) @ root.T
    response = 5 + y @ encoding.T + misfit * rng.standard_normal((n, V))
    which = np.repeat(np.arange(n), repeats)
    return response[which] + noise * rng.standard_normal((len(which), V)), y[which], [f"s{k}" for k in which]


def averaged(x, y, repeats):
    return x.reshape(-1, repeats, x.shape[1]).mean(1), y[::repeats]


@pytest.fixture(scope="module")
def fitted():
    rng, root, encoding = world()
    x, y, _ = shown(rng, root, encoding, 400)
    return LatentPosterior(np.full(D, 3.0), root @ root.T).fit(x, y, roles=["train"] * 400), rng, root, encoding


def coverage(posterior, y, level=0.9, calibrated=True):
    low, high = posterior.interval(level, calibrated)
    return ((low <= y) & (y <= high)).mean()


def test_posterior_is_that_of_the_joint_gaussian(fitted):
    model, rng, root, encoding = fitted
    x, _, _ = shown(rng, root, encoding, 5)
    a, c, psi = model.encoding_, model.encoding_intercept_, model.residual_covariance_
    gamma, f = root @ root.T, x @ model.weights_ + model.offset_
    joint = np.block([[gamma, gamma @ a.T], [a @ gamma, a @ gamma @ a.T + psi]])
    gain = np.linalg.solve(joint[D:, D:], joint[D:, :D]).T
    found = model.posterior(x)
    assert np.allclose(found.mean, 3 + (f - c - a @ np.full(D, 3.0)) @ gain.T, atol=1e-8)
    assert np.allclose(found.factor @ found.factor.T, gamma - gain @ joint[D:, :D], atol=1e-8)
    assert np.allclose(found.sd, np.sqrt(np.diag(found.factor @ found.factor.T)))


@pytest.mark.parametrize("noise", [1.0, 6.0])
def test_intervals_of_trials_and_averages_cover_what_they_promise(noise):
    inside = {"trials": [], "spread": [], "training": [], "none": []}
    for seed in range(4):
        rng, root, encoding = world(seed)
        x, y, _ = shown(rng, root, encoding, 400, noise=noise)
        x2, y2, _ = shown(rng, root, encoding, 300, 2, noise=noise)
        test_x, test_y, stimuli = shown(rng, root, encoding, 100, 8, noise=noise)
        mean_x, mean_y = averaged(test_x, test_y, 8)
        once = LatentPosterior(np.full(D, 3.0), root @ root.T).fit(x, y)
        twice = LatentPosterior(np.full(D, 3.0), root @ root.T).fit(x2, y2)
        assert once.noise_ is None and twice.noise_.n_trials == 600
        spread = once.noise_from_repeats(test_x, stimuli)
        inside["trials"].append(coverage(once.posterior(test_x), test_y))
        inside["spread"].append(coverage(once.posterior(mean_x, 8, spread), mean_y))
        inside["training"].append(coverage(twice.posterior(mean_x, 8), mean_y))
        inside["none"].append(coverage(once.posterior(mean_x, 8), mean_y))
        sharper = once.posterior(mean_x, 8, spread)
        assert (sharper.sd < once.posterior(mean_x, 8).sd).all()
        errors = [((p.mean - mean_y) ** 2).mean() for p in (sharper, once.posterior(mean_x, 8))]
        assert errors[0] < errors[1]
    # Four worlds of 100 stimuli tell the coverage of averages to within 0.02; benchmarks/posterior.py has more of them.
    assert 0.87 <= np.mean(inside["trials"]) <= 0.93
    for name in ("spread", "training"):
        assert 0.86 <= np.mean(inside[name]) <= 0.94, (name, inside[name])
    assert np.mean(inside["none"]) > 0.9


def test_without_information_the_posterior_is_the_prior():
    rng, root, encoding = world(3)
    x, y, _ = shown(rng, root, encoding, 300)
    model = LatentPosterior(np.full(D, 3.0), root @ root.T).fit(rng.standard_normal(x.shape), y)
    found = model.posterior(rng.standard_normal((50, V)))
    prior_sd = np.sqrt(np.diag(root @ root.T))
    assert np.allclose(found.sd, prior_sd, rtol=0.05)
    assert np.abs((found.mean - 3) / prior_sd).max() < 0.5


def test_calibrated_intervals_hold_for_latents_that_are_not_gaussian():
    rng, _, encoding = world(4)

    def cubed(n):
        z = rng.standard_normal((n, D))
        y = z**3 / np.sqrt(15)
        return y @ encoding.T + 8 * rng.standard_normal((n, V)), y

    model = LatentPosterior(np.zeros(D), np.eye(D)).fit(*cubed(600))
    x, y = cubed(2000)
    found = model.posterior(x)
    plain, calibrated = coverage(found, y, calibrated=False), coverage(found, y)
    assert plain > 0.93
    assert 0.88 < calibrated < 0.92


def test_samples_and_projections_have_the_posterior_s_moments(fitted):
    model, rng, root, encoding = fitted
    x, _, _ = shown(rng, root, encoding, 3)
    found = model.posterior(x)
    drawn = found.sample(20000, seed=1)
    assert drawn.shape == (20000, 3, D)
    assert np.array_equal(drawn, model.sample_posterior(x, 20000, seed=1))
    assert not np.array_equal(drawn, found.sample(20000, seed=2))
    assert np.allclose(drawn.mean(0), found.mean, atol=0.03)
    assert np.allclose(np.cov(drawn[:, 1].T), found.factor @ found.factor.T, atol=0.05)
    normals = rng.standard_normal((2, D))
    mean, sd = found.project(normals)
    assert np.allclose(mean, found.mean @ normals.T)
    assert np.allclose((drawn[:, 0] @ normals.T).std(0), sd, rtol=0.03)
    low, high = found.projected_interval(normals, 0.5, calibrated=False)
    assert np.allclose((high - low) / 2, 0.6744898 * sd)
    assert np.allclose((low + high) / 2, mean)
    wider = found.projected_interval(normals, 0.9)
    assert (
        wider[1] - wider[0] > found.projected_interval(normals, 0.5)[1] - found.projected_interval(normals, 0.5)[0]
    ).all()


@pytest.mark.parametrize("n", [150, 400])
def test_held_out_errors_are_as_large_as_those_of_new_trials(n):
    # Fewer trials than voxels: directions, encoding model and covariance would all fit their own trials.
    rng, root, encoding = world(5)
    encoding = rng.standard_normal((300, D))

    def trials(count):
        y = rng.standard_normal((count, D)) @ root.T
        return y @ encoding.T + 8 * rng.standard_normal((count, 300)), y

    ratios = []
    for _ in range(4):
        model = LatentPosterior(np.zeros(D), root @ root.T).fit(*trials(n))
        x, y = trials(1000)
        ratios.append((model.errors_**2).mean() / ((model.predict(x) - y) ** 2).mean())
    assert 0.97 < np.mean(ratios) < 1.12  # above one: each fold is judged by a model of the other four


def test_repeats_of_a_stimulus_share_a_fold_and_weights_matter():
    rng, root, encoding = world(6)
    x, y, _ = shown(rng, root, encoding, 100, 3)
    prior = np.full(D, 3.0), root @ root.T
    model = LatentPosterior(*prior, n_components=[10]).fit(x, y)
    explicit = LatentPosterior(*prior, n_components=[10]).fit(x, y, groups=[tuple(row) for row in y])
    assert np.allclose(model.errors_, explicit.errors_)
    weights = np.ones(300)
    weights[:150] = 9.0
    weighted = LatentPosterior(*prior, n_components=[10]).fit(x, y, sample_weight=weights)
    scaled = LatentPosterior(*prior, n_components=[10]).fit(x, y, sample_weight=5 * weights)
    assert np.allclose(weighted.encoding_, scaled.encoding_)
    assert not np.allclose(weighted.encoding_, model.encoding_)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_gives_what_numpy_gives(fitted, dtype):
    model, rng, root, encoding = fitted
    x, y, _ = shown(rng, root, encoding, 60)
    found, expected = model.posterior(torch.from_numpy(x).to(dtype)), model.posterior(x)
    assert found.mean.dtype == dtype
    atol = 1e-4 if dtype == torch.float32 else 1e-10
    assert np.allclose(found.mean, expected.mean, atol=atol)
    for ours, theirs in zip(found.interval(), expected.interval(), strict=True):
        assert ours.dtype == dtype
        assert np.allclose(ours, theirs, atol=atol)
    assert np.allclose(found.sample(4, 0), expected.sample(4, 0), atol=atol)
    prior = np.full(D, 3.0), root @ root.T
    fits = [LatentPosterior(*prior).fit(a, b) for a, b in ((x, y), (torch.from_numpy(x), torch.from_numpy(y)))]
    assert np.allclose(fits[0].encoding_, fits[1].encoding_)


def test_a_singular_prior_is_taken_as_it_is():
    rng, root, encoding = world(7, singular=True)
    x, y, _ = shown(rng, root, encoding, 200)
    found = LatentPosterior(np.full(D, 3.0), root @ root.T).fit(x, y).posterior(x[:4])
    fixed = np.linalg.svd(root)[0][:, -1:]
    mean, sd = found.project(fixed.T)
    assert np.allclose(mean, 3 * fixed.sum(), atol=1e-6)
    assert np.allclose(sd, 0, atol=1e-6)
    assert np.isfinite(found.sample(2, 0)).all()


def test_prior_of_a_generator(tiny_generator):
    mean, covariance = latent_prior(tiny_generator, "z")
    assert np.array_equal(covariance, np.eye(tiny_generator.latent_dim)) and not mean.any()
    mean, covariance = latent_prior(tiny_generator, "w", truncation=0.5, n=4000, seed=1)
    w = tiny_generator.to_w(tiny_generator.sample(4000, 1)).double().numpy()
    assert np.allclose(covariance, 0.25 * np.cov(w.T), rtol=1e-4, atol=1e-7)
    with pytest.raises(UserError, match="not 'x'"):
        latent_prior(tiny_generator, "x")


def test_a_test_trial_is_refused():
    rng, root, encoding = world()
    x, y, _ = shown(rng, root, encoding, 50)
    with pytest.raises(LeakageError, match="1 among 50"):
        LatentPosterior(np.zeros(D), np.eye(D)).fit(x, y, roles=["train"] * 49 + ["test"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_mean": np.zeros(3)}, "latents of 8 dimensions need a prior mean of as many"),
        ({"prior_covariance": -np.eye(D)}, "without negative eigenvalues"),
        ({"prior_covariance": np.triu(np.ones((D, D)))}, "symmetric"),
        ({"n_components": []}, "1 or more, got \\(\\)"),
        ({"n_folds": 1}, "at least 2 folds"),
        ({"n_folds": 60}, "60 folds need at least 60 groups of trials, got 50"),
    ],
)
def test_bad_parameters_are_one_clear_line(options, message):
    rng, root, encoding = world()
    x, y, _ = shown(rng, root, encoding, 50)
    with pytest.raises(UserError, match=message) as caught:
        LatentPosterior(**({"prior_mean": np.zeros(D), "prior_covariance": np.eye(D)} | options)).fit(x, y)
    assert "\n" not in str(caught.value)


def test_bad_data_is_one_clear_line(fitted):
    model, rng, root, encoding = fitted
    x, y, stimuli = shown(rng, root, encoding, 20, 2)
    prior = np.zeros(D), np.eye(D)
    other = LatentPosterior(*prior, n_components=[3]).fit(x, y)
    for call, message in (
        (lambda: LatentPosterior(*prior).fit(np.where(np.arange(V) < 2, 7.0, x), y), "2 of 60 voxels are constant"),
        (lambda: LatentPosterior(*prior).fit(x, y, groups=[0]), "40 trials and 1 groups"),
        (lambda: LatentPosterior(*prior).fit(x[:-1], y), "39 trials of responses and 40"),
        (lambda: model.posterior(x[:, 1:]), "fitted on 60 voxels and got 59"),
        (lambda: model.posterior(x, n_repeats=0), "n_repeats=0"),
        (lambda: model.noise_from_repeats(x[::2], stimuli[::2]), "0 of 20 stimuli stand in more than one trial"),
        (lambda: model.posterior(x).interval(1.5), "between 0 and 1, got 1.5"),
        (lambda: model.posterior(x).project(np.ones((2, 3))), "k x 8"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="noise is of 3 components"):
        model.posterior(x, 2, other.noise_)
