"""dlib's face network: 29 convolutions trained to tell three million faces of 7,485 persons apart, 128 features."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperdecode.features.frames import FRAME, checked, to_bytes
from hyperdecode.features.sources import FACE_RECOGNITION, optional
from hyperdecode.weights.packages import member_path

__all__ = ["CHIP", "DlibNetwork", "chips"]

SMALLEST = 64
BATCH = 32
CHIP_SIDE = 150

CHIP = (0.158, 0.260, 0.688)
"""Left, top and side of the chip as fractions of the frame: what ``dlib.get_face_chip_details(landmarks, 150, 0.25)``
gives for the mean landmarks of generated faces (`hyperdecode.features.frames.TEMPLATE`), turned by 0.02 degrees."""


class DlibNetwork:
    """Features of dlib's face network (King 2017), in which two pictures of one person are less than 0.6 apart.

    Faces of the generators are aligned already, so each is cut out by the fixed square `CHIP` and not by its own
    landmarks: a reconstruction that shifts or turns the face is not aligned back, and one too blurred to be found
    still has features. No gradients pass.

    Raises
    ------
    UserError
        When dlib is not installed or the model file cannot be had.
    """

    name = "dlib"
    dim = 128

    def __init__(self) -> None:
        path = member_path(FACE_RECOGNITION, "dlib")
        self._network = optional("dlib").face_recognition_model_v1(str(path))

    def features(self, pictures: Tensor) -> Tensor:
        """Features of faces.

        Parameters
        ----------
        pictures : Tensor, (n, 3, side, side)
            Nominally in -1..1, 64 px or more.

        Returns
        -------
        Tensor, (n, 128)
            float32 on the CPU.

        Raises
        ------
        UserError
            For pictures of another shape or type.
        """
        rows = [np.empty((0, self.dim), np.float32)]
        for some in torch.split(chips(pictures), BATCH):
            if len(some):
                found = self._network.compute_face_descriptor(list(some.permute(0, 2, 3, 1).contiguous().numpy()))
                rows.append(np.array(found, np.float32))
        return torch.from_numpy(np.concatenate(rows))


def chips(pictures: Tensor) -> Tensor:
    """Cut faces out by the fixed square `CHIP`: uint8 (n, 3, 150, 150).

    Pictures are brought to 256 px (larger ones by the mean over areas), cut at whole pixels and resampled linearly
    with a low-pass filter.
    """
    pictures = checked(pictures, SMALLEST)
    if pictures.shape[-1] > FRAME:
        pictures = F.interpolate(pictures, (FRAME, FRAME), mode="area")
    elif pictures.shape[-1] < FRAME:
        pictures = F.interpolate(pictures, (FRAME, FRAME), mode="bilinear", align_corners=False)
    left, top, side = (round(fraction * FRAME) for fraction in CHIP)
    square = pictures[:, :, top : top + side, left : left + side]
    return to_bytes(F.interpolate(square, (CHIP_SIDE, CHIP_SIDE), mode="bilinear", align_corners=False, antialias=True))
