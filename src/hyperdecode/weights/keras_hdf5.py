"""Read the weights that Keras saves as HDF5, such as VGGFace2's ``rcmalli_vggface_tf_notop_resnet50.h5``."""

from __future__ import annotations

import os
from pathlib import Path

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.hdf5 import HDF5File
from hyperdecode.weights.limits import TensorTable, read_bytes, shown

__all__ = ["read_keras"]

MAX_LAYERS = 5_000
MAX_PARTS = 100


def read_keras(path: str | os.PathLike[str]) -> WeightContents:
    """Read a Keras ``.h5`` file of weights, or of a model with its weights.

    The root group (or its group ``model_weights``) lists its layers in the attribute ``layer_names``; the group of a
    layer lists its arrays in ``weight_names``.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    WeightContents
        Format ``"keras-hdf5"``; tensors by the names in ``weight_names`` (``"conv1/7x7_s2/kernel:0"``).

    Raises
    ------
    WeightFileError
        When the file is damaged or cut off, or not laid out as Keras lays out weights.
    """
    source, data = Path(path).name, read_bytes(path)
    file = HDF5File(data, source)
    root = file.child(file.root, "model_weights") or file.root
    table = TensorTable(source, len(data))
    layers = _names(file, root, "layer_names")
    if len(layers) > MAX_LAYERS:
        raise WeightFileError(f"{source}: {len(layers)} layers, no face network has so many")
    for layer in layers:
        group = file.child(root, layer)
        if group is None:
            raise WeightFileError(f"{source}: layer {shown(layer)} is listed and absent, the file is damaged")
        for name in _names(file, group, "weight_names"):
            dataset = file.child(group, name)
            if dataset is None:
                raise WeightFileError(f"{source}: weight {shown(name)} is listed and absent, the file is damaged")
            table.add(name, file.array(dataset, f"weight {shown(name)}"))
    return WeightContents("keras-hdf5", table.tensors, source)


def _names(file: HDF5File, group: int, attribute: str) -> list[str]:
    """Read a list of names, which Keras cuts into ``NAME0``, ``NAME1``, ... where it is long."""
    whole = file.texts(group, attribute)
    if whole is not None:
        return whole
    names: list[str] = []
    for k in range(MAX_PARTS):
        part = file.texts(group, f"{attribute}{k}")
        if part is None:
            if k == 0:
                raise WeightFileError(f"{file.source}: no attribute {attribute}, so no weights that Keras wrote")
            return names
        names += part
    raise WeightFileError(f"{file.source}: {attribute} in more than {MAX_PARTS} parts, the file is damaged")
