"""Maps on fsaverage5 as GIFTI files, which Connectome Workbench, FreeView and nilearn read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.colors import to_rgba
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable, GiftiMetaData
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path
from hyperdecode.mapping.surface import HEMISPHERES, Hemisphere, load_cortex, sample_labels, sample_values

__all__ = ["label_surface_maps", "surface_maps", "write_surface_maps"]

STRUCTURES: dict[Hemisphere, tuple[str, str]] = {"left": ("L", "CortexLeft"), "right": ("R", "CortexRight")}


def surface_maps(img: Any, name: str) -> dict[Hemisphere, GiftiImage]:
    """Read a map of numbers onto fsaverage5.

    Parameters
    ----------
    img : nibabel image, 3D
        NaN outside the mask; in MNI152 space.
    name : str
        Of the map.

    Returns
    -------
    dict of str to GiftiImage
        For ``"left"`` and ``"right"``: float32, one value a vertex (`sample_values`), NaN where there is none.

    Raises
    ------
    UserError
        When the image is not 3D or has no usable affine.
    """
    values = np.asarray(img.dataobj)
    return {
        side: _image(sample_values(values, img.affine, load_cortex()[side]).astype(np.float32), side, name)
        for side in HEMISPHERES
    }


def label_surface_maps(
    img: Any, name: str, labels: Sequence[str], colours: Sequence[str], nothing: str = "none"
) -> dict[Hemisphere, GiftiImage]:
    """Read a map of labels (the layer of each voxel) onto fsaverage5.

    Parameters
    ----------
    img : nibabel image, 3D
        1 for the first of `labels` and so on, 0 for none; in MNI152 space.
    name : str
        Of the map.
    labels, colours : sequence of str
        Name and colour of each label, for the table in the file.
    nothing : str
        Name of label 0, which is transparent.

    Returns
    -------
    dict of str to GiftiImage
        For ``"left"`` and ``"right"``: int32, one label a vertex (`sample_labels`).

    Raises
    ------
    UserError
        When the image is not 3D, has no usable affine, or holds other labels than are named.
    """
    values = np.asarray(img.dataobj)
    if len(labels) != len(colours) or (values.size and np.nanmax(values) > len(labels)):
        raise UserError(
            f"the map has labels up to {np.nanmax(values):.0f}, {len(labels)} names and {len(colours)} colours came: "
            "give one of each a label"
        )
    table: Any = GiftiLabelTable()
    for key, (label, colour) in enumerate(zip((nothing, *labels), ("#00000000", *colours), strict=True)):
        red, green, blue, alpha = to_rgba(colour)
        entry = GiftiLabel(key=key, red=red, green=green, blue=blue, alpha=alpha)
        entry.label = label
        table.labels.append(entry)
    return {
        side: _image(sample_labels(values, img.affine, load_cortex()[side]).astype(np.int32), side, name, table)
        for side in HEMISPHERES
    }


def write_surface_maps(maps: Mapping[Hemisphere, GiftiImage], folder: Path, first: str, last: str) -> list[Path]:
    """Write ``{first}_hemi-L_space-fsaverage5_{last}.*`` and the right one, whole or not at all, and return the paths.

    `first` is the subject, ``"sub-01"``, `last` the entities that follow and the suffix, ``"desc-layers_dseg"``. The
    ending is ``.label.gii`` for labels and ``.func.gii`` for numbers.
    """
    paths = []
    for side, image in maps.items():
        kind = "label" if len(image.labeltable.labels) else "func"
        path = folder / f"{first}_hemi-{STRUCTURES[side][0]}_space-fsaverage5_{last}.{kind}.gii"
        with atomic_path(path) as temporary:
            nib.save(image, temporary)
        paths.append(path)
    return paths


def _image(values: NDArray[Any], side: Hemisphere, name: str, table: Any = None) -> GiftiImage:
    intent = "NIFTI_INTENT_NONE" if table is None else "NIFTI_INTENT_LABEL"
    kind = "NIFTI_TYPE_FLOAT32" if table is None else "NIFTI_TYPE_INT32"
    array = GiftiDataArray(values, intent=intent, datatype=kind, meta=GiftiMetaData({"Name": name}))
    about = GiftiMetaData({"AnatomicalStructurePrimary": STRUCTURES[side][1]})
    return GiftiImage(meta=about, labeltable=table, darrays=[array])
