from __future__ import annotations

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.study.images import image_space, iterate_volumes, open_image, read_image, repetition_time, same_grid

SHAPE = (6, 5, 4, 7)
AFFINE = np.array([[0, -2.0, 0, 5], [3.0, 0, 0.1, -4], [0, 0, 2.5, 1], [0, 0, 0, 1]])


@pytest.fixture(params=[".nii", ".nii.gz"])
def path(request, tmp_path):
    return tmp_path / f"series{request.param}"


def series(dtype=np.int16, shape=SHAPE):
    return np.random.default_rng(0).integers(1, 100, shape).astype(dtype)


def save(path, values, slope=None, inter=0.0, **header):
    image = nib.Nifti1Image(values, AFFINE)
    for key, value in header.items():
        image.header[key] = value
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
        image.header.set_data_dtype(np.int16)
    nib.save(image, path)
    return path


def patch(path, offset, data):
    """Change bytes of the header of a file that may be compressed."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as stream:
        content = bytearray(stream.read())
    content[offset : offset + len(data)] = data
    with opened(path, "wb") as stream:
        stream.write(bytes(content))


def refused(path, words, n_dimensions=4, **options):
    with pytest.raises(UserError, match=words) as error:
        read_image(path, n_dimensions, **options)
    assert path.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("i2", "i2"), ("u1", "u1"), ("i4", "i4"), ("f4", "f4"), ("f8", "f4"), (">i2", "i2"), (">f8", "f4"), ("u2", "u2")],
)
def test_types_of_values(path, dtype, expected):
    values = series(dtype)
    save(path, values)
    found = read_image(path, 4)
    assert found.dataobj.dtype == np.dtype(expected) and found.get_data_dtype() == np.dtype(expected)
    np.testing.assert_array_equal(found.dataobj, values)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)
    for k, volume in enumerate(iterate_volumes(path)):
        assert volume.dtype == np.dtype(expected)
        np.testing.assert_array_equal(volume, values[..., k])
    left = read_image(path, 4, in_memory=False)
    assert nib.is_proxy(left.dataobj)
    np.testing.assert_array_equal(np.asarray(left.dataobj), values)


def test_scaled_values_are_nibabels(path):
    save(path, series(np.float32) * 1.7 + 3, slope=0.0153, inter=-2.5)
    theirs = nib.load(path).get_fdata()
    assert len(np.unique(theirs)) > 50
    found = read_image(path, 4)
    assert found.dataobj.dtype == np.float32
    np.testing.assert_array_equal(found.dataobj, theirs.astype(np.float32))


def test_scaled_zeros_are_a_constant_and_zeros_are_nothing(path):
    values = np.zeros(SHAPE, np.int16)
    save(path, values)
    refused(path, "nothing but zeros")
    refused(path, "nothing but zeros", in_memory=False)
    np.testing.assert_array_equal(read_image(path, 4, blank=True).dataobj, values)
    patch(path, 112, np.array([1.0, 5.0], "<f4").tobytes())
    assert np.all(np.asarray(read_image(path, 4).dataobj) == 5)
    save(path, np.full(SHAPE, np.nan, np.float32))
    refused(path, "nothing but zeros")


def test_dimensions(path):
    save(path, series(shape=(6, 5, 4)))
    assert read_image(path, 3).shape == (6, 5, 4)
    refused(path, r"shape \(6, 5, 4\), expected a 4D series")
    save(path, series(shape=(6, 5, 4, 1)))
    assert read_image(path, 3).shape == (6, 5, 4)
    refused(path, "expected a 4D series")
    save(path, series())
    refused(path, "expected one 3D volume", n_dimensions=3)
    save(path, series(shape=(6, 5, 4, 1, 3)))
    refused(path, r"\(6, 5, 4, 1, 3\), expected a 4D series")
    save(path, series(shape=(6, 5)))
    refused(path, "expected a volume or a series of volumes")


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_file_that_is_cut_off(path, in_memory):
    # Short by the last byte alone, of the file and of what it unpacks to.
    save(path, np.random.default_rng(0).integers(0, 30000, SHAPE).astype(np.int16))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(path, "is truncated or not a NIfTI file", in_memory=in_memory)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
        refused(path, "it ends in volume 7 of 7", in_memory=in_memory)
        damaged = bytearray(whole)
        damaged[-6] ^= 1  # in the check sum
        path.write_bytes(bytes(damaged))
        refused(path, "is truncated or not a NIfTI file", in_memory=in_memory)


def test_a_header_that_asks_for_the_impossible(path):
    save(path, series())
    patch(path, 42, np.array([30000, 30000, 30000, 30000], "<i2").tobytes())
    refused(path, "its header asks for 1620000000000000352")
    save(path, series())
    patch(path, 42, np.array([-6], "<i2").tobytes())
    refused(path, "shape|truncated or not a NIfTI")
    save(path, series())
    patch(path, 108, np.array([1e9], "<f4").tobytes())
    refused(path, "truncated or not a NIfTI")
    path.write_bytes(b"\x00" * 400)
    refused(path, "truncated or not a NIfTI")


def test_other_things_than_series(path, tmp_path):
    refused(path, "does not exist: for git-annex or DataLad data")
    path.mkdir()
    refused(path, "no regular file")
    path.rmdir()
    save(path, series().astype(np.complex64))
    refused(path, "holds complex64 values, expected real numbers")
    rgb = np.zeros(SHAPE[:3], dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(path, rgb)
    refused(path, "expected real numbers")
    other = tmp_path / "series.mgz"
    nib.save(nib.MGHImage(series(np.float32), AFFINE), other)
    refused(other, "is a MGHImage, expected a NIfTI volume")


@pytest.mark.parametrize("rows", [np.zeros((3, 4)), np.full((3, 4), np.nan)])
def test_affine_that_maps_nowhere(path, rows):
    save(path, series())
    patch(path, 252, np.array([0, 1], "<i2").tobytes())
    patch(path, 280, rows.astype("<f4").tobytes())
    refused(path, "no usable affine")


@pytest.mark.parametrize(
    ("sform", "qform", "space"),
    [(4, 1, "mni"), (1, 4, "scanner"), (0, 4, "mni"), (0, 0, "unknown"), (2, 0, "aligned"), (3, 0, "talairach"),
     (5, 1, "other"), (99, 0, "unknown")],
)  # fmt: skip
def test_space_by_the_header(path, sform, qform, space):
    save(path, series())
    patch(path, 252, np.array([qform, sform], "<i2").tobytes())
    assert image_space(path) == space and image_space(nib.load(path)) == space


def test_repetition_time_and_grids(path):
    image = nib.Nifti1Image(series(), AFFINE)
    image.header.set_zooms((2, 2, 2, 1500))
    image.header.set_xyzt_units("mm", "msec")
    nib.save(image, path)
    opened = open_image(path)
    assert repetition_time(opened) == 1.5
    assert same_grid(opened, image)
    moved = AFFINE.copy()
    moved[0, 3] += 0.01
    assert not same_grid(opened, nib.Nifti1Image(series(), moved))
    assert not same_grid(opened, nib.Nifti1Image(series(shape=(6, 5, 5)), AFFINE))


def test_memory_of_a_series_left_on_the_disk(path):
    values = np.random.default_rng(0).integers(0, 99, (48, 48, 32, 40)).astype(np.int16)
    save(path, values)
    tracemalloc.start()
    read_image(path, 4, in_memory=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.2 * values.nbytes
    tracemalloc.start()
    read_image(path, 4)
    kept = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.nbytes < kept < 1.3 * values.nbytes
