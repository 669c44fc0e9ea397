"""NumPy arrays and torch tensors in, tensors to compute with, and results back as what came in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from hyperdecode.errors import UserError

__all__ = ["Kind", "as_tensor", "to_numpy"]


@dataclass(frozen=True)
class Kind:
    """What an array was, so that results can be given back as the same.

    Attributes
    ----------
    is_torch : bool
        A torch tensor, else something that NumPy reads.
    dtype : torch.dtype
        Type that is computed in: float32 stays, float16 and bfloat16 become float32, everything else float64.
    device : torch.device
        Where it lies and is computed on.
    """

    is_torch: bool
    dtype: torch.dtype
    device: torch.device

    def back(self, values: Tensor) -> Any:
        """Return a tensor as this kind of array."""
        values = values.detach().to(self.device, self.dtype)
        return values if self.is_torch else values.numpy(force=True)


def as_tensor(values: Any, what: str) -> tuple[Tensor, Kind]:
    """Return a real array as a tensor in its computing type, and its kind; memory is shared where it can be.

    Raises
    ------
    UserError
        When `values` is not an array of real numbers; `what` names it in the message.
    TypeError
        When it is sparse, as scikit-learn's estimators do.
    """
    if issparse(values) or (isinstance(values, Tensor) and values.layout != torch.strided):
        raise TypeError(f"{what} came as a sparse matrix, a dense array is required: make it one with .toarray()")
    if isinstance(values, Tensor):
        if values.is_complex():
            raise UserError(f"Complex data not supported: give {what} of real numbers")
        single = values.dtype in (torch.float32, torch.float16, torch.bfloat16)
        kind = Kind(True, torch.float32 if single else torch.float64, values.device)
        return values.detach().to(kind.dtype), kind
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise UserError(f"Complex data not supported: give {what} of real numbers")
        single = array.dtype.kind == "f" and array.dtype.itemsize <= 4  # of either byte order
        array = array.astype(np.float32 if single else np.float64, copy=False)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{what} must be an array of numbers ({error})") from error
    kind = Kind(False, torch.float32 if array.dtype == np.float32 else torch.float64, torch.device("cpu"))
    if any(step < 0 for step in array.strides) or not array.dtype.isnative or not array.flags.writeable:
        array = np.array(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array), kind


def to_numpy(values: Tensor) -> Any:
    """Return a tensor, wherever it lies, as a NumPy array of its own."""
    return values.numpy(force=True)
