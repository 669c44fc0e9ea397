"""A study whose maps show that no voxel is beyond chance, and whose faces were not repeated, comes to its report."""

import numpy as np
import pytest

from hyperdecode.pipeline.map_files import MapFiles
from hyperdecode.pipeline.run import run_study
from hyperdecode.study.images import read_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.studies import new_study, settings, work

BASE = settings(null=True).model_dump()
CONFIG = type(settings()).model_validate(
    BASE
    | {
        "stimuli": BASE["stimuli"] | {"n_test": 6, "test_repeats": 1},
        "bold": BASE["bold"] | {"n_voxels": 100},
        "decoding": BASE["decoding"] | {"posterior": 0},
        "mapping": {"readout": "linear", "layers": (4, 19), "n_permutations": 100, "alpha": 0.01},
    }
)


# Nothing can be decoded from such voxels, and the decoder says so.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hyperdecode.errors.DataWarning")
def test_nothing_beyond_chance(tmp_path, tiny_generator):
    study = new_study(tmp_path / "study", CONFIG, tiny_generator)
    work(study, CONFIG, tiny_generator)
    run_study(study, CONFIG, read_stimuli(study), tiny_generator)
    files = MapFiles(Layout(study), "01")
    held = read_image(files.path("desc-layersthresholded_dseg.nii.gz"), 3, blank=True)
    ceiling = read_image(files.path("desc-noiseceiling_map.nii.gz"), 3, blank=True)
    assert not np.any(held.dataobj) and not np.isfinite(ceiling.dataobj).any()
    page = (study / "report.html").read_text()
    assert "all voxels, none of them beyond chance" in page and "Noise ceiling of sub-01" not in page
