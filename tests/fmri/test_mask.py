from __future__ import annotations

import warnings

import numpy as np
import pytest

from hyperdecode.errors import DataWarning, LeakageError, UserError
from hyperdecode.fmri.mask import (
    labels_on_grid,
    region_mask,
    regions_by_name,
    reliability_mask,
    voxel_mask,
    whole_mask,
)
from hyperdecode.fmri.repeats import repeat_variance, voxel_blocks
from hyperdecode.split import Split

N_VOXELS = 120


def repeated_trials(seed=0, n_stimuli=12, repeats=4, informative=(3, 40, 77)):
    """Noise, and a few voxels that answer each stimulus alike; another one is active but answers all alike."""
    rng = np.random.default_rng(seed)
    stimuli = [f"face{i:02d}" for i in range(n_stimuli) for _ in range(repeats)]
    z = rng.standard_normal((len(stimuli), N_VOXELS)).astype(np.float32)
    for voxel in informative:
        z[:, voxel] += np.repeat(2 * rng.standard_normal(n_stimuli), repeats)
    z[:, 99] += 5
    order = rng.permutation(len(stimuli))
    return z[order], [stimuli[i] for i in order]


def test_planted_voxels_are_chosen():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((30, 200))
    planted = [3, 77, 150, 199]
    z[:, planted] += 3
    mask = voxel_mask(z, ["train"] * 30, n_voxels=4)
    assert np.flatnonzero(mask.selected).tolist() == planted
    np.testing.assert_allclose(mask.mean_z, z.mean(axis=0))
    assert mask.n_dropped_nan == 0 and mask.kind == "active"


def test_nan_and_constant_voxels_are_dropped_and_counted():
    z = np.random.default_rng(0).standard_normal((10, 20))
    z[4, 2] = np.nan
    z[:, 5] = 9.0
    z[0, 6] = np.inf
    mask = voxel_mask(z, None, n_voxels=17)
    assert mask.n_dropped_nan == 3
    assert mask.selected.sum() == 17 and not mask.selected[[2, 5, 6]].any()
    assert np.flatnonzero(np.isnan(mask.mean_z)).tolist() == [2, 5, 6]
    with pytest.raises(UserError, match="asks for 18 voxels, 17 of 20"):
        voxel_mask(z, None, n_voxels=18)


def test_voxels_ruled_out_by_the_caller_are_not_chosen():
    z = np.random.default_rng(0).standard_normal((10, 20))
    z[:, 3] += 10
    usable = np.ones(20, bool)
    usable[3] = False
    assert voxel_mask(z, None, 1).selected[3]
    mask = voxel_mask(z, None, 19, usable=usable)
    assert not mask.selected[3] and mask.n_dropped_nan == 1
    assert usable.sum() == 19, "the caller's array is left alone"
    with pytest.raises(UserError, match="usable has 5 voxels, the data have 20"):
        voxel_mask(z, None, 1, usable=usable[:5])


def test_blocks_of_voxels_change_nothing(monkeypatch):
    z, stimuli = repeated_trials()
    z[2, 7] = np.nan
    roles = ["train"] * len(z)
    whole = [voxel_mask(z, roles, 20), reliability_mask(z, roles, stimuli, 20)]
    monkeypatch.setattr("hyperdecode.fmri.repeats.BLOCK_BYTES", 8 * len(z) * 7)
    assert len(list(voxel_blocks(*z.shape))) == 18
    for before, after in zip(whole, [voxel_mask(z, roles, 20), reliability_mask(z, roles, stimuli, 20)], strict=True):
        np.testing.assert_array_equal(before.selected, after.selected)
        np.testing.assert_allclose(before.score, after.score, rtol=1e-12)


def test_ties_keep_the_count_exact_and_repeatable():
    z = np.tile(np.array([[0.0], [1.0]]), (1, 50))
    mask = voxel_mask(z, ["train", "train"], n_voxels=7)
    assert np.flatnonzero(mask.selected).tolist() == list(range(7))
    repeated = np.tile(np.array([[0.0], [1.0], [4.0], [6.0]]), (1, 50))
    mask = reliability_mask(repeated, ["train"] * 4, ["a", "a", "b", "b"], n_voxels=7)
    assert np.flatnonzero(mask.selected).tolist() == list(range(7))


def test_reliable_voxels_are_chosen_and_not_merely_active_ones():
    z, stimuli = repeated_trials()
    mask = reliability_mask(z, ["train"] * len(z), stimuli, n_voxels=3)
    assert np.flatnonzero(mask.selected).tolist() == [3, 40, 77]
    assert mask.kind == "reliable" and mask.mean_z[99] > 4
    assert voxel_mask(z, ["train"] * len(z), n_voxels=1).selected[99]


def test_reliability_is_the_share_of_signal_for_unequal_repeats():
    rng = np.random.default_rng(1)
    counts = rng.integers(2, 6, 400)
    signal, noise = 1.5, 3.0
    z = np.repeat(rng.normal(0, signal**0.5, (400, 30)), counts, axis=0)
    z += rng.normal(7, noise**0.5, z.shape)
    parts = repeat_variance(z, np.repeat(np.arange(400), counts).astype(str).tolist())
    # The mean of 30 voxels: its standard error is about 0.2 / sqrt(30) for either variance.
    assert parts.signal.mean() == pytest.approx(signal, abs=0.1)
    assert parts.noise.mean() == pytest.approx(noise, abs=0.1)
    assert parts.reliability.mean() == pytest.approx(1 / 3, abs=0.02)
    assert parts.n_trials == counts.sum() and 2 < parts.repeats < 5


def test_variances_match_a_voxel_worked_out_by_hand():
    z = np.array([[1.0], [3.0], [10.0], [12.0], [14.0], [99.0]])
    parts = repeat_variance(z, ["a", "a", "b", "b", "b", "once"])
    within = (2 * 1.0 + 2 * 4.0) / 3
    between = 2 * (2 - 8.0) ** 2 + 3 * (12 - 8.0) ** 2
    k0 = 5 - 13 / 5
    np.testing.assert_allclose(parts.noise, within)
    np.testing.assert_allclose(parts.signal, (between - within) / k0)
    assert (parts.n_stimuli, parts.n_trials) == (2, 5)


def test_reliability_needs_training_stimuli_that_repeat():
    z, stimuli = repeated_trials(repeats=1)
    with pytest.raises(UserError, match="0 of 12 training stimuli stand in more than one trial"):
        reliability_mask(z, ["train"] * len(z), stimuli, n_voxels=3)
    with pytest.raises(UserError, match="role of each trial"):
        reliability_mask(z, None, stimuli, n_voxels=3)
    with pytest.raises(UserError, match="11 stimuli"):
        reliability_mask(z, ["train"] * len(z), stimuli[:-1], n_voxels=3)


def test_reliability_leaves_out_unusable_voxels():
    z, stimuli = repeated_trials()
    z[5, 3] = np.nan
    z[:, 40] = 1.0
    mask = reliability_mask(z, ["train"] * len(z), stimuli, n_voxels=1)
    assert mask.selected[77] and mask.n_dropped_nan == 2
    assert np.isnan(mask.score[[3, 40]]).all()
    # A voxel that varies only over stimuli shown once has no reliability.
    alone = np.random.default_rng(1).standard_normal((len(stimuli) + 3, 5))
    alone[: len(stimuli), 0] = 0.0
    names = [*stimuli, "x", "y", "w"]
    mask = reliability_mask(alone, ["train"] * len(alone), names, n_voxels=4)
    assert not mask.selected[0] and mask.n_dropped_nan == 1


def every_mask(z, stimuli, roles):
    labels = np.arange(z.shape[1]) % 3
    return [
        voxel_mask(z, roles, 20),
        reliability_mask(z, roles, stimuli, 20),
        region_mask(labels, [1], n_voxels=10, z=z, roles=roles),
        region_mask(labels, [1, 2], z=z, roles=roles),
    ]


def test_altering_test_trials_leaves_every_mask_bit_identical():
    z, stimuli = repeated_trials()
    split = Split.of(stimuli, ["test" if s in ("face00", "face05", "face11") else "train" for s in stimuli])
    rows = split.training_rows
    altered = z.copy()
    altered[[i for i, role in enumerate(split.roles) if role == "test"]] = 1e3 * np.random.default_rng(5).random(120)
    names, roles = [stimuli[i] for i in rows], [split.roles[i] for i in rows]
    masks = [every_mask(split.training(which), names, roles) for which in (z, altered)]
    for before, after in zip(*masks, strict=True):
        np.testing.assert_array_equal(before.selected, after.selected)
        np.testing.assert_array_equal(before.mean_z, after.mean_z)
        np.testing.assert_array_equal(before.score, after.score)


@pytest.mark.parametrize("which", range(4))
def test_test_trials_are_refused(which):
    z, stimuli = repeated_trials()
    roles = ["train"] * (len(z) - 1) + ["test"]
    labels = np.ones(N_VOXELS)
    ask = [
        lambda: voxel_mask(z, roles, 2),
        lambda: reliability_mask(z, roles, stimuli, 2),
        lambda: region_mask(labels, [1], n_voxels=5, z=z, roles=roles),
        lambda: region_mask(labels, [1], z=z, roles=roles),
    ][which]
    with pytest.raises(LeakageError, match="test trials"):
        ask()


def test_roles_are_one_a_row():
    with pytest.raises(UserError, match="roles"):
        voxel_mask(np.zeros((3, 5)), ["train"], n_voxels=2)
    with pytest.raises(UserError, match="role of each trial"):
        region_mask(np.ones(5), [1], z=np.zeros((3, 5)))


NAMES = {"V1_L": 1, "V1_R": 4, "FFC_L": (2, 3), "V1": (1, 4)}


def test_regions_by_name_and_number():
    labels = np.array([0, 1, 2, 3, 4, 4])
    assert region_mask(labels, ["V1"], names=NAMES).selected.tolist() == [False, True, False, False, True, True]
    assert region_mask(labels, ["ffc_l", 1], names=NAMES).selected.tolist() == [False, True, True, True, False, False]
    own = region_mask(labels == 4, [1])
    assert own.selected.tolist() == [False] * 4 + [True] * 2 and own.kind == "regions"
    assert np.isnan(own.mean_z).all() and own.score is None


def test_the_most_active_voxels_of_regions():
    z = np.random.default_rng(0).standard_normal((20, 6))
    z += np.array([9, 1, 8, 2, 3, 9])
    z[3, 4] = np.nan
    labels = np.array([0, 1, 2, 1, 1, 0])
    mask = region_mask(labels, [1, 2], n_voxels=2, z=z, roles=["train"] * 20)
    assert np.flatnonzero(mask.selected).tolist() == [2, 3]
    assert np.flatnonzero(region_mask(labels, [1, 2], z=z, roles=["train"] * 20).selected).tolist() == [1, 2, 3]
    with pytest.raises(UserError, match="asks for 4 voxels, 3 of 6 are usable and in the regions"):
        region_mask(labels, [1, 2], n_voxels=4, z=z, roles=["train"] * 20)
    with pytest.raises(UserError, match="need the z of the training trials"):
        region_mask(labels, [1], n_voxels=2)
    with pytest.raises(UserError, match="z has 6 voxels, the labels have 5"):
        region_mask(labels[:5], [1], z=z, roles=["train"] * 20)


def test_unknown_and_empty_regions():
    labels = np.array([0, 1, 1])
    with pytest.raises(UserError, match=r"unknown region 'FFC_R' among 4 names: close ones are FFC_L"):
        region_mask(labels, ["V1", "FFC_R"], names=NAMES)
    with pytest.raises(UserError, match="none is close"):
        region_mask(labels, ["amygdala"], names=NAMES)
    with pytest.raises(UserError, match="list of names"):
        region_mask(labels, "V1_L", names=NAMES)
    with pytest.raises(UserError, match="no usable voxel lies in FFC_L: check"):
        region_mask(labels, ["FFC_L"], names=NAMES)
    with pytest.warns(DataWarning, match="no usable voxel lies in FFC_L"):
        assert region_mask(labels, ["V1_L", "FFC_L"], names=NAMES).selected.sum() == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        region_mask(labels, ["V1_L"], names=NAMES)


def test_names_of_an_atlas():
    assert regions_by_name({1: "a_L", 2: "a_R", 5: "stem", 6: "stem"}) == {
        "a_L": (1,),
        "a_R": (2,),
        "a": (1, 2),
        "stem": (5, 6),
    }


def test_whole_mask():
    mask = whole_mask(np.array([1, 0, 1]))
    assert mask.selected.tolist() == [True, False, True] and mask.kind == "all" and mask.n_dropped_nan == 1
    with pytest.raises(UserError, match="none of 2 voxels"):
        whole_mask(np.zeros(2))


def oblique(angle=0.3, step=2.0):
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * step
    affine[:3, 3] = (3, -4, 5)
    return affine


def atlas():
    return np.random.default_rng(0).integers(0, 50, (14, 11, 9)), np.array(
        [[1.0, 0, 0, -3], [0, 1, 0, -7], [0, 0, 1, 2], [0, 0, 0, 1]]
    )


def flipped(volume, affine, axis=0):
    new = affine.copy()
    new[:3, 3] += affine[:3, axis] * (volume.shape[axis] - 1)
    new[:3, axis] *= -1
    return np.flip(volume, axis), new


@pytest.mark.parametrize("grid", [oblique(), np.diag([1.5, 1.5, 1.5, 1.0]), np.diag([0.5, 0.5, 0.5, 1.0])])
def test_labels_do_not_depend_on_how_axes_are_stored(grid):
    values, affine = atlas()
    expected = labels_on_grid(values, affine, (9, 8, 7), grid)
    assert len(np.unique(expected)) > 10
    las_values, las_affine = flipped(values, affine)
    np.testing.assert_array_equal(labels_on_grid(las_values, las_affine, (9, 8, 7), grid), expected)
    turned_values, turned_affine = values.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]
    np.testing.assert_array_equal(labels_on_grid(turned_values, turned_affine, (9, 8, 7), grid), expected)
    target, las_grid = flipped(expected, grid)
    np.testing.assert_array_equal(labels_on_grid(values, affine, (9, 8, 7), las_grid), target)


def test_each_label_is_the_nearest_atlas_voxels():
    values, affine = atlas()
    grid = oblique(0.4, 1.7)
    got = labels_on_grid(values, affine, (9, 8, 7), grid)
    centres = np.indices(values.shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    inside = 0
    for index in np.ndindex(9, 8, 7):
        point = grid[:3, :3] @ index + grid[:3, 3]
        gap = np.abs(centres - point).max(axis=1)
        nearest = int(np.argmin(gap))
        inside += gap[nearest] < 0.5
        assert got[index] == (values.ravel()[nearest] if gap[nearest] < 0.5 else 0)
    assert inside > 50


def test_the_same_grid_gives_the_atlas_back_and_bad_atlases_are_refused():
    values, affine = atlas()
    np.testing.assert_array_equal(labels_on_grid(values, affine, (*values.shape, 100), affine), values)
    with_gap = values.astype(np.float32)[..., None]
    with_gap[0, 0, 0] = np.nan
    assert labels_on_grid(with_gap, affine, values.shape, affine)[0, 0, 0] == 0
    with pytest.raises(UserError, match="not probabilities"):
        labels_on_grid(values + 0.25, affine, values.shape, affine)
    with pytest.raises(UserError, match="one 3D volume"):
        labels_on_grid(np.zeros((3, 3, 3, 2)), affine, values.shape, affine)
    with pytest.raises(UserError, match="can be inverted"):
        labels_on_grid(values, np.diag([1.0, 0, 1, 1]), values.shape, affine)
