"""What a weight file holds, as it lies there (`WeightContents`) and under our names (`Weights`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tensors", "WeightContents", "Weights"]

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class WeightContents:
    """A weight file as it was read: tensors by the names that the file gives them.

    Attributes
    ----------
    format : str
        The container: ``"torch"``, ``"nvidia-torch"`` (a persistence pickle), ``"dnnlib"`` (a TensorFlow network
        pickle), ``"mxnet"``, ``"keras-hdf5"``, ``"openvino-ir"``, ``"safetensors"``.
    tensors : dict of str to ndarray
        float32, by flat names with dots or slashes as in the file.
    settings : mapping
        What the file says of how the network was built: constructor arguments, class or function name.
        Numbers, strings, booleans, None, and lists and dicts of them; nothing else.
    source : str
        The file's name, for messages.
    """

    format: str
    tensors: Tensors
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """The weights of one network under our own names, ready to be saved and built.

    Attributes
    ----------
    family : str
        The network's class: ``"pggan"``, ``"stylegan2"``, ``"stylegan3"``, ``"mobilestylegan"`` or
        ``"resnet50-vggface2"``.
    layout : str
        Where it came from, in words: ``"PGGAN, genforce .pth"``.
    tensors : dict of str to ndarray
        float32.
    settings : mapping
        What the tensors' shapes do not tell; JSON values.
    licence : str
        What the owners of such weights usually permit, one line.
    """

    family: str
    layout: str
    tensors: Tensors
    settings: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
