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
MAX_ENTRIES = 100_000


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
    modules = _Modules(table)
    class_name, state = modules.module(root[key], key)
    modules.walk("", state, 0)
    settings = dict(plain(plain_dict(state.get("_init_kwargs", {}), source, "_init_kwargs"), source, "the settings"))
    settings["init_args"] = plain(state.get("_init_args", ()), source, "the settings")
    settings |= {"class_name": class_name, "network": key}
    return WeightContents("nvidia-torch", table.tensors, source, settings)


class _Modules:
    """The walk through modules in modules; counts entries, because references can unfold a small file without end."""

    def __init__(self, table: TensorTable) -> None:
        self.table, self.source, self.count = table, table.source, 0

    def dictionary(self, node: Any, what: str) -> dict[Any, Any]:
        """Read a dictionary and count its entries."""
        found = plain_dict(node, self.source, what)
        self.count += 1 + len(found)
        if self.count > MAX_ENTRIES:
            raise WeightFileError(f"{self.source}: modules nested without end, refusing to unfold them")
        return found

    def module(self, node: Any, name: str) -> tuple[str, dict[Any, Any]]:
        """Return the class name and the state of a persistent object."""
        if not isinstance(node, Call) or node.function.path != PERSISTENT or len(node.args) != 1:
            raise WeightFileError(f"{self.source}: {shown(name)} is no network as NVIDIA's code pickles them")
        meta = self.dictionary(node.args[0], f"network {shown(name)}")
        class_name = meta.get("class_name")
        if not isinstance(class_name, str):
            raise WeightFileError(f"{self.source}: {shown(name)} does not say its class")
        return class_name, self.dictionary(meta.get("state"), f"the state of {shown(name)}")

    def walk(self, prefix: str, state: dict[Any, Any], depth: int) -> None:
        """Hand all parameters and buffers of a module and those within it to the table."""
        if depth > MAX_DEPTH:
            raise WeightFileError(f"{self.source}: modules nested without end, refusing to unfold them")
        for group in ("_parameters", "_buffers"):
            for name, value in self.dictionary(state.get(group, {}), group).items():
                if value is not None:
                    self.table.add(f"{prefix}{name}", self.tensor(value, f"tensor {shown(f'{prefix}{name}')}"))
        for name, module in self.dictionary(state.get("_modules", {}), "_modules").items():
            if module is not None:
                self.walk(f"{prefix}{name}.", self.module(module, f"{prefix}{name}")[1], depth + 1)

    def tensor(self, node: Any, what: str) -> NDArray[np.generic]:
        """Build one tensor, whose storage is a file of its own within the pickle."""
        if not is_tensor(node):
            raise WeightFileError(f"{self.source}: {what} is not laid out as PyTorch pickles tensors")
        return tensor_of(node, self.storage, self.source, what)

    def storage(self, node: Any) -> NDArray[np.generic]:
        """Read the storage of a tensor."""
        if not isinstance(node, Call) or node.function.path != NESTED_STORAGE or len(node.args) != 1:
            raise WeightFileError(f"{self.source}: a tensor has no storage inside of the pickle")
        return read_legacy_storage(bytes_of(node.args[0], self.source, "a storage"), self.source)
