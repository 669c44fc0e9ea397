from __future__ import annotations

import json

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.study.derivatives import Derivatives, write_image, write_json, write_volumes


@pytest.fixture
def target(tmp_path):
    (tmp_path / "raw").mkdir()
    write_json(tmp_path / "raw" / "dataset_description.json", {"Name": "faces"})
    return Derivatives(tmp_path / "out", tmp_path / "raw")


def test_description(target):
    target.prepare()
    content = json.loads((target.root / "dataset_description.json").read_text())
    assert content["DatasetType"] == "derivative" and content["GeneratedBy"][0]["Name"] == "hyperdecode"
    assert "faces" in content["Name"]
    target.prepare()


def test_a_data_set_without_a_name_is_called_as_told(tmp_path):
    for name, said in (("my study", "hyperdecode: my study"), ("", "hyperdecode: raw")):
        made = Derivatives(tmp_path / f"out {name}", tmp_path / "raw", name)
        made.prepare()
        assert json.loads((made.root / "dataset_description.json").read_text())["Name"] == said


def test_folders_that_cannot_be_used(target, tmp_path):
    with pytest.raises(UserError, match="another data set"):
        Derivatives(tmp_path / "raw", tmp_path / "raw").prepare()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give OUT, a folder you may write to"):
        Derivatives(tmp_path / "file" / "out", tmp_path / "raw").prepare()


@pytest.mark.parametrize("space", ["mni", "scanner"])
def test_volumes_one_by_one_make_the_bytes_of_the_whole_image(tmp_path, space):
    values = np.random.default_rng(0).standard_normal((30, 25, 20, 70)).astype(np.float32)
    values[:9] = 0
    affine = np.array([[-2, 0, 0.1, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    write_image(tmp_path / "a.nii.gz", values, affine, space=space)
    write_volumes(tmp_path / "b.nii.gz", (values[..., k] for k in range(70)), values.shape, affine, space)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_volumes_that_are_not_those_announced_leave_no_file(tmp_path):
    volumes = np.zeros((4, 3, 2, 5), np.float32)
    for shape in ((4, 3, 2, 6), (4, 3, 2, 4), (3, 4, 2, 5)):
        with pytest.raises(ValueError):
            write_volumes(tmp_path / "a.nii.gz", (volumes[..., k] for k in range(5)), shape, np.eye(4), "mni")
    assert list(tmp_path.iterdir()) == []
