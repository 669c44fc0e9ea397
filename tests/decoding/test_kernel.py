"""Closed forms of held-out residuals against fits that really leave trials out, by scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from hyperdecode.decoding.kernel import decompose, dual_weights, left_out_errors, left_out_residuals
from hyperdecode.decoding.primal import decompose_gram, held_out_errors, held_out_residuals, primal_weights

N_TRIALS = 24
FOLDS = {
    "alone": [[i] for i in range(N_TRIALS)],
    "pairs": [[2 * i, 2 * i + 1] for i in range(N_TRIALS // 2)],
    "crossed": [[0, 23, 8], [22, 1, 9], [10, 2, 21], [3, 4], [7, 5], [11, 6], [15, 12, 20], [13, 14, 19], [16, 17, 18]],
    "uneven": [[0, 7, 9], [1, 2], [3, 4], *([i] for i in (5, 6, 8)), [*range(10, 24)]],
    "halves": [[*range(0, 24, 2)], [*range(1, 24, 2)]],
}


def problem(n_voxels, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N_TRIALS, n_voxels)) * rng.uniform(0.5, 3, n_voxels) + rng.uniform(-4, 4, n_voxels)
    y = x[:, :3] @ rng.standard_normal((3, 4)) + rng.standard_normal((N_TRIALS, 4)) + 5
    weights = rng.uniform(0.2, 3, N_TRIALS)
    return x, y, weights / weights.mean()


def refitted(x, y, weights, alphas, folds):
    """Residuals of fits that never saw the trials; `alphas` one a latent."""
    residuals = np.full_like(y, np.nan)
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(x)), fold)
        model = Ridge(alphas, solver="cholesky" if min(alphas) > 1e-3 else "svd")
        model.fit(x[rest], y[rest], sample_weight=None if weights is None else weights[rest])
        residuals[fold] = y[fold] - model.predict(x[fold])
    return residuals


def dual(x, y, weights):
    w = None if weights is None else torch.from_numpy(weights)
    return decompose(torch.from_numpy(x @ x.T), torch.from_numpy(y), w, x.shape[1])


def primal(x, y, weights):
    w = np.ones(len(x)) if weights is None else weights
    roots = np.sqrt(w)[:, None]
    z, t = roots * (x - w @ x / len(x)), roots * (y - w @ y / len(x))
    gram = decompose_gram(*(torch.from_numpy(a) for a in (z.T @ z, z.T @ t, t, roots[:, 0])))
    return gram, lambda which: torch.from_numpy(z)[which]


def tensors(folds):
    return None if folds is FOLDS["alone"] else [torch.tensor(fold) for fold in folds]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("folds", FOLDS.values(), ids=FOLDS.keys())
@pytest.mark.parametrize("n_voxels", [60, 23, 8])
def test_dual_equals_refits_that_leave_trials_out(n_voxels, folds, weighted):
    x, y, weights = problem(n_voxels)
    weights = weights if weighted else None
    alphas = np.array([0.3, 5.0, 5.0, 200.0])
    expected = refitted(x, y, weights, alphas, folds)
    spectrum = dual(x, y, weights)
    found = left_out_residuals(spectrum, torch.from_numpy(alphas), tensors(folds)).numpy()
    assert np.allclose(found, expected, rtol=0, atol=1e-8)
    w = np.ones(N_TRIALS) if weights is None else weights
    errors = left_out_errors(spectrum, [0.3, 5.0, 200.0], tensors(folds)).numpy()
    mean = (w[:, None] * expected**2).mean(0)
    assert np.allclose(errors[[0, 1, 1, 2], range(4)], mean, rtol=1e-8)
    full = Ridge(alphas, solver="cholesky").fit(x, y, sample_weight=weights)
    assert np.allclose(x.T @ dual_weights(spectrum, torch.from_numpy(alphas)).numpy(), full.coef_.T, atol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("folds", FOLDS.values(), ids=FOLDS.keys())
@pytest.mark.parametrize("n_rows", [100, 5])
def test_primal_equals_refits_that_leave_trials_out(folds, weighted, n_rows):
    x, y, weights = problem(8)
    weights = weights if weighted else None
    alphas = np.array([0.3, 5.0, 5.0, 200.0])
    expected = refitted(x, y, weights, alphas, folds)
    gram, rows = primal(x, y, weights)
    found = held_out_residuals(gram, rows, torch.from_numpy(alphas), tensors(folds), n_rows).numpy()
    assert np.allclose(found, expected, rtol=0, atol=1e-8)
    w = np.ones(N_TRIALS) if weights is None else weights
    errors = held_out_errors(gram, rows, [0.3, 5.0, 200.0], tensors(folds), n_rows).numpy()
    assert np.allclose(errors[[0, 1, 1, 2], range(4)], (w[:, None] * expected**2).mean(0), rtol=1e-8)
    full = Ridge(alphas, solver="cholesky").fit(x, y, sample_weight=weights)
    assert np.allclose(primal_weights(gram, torch.from_numpy(alphas)).numpy(), full.coef_.T, atol=1e-8)


@pytest.mark.parametrize("folds", [FOLDS["alone"], FOLDS["pairs"]], ids=["alone", "pairs"])
@pytest.mark.parametrize("n_voxels", [60, 8])
def test_nothing_is_lost_to_rounding_for_tiny_penalties(n_voxels, folds):
    # r / (1 - h) has 1 - h of about 1e-14 here for 60 voxels: no digit would be left.
    x, y, weights = problem(n_voxels)
    alphas = np.full(4, 1e-12)
    expected = refitted(x, y, weights, alphas, folds)
    found = left_out_residuals(dual(x, y, weights), torch.from_numpy(alphas), tensors(folds)).numpy()
    assert np.allclose(found, expected, rtol=0, atol=1e-8)
    if n_voxels < N_TRIALS:
        gram, rows = primal(x, y, weights)
        found = held_out_residuals(gram, rows, torch.from_numpy(alphas), tensors(folds), 7).numpy()
        assert np.allclose(found, expected, rtol=0, atol=1e-8)


def test_a_kernel_too_singular_for_its_penalty_gives_nan_and_not_noise():
    x, y, _ = problem(60)
    x[1] = x[0]  # two trials that no weights can tell apart
    spectrum = dual(x, y, None)
    errors = left_out_errors(spectrum, [1e-14, 1e-3]).numpy()
    assert np.isnan(errors[0]).all()
    expected = refitted(x, y, None, np.full(4, 1e-3), FOLDS["alone"])
    assert np.allclose(errors[1], (expected**2).mean(0), rtol=1e-6)


def test_a_trial_that_alone_spans_a_direction_gives_nan_in_the_primal_form():
    x, y, _ = problem(8)
    x[:, 7] = np.arange(N_TRIALS) == 3
    gram, rows = primal(x, y, None)
    for folds in (FOLDS["alone"], FOLDS["pairs"], FOLDS["halves"]):
        errors = held_out_errors(gram, rows, [1e-13, 1e-2], tensors(folds), 100).numpy()
        assert np.isnan(errors[0]).all()
        expected = refitted(x, y, None, np.full(4, 1e-2), folds)
        assert np.allclose(errors[1], (expected**2).mean(0), rtol=1e-6)


def test_a_kernel_of_float32_is_believed_less():
    x, y, _ = problem(60)
    x[1] = x[0]
    kernel = torch.from_numpy(x @ x.T)
    single = decompose(kernel, torch.from_numpy(y), None, 60, torch.float32)
    assert torch.isnan(left_out_errors(single, [1e-4])).all()
    assert torch.isfinite(left_out_errors(single, [1.0])).all()
    assert torch.isfinite(left_out_errors(decompose(kernel, torch.from_numpy(y)), [1e-4])).all()


@pytest.mark.parametrize("folds", FOLDS.values(), ids=FOLDS.keys())
@pytest.mark.parametrize("n_voxels", [60, 23, 20, 8])
@pytest.mark.parametrize("repeated", [False, True])
def test_whatever_the_penalty_the_error_is_right_or_nan(n_voxels, folds, repeated):
    x, y, _ = problem(n_voxels)
    if repeated:
        x[[1, 9]] = x[[0, 16]]
    # Below 1e-9 the fit without a fold is that of least squares, the shortest where there are many.
    limit = np.zeros(4)
    for fold in folds:
        rest = np.setdiff1d(np.arange(N_TRIALS), fold)
        mean = x[rest].mean(0)
        weights = np.linalg.pinv(x[rest] - mean, rcond=1e-10) @ (y[rest] - y[rest].mean(0))
        limit += ((y[fold] - y[rest].mean(0) - (x[fold] - mean) @ weights) ** 2).sum(0) / N_TRIALS
    alphas = np.logspace(-18, 0, 10).tolist()
    found = [left_out_errors(dual(x, y, None), alphas, tensors(folds)).numpy()]
    if n_voxels <= N_TRIALS / 2:
        gram, rows = primal(x, y, None)
        found.append(held_out_errors(gram, rows, alphas, tensors(folds), 7).numpy())
    for errors in found:
        assert np.isfinite(errors[-4:]).all()
        for alpha, error in zip(alphas, errors, strict=True):
            exact = limit if alpha < 1e-9 else (refitted(x, y, None, np.full(4, alpha), folds) ** 2).mean(0)
            assert np.isnan(error).all() or np.allclose(error, exact, rtol=1e-3), alpha
