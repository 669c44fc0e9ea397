"""What every feature network can do: a picture of a face to a vector that is near for alike faces."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["FeatureNetwork"]


@runtime_checkable
class FeatureNetwork(Protocol):
    """A network from pictures of aligned faces to features.

    Attributes
    ----------
    name : str
        The name it is registered under.
    dim : int
        Features a face.
    """

    name: str
    dim: int

    def features(self, pictures: Tensor) -> Tensor:
        """Features (n, dim), float32, of pictures (n, 3, side, side) nominally in -1..1."""
        ...
