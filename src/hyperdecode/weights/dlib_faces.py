"""Read the weights of dlib's face network (``dlib_face_recognition_resnet_model_v1.dat``) without dlib."""

from __future__ import annotations

import math
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import Tensors

__all__ = ["BLOCKS", "EMBEDDING", "STEM", "read_dlib_faces"]

STEM = 32
BLOCKS = (
    *((32, False),) * 3,
    (64, True), *((64, False),) * 3,
    (128, True), *((128, False),) * 2,
    (256, True), *((256, False),) * 2,
    (256, True),
)  # fmt: skip
"""Channels of each residual block, and whether it halves the side."""
EMBEDDING = 128

TENSOR_VERSION = 2


def read_dlib_faces(data: bytes, source: str = "dlib's face network") -> Tensors:
    """Read the network's tensors.

    The file is dlib's own serialisation: the layers from the picture on, each by its name as text and then, where it
    has some, its parameters as one flat tensor: a convolution's ``con_4`` filters (out, in, height, width) and biases;
    an affine layer's ``affine_`` scales and offsets; the dense layer's ``fc_2`` matrix (in, out), behind its widths.
    The affine layer behind each convolution is folded into it.

    Parameters
    ----------
    data : bytes
    source : str
        Named in error messages.

    Returns
    -------
    dict of str to ndarray
        ``stem.weight | bias``, ``blocks.{k}.{first | second}.weight | bias`` (k as in `BLOCKS`), ``embedding.weight``.

    Raises
    ------
    WeightFileError
        When a layer is absent or has another size than in that network.

    Notes
    -----
    Sources: dlib's `dlib/serialize.h`, `dlib/cuda/tensor.h`, `dlib/dnn/layers.h` and the type `anet_type` of
    `examples/dnn_face_recognition_ex.cpp`.
    """
    stream = _Stream(data, source)
    tensors = stream.convolution("stem", STEM, 3, 7)
    inward = STEM
    for k, (outward, _) in enumerate(BLOCKS):
        tensors |= stream.convolution(f"blocks.{k}.first", outward, inward, 3)
        tensors |= stream.convolution(f"blocks.{k}.second", outward, outward, 3)
        inward = outward
    matrix = stream.parameters(b"fc_2", inward * EMBEDDING, (EMBEDDING, inward)).reshape(inward, EMBEDDING)
    return tensors | {"embedding.weight": np.ascontiguousarray(matrix.T)}


class _Stream:
    """The bytes of the file, and how far they are read."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source, self.at = data, source, 0

    def convolution(self, ours: str, outward: int, inward: int, side: int) -> Tensors:
        """Read a convolution and the affine layer behind it, folded."""
        n = outward * inward * side * side
        parameters = self.parameters(b"con_4", n + outward)
        scale, offset = np.split(self.parameters(b"affine_", 2 * outward), 2)
        with np.errstate(over="ignore"):
            weight = parameters[:n].reshape(outward, inward, side, side) * scale[:, None, None, None]
            bias = parameters[n:] * scale + offset
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            self._refuse(f"the values of {ours} are too large")
        return {f"{ours}.weight": weight, f"{ours}.bias": bias}

    def parameters(self, layer: bytes, length: int, settings: tuple[int, ...] = ()) -> NDArray[np.float32]:
        """Return the flat parameters of the next layer of that name, in front of which its `settings` must stand."""
        text = bytes([1, len(layer)]) + layer
        found = self.data.find(text, self.at)
        if found < 0:
            self._refuse(f"no layer {layer.decode()} behind byte {self.at}")
        self.at = found + len(text)
        found_settings = tuple(self._integer() for _ in settings)
        if found_settings != settings:
            self._refuse(f"layer {layer.decode()} has the settings {found_settings}, expected {settings}")
        version, *shape = (self._integer() for _ in range(5))
        if version != TENSOR_VERSION or math.prod(shape) != length or shape[0] < 1:
            self._refuse(f"layer {layer.decode()} holds a tensor {shape} (version {version}), expected {length} values")
        values = self._take(4 * length)
        parameters = np.frombuffer(values, "<f4").astype(np.float32)
        if not np.isfinite(parameters).all():
            self._refuse(f"layer {layer.decode()} holds NaN or infinite values")
        return parameters

    def _integer(self) -> int:
        """Read an integer: a byte with the sign (high bit) and the count of bytes, then these, the lowest first."""
        control = self._take(1)[0]
        count = control & 0x0F
        if not 1 <= count <= 8 or control & 0x70:
            self._refuse(f"no integer at byte {self.at - 1}")
        value = int.from_bytes(self._take(count), "little")
        return -value if control & 0x80 else value

    def _take(self, count: int) -> bytes:
        taken = self.data[self.at : self.at + count]
        if len(taken) < count:
            self._refuse(f"cut off at byte {len(self.data)}")
        self.at += count
        return taken

    def _refuse(self, reason: str) -> NoReturn:
        raise WeightFileError(f"{self.source}: {reason}; this is not dlib_face_recognition_resnet_model_v1.dat")
