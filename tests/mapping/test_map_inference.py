import re
from itertools import permutations
from math import factorial

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.mapping import map_inference
from hyperdecode.mapping.assign import NO_LAYER, layer_of
from hyperdecode.mapping.linear_occlusion import occlude_linear
from hyperdecode.mapping.map_inference import max_statistic, pairings, permuted_layers, permuted_losses
from hyperdecode.mapping.neighbourhoods import cube_neighbourhoods
from hyperdecode.mapping.readout import LinearReadout

LINE = np.argwhere(np.ones((12, 1, 1)))


def random_losses(layers=3, centres=7, n=5, seed=0):
    scale = np.array([1.0, 100, 0.01, 1])[:layers, None, None, None]
    return np.random.default_rng(seed).standard_normal((layers, centres, n, n)) * scale


def by_hand(losses):
    """Statistics of all pairings, the true one first, and standardised over them."""
    n = losses.shape[-1]
    t = np.array([losses[:, :, range(n), list(order)].mean(axis=2) for order in permutations(range(n))])
    return t, (t - t.mean(axis=0)) / t.std(axis=0)


def test_all_pairings_of_few_faces_by_hand():
    losses = random_losses()
    losses[0, 2] += 2 * np.eye(5)
    t, z = by_hand(losses)
    found = max_statistic(losses)
    assert found.exhaustive and found.maxima.shape == (3, 120)
    np.testing.assert_allclose(found.losses, t[0], rtol=1e-12)
    np.testing.assert_allclose(found.null_mean, t.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.null_sd, t.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.standardised, z[0], atol=1e-9)
    np.testing.assert_allclose(found.p_values, (z >= z[0] - 1e-9).mean(axis=0))
    largest = z.max(axis=(1, 2))
    np.testing.assert_allclose(found.p_corrected, (largest[:, None, None] >= z[0] - 1e-9).mean(axis=0))
    by_layer = max_statistic(losses, family="layer")
    np.testing.assert_allclose(by_layer.p_corrected, (z.max(axis=2)[:, :, None] >= z[0] - 1e-9).mean(axis=0))
    assert (by_layer.p_corrected <= found.p_corrected).all() and (by_layer.p_corrected < found.p_corrected).any()
    assert found.p_corrected[0, 2] <= 0.05


@pytest.mark.parametrize("family", ["map", "layer"])
@pytest.mark.parametrize(("n", "alpha"), [(5, 0.05), (5, 0.3), (4, 0.25), (9, 0.1)])
def test_beyond_the_threshold_is_significant(family, n, alpha):
    losses = random_losses(n=n) + np.random.default_rng(1).random((3, 7, 1, 1)) * 2 * np.eye(n)
    found = max_statistic(losses, 199, alpha, family=family)
    np.testing.assert_array_equal(found.significant, found.p_corrected <= alpha + 1e-12)
    assert (found.p_corrected >= found.p_values - 1e-12).all()
    # The largest of a map under a pairing is beyond the threshold in no more of them than alpha says, and no fewer.
    rivals = found.maxima.max(axis=0, keepdims=True) if family == "map" else found.maxima
    share = (rivals > found.threshold[:1] if family == "map" else rivals > found.threshold[:, None]).mean(axis=1)
    assert (share <= alpha).all() and (share > alpha - 2 / rivals.shape[1]).all()


def test_pairings_start_with_the_true_one():
    assert pairings(4).shape == (24, 4) and len(np.unique(pairings(4), axis=0)) == 24
    drawn = pairings(9, 200, seed=3)
    assert drawn.shape == (201, 9)
    np.testing.assert_array_equal(drawn[0], range(9))
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(range(9), (201, 1)))
    np.testing.assert_array_equal(drawn, pairings(9, 200, seed=3))
    assert (drawn != pairings(9, 200, seed=4)).any()


def test_random_pairings_come_near_to_all():
    losses = random_losses(layers=2, n=6)
    losses[1, 3] += 60 * np.eye(6)
    exact = max_statistic(losses, 720)
    drawn = max_statistic(losses, 700)
    assert exact.exhaustive and not drawn.exhaustive
    np.testing.assert_allclose(drawn.p_corrected, exact.p_corrected, atol=0.08)
    np.testing.assert_allclose(drawn.null_sd, exact.null_sd, rtol=1e-12)  # exact, however few are drawn


def test_in_pieces_and_from_arrays_of_layers_it_is_the_same(monkeypatch):
    losses = random_losses(n=8)
    whole, layers = max_statistic(losses), permuted_layers(losses, standardise="voxels")
    monkeypatch.setattr(map_inference, "BLOCK_BYTES", 3 * 8 * 1001 * 2)  # two centres
    seen = []
    cut = max_statistic(list(losses), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]
    for name in ("losses", "p_values", "p_corrected", "threshold", "maxima"):
        np.testing.assert_allclose(getattr(cut, name), getattr(whole, name), rtol=1e-12)
    np.testing.assert_array_equal(permuted_layers(losses, standardise="voxels"), layers)


@pytest.mark.parametrize("standardise", ["permutation", "voxels", "none"])
@pytest.mark.parametrize("thresholded", [False, True])
def test_permuted_data_are_treated_like_the_true(standardise, thresholded):
    """The map of data that came permuted is, bit for bit, the map that the permutation gives."""
    losses = random_losses(n=5) + 1.0 * np.eye(5)
    losses[:, 4] = 0
    observed = max_statistic(losses, alpha=0.2)
    threshold = observed.threshold if thresholded else None
    rows = permuted_layers(losses, standardise=standardise, threshold=threshold)
    assert rows.shape == (119, 7) and (rows[:, 4] == NO_LAYER).all()
    own = observed.layer_map(standardise, thresholded).layers
    if thresholded:
        assert 0 < (own == NO_LAYER).sum() < 7
    for row, order in list(zip(rows, pairings(5)[1:], strict=True))[::17]:
        permuted = max_statistic(losses[:, :, :, order], alpha=0.2)
        np.testing.assert_allclose(permuted.threshold, observed.threshold)
        np.testing.assert_array_equal(permuted.layer_map(standardise, thresholded).layers, row)


def test_losses_that_know_no_pairing_have_p_one():
    losses = random_losses(layers=2).astype(np.float32)
    additive = np.arange(5)[:, None] * 0.1 + np.arange(5) * 0.7  # the same sum for all pairings, but for rounding
    losses[1, 3] = additive.astype(np.float32)
    found = max_statistic(losses)
    assert found.null_sd[1, 3] == 0 and found.standardised[1, 3] == 0
    assert found.p_values[1, 3] == 1 and found.p_corrected[1, 3] == 1
    losses[0, 3] = losses[1, 3]
    assert max_statistic(losses).layer_map().layers[3] == NO_LAYER


def a_study(rng, n, informed, voxels=12, k=6, noise=1.0):
    """Losses of a readout whose `informed` voxels carry the activations; none of them: there is no relation."""
    true = rng.standard_normal((n, k))
    x = noise * rng.standard_normal((n, voxels))
    weights = 0.3 * rng.standard_normal((voxels, k))
    x[:, informed] += true @ np.linalg.pinv(weights[informed]) if len(informed) else 0
    readout = LinearReadout(weights, x @ weights, true, rng.random(n), 2 * k, 1.0)
    return occlude_linear(readout, x, cube_neighbourhoods(LINE, None, side_voxels=3))


@pytest.mark.parametrize(("n", "off"), [(300, 0.035), pytest.param(1000, 0.015, marks=pytest.mark.slow)])
def test_without_relation_one_map_in_twenty_is_rejected(n, off):
    rng = np.random.default_rng(7)
    rejected, alone = 0, 0.0
    for _ in range(n):
        found = max_statistic([a_study(rng, 5, []), a_study(rng, 5, [])])
        rejected += bool(found.significant.any())
        alone += (found.p_values <= 0.05).mean()
    assert abs(rejected / n - 0.05) < off  # more than two standard errors
    assert abs(alone / n - 0.05) < 2 * off / 3


@pytest.mark.slow
def test_without_relation_and_with_random_pairings_too():
    rng = np.random.default_rng(8)
    rejected = sum(max_statistic([a_study(rng, 9, [])], 39, seed=s).significant.any() for s in range(1000))
    assert 0.035 <= rejected / 1000 <= 0.065


def test_an_informative_cluster_is_found_in_its_layer():
    rng = np.random.default_rng(9)
    losses = [a_study(rng, 20, []), a_study(rng, 20, [4, 5, 6], noise=0.3)]
    found = max_statistic(losses)
    assert found.significant[1, 5] and not found.significant[0].any()
    assert not found.significant[:, [0, 1, 9, 10, 11]].any()
    layers = found.layer_map(thresholded=True).layers
    assert layers[5] == 1 and (layers[[0, 1, 9, 10, 11]] == NO_LAYER).all()
    expected = layer_of(found.losses, null_mean=found.null_mean, null_sd=found.null_sd)
    np.testing.assert_array_equal(found.layer_map().layers, expected.layers)


@pytest.mark.parametrize(
    ("n", "arguments", "match"),
    [
        (2, {}, "2 test faces have fewer than 4 pairings"),
        (3, {}, "with 6 pairings of 3 test faces no p-value can be 0.05: show more test faces"),
        (9, {"n_permutations": 18}, "take at least 19 permutations"),
        (9, {"n_permutations": 0}, "at least one permutation"),
        (9, {"alpha": 1.0}, "alpha lies between"),
        (9, {"family": "voxel"}, "family is 'map' or 'layer'"),
    ],
)
def test_too_few_faces_or_permutations(n, arguments, match):
    with pytest.raises(UserError, match=match):
        max_statistic(random_losses(n=n), **arguments)


def test_four_faces_are_enough():
    losses = random_losses(layers=1, n=4) * 0.01 + np.eye(4)
    found = max_statistic(losses)
    assert found.exhaustive and (found.p_corrected == 1 / factorial(4)).any() and found.significant.any()


def test_losses_of_another_shape():
    with pytest.raises(UserError, match="occlude with pairs=True"):
        max_statistic(np.ones((2, 7, 5)))
    with pytest.raises(UserError, match="the same for all"):
        max_statistic([np.ones((7, 5, 5)), np.ones((6, 5, 5))])
    with pytest.raises(UserError, match=re.escape("got []: occlude")):
        max_statistic([])
    losses = random_losses()
    with pytest.raises(UserError, match=re.escape("pairings of (4,) faces")):
        next(permuted_losses(losses, pairings(4)))
    losses[1, 3, 0, 0] = np.nan
    with pytest.raises(UserError, match="losses of centres 0 to 6 are NaN"):
        max_statistic(losses)
