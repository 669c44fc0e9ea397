"""Read the TensorFlow network pickles of Karras' PGGAN and of StyleGAN2: variables and arguments, not the code.

A pickled `Network` is a dictionary: the source of the module that builds it (never looked at), the name of the function
in it, its keyword arguments, the variables as pairs of name and array, and (from version 3) networks within.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.limits import TensorTable, read_bytes, shown
from hyperdecode.weights.pickled_values import DICT_SYMBOLS, NUMPY_SYMBOLS, SET_SYMBOLS, array_of, plain, plain_dict
from hyperdecode.weights.pickles import Call, read_pickle

__all__ = ["NETWORKS", "read_dnnlib"]

KIND = "TensorFlow network pickle"
NETWORKS = frozenset({"tfutil.Network", "dnnlib.tflib.network.Network"})
ALLOWED = NETWORKS | NUMPY_SYMBOLS | DICT_SYMBOLS | SET_SYMBOLS
VERSIONS = (2, 3, 4)
MAX_DEPTH = 4
MAX_NETWORKS = 50


def read_dnnlib(path: str | os.PathLike[str]) -> WeightContents:
    """Read the averaged generator of a PGGAN or StyleGAN2 TensorFlow pickle.

    Parameters
    ----------
    path : path-like
        A pickled triple (G, D, Gs) of networks, of which Gs is taken; or one network alone.

    Returns
    -------
    WeightContents
        Format ``"dnnlib"``; tensors by the names of the variables, those of a network within behind the name of that
        component (``"synthesis/4x4/Const/const"``); the settings are the keyword arguments that the
        network was built with, its ``build_func_name``, and as ``components`` the same of each network within.

    Raises
    ------
    WeightFileError
        For a file that is damaged, of another layout, or names a global that no such pickle needs.
    """
    source, data = Path(path).name, read_bytes(path)
    root = read_pickle(io.BytesIO(data), ALLOWED, source, KIND)
    if isinstance(root, tuple | list) and len(root) == 3:
        root = root[2]
    table = TensorTable(source, len(data))
    settings = _Networks(table).walk("", root, 0)
    return WeightContents("dnnlib", table.tensors, source, settings)


class _Networks:
    """The walk through networks in networks; counts them: references can unfold a small file without end."""

    def __init__(self, table: TensorTable) -> None:
        self.table, self.count = table, 0

    def walk(self, prefix: str, node: Any, depth: int) -> dict[str, Any]:
        source = self.table.source
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NETWORKS:
            raise WeightFileError(f"{source}: networks nested without end, refusing to unfold them")
        if not isinstance(node, Call) or node.function.path not in NETWORKS:
            raise WeightFileError(f"{source}: holds no network; expected (G, D, Gs) as the authors' code pickles them")
        state = plain_dict(node.state, source, "the state of a network")
        if state.get("version") not in VERSIONS or not isinstance(state.get("variables"), list):
            raise WeightFileError(
                f"{source}: a network of version {shown(state.get('version'))}, expected 2, 3 or 4 with its variables"
            )
        for pair in state["variables"]:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise WeightFileError(f"{source}: a variable is no pair of a name and an array")
            name = f"{prefix}{pair[0]}"
            self.table.add(name, array_of(pair[1], source, f"variable {shown(name)}"))
        arguments = plain_dict(state.get("static_kwargs", {}), source, "static_kwargs")
        settings = dict(plain(arguments, source, "the settings"))
        settings["build_func_name"] = plain(state.get("build_func_name"), source, "the settings")
        components = plain_dict(state.get("components", {}), source, "the components of a network")
        settings["components"] = {
            str(name): self.walk(f"{prefix}{name}/", component, depth + 1) for name, component in components.items()
        }
        return settings
