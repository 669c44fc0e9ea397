"""dlib's face network in torch: 29 convolutions that tell some 7,500 persons apart, 128 features (King 2017)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.features.frames import FRAME, require_faces
from hyperdecode.features.sources import FACE_RECOGNITION
from hyperdecode.weights.dlib_faces import BLOCKS, read_dlib_faces
from hyperdecode.weights.packages import member_path

__all__ = ["CHIP", "DlibNetwork", "chips"]

SMALLEST = 64
BATCH = 32
CHIP_SIDE = 150

CHIP = (0.158, 0.260, 0.688)
"""Left, top and side of the chip as fractions of the frame: what ``dlib.get_face_chip_details(landmarks, 150, 0.25)``
gives for the mean landmarks of generated faces (`hyperdecode.features.frames.TEMPLATE`), turned by 0.02 degrees."""

MEANS = (122.782, 117.001, 104.298)
"""Red, green and blue, in bytes; the network takes (byte - mean) / 256."""


class DlibNetwork(nn.Module):
    """Features in which two pictures of one person are less than 0.6 apart (Euclidean).

    ``conv 7x7/2 -> max 3x3/2 -> 14 blocks -> mean -> 128``; a block is ``relu(shortcut(x) + conv3x3 relu conv3x3 x)``,
    whose shortcut is x, or its means over 2 x 2 pixels where the block halves the side. Where the two terms differ in
    channels or side the smaller one is padded by zeros behind. The affine layers are folded into the convolutions
    (`hyperdecode.weights.dlib_faces`).

    Faces of the generators are aligned already, so each is cut out by the fixed square `CHIP` and not by its own
    landmarks: a reconstruction that shifts or turns the face is not aligned back, and one too blurred to be found
    still has features. Gradients pass from the features to the pictures. Neither dlib nor its file's code is needed.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By the names of `hyperdecode.weights.dlib_faces.read_dlib_faces`.
    """

    name = "dlib"
    dim = 128
    means: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Names of parameters have no dots.
        self.weights = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(value, requires_grad=False) for name, value in tensors.items()}
        )
        self.register_buffer("means", torch.tensor(MEANS).view(1, 3, 1, 1))
        self.train(False)

    @classmethod
    def load(cls) -> DlibNetwork:
        """Build it from the pinned file, which is fetched first when it is not in the cache.

        Raises
        ------
        UserError
            When the file cannot be had.
        WeightFileError
            When it is damaged.
        """
        path = member_path(FACE_RECOGNITION, "dlib")
        tensors = read_dlib_faces(path.read_bytes(), str(path))
        return cls({name: torch.from_numpy(value) for name, value in tensors.items()})

    def features(self, pictures: Tensor) -> Tensor:
        """Features of faces.

        Parameters
        ----------
        pictures : Tensor, (n, 3, side, side)
            Nominally in -1..1 (clipped), 64 px or more.

        Returns
        -------
        Tensor, (n, 128)
            float32, where the network lives.

        Raises
        ------
        UserError
            For pictures of another shape or type.
        """
        require_faces(pictures, SMALLEST)
        return torch.cat([self(chips(some.to(self.means))) for some in torch.split(pictures, BATCH)])

    def forward(self, chips: Tensor) -> Tensor:
        """Features (n, 128) of faces that are cut out already: (n, 3, 150, 150), in bytes (0..255, any float)."""
        x = F.relu(self._convolve((chips - self.means) / 256, "stem", stride=2))
        x = F.max_pool2d(x, 3, 2)
        for k, (_, halves) in enumerate(BLOCKS):
            inner = F.relu(self._convolve(x, f"blocks_{k}_first", 2 if halves else 1))
            inner = self._convolve(inner, f"blocks_{k}_second")
            x = F.relu(_padded_sum(inner, F.avg_pool2d(x, 2) if halves else x))
        return F.linear(x.mean((2, 3)), self.weights["embedding_weight"])

    def _convolve(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        """3 x 3 convolutions keep the side, those that take every second pixel have no padding."""
        weight, bias = self.weights[f"{name}_weight"], self.weights[f"{name}_bias"]
        return F.conv2d(x, weight, bias, stride, 1 if stride == 1 else 0)


def _padded_sum(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two tensors, each padded by zeros behind to the larger channels, height and width."""
    shape = [max(m, n) for m, n in zip(a.shape, b.shape, strict=True)]
    a, b = (F.pad(x, [0, shape[3] - x.shape[3], 0, shape[2] - x.shape[2], 0, shape[1] - x.shape[1]]) for x in (a, b))
    return a + b


def chips(pictures: Tensor) -> Tensor:
    """Cut faces (n, 3, side, side) in -1..1 out by the fixed square `CHIP`: (n, 3, 150, 150) in 0..255.

    Pictures are brought to 256 px (larger ones by the mean over areas), cut at whole pixels and resampled linearly
    with a low-pass filter.
    """
    pictures = pictures.clamp(-1, 1)
    if pictures.shape[-1] > FRAME:
        pictures = F.interpolate(pictures, (FRAME, FRAME), mode="area")
    elif pictures.shape[-1] < FRAME:
        pictures = F.interpolate(pictures, (FRAME, FRAME), mode="bilinear", align_corners=False)
    left, top, side = (round(fraction * FRAME) for fraction in CHIP)
    square = pictures[:, :, top : top + side, left : left + side]
    chips = F.interpolate(square, (CHIP_SIDE, CHIP_SIDE), mode="bilinear", align_corners=False, antialias=True)
    return (chips + 1) * 127.5
