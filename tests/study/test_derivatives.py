from __future__ import annotations

import json

import pytest

from hyperdecode.errors import UserError
from hyperdecode.study.derivatives import Derivatives, write_json


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
