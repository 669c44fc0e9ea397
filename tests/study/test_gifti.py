import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from hyperdecode.errors import UserError
from hyperdecode.mapping.surface import load_cortex
from hyperdecode.study.gifti import label_surface_maps, surface_maps, write_surface_maps

AFFINE = np.array([[4.0, 0, 0, -90], [0, 4, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]])
X, Y, _ = np.moveaxis(apply_affine(AFFINE, np.moveaxis(np.indices((46, 56, 48)), 0, -1)), -1, 0)


def test_labels_come_back_with_names_colours_and_sides(tmp_path):
    volume = np.where(Y < -60, np.where(X < 0, 1, 2), 0).astype(np.uint8)
    maps = label_surface_maps(nib.Nifti1Image(volume, AFFINE), "layer", ["layer 4", "layer 19"], ["#ff0000", "#0000ff"])
    paths = write_surface_maps(maps, tmp_path, "sub-01", "desc-layers_dseg")
    assert [path.name for path in paths] == [
        f"sub-01_hemi-{side}_space-fsaverage5_desc-layers_dseg.label.gii" for side in "LR"
    ]
    for path, side, own in zip(paths, ("left", "right"), (1, 2), strict=True):
        image = nib.load(path)
        labels = image.darrays[0].data
        assert labels.dtype == np.int32 and labels.shape == (10_242,)
        assert image.labeltable.get_labels_as_dict() == {0: "none", 1: "layer 4", 2: "layer 19"}
        assert image.labeltable.labels[own].rgba == ((1, 0, 0, 1) if own == 1 else (0, 0, 1, 1))
        assert image.meta["AnatomicalStructurePrimary"] == f"Cortex{side.title()}"
        behind = load_cortex()[side].pial[:, 1] < -70
        assert np.mean(labels[behind] == own) > 0.9 and (labels[load_cortex()[side].white[:, 1] > -50] == 0).all()


def test_numbers_come_back_with_nan_outside_the_mask(tmp_path):
    volume = np.where(Y < -60, Y, np.nan).astype(np.float32)
    maps = surface_maps(nib.Nifti1Image(volume, AFFINE), "loss")
    paths = write_surface_maps(maps, tmp_path, "sub-01", "loss")
    assert paths[1].name == "sub-01_hemi-R_space-fsaverage5_loss.func.gii"
    for path, side in zip(paths, ("left", "right"), strict=True):
        array = nib.load(path).darrays[0]
        cortex = load_cortex()[side]
        assert array.meta["Name"] == "loss" and array.data.dtype == np.float32
        behind = np.maximum(cortex.white[:, 1], cortex.pial[:, 1]) < -64
        np.testing.assert_allclose(array.data[behind], (cortex.white + cortex.pial)[behind, 1] / 2, atol=2.5)
        assert np.isnan(array.data[np.minimum(cortex.white[:, 1], cortex.pial[:, 1]) > -56]).all()


def test_labels_without_names_are_refused():
    image = nib.Nifti1Image(np.full((4, 4, 4), 3, np.uint8), AFFINE)
    with pytest.raises(UserError, match="labels up to 3, 2 names and 2 colours came"):
        label_surface_maps(image, "layer", ["a", "b"], ["red", "blue"])
