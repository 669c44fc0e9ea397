"""Real fMRI whose truth is known: the studyforrest visual localizer, beside the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.pipeline.preprocess import preprocess
from hyperdecode.study.settings import BoldSettings

ROOT = Path(__file__).parents[1]
REAL = ROOT / "../shared/data/studyforrest-localizer"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the studyforrest localizer is not beside this repository")


def test_an_unknown_condition_stops_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"no condition 'faces' .* body, face, house, object, scene, scramble"):
        preprocess(REAL, tmp_path / "out", contrast="faces > other")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_localizer_comes_out(tmp_path):
    out, figures_file = tmp_path / "out", tmp_path / "figures.json"
    script = ROOT / "benchmarks" / "validation_localizer.py"
    subprocess.run([sys.executable, script, REAL, out, "--json", figures_file], check=True, capture_output=True)
    figures = json.loads(figures_file.read_text())
    for contrast in ("face > other", "scene + house > other"):
        for side in ("left", "right"):
            assert figures[contrast][side] is not None
    assert all(figures["face > other"][side]["in_expected_box"] for side in ("left", "right"))
    assert all(figures["face > other"][side]["z"] > 5 for side in ("left", "right"))
    # With 12 blocks an accuracy moves by several per cent with the grid and the number of voxels: all must beat chance.
    found = figures["classification"]
    assert len(found) == 6 and all(one["accuracy"] > 0.3 for one in found.values())
    assert all(one["p_value"] < 0.05 for one in found.values())
    assert found["2 mm, 4096 voxels"]["p_value"] < 0.01
    assert figures["peak_memory_gb"] < 6

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    settings = BoldSettings(voxel_size=3)
    (run,) = preprocess(REAL, out, contrast="face > other", bold=settings)
    assert run.redone == ()
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    z = nib.load(run.files["single_trial"])
    assert z.shape[3] == 192 == len(pd.read_csv(run.files["trials"], sep="\t"))
    assert np.asarray(nib.load(run.files["mask"]).dataobj).sum() == 4096
    assert run.files["contrast"].name.endswith("_contrast-faceOther_stat-z_statmap.nii.gz")
    assert "_space-MNI" in run.files["contrast"].name
    assert run.files["contrast_figure"].stat().st_size > 10_000
    with pytest.raises(UserError, match="other mask_voxels: use --force"):
        preprocess(REAL, out, contrast="face > other", bold=settings.model_copy(update={"n_voxels": 100}))
