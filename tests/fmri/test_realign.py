from __future__ import annotations

import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from nilearn.datasets import load_mni152_template
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.fmri.gaussnewton import Reference
from hyperdecode.fmri.realign import align_to, framewise_displacement, realign, rigid_matrix, rigid_parameters
from hyperdecode.fmri.resample import resample

AFFINE = np.array([[-3.0, 0.1, 0, 70], [0.1, 2.95, -0.7, -90], [0, 0.7, 3.2, -50], [0, 0, 0, 1.0]])
SHAPE = (48, 56, 36)
NOISE = 6.0


def points_of(shape, affine):
    return np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]


@pytest.fixture(scope="module")
def head():
    """A head on a grid finer than any series, as spline coefficients, and its mm to voxels."""
    template = load_mni152_template(resolution=2)
    values = ndimage.gaussian_filter(np.asarray(template.dataobj, dtype=np.float64), 0.8) * 900
    return ndimage.spline_filter(values), np.linalg.inv(template.affine)


def seen_by_scanner(head, matrix, rng, *, shape=SHAPE, affine=AFFINE, change=None):
    """The head moved by `matrix`: volume point q shows the tissue of reference point M^-1 q."""
    values, to_head = head
    source = to_head @ np.linalg.inv(matrix)
    at = source[:3, :3] @ points_of(shape, affine).T + source[:3, 3:]
    volume = ndimage.map_coordinates(values, at, order=3, prefilter=False)
    if change is not None:
        volume *= 1 + change(source[:3, :3] @ points_of(shape, affine).T + source[:3, 3:])
    return volume.reshape(shape) + rng.normal(0, NOISE, shape)


@pytest.fixture(scope="module")
def series(head):
    rng = np.random.default_rng(5)
    truth = np.cumsum(rng.normal(0, 1, (12, 6)) * [0.25, 0.25, 0.4, 0.004, 0.003, 0.003], axis=0)
    truth[0] = 0
    matrices = np.stack([rigid_matrix(p, points_of(SHAPE, AFFINE).mean(axis=0)) for p in truth])
    volumes = [seen_by_scanner(head, m, rng) * (1 + 0.003 * k) for k, m in enumerate(matrices)]
    return np.rint(np.stack(volumes, axis=-1)).astype(np.int16), matrices


@pytest.fixture(scope="module")
def motion(series):
    return realign(series[0], AFFINE)


def displacements(found, truth, inside, first=0):
    """Mean distance over the head, in mm, between where two sets of matrices put it, both told from one volume."""
    pairs = zip(found @ np.linalg.inv(found[first]), truth @ np.linalg.inv(truth[first]), strict=True)
    return np.array([np.linalg.norm(inside @ (f - t)[:3, :3].T + (f - t)[:3, 3], axis=1).mean() for f, t in pairs])


@pytest.fixture(scope="module")
def inside(series):
    return points_of(SHAPE, AFFINE)[(series[0][..., 0] > 300).ravel()][::50]


def test_known_motion_is_found(series, motion, inside):
    _, truth = series
    still = np.tile(np.eye(4), (len(truth), 1, 1))
    assert displacements(still, truth, inside).max() > 1.0
    errors = displacements(motion.matrices, truth, inside)
    assert errors[1:].mean() < 0.02 and errors.max() < 0.04
    turns = motion.matrices[:, :3, :3] @ motion.matrices[0, :3, :3].T @ truth[:, :3, :3].swapaxes(1, 2)
    assert np.degrees(Rotation.from_matrix(turns).magnitude()).mean() < 0.02
    assert motion.framewise_displacement[0] == 0 and motion.framewise_displacement.shape == (12,)
    assert not motion.outliers.any() and motion.outliers.shape == (12,)


def test_realigned_volumes_agree_better(series, motion):
    volumes, _ = series
    core = points_of(SHAPE, AFFINE)[(ndimage.binary_erosion(volumes[..., 0] > 300, iterations=3)).ravel()]
    still = np.tile(np.eye(4), (volumes.shape[3], 1, 1))
    gain = (1 + 0.003 * np.arange(volumes.shape[3]))[:, None]
    before, after = ((resample(volumes, AFFINE, m, core) / gain).std(axis=0).mean() for m in (still, motion.matrices))
    assert after < 0.5 * before


def test_the_mean_is_that_of_the_realigned_volumes(series, motion):
    volumes, _ = series
    taken = resample(volumes, AFFINE, motion.matrices, points_of(SHAPE, AFFINE))
    seen = np.isfinite(taken).all(axis=0)
    np.testing.assert_allclose(motion.mean.ravel()[seen], taken[:, seen].mean(axis=0), rtol=1e-5, atol=1e-2)


def test_large_motion_within_a_run(head, inside):
    rng = np.random.default_rng(6)
    # from most of these places fine steps alone end elsewhere, some of them with the head still in sight
    far = [
        [16.15, 15.93, 1.71, -0.39, 0.02, -0.04],
        [-9.29, 19.19, 13.59, 0.36, -0.23, 0.12],
        [9.46, -20.35, -11.47, 0.13, 0.38, 0.18],
        [-13.37, 10.41, 18.38, -0.22, -0.18, -0.33],
        [-21.59, 1.72, -17.33, 0.4, 0.04, 0.27],
    ]
    moves = np.zeros((2 * len(far) + 1, 6))
    moves[1::2] = far
    truth = np.stack([rigid_matrix(p, inside.mean(axis=0)) for p in moves])
    volumes = np.stack([seen_by_scanner(head, m, rng) for m in truth], axis=-1)
    errors = displacements(realign(volumes, AFFINE).matrices, truth, inside)
    assert displacements(np.tile(np.eye(4), (len(truth), 1, 1)), truth, inside).max() > 20
    assert errors.max() < 0.06


@pytest.mark.parametrize("change", ["activation", "drift"])
def test_a_change_of_signal_is_no_motion(head, inside, change):
    """Half of the volumes change where they lie, nobody moves: 5 % in a ball of 25 mm, or 2 % from left to right."""

    def activation(at):
        return 0.05 * (np.linalg.norm(at - np.array([[60], [30], [40]]), axis=0) < 12)

    def drift(at):
        return 0.02 * np.sin((at[0] - 49) / 40)

    rng = np.random.default_rng(7)
    changes = [None, {"activation": activation, "drift": drift}[change]] * 4
    volumes = np.stack([seen_by_scanner(head, np.eye(4), rng, change=c) for c in changes], axis=-1)
    still = np.tile(np.eye(4), (8, 1, 1))
    assert displacements(realign(volumes, AFFINE).matrices, still, inside)[1:].mean() < 0.02


def test_number_types_make_no_difference(series, motion, tmp_path):
    volumes, _ = series
    for same in (volumes.astype(np.float64), np.asfortranarray(volumes), volumes.astype(">i4")):
        np.testing.assert_array_equal(realign(same, AFFINE).matrices, motion.matrices)
    image = nib.Nifti1Image(volumes, AFFINE)
    image.header.set_slope_inter(0.5, 20)
    nib.save(image, tmp_path / "bold.nii.gz")
    scaled = realign(nib.load(tmp_path / "bold.nii.gz").dataobj, AFFINE)
    np.testing.assert_allclose(scaled.matrices, motion.matrices, atol=2e-3)
    np.testing.assert_allclose(scaled.mean, motion.mean * 0.5 + 20, atol=0.2)


def test_threads_make_no_difference(series, motion):
    for threads in (1, 3):
        again = realign(series[0], AFFINE, threads=threads)
        np.testing.assert_array_equal(again.matrices, motion.matrices)
        np.testing.assert_array_equal(again.mean, motion.mean)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_flipped_axes_give_the_same_motion(series, motion, axes):
    volumes, _ = series
    turn = np.eye(4)
    for axis in axes:
        turn[axis, axis], turn[axis, 3] = -1, SHAPE[axis] - 1
    flipped = realign(np.flip(volumes, axes), AFFINE @ turn)
    np.testing.assert_allclose(flipped.parameters, motion.parameters, atol=1e-3)
    np.testing.assert_allclose(flipped.centre, motion.centre, atol=1e-3)
    # at the faces it may turn on a hair whether a volume still reaches a voxel
    core = (slice(1, -1),) * 3
    np.testing.assert_allclose(np.flip(flipped.mean, axes)[core], motion.mean[core], atol=0.1)


def test_the_axes_of_a_file_do_not_matter_nor_those_of_space(series, motion):
    """Axes in another order (sagittal slices), and the whole room turned by an oblique prescription."""
    volumes, _ = series
    swapped = realign(volumes.transpose(1, 2, 0, 3), AFFINE[:, [1, 2, 0, 3]])
    np.testing.assert_allclose(swapped.parameters, motion.parameters, atol=1e-3)
    room = rigid_matrix([5.0, -9, 3, 0.4, -0.3, 0.9], np.zeros(3))
    turned = realign(volumes, room @ AFFINE)
    np.testing.assert_allclose(turned.matrices, room @ motion.matrices @ np.linalg.inv(room), atol=1e-3)


def lost_slices(volume, rng):
    return np.concatenate([volume[:, :, :14], 0.3 * volume[:, :, 14:18], volume[:, :, 18:]], axis=2)


SPIKES = {
    "lost slices": lost_slices,
    "one weak slice": lambda v, rng: v * np.where(np.arange(SHAPE[2]) == 17, 0.7, 1),
    "gain": lambda v, rng: 1.1 * v,
    "noise": lambda v, rng: v + rng.normal(0, 8 * NOISE, v.shape),
    "stripes": lambda v, rng: v + 80 * np.sin(1.3 * np.arange(SHAPE[1]))[:, None],
}
EMPTY = {
    "zeros": lambda v, rng: 0 * v,
    "constant": lambda v, rng: 0 * v + 500,
    "nan": lambda v, rng: v + np.nan,
    "inf": lambda v, rng: v + np.inf,
    "no head": lambda v, rng: rng.uniform(0, 1000, v.shape),
    "back to front": lambda v, rng: v[:, ::-1],
}


@pytest.mark.parametrize("name", [*SPIKES, *EMPTY])
def test_a_spike_volume_is_marked_and_spoils_nothing(series, motion, inside, name):
    volumes, truth = series
    rng = np.random.default_rng(8)
    spoiled = volumes.astype(np.float32)
    spoiled[..., 6] = (SPIKES | EMPTY)[name](spoiled[..., 6], rng)
    found = realign(spoiled, AFFINE)
    np.testing.assert_array_equal(np.flatnonzero(found.outliers), [6])
    errors = displacements(found.matrices, truth, inside)
    assert np.delete(errors, 6)[1:].mean() < 0.02
    # the mean does without the spike, so it is close to that of the clean series
    assert np.sqrt(np.mean((found.mean - motion.mean) ** 2)) < 3 and np.isfinite(found.mean).all()
    if name in EMPTY:
        np.testing.assert_array_equal(found.matrices[6], found.matrices[5])
        assert found.framewise_displacement[6] == 0
    else:
        assert errors[6] < 0.1


@pytest.mark.parametrize("name", ["lost slices", "gain", "zeros", "nan", "no head"])
def test_a_first_volume_that_is_a_spike_is_passed_over(series, inside, name):
    volumes, truth = series
    spoiled = volumes.astype(np.float32)
    spoiled[..., 0] = (SPIKES | EMPTY)[name](spoiled[..., 0], np.random.default_rng(9))
    found = realign(spoiled, AFFINE)
    np.testing.assert_array_equal(np.flatnonzero(found.outliers), [0])
    assert displacements(found.matrices, truth, inside, first=1)[2:].mean() < 0.02
    if name in EMPTY:
        np.testing.assert_array_equal(found.matrices[0], found.matrices[1])


def test_a_fit_tells_gain_and_what_is_left(head):
    """From a start 5 mm off, where the gain at first sight is wrong."""
    rng = np.random.default_rng(12)
    still, moved = np.eye(4), rigid_matrix([3.0, -3, 3, 0, 0, 0], np.zeros(3))
    image, volume = (seen_by_scanner(head, m, rng).astype(np.float32) for m in (still, moved))
    reference = Reference(image, AFFINE, 5.0, 4.0)
    fit = reference.align(reference.prepare(np.float32(1.2) * volume, AFFINE), np.linalg.inv(AFFINE), still)
    assert fit.gain == pytest.approx(1.2, rel=0.01)
    np.testing.assert_allclose(fit.matrix, moved, atol=0.03)
    assert fit.seen > 0.9 and fit.error < 0.03 and fit.unexplained < 0.05


def test_a_volume_with_a_few_bad_voxels_is_no_spike(series, motion):
    spoiled = series[0].astype(np.float32)
    spoiled[20, 20, 20, 3], spoiled[25, 30, 15] = np.nan, np.inf
    found = realign(spoiled, AFFINE)
    assert not found.outliers.any() and np.isfinite(found.mean).all()
    np.testing.assert_allclose(found.parameters, motion.parameters, atol=0.01)


def test_memory_does_not_grow_with_the_run(series):
    volumes = series[0][..., :6]
    one = volumes[..., 0].size * 4

    def peak(n):
        run = np.concatenate([volumes] * n, axis=-1)
        tracemalloc.start()
        # One thread: with more of them, how many volumes are in hand at a time depends on the clock.
        realign(run, AFFINE, threads=1)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    short, long = peak(1), peak(3)
    assert long - short < one, "12 volumes more cost more memory than one volume"


@pytest.mark.parametrize(
    "moved", [[12.0, -9, 14, 0.09, -0.07, 0.1], [0.4, 0, -0.3, 0, 0.01, 0], [0, 0, -20, -0.1, 0, 0]]
)
def test_two_sessions_are_laid_over_each_other(head, inside, moved):
    """Other grid, other field of view, other gain, a head that lies elsewhere."""
    rng = np.random.default_rng(10)
    truth = rigid_matrix(moved, inside.mean(axis=0))
    other = np.array([[2.5, 0, 0.2, -80], [0, 2.5, 0, -110], [-0.2, 0, 2.5, -55], [0, 0, 0, 1.0]])
    reference = seen_by_scanner(head, np.eye(4), rng)
    image = 3.0 * seen_by_scanner(head, truth, rng, shape=(64, 72, 48), affine=other)
    found = align_to(image, reference, other, AFFINE)
    away = found - truth
    assert np.linalg.norm(inside @ away[:3, :3].T + away[:3, 3], axis=1).max() < 0.1
    back = align_to(reference, image, AFFINE, other) @ truth - np.eye(4)
    assert np.linalg.norm(inside @ back[:3, :3].T + back[:3, 3], axis=1).max() < 0.1


def test_two_heads_that_do_not_match_are_told(series):
    mean = series[0][..., 0].astype(np.float32)
    other = ndimage.gaussian_filter(np.random.default_rng(11).uniform(0, 1000, SHAPE), 2).astype(np.float32)
    with pytest.warns(DataWarning, match="do not match"):
        align_to(other, mean, AFFINE, AFFINE)
    with pytest.raises(UserError, match=r"the image to align must be 3D, got shape \(48, 56, 36, 12\)"):
        align_to(series[0], mean, AFFINE, AFFINE)
    with pytest.raises(UserError, match="too little structure"):
        align_to(mean, np.zeros_like(mean), AFFINE, AFFINE)


def test_parameters_make_their_matrix_again():
    parameters, centre = np.array([1.0, -2.0, 0.5, 0.02, -0.05, 0.1]), np.array([10.0, -20.0, 5.0])
    np.testing.assert_allclose(rigid_parameters(rigid_matrix(parameters, centre), centre), parameters, atol=1e-12)
    moves = np.array([[0, 0, 0, 0, 0, 0], [1, 0, -1, 0, 0.01, 0], [1, 0, -1, 0, 0.01, 0]])
    np.testing.assert_allclose(framewise_displacement(moves), [0, 2.5, 0])


def test_progress_reaches_its_end(series):
    calls = []
    realign(series[0][..., :5], AFFINE, progress=lambda *seen: calls.append(seen))
    assert calls == [(k, 10) for k in range(1, 11)]


def test_unusable_series(series):
    with pytest.raises(UserError, match=r"4D series.*\(4, 4, 4\)"):
        realign(np.zeros((4, 4, 4)), AFFINE)
    with pytest.raises(UserError, match="3 of 3 volumes are constant"):
        realign(np.zeros((12, 12, 12, 3)), AFFINE)
    half = series[0][..., :6].copy()
    half[..., 2:5] = 7
    with pytest.raises(UserError, match="3 of 6 volumes are constant"):
        realign(half, AFFINE)
    dots = np.zeros((12, 12, 12, 3))
    dots[6, 6, 6] = 1
    with pytest.raises(UserError, match="too little structure"):
        realign(dots, AFFINE)
    with pytest.raises(UserError, match="do not match the volume"):
        realign(np.random.default_rng(0).uniform(0, 1, (20, 20, 20, 6)), np.diag([6.0, 6, 6, 1]))
