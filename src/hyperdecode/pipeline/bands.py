"""The brain region of each voxel of a mask, for decoders that weigh regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.fmri.mask import labels_on_grid
from hyperdecode.pipeline.masking import MASK_NAMES
from hyperdecode.study.images import image_space, read_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings
from hyperdecode.weights.atlas import load_atlas

__all__ = ["bands_of"]

SMALLEST = 50
"""Voxels that make a region a band of its own."""


def bands_of(
    layout: Layout, bold: BoldSettings, subject: str, voxels: NDArray[np.int64], *, smallest: int = SMALLEST
) -> list[str]:
    """Return the region of each voxel, both hemispheres together; small regions and unlabelled voxels are one band.

    Raises
    ------
    UserError
        When the mask does not lie in MNI space and `bold` names no image of regions.
    """
    mask = read_image(layout.subject(subject, f"desc-{MASK_NAMES[bold.voxels]}_mask.nii.gz"), n_dimensions=3)
    if bold.region_image:
        image = read_image(layout.study / bold.region_image, n_dimensions=3)
        labels, affine = np.asarray(image.dataobj), image.affine
        names = {int(label): str(int(label)) for label in np.unique(labels)}
    elif image_space(mask) == "mni":
        atlas = load_atlas()
        labels, affine = atlas.labels, atlas.affine
        names = {label: name.removesuffix("_L").removesuffix("_R") for label, name in atlas.names.items()}
    else:
        raise UserError(
            "banded ridge takes the region of each voxel from the atlas in MNI space, and this mask lies elsewhere: "
            "name bold.region_image, or take ridge"
        )
    found = labels_on_grid(labels, affine, mask.shape, np.asarray(mask.affine)).ravel()[voxels]
    regions = np.array([names.get(int(label), "") if label else "" for label in found])
    values, counts = np.unique(regions, return_counts=True)
    small = set(values[counts < smallest])
    return ["elsewhere" if not region or region in small else str(region) for region in regions]
