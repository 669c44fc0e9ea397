import numpy as np
import pytest

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.mapping.neighbourhoods import Neighbourhoods, ball_neighbourhoods, cube_neighbourhoods

OBLIQUE = np.array([[1.5, 0.4, 0.2, -40], [-0.4, 1.9, 0.1, 10], [0.3, 0, 2.6, 5], [0, 0, 0, 1]])


def grid(mm):
    return np.diag([*np.broadcast_to(mm, 3), 1.0])


def scattered(n=300, seed=0):
    """Voxels of a blob, in any order, not from 0."""
    cells = np.argwhere(np.random.default_rng(seed).random((9, 8, 10)) < 0.7)
    return np.random.default_rng(seed + 1).permutation(cells)[:n] + np.array([40, 3, -2])


def by_hand(coordinates, near):
    """Members of every voxel by comparing all pairs."""
    return [np.flatnonzero(near(coordinates - voxel)) for voxel in coordinates]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for k, members in enumerate(expected):
        np.testing.assert_array_equal(found.of(k), members)


@pytest.mark.parametrize(("mm", "side"), [(2, 7), (3, 5), (2.5, 5), (4, 3), (7, 3), (14 / 6, 7), (20, 1), (1, 15)])
def test_fourteen_mm_are_the_nearest_odd_number_of_voxels(mm, side):
    line = np.stack([np.arange(41), np.zeros(41, int), np.zeros(41, int)], axis=1)
    if side == 1:
        with pytest.warns(DataWarning, match="41 of 41 voxels are alone in their cube"):
            found = cube_neighbourhoods(line, grid(mm))
    else:
        found = cube_neighbourhoods(line, grid(mm))
    np.testing.assert_array_equal(found.of(20), np.arange(20 - side // 2, 21 + side // 2))


def test_cubes_are_those_of_all_pairs():
    u = scattered()
    found = cube_neighbourhoods(u, grid([2, 3, 2]), 10.0)  # 5, 3 and 5 voxels
    assert_same(found, by_hand(u, lambda away: (np.abs(away) <= [2, 1, 2]).all(axis=1)))
    assert found.members.dtype == np.int32
    np.testing.assert_array_equal(found.centres, np.arange(len(u)))
    np.testing.assert_array_equal(found.sizes, [len(found.of(k)) for k in range(len(found))])


def test_a_cube_follows_the_axes_of_an_oblique_grid():
    u, turn = scattered(), np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    oblique = np.eye(4)
    oblique[:3, :3] = 2 * turn
    straight = cube_neighbourhoods(u, None, side_voxels=7)
    np.testing.assert_array_equal(cube_neighbourhoods(u, oblique).members, straight.members)


def test_balls_are_those_of_all_pairs_in_mm_on_a_sheared_grid():
    u = scattered()
    found = ball_neighbourhoods(u, OBLIQUE, 4.5)
    assert_same(found, by_hand(u, lambda away: np.linalg.norm(away @ OBLIQUE[:3, :3].T, axis=1) <= 4.5))
    assert found.sizes.max() > 10


def test_a_ball_holds_what_lies_at_its_radius_whatever_the_header_rounds():
    cells = np.argwhere(np.ones((5, 5, 5)))
    inner = np.ravel_multi_index((2, 2, 2), (5, 5, 5))
    for mm in (2.0, float(np.float32(2.0000002))):
        assert ball_neighbourhoods(cells, grid(mm), 2.0).sizes[inner] == 7


def test_a_ball_larger_than_the_mask_holds_all_of_it():
    u = scattered()
    assert (ball_neighbourhoods(u, grid(2), 1e5).sizes == len(u)).all()


def test_strides_thin_the_centres_and_not_the_members():
    u = scattered()
    thin, all_of_them = (cube_neighbourhoods(u, grid(2), stride=stride) for stride in (2, 1))
    np.testing.assert_array_equal(thin.centres, np.flatnonzero((u % 2 == 0).all(axis=1)))
    for k, centre in enumerate(thin.centres):
        np.testing.assert_array_equal(thin.of(k), all_of_them.of(centre))


def test_cut_in_pieces_it_is_the_same(monkeypatch):
    u = scattered()
    whole = cube_neighbourhoods(u, grid(2))
    monkeypatch.setattr("hyperdecode.mapping.neighbourhoods.LOOKUPS", 1000)
    cut = cube_neighbourhoods(u, grid(2))
    np.testing.assert_array_equal(cut.members, whole.members)
    np.testing.assert_array_equal(cut.starts, whole.starts)


def test_isolated_voxels_are_counted():
    u = np.array([[0, 0, 0], [20, 0, 0], [21, 0, 0], [0, 50, 0]])
    with pytest.warns(DataWarning, match="2 of 4 voxels are alone in their cube"):
        found = cube_neighbourhoods(u, grid(2))
    np.testing.assert_array_equal(found.sizes, [1, 2, 2, 1])
    with pytest.warns(DataWarning, match="2 of 4 voxels are alone in their ball"):
        ball_neighbourhoods(u, grid(2), 6.0)
    assert len(cube_neighbourhoods(u, None, side_voxels=1)) == 4  # asked for: nothing to warn of


@pytest.mark.parametrize(
    ("coordinates", "match"),
    [
        (np.empty((0, 3), int), "at least one voxel"),
        (np.zeros((4, 2), int), "3 indices"),
        (np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]]), "1 of 3 voxels have the coordinates of another"),
        (np.array([[0.0, 0, 0]]), "not mm"),
        (np.array([[0, 0, 0], [10**6, 10**6, 10**6]]), "more than a scan"),
    ],
)
def test_coordinates_that_are_none(coordinates, match):
    with pytest.raises(UserError, match=match):
        cube_neighbourhoods(coordinates, grid(2))
    with pytest.raises(UserError, match=match):
        ball_neighbourhoods(coordinates, grid(2), 4.0)


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.eye(3), np.diag([2, 2, np.nan, 1])])
def test_affines_that_are_none(affine):
    with pytest.raises(UserError, match="can be inverted"):
        cube_neighbourhoods(scattered(), affine)
    with pytest.raises(UserError, match="can be inverted"):
        ball_neighbourhoods(scattered(), affine, 4.0)


def test_a_mask_without_an_affine():
    with pytest.raises(UserError, match="need the affine of the mask, got none"):
        cube_neighbourhoods(scattered(), None)


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
def test_sizes_that_are_none(size):
    with pytest.raises(UserError, match="positive number of mm"):
        cube_neighbourhoods(scattered(), grid(2), size)
    with pytest.raises(UserError, match="positive number of mm"):
        ball_neighbourhoods(scattered(), grid(2), size)


@pytest.mark.parametrize("side", [0, 4, -3])
def test_even_sides(side):
    with pytest.raises(UserError, match="odd side"):
        cube_neighbourhoods(scattered(), grid(2), side_voxels=side)


def test_strides_that_leave_nothing():
    with pytest.raises(UserError, match="none of 2 voxels"):
        cube_neighbourhoods(np.array([[1, 1, 1], [1, 1, 2]]), grid(2), stride=5)
    with pytest.raises(UserError, match="whole number of voxels from 1, got 0"):
        cube_neighbourhoods(scattered(), grid(2), stride=0)


def test_neighbourhoods_made_by_hand_are_checked():
    members = np.arange(3, dtype=np.int32)
    with pytest.raises(UserError, match="1 of 2 neighbourhoods are empty"):
        Neighbourhoods(np.arange(2), members, np.array([0, 3, 3]))
    with pytest.raises(UserError, match="need 3 starts from 0 to 3"):
        Neighbourhoods(np.arange(2), members, np.array([0, 3]))
    with pytest.raises(UserError, match="negative"):
        Neighbourhoods(np.arange(1), members - 1, np.array([0, 3]))
