"""Read NVIDIA's StyleGAN2-ADA and StyleGAN3 pickles: the tensors, and not the source code that lies beside them.

Their `torch_utils.persistence` pickles a network as its Python source and its state, and the official loader executes
that source. Here the source stays a text that nobody looks at; parameters and buffers are taken out of the states.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.limits import TensorTable, read_bytes, shown
from hyperdecode.weights.pickled_values import DICT_SYMBOLS, NUMPY_SYMBOLS, SET_SYMBOLS, bytes_of, plain, plain_dict
from hyperdecode.weights.pickles import Call, read_pickle
from hyperdecode.weights.torch_files import read_legacy_storage
from hyperdecode.weights.torch_tensors import TORCH_SYMBOLS, is_tensor, tensor_of

__all__ = ["PERSISTENT", "read_nvidia"]

KIND = "StyleGAN pickle"
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
NESTED_STORAGE = "torch.storage._load_from_bytes"
ALLOWED = TORCH_SYMBOLS | NUMPY_SYMBOLS | DICT_SYMBOLS | SET_SYMBOLS | {PERSISTENT, NESTED_STORAGE}
MAX_DEPTH = 16
MAX_MODULES = 5_000


def read_nvidia(path: str | os.PathLike[str]) -> WeightContents:
    """Read the averaged generator of a StyleGAN2-ADA (PyTorch) or StyleGAN3 pickle.

    Parameters
    ----------
    path : path-like
        A pickled dictionary with ``G_ema``, or at least ``G``.

    Returns
    -------
    WeightContents
        Format ``"nvidia-torch"``; tensors by the names of the network's state dict; the settings are the
        keyword arguments that the generator was built with, its other arguments as ``init_args``, its ``class_name``,
        and as ``network`` the key that it was taken from.

    Raises
    ------
    WeightFileError
        For a file that is damaged, of another layout, or names a global that no such pickle needs.
    """
    source, data = Path(path).name, read_bytes(path)
    root = plain_dict(read_pickle(io.BytesIO(data), ALLOWED, source, KIND), source, "its content")
    key = next((name for name in ("G_ema", "G") if name in root), None)
    if key is None:
        raise WeightFileError(
            f"{source}: holds {shown(sorted(map(str, root))[:5])}, expected a network named G_ema or G"
        )
    table = TensorTable(source, len(data))
    class_name, state = _module(root[key], key, source)
    _Modules(table).walk("", state, 0)
    settings = dict(plain(plain_dict(state.get("_init_kwargs", {}), source, "_init_kwargs"), source, "the settings"))
    settings["init_args"] = plain(state.get("_init_args", ()), source, "the settings")
    settings |= {"class_name": class_name, "network": key}
    return WeightContents("nvidia-torch", table.tensors, source, settings)


def _module(node: Any, name: str, source: str) -> tuple[str, dict[Any, Any]]:
    """Class name and state of a persistent object."""
    if not isinstance(node, Call) or node.function.path != PERSISTENT or len(node.args) != 1:
        raise WeightFileError(f"{source}: {shown(name)} is no network as NVIDIA's code pickles them")
    meta = plain_dict(node.args[0], source, f"network {shown(name)}")
    class_name = meta.get("class_name")
    if not isinstance(class_name, str):
        raise WeightFileError(f"{source}: {shown(name)} does not say its class")
    return class_name, plain_dict(meta.get("state"), source, f"the state of {shown(name)}")


class _Modules:
    """The walk through modules in modules; counts its steps: references can unfold a small file without end."""

    def __init__(self, table: TensorTable) -> None:
        self.table, self.count = table, 0

    def walk(self, prefix: str, state: dict[Any, Any], depth: int) -> None:
        source = self.table.source
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_MODULES:
            raise WeightFileError(f"{source}: modules nested without end, refusing to unfold them")
        for group in ("_parameters", "_buffers"):
            for name, value in plain_dict(state.get(group, {}), source, group).items():
                if value is not None:
                    self.table.add(f"{prefix}{name}", self.tensor(value, f"tensor {shown(f'{prefix}{name}')}"))
        for name, module in plain_dict(state.get("_modules", {}), source, "_modules").items():
            if module is not None:
                self.walk(f"{prefix}{name}.", _module(module, f"{prefix}{name}", source)[1], depth + 1)

    def tensor(self, node: Any, what: str) -> NDArray[np.generic]:
        if not is_tensor(node):
            raise WeightFileError(f"{self.table.source}: {what} is not laid out as PyTorch pickles tensors")
        return tensor_of(node, self.storage, self.table.source, what)

    def storage(self, node: Any) -> NDArray[np.generic]:
        if not isinstance(node, Call) or node.function.path != NESTED_STORAGE or len(node.args) != 1:
            raise WeightFileError(f"{self.table.source}: a tensor has no storage inside of the pickle")
        return read_legacy_storage(bytes_of(node.args[0], self.table.source, "a storage"), self.table.source)
