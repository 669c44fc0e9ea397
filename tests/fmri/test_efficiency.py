import numpy as np
import pytest
from nilearn.glm.first_level import make_first_level_design_matrix

from hyperdecode.errors import UserError
from hyperdecode.fmri.efficiency import design_efficiency
from hyperdecode.fmri.singletrial import single_trial_zmaps


def evenly(gap, n=20, on=1.5, t_r=1.5, tail=30.0):
    onsets = 6 + (on + gap) * np.arange(n)
    return onsets, np.full(n, on), int(np.ceil((onsets[-1] + tail) / t_r)), t_r


def brute(onsets, durations, n_volumes, t_r, slice_time_ref=0.0):
    """Everything by fitting one regression at a time, with nilearn's design matrix."""
    import pandas as pd

    times = (np.arange(n_volumes) + slice_time_ref) * t_r
    kinds = [f"t{i:03d}" for i in range(len(onsets))]
    events = pd.DataFrame({"onset": onsets, "duration": durations, "trial_type": kinds})
    matrix = make_first_level_design_matrix(times, events, hrf_model="spm", high_pass=0.01)
    x, nuisance = matrix[kinds].to_numpy(), matrix.drop(columns=kinds).to_numpy()

    def variance(model):
        return np.linalg.inv(model.T @ model)[0, 0]

    def residual(column):
        return column - nuisance @ np.linalg.lstsq(nuisance, column, rcond=None)[0]

    alone, together, separate = [], [], []
    for i in range(len(kinds)):
        others = np.delete(x, i, axis=1)
        alone.append(variance(np.column_stack([x[:, i], nuisance])))
        together.append(variance(np.column_stack([x[:, i], others, nuisance])))
        separate.append(variance(np.column_stack([x[:, i], others.sum(axis=1), nuisance])))
    clean = np.apply_along_axis(residual, 0, x)
    pairs = np.corrcoef(clean.T)
    return pairs, np.array(alone), np.array(together), np.array(separate)


@pytest.mark.parametrize("slice_time_ref", [0.0, 0.5])
def test_against_one_regression_at_a_time(slice_time_ref):
    rng = np.random.default_rng(0)
    onsets = 6 + np.cumsum(rng.uniform(3, 9, size=15))
    design = (onsets, np.full(15, 1.5), 100, 1.5)
    found = design_efficiency(*design, slice_time_ref=slice_time_ref)
    pairs, alone, together, separate = brute(*design, slice_time_ref)
    np.testing.assert_allclose(found.inflation, together / alone, rtol=1e-6)
    np.testing.assert_allclose(found.separate_inflation, separate / alone, rtol=1e-6)
    assert found.efficiency == pytest.approx(1 / together.sum(), rel=1e-6)
    assert found.lag1 == pytest.approx(np.diagonal(pairs, 1).mean(), rel=1e-6)
    assert found.lag2 == pytest.approx(np.diagonal(pairs, 2).mean(), rel=1e-6)


@pytest.mark.parametrize("method", ["lsa", "lss"])
def test_betas_vary_as_much_as_it_says(method):
    """White noise through the single-trial GLM: the variance of its betas over voxels."""
    onsets, durations, n_volumes, t_r = evenly(4.5, n=12)
    noise = np.random.default_rng(1).standard_normal((n_volumes, 20_000))
    beta = single_trial_zmaps(noise, onsets, durations, t_r, method=method).beta
    found = design_efficiency(onsets, durations, n_volumes, t_r)
    _, alone, *_ = brute(onsets, durations, n_volumes, t_r)
    inflation = found.inflation if method == "lsa" else found.separate_inflation
    np.testing.assert_allclose(beta.var(axis=1), alone * inflation, rtol=0.05)
    if method == "lsa":
        assert 1 / beta.var(axis=1).sum() == pytest.approx(found.efficiency, rel=0.03)


def test_longer_gaps_are_less_collinear():
    designs = [design_efficiency(*evenly(gap, n=80)) for gap in (2.0, 3.0, 4.5, 6.0, 10.5, 15.0)]
    lag1 = [design.lag1 for design in designs[:4]]
    assert lag1 == sorted(lag1, reverse=True)
    inflation = [np.median(design.inflation) for design in designs]
    assert inflation == sorted(inflation, reverse=True) and inflation[-1] < 1.3
    efficiency = [design.efficiency for design in designs]
    assert efficiency == sorted(efficiency)
    assert all((design.separate_inflation >= 1).all() for design in designs)
    assert all((design.separate_inflation <= design.inflation + 1e-9).all() for design in designs)


def test_the_papers_timing():
    """1.5 s on, 3 s off: least squares-all pays some twenty times the variance, though neighbours correlate little."""
    found = design_efficiency(*evenly(3.0, n=111), slice_time_ref=0.5)
    assert found.lag1 == pytest.approx(0.24, abs=0.02) and found.lag2 == pytest.approx(-0.21, abs=0.02)
    assert 15 < np.median(found.inflation) < 25 and np.median(found.separate_inflation) < 1.3


def test_one_trial_alone():
    found = design_efficiency([6.0], [1.5], 30, 1.5)
    assert found.inflation.tolist() == pytest.approx([1.0]) and found.separate_inflation.tolist() == [1.0]
    assert np.isnan(found.lag1) and np.isnan(found.lag2) and found.efficiency > 0


def test_trials_come_in_the_order_of_their_onsets():
    onsets, durations, *rest = evenly(3.0, n=6)
    onsets[-1] += 20
    shuffled = [4, 0, 5, 2, 1, 3]
    one, other = design_efficiency(onsets, durations, *rest), design_efficiency(onsets[shuffled], durations, *rest)
    np.testing.assert_allclose(one.inflation, other.inflation)
    assert one.lag1 == pytest.approx(other.lag1)


def test_trials_that_cannot_be_told_apart():
    found = design_efficiency([6.0, 20.0, 20.0, 40.0], [1.5] * 4, 60, 1.5)
    assert np.isinf(found.inflation).tolist() == [False, True, True, False] and found.efficiency == 0
    crowd = design_efficiency(np.linspace(0, 50, 60), [0.5] * 60, 40, 1.5)
    assert np.isinf(crowd.inflation).any() and crowd.efficiency == 0
    assert np.isfinite(crowd.separate_inflation).all()


def test_refused():
    with pytest.raises(UserError, match=r"trial 3 \(onset 44\.9 s\) leaves no response.*timing\.lead_out"):
        design_efficiency([6.0, 12.0, 44.9], [1.5] * 3, 30, 1.5)
    with pytest.raises(UserError, match="past the run's end"):
        design_efficiency([6.0, 99.0], [1.5] * 2, 30, 1.5)
    with pytest.raises(UserError, match="2 onsets, 3 durations"):
        design_efficiency([6.0, 9.0], [1.5] * 3, 30, 1.5)
