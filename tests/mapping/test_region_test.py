import numpy as np
import pytest
from scipy import ndimage, stats

from hyperdecode.errors import UserError
from hyperdecode.mapping.map_inference import max_statistic, permuted_layers
from hyperdecode.mapping.region_test import layer_tables, order_test, region_layer_test
from hyperdecode.mapping.regions import OTHER, RegionSet

LAYERS = ("4", "9", "14", "19")
N = 60
REGIONS = RegionSet(("a", "b", "c", OTHER), np.repeat([0, 1, 2, 3], [10, 30, 15, 5]))


def maps(rng, n, size=N):
    """Draw exchangeable maps: the strongest of four smooth fields on a ring, of unequal spread; none where < 0."""
    fields = ndimage.gaussian_filter1d(rng.standard_normal((n, 4, size)), 3, axis=2, mode="wrap")
    fields *= np.array([1, 1, 1.3, 0.8])[:, None] * np.linspace(1, 2, size)
    return np.where(fields.max(axis=1) > 0, fields.argmax(axis=1), -1).astype(np.int8)


def test_false_alarms_come_as_often_as_they_should():
    rng = np.random.default_rng(0)
    n_repetitions, n_permutations = 800, 99
    cells, family, table, association, order = [], [], [], [], []
    for _ in range(n_repetitions):
        drawn = maps(rng, n_permutations + 1)
        test = region_layer_test(drawn[0], drawn[1:], REGIONS, LAYERS)
        cells.append(test.p_cell <= 0.05)
        family.append(test.p_family.min() <= 0.05)
        table.append(test.p_deviation <= 0.05)
        association.append(test.p_association <= 0.05)
        order.append(order_test(drawn[0], drawn[1:], REGIONS, 4).p_value <= 0.05)
    for rate in map(np.mean, (family, table, association, order)):
        assert 0.035 <= rate <= 0.065, rate
    # Counts are whole numbers, so that ties make single cells conservative.
    assert np.mean(cells) <= 0.065 and np.mean(cells, axis=0).max() <= 0.07


def test_a_planted_gradient_is_found_where_it_is():
    rng = np.random.default_rng(1)
    regions = RegionSet(REGIONS.names, np.repeat(REGIONS.of_voxel, 10))
    null = maps(rng, 499, 10 * N)
    observed = maps(rng, 1, 10 * N)[0]
    observed[:100], observed[400:550] = 3, 0
    test = region_layer_test(observed, null, regions, LAYERS)
    assert test.p_family[0, 3] <= 0.01 and test.p_family[2, 0] <= 0.01
    assert test.p_family[1].min() > 0.05 and test.z[0, 3] > 0 > test.z[0, 0]
    assert test.p_deviation <= 0.01 and test.p_association <= 0.01
    falls = order_test(observed, null, regions, 4)
    assert falls.order == ("a", "b", "c") and falls.rho < -0.4 and falls.p_value <= 0.01
    rises = order_test(observed, null, regions, 4, ["c", "b", "a"])
    assert rises.rho == pytest.approx(-falls.rho) and rises.p_value == falls.p_value


def test_numbers_equal_a_plain_count():
    rng = np.random.default_rng(2)
    drawn = maps(rng, 40)
    tables = layer_tables(drawn[0], drawn[1:], REGIONS, 4)
    for k, layers in enumerate(drawn):
        for r in range(4):
            assert tables[k, r].tolist() == [((REGIONS.of_voxel == r) & (layers == one)).sum() for one in range(4)]
    test = region_layer_test(drawn[0], drawn[1:], REGIONS, LAYERS)
    z = (tables - tables.mean(axis=0)) / tables.std(axis=0)
    np.testing.assert_allclose(test.z, z[0])
    largest = np.abs(z).max(axis=(1, 2))
    for r in range(4):
        for one in range(4):
            own = abs(z[0, r, one]) - 1e-9
            assert test.p_cell[r, one] == pytest.approx(np.mean(np.abs(z[:, r, one]) >= own))
            assert test.p_family[r, one] == pytest.approx(np.mean(largest >= own))
    assert (test.p_family >= test.p_cell).all() and test.p_cell.min() >= 1 / 40
    assert test.deviation == pytest.approx((z[0] ** 2).sum())
    filled = tables[0][tables[0].sum(axis=1) > 0]
    chi = stats.chi2_contingency(filled[:, filled.sum(axis=0) > 0], correction=False, lambda_="log-likelihood")
    assert test.association == pytest.approx(chi.statistic)
    frame = test.table()
    assert frame.shape == (16, 8) and frame.n_voxels.tolist() == tables[0].ravel().tolist()
    inside = (drawn[0] >= 0) & (REGIONS.of_voxel < 3)
    by_scipy = stats.spearmanr(REGIONS.of_voxel[inside], drawn[0][inside]).statistic
    order = order_test(drawn[0], drawn[1:], REGIONS, 4)
    assert order.rho == pytest.approx(by_scipy) and order.n_voxels == inside.sum()


def test_what_never_differs_is_never_significant():
    layers = np.zeros(N, np.int8)
    layers[0] = -1
    test = region_layer_test(layers, np.tile(layers, (19, 1)), REGIONS, LAYERS)
    assert (test.z == 0).all() and (test.p_cell == 1).all() and (test.p_family == 1).all()
    assert test.p_deviation == test.p_association == 1 and test.association == pytest.approx(0, abs=1e-9)
    order = order_test(layers, np.tile(layers, (19, 1)), REGIONS, 4)
    assert order.rho == 0 and order.p_value == 1


def test_bad_input_is_refused():
    layers = np.zeros(N, np.int8)
    with pytest.raises(UserError, match="at least one permutation"):
        region_layer_test(layers, np.zeros((0, N), np.int8), REGIONS, LAYERS)
    with pytest.raises(UserError, match="one for each of 60 voxels"):
        region_layer_test(layers, np.zeros((5, 59), np.int8), REGIONS, LAYERS)
    with pytest.raises(UserError, match="layers run from -1"):
        region_layer_test(layers, np.full((5, N), 4, np.int8), REGIONS, LAYERS)
    for order, message in ((["a"], "two or more"), (["a", "a"], "each once"), (["a", "x"], "x is none of a, b, c")):
        with pytest.raises(UserError, match=message):
            order_test(layers, layers[None], REGIONS, 4, order)


@pytest.mark.parametrize("standardise", ["permutation", "voxels"])
def test_false_alarms_of_maps_whose_faces_were_paired_anew(standardise):
    """From losses of all pairs to p-values: faces differ, centres differ and are smooth, pairing tells nothing."""
    rng = np.random.default_rng(3)
    rejected = []
    for seed in range(400):
        losses = ndimage.gaussian_filter1d(rng.standard_normal((4, N, 8, 8)), 3, axis=1, mode="wrap")
        losses += 0.1 * rng.standard_normal((4, 1, 8, 1)) + 0.05 * rng.standard_normal((4, N, 1, 1))
        observed = max_statistic(losses, n_permutations=79, seed=seed).layer_map(standardise).layers
        permuted = permuted_layers(losses, 79, seed, standardise)
        test = region_layer_test(observed, permuted, REGIONS, LAYERS)
        order = order_test(observed, permuted, REGIONS, 4)
        rejected.append([test.p_family.min(), test.p_deviation, test.p_association, order.p_value])
    assert np.mean(np.array(rejected) <= 0.05, axis=0).max() <= 0.065
