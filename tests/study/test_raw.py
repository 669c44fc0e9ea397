import gzip
import itertools
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.study.config import preset
from hyperdecode.study.raw import Series, bids_image, run_files, write_dataset, write_series

AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2.5, 0, -126], [0, 0, 3.0, -72], [0, 0, 0, 1]])


def volumes(seed=0, shape=(7, 5, 4, 9)):
    return np.random.default_rng(seed).integers(-300, 3000, shape).astype(np.int16)


def series(values, sizes, space="mni"):
    edges = np.cumsum([0, *sizes])
    pieces = (values[..., a:b] for a, b in itertools.pairwise(edges))
    return Series(pieces, values.shape, AFFINE, 1.5, space)


@pytest.mark.parametrize("sizes", [(9,), (4, 4, 1), (1,) * 9])
def test_pieces_come_back_as_one_series(tmp_path, sizes):
    path = tmp_path / "func" / "bold.nii.gz"
    write_series(path, series(volumes(), sizes))
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), volumes())
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.header.get_zooms() == pytest.approx((2, 2.5, 3, 1.5))
    assert image.header.get_xyzt_units() == ("mm", "sec") and image.get_data_dtype() == np.int16
    assert image.get_sform(coded=True)[1] == image.get_qform(coded=True)[1] == 4
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=1e-5)


def test_bytes_depend_on_the_values_alone(tmp_path):
    for name, sizes in (("a", (9,)), ("b", (2, 7))):
        write_series(tmp_path / f"{name}.nii.gz", series(volumes(), sizes))
    a, b = ((tmp_path / f"{name}.nii.gz").read_bytes() for name in "ab")
    assert gzip.decompress(a) == gzip.decompress(b)
    write_series(tmp_path / "c.nii.gz", series(volumes(), (9,)))
    assert (tmp_path / "c.nii.gz").read_bytes() == a


def test_a_native_head_is_not_called_mni(tmp_path):
    write_series(tmp_path / "a.nii.gz", series(volumes(), (9,), "scanner"))
    assert nib.load(tmp_path / "a.nii.gz").get_sform(coded=True)[1] == 1
    image = bids_image(nib.Nifti1Image(volumes()[..., 0], AFFINE), "scanner")
    assert image.get_sform(coded=True)[1] == 1 and image.header.get_xyzt_units()[0] == "mm"


def test_pieces_that_are_not_the_whole(tmp_path):
    path = tmp_path / "bold.nii.gz"
    path.write_text("the old file")
    with pytest.raises(UserError, match="was to have 9 volumes and got 8"):
        write_series(path, Series([volumes()[..., :8]], (7, 5, 4, 9), AFFINE, 1.5, "mni"))
    with pytest.raises(UserError, match=r"a piece of bold.nii.gz is int16 \(7, 5, 3, 9\)"):
        write_series(path, Series([volumes()[:, :, :3]], (7, 5, 4, 9), AFFINE, 1.5, "mni"))
    assert path.read_text() == "the old file" and list(tmp_path.iterdir()) == [path]


def test_a_dataset_keeps_what_people_wrote(tmp_path):
    write_dataset(tmp_path, preset("paper", name="Mine"), "From nowhere.")
    assert json.loads((tmp_path / "dataset_description.json").read_text())["Name"] == "Mine"
    assert "From nowhere." in (tmp_path / "README").read_text()
    assert "study.toml" in (tmp_path / ".bidsignore").read_text().splitlines()
    (tmp_path / "README").write_text("my own words")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-02\t031\n")
    write_dataset(tmp_path, preset("paper", subjects=("01", "02", "03")), "Elsewhere.")
    assert (tmp_path / "README").read_text() == "my own words"
    table = pd.read_csv(tmp_path / "participants.tsv", sep="\t", dtype=str)
    assert table["participant_id"].tolist() == ["sub-02", "sub-01", "sub-03"] and table["age"][0] == "031"
    (tmp_path / "participants.tsv").write_text("who\nsub-02\n")
    with pytest.raises(UserError, match="lacks the column participant_id"):
        write_dataset(tmp_path, preset("paper"), "")


def test_names(tmp_path):
    files = run_files(tmp_path, preset("paper", task="seeing"), "A1", 3)
    assert files.events == tmp_path / "sub-A1" / "func" / "sub-A1_task-seeing_run-03_events.tsv"
    assert files.bold.name == "sub-A1_task-seeing_run-03_bold.nii.gz"
    assert files.sidecar.name == "sub-A1_task-seeing_run-03_bold.json"
