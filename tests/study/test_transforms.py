from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hyperdecode.errors import UserError
from hyperdecode.study.transforms import (
    read_matrices,
    read_warp,
    write_itk_matrix,
    write_itk_warp,
    write_matrices,
    write_warp,
)

AFFINE = np.array([[0, -2.1, 0.3, 20], [1.9, 0, 0, -30], [0, 0.2, 2.5, 11], [0, 0, 0, 1.0]])


@pytest.fixture
def motion():
    rng = np.random.default_rng(0)
    matrices = np.tile(np.eye(4), (5, 1, 1))
    matrices[:, :3, :3] = Rotation.from_rotvec(0.3 * rng.standard_normal((5, 3))).as_matrix()
    matrices[:, :3, 3] = 10 * rng.standard_normal((5, 3))
    return matrices


@pytest.fixture
def warp():
    return np.random.default_rng(1).normal(0, 4, (6, 5, 4, 3)).astype(np.float32)


def test_what_was_written_is_read_to_the_last_bit(tmp_path, motion, warp):
    path = write_matrices(tmp_path / "a" / "motion.json", motion)
    assert np.array_equal(read_matrices(path, rigid=True), motion)
    assert np.array_equal(read_matrices(write_matrices(tmp_path / "one.json", AFFINE)), AFFINE[None])
    for name in ("warp.nii.gz", "warp.nii"):
        values, affine = read_warp(write_warp(tmp_path / name, warp, AFFINE))
        assert np.array_equal(values, warp) and values.dtype == np.float32
        np.testing.assert_allclose(affine, AFFINE, rtol=1e-6)  # NIfTI keeps an affine in single precision
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "one.json", "warp.nii", "warp.nii.gz"]


def test_an_affine_of_the_grid_survives_a_second_round_to_the_last_bit(tmp_path, warp):
    _, once = read_warp(write_warp(tmp_path / "warp.nii.gz", warp, AFFINE))
    _, twice = read_warp(write_warp(tmp_path / "warp.nii.gz", warp, once))
    assert np.array_equal(once, twice)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "no readable file of matrices"),
        ("[1, 2]", "no readable file of matrices"),
        ('{"Matrices": [[1, 2], [3]]}', "no readable file of matrices"),
        ("[" * 100_000, "no readable file of matrices"),
        ('{"Matrices": []}', r"shape \(n, 4, 4\)"),
        (json.dumps({"Matrices": np.zeros((2, 3, 4)).tolist()}), r"shape \(n, 4, 4\)"),
        (json.dumps({"Matrices": (np.eye(4) * np.nan).tolist()}), "finite"),
        (json.dumps({"Matrices": np.ones((4, 4)).tolist()}), "last row 0 0 0 1"),
        (json.dumps({"Matrices": np.diag([1, 1, 0, 1]).tolist()}), "invertible"),
        (json.dumps({"Matrices": (np.eye(4) + np.eye(4, k=3) * 1e5).tolist()}), "less than 2000 mm"),
        (json.dumps({"Matrices": np.diag([1.01, 1, 1, 1]).tolist()}), "rotations and shifts"),
        (json.dumps({"Matrices": np.diag([-1, 1, 1, 1]).tolist()}), "rotations and shifts"),
    ],
)
def test_broken_matrices_are_refused_in_one_line(tmp_path, content, match):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError, match=match) as caught:
        read_matrices(path, rigid=True)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_broken_warps_are_refused_in_one_line(tmp_path, warp):
    def refused(match, path=tmp_path / "x.nii.gz"):
        with pytest.raises(UserError, match=match) as caught:
            read_warp(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)

    refused("does not exist")
    nib.save(nib.Nifti1Image(warp[..., 0], AFFINE), tmp_path / "x.nii.gz")
    refused(r"shape \(x, y, z, 3\)")
    nib.save(nib.Nifti1Image(np.where(warp > 9, np.nan, warp), AFFINE), tmp_path / "x.nii.gz")
    refused("finite displacements")
    nib.save(nib.Nifti1Image(1000 * warp, AFFINE), tmp_path / "x.nii.gz")
    refused("finite displacements up to 200 mm")
    whole = write_warp(tmp_path / "x.nii.gz", warp, AFFINE).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"not a NIfTI", b"", whole[:200] + b"\x00" * 40 + whole[240:]):
        (tmp_path / "x.nii.gz").write_bytes(damaged)
        refused("no readable displacement field")


def test_nothing_broken_is_written(tmp_path, warp):
    with pytest.raises(UserError, match="finite"):
        write_warp(tmp_path / "x.nii.gz", warp * np.nan, AFFINE)
    with pytest.raises(UserError, match="finite"):
        write_matrices(tmp_path / "x.json", np.full((4, 4), np.inf))
    with pytest.raises(UserError, match=r"shape \(x, y, z, 3\)"):
        write_itk_warp(tmp_path / "x.nii.gz", warp[0], AFFINE)
    assert not list(tmp_path.iterdir())


def test_itk_moves_points_as_we_do(tmp_path, motion, warp):
    """The peer reads our files; its points are in LPS."""
    ants = pytest.importorskip("ants")
    flip = np.array([-1, -1, 1])
    points = np.random.default_rng(2).normal(0, 20, (4, 3))
    affine = motion[1] @ np.diag([1.1, 0.9, 1.0, 1.0])
    transform = ants.read_transform(str(write_itk_matrix(tmp_path / "affine.txt", affine)))
    for p in points:
        there = flip * np.array(transform.apply_to_point(tuple(flip * p)))
        # antspyx reads in single precision.
        np.testing.assert_allclose(there, affine[:3, :3] @ p + affine[:3, 3], atol=1e-5)
    # Right angles only: ITK reads no shears.
    grid = motion[2] @ np.diag([2.0, 2.0, 3.0, 1.0])
    image = ants.image_read(str(write_itk_warp(tmp_path / "warp.nii.gz", warp, grid)))
    field = ants.transform_from_displacement_field(image)
    for voxel in ((0, 0, 0), (2, 3, 1), (4, 3, 2)):
        p = grid[:3, :3] @ voxel + grid[:3, 3]
        np.testing.assert_allclose(flip * np.array(field.apply_to_point(tuple(flip * p))), p + warp[voxel], atol=1e-3)
