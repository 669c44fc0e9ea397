"""ResNet50 trained on VGGFace2 (Cao et al. 2018), the network behind the paper's feature similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.errors import WeightFileError
from hyperdecode.features.frames import require_faces
from hyperdecode.weights.layouts.resnet50 import BLOCKS

__all__ = ["ResNet50"]

SIDE = 224
SMALLEST = 64
BATCH = 16
MEANS_BGR = (91.4953, 103.8827, 131.0912)
"""Mean colours of VGGFace2, in bytes (`preprocess_input` of keras-vggface, version 2)."""


class ResNet50(nn.Module):
    """2,048 features of a face: the mean of the last convolution's output over its 7 x 7 places.

    ``conv 7x7/2 -> max 3x3/2 -> 3 + 4 + 6 + 3 blocks -> mean``; a block is ``relu(x + f(x))`` with
    ``f = conv1x1 relu conv3x3 relu conv1x1``; the first block of a stage projects x, and of stages 2 to 4 takes
    every second pixel already in its first convolution (as Caffe's network does). Batch normalisations are folded
    into the convolutions (`hyperdecode.weights.layouts.resnet50`).

    Gradients pass from the features to the pictures.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By the names of `hyperdecode.weights.layouts.resnet50.from_keras`.

    Raises
    ------
    WeightFileError
        When a tensor is absent or does not fit the others.
    """

    name = "resnet50-vggface2"
    means: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        try:
            self.stem = _Convolution(tensors, "stem", stride=2)
            self.stages = nn.ModuleList(
                nn.ModuleList(_Block(tensors, f"stages.{s}.{b}", 2 if s and not b else 1) for b in range(blocks))
                for s, blocks in enumerate(BLOCKS)
            )
        except KeyError as error:
            raise WeightFileError(f"ResNet50 weights lack the tensor {error}: import the file anew") from None
        self._require_shapes()
        self.dim = len(tensors[f"stages.{len(BLOCKS) - 1}.0.increase.bias"])
        self.register_buffer("means", torch.tensor(MEANS_BGR).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.train(False)

    def _require_shapes(self) -> None:
        """Refuse tensors that would fail, or be broadcast, only in the forward pass."""
        inward = _require(self.stem, "stem", 7, 3)
        for s, stage in enumerate(self.stages):
            for b, block in enumerate(cast(nn.ModuleList, stage)):
                name, block = f"stages.{s}.{b}", cast(_Block, block)
                narrow = _require(
                    block.middle, f"{name}.middle", 3, _require(block.reduce, f"{name}.reduce", 1, inward)
                )
                wide = _require(block.increase, f"{name}.increase", 1, narrow)
                shortcut = inward if block.project is None else _require(block.project, f"{name}.project", 1, inward)
                if shortcut != wide:
                    raise WeightFileError(
                        f"ResNet50 weights do not fit together: {name} adds {shortcut} to {wide} channels"
                    )
                inward = wide

    def features(self, pictures: Tensor) -> Tensor:
        """Features of faces.

        Pictures of another side than 224 px are resampled linearly, with a low-pass filter where they shrink.

        Parameters
        ----------
        pictures : Tensor, (n, 3, side, side)
            Nominally in -1..1 (clipped), 64 px or more.

        Returns
        -------
        Tensor, (n, 2048)
            float32, where the network lives.

        Raises
        ------
        UserError
            For pictures of another shape or type.
        """
        require_faces(pictures, SMALLEST)
        rows = [self(some) for some in torch.split(pictures, BATCH)]
        return torch.cat(rows) if rows else pictures.new_empty(0, self.dim)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of one batch."""
        x = pictures.to(self.stem.weight).clamp(-1, 1)
        if x.shape[-1] != SIDE:
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        x = (x + 1) * 127.5
        x = x.flip(1) - self.means
        # TensorFlow's "same" padding of an even side: one pixel more behind than in front.
        x = F.relu(self.stem(F.pad(x, (2, 3, 2, 3))))
        x = F.max_pool2d(x, 3, 2)
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                x = block(x)
        return x.mean((2, 3))


class _Convolution(nn.Module):
    """A convolution with its bias; 3 x 3 ones keep the side."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensors[f"{name}.weight"], requires_grad=False)
        self.bias = nn.Parameter(tensors[f"{name}.bias"], requires_grad=False)
        self.stride, self.padding = stride, 1 if self.weight.shape[-1] == 3 else 0

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class _Block(nn.Module):
    """``relu(shortcut(x) + increase(relu(middle(relu(reduce(x))))))``."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str, stride: int) -> None:
        super().__init__()
        self.reduce = _Convolution(tensors, f"{name}.reduce", stride)
        self.middle = _Convolution(tensors, f"{name}.middle")
        self.increase = _Convolution(tensors, f"{name}.increase")
        projects = f"{name}.project.weight" in tensors
        self.project = _Convolution(tensors, f"{name}.project", stride) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.increase(F.relu(self.middle(F.relu(self.reduce(x)))))
        return F.relu(inner + (x if self.project is None else self.project(x)))


def _require(convolution: _Convolution, name: str, side: int, inward: int) -> int:
    """Return how many channels a convolution gives; refuse it when its tensors have other shapes than expected."""
    shape, outward = tuple(convolution.weight.shape), convolution.bias.numel()
    if shape != (outward, inward, side, side) or convolution.bias.ndim != 1 or not outward:
        raise WeightFileError(
            f"ResNet50 weights do not fit together: {name}.weight has shape {shape}, expected "
            f"{(outward, inward, side, side)}: import the file anew"
        )
    return outward
