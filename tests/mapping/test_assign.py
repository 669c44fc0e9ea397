import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.mapping.assign import NO_LAYER, chosen_layers, layer_of, standardised_losses

LOSSES = np.array([[3.0, 1.0, 2.0, 0.0], [30.0, 50.0, 10.0, 30.0]])


def test_a_layer_of_larger_losses_does_not_win_by_its_unit():
    assert (layer_of(LOSSES, "none").layers == 1).all()
    by_place = layer_of(LOSSES, "voxels")
    np.testing.assert_array_equal(by_place.layers, [0, 1, 0, 1])
    np.testing.assert_allclose(by_place.standardised.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(by_place.standardised.std(axis=1), 1)
    scaled = layer_of(LOSSES * [[1e3], [1e-3]] + [[5], [0]], "voxels")
    np.testing.assert_allclose(scaled.standardised, by_place.standardised, atol=1e-9)
    np.testing.assert_array_equal(by_place.losses, LOSSES)
    assert by_place.standardise == "voxels"


def test_by_permutation_the_null_decides():
    mean, sd = np.array([[0.0, 0, 1, 0], [20, 50, 0, 30]]), np.array([[1.0, 1, 1, 1], [1, 10, 100, 0]])
    found = layer_of(LOSSES, null_mean=mean, null_sd=sd)
    np.testing.assert_allclose(found.standardised, [[3, 1, 1, 0], [10, 0, 0.1, 0]])
    np.testing.assert_array_equal(found.layers, [1, 0, 0, NO_LAYER])  # the last: the same for all pairings
    np.testing.assert_array_equal(found.counts, [2, 1])


def test_centres_that_do_not_pass_or_lose_nothing_have_no_layer():
    losses = LOSSES.copy()
    losses[:, 2] = 0
    found = layer_of(losses, "voxels", passed=[True, False, True, True])
    assert found.layers.dtype == np.int8
    np.testing.assert_array_equal(found.layers == NO_LAYER, [False, True, True, False])


def test_of_equal_losses_the_first_layer():
    np.testing.assert_array_equal(layer_of(np.ones((3, 2)), "none").layers, [0, 0])
    np.testing.assert_array_equal(layer_of(np.ones((3, 2)), "voxels").layers, [NO_LAYER] * 2)  # nowhere more than there
    np.testing.assert_array_equal(layer_of(np.full((2, 5), 0.1), "voxels").layers, [NO_LAYER] * 5)


def test_many_maps_at_once():
    z = np.random.default_rng(0).standard_normal((7, 3, 5))
    allowed = np.random.default_rng(1).random((7, 5)) < 0.7
    expected = np.where(allowed, z.argmax(axis=1), NO_LAYER)
    np.testing.assert_array_equal(chosen_layers(z, allowed), expected)


@pytest.mark.parametrize(
    ("losses", "arguments", "match"),
    [
        (np.ones(4), {}, "shape .layers, centres."),
        (np.ones((128, 2)), {}, "1 to 127 layers"),
        (np.array([[1.0, np.nan]]), {}, "1 losses are NaN"),
        (LOSSES, {}, "need null_mean and null_sd"),
        (LOSSES, {"null_mean": np.ones(4), "null_sd": LOSSES}, "came with null moments of"),
        (LOSSES, {"standardise": "zscore"}, "one of permutation, voxels, none, got 'zscore'"),
    ],
)
def test_losses_that_cannot_be_standardised(losses, arguments, match):
    with pytest.raises(UserError, match=match):
        standardised_losses(losses, **arguments)


def test_flags_of_other_centres():
    with pytest.raises(UserError, match="4 centres came with"):
        layer_of(LOSSES, "voxels", passed=[True])
