"""Write weight files of each layout with values of one's own, as the programs that write the real ones do."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import h5py
import numpy as np
import safetensors.numpy
import torch


@contextlib.contextmanager
def standing_in(**globals_):
    """Let `pickle` find stand-ins under the names of programs that are not installed: ``tfutil__Network=cls``."""
    before = dict(sys.modules)
    try:
        for path, value in globals_.items():
            module, name = path.replace("__", " ").rsplit(" ", 1)
            module = module.replace(" ", ".")
            value.__module__, value.__qualname__, value.__name__ = module, name, name
            parts = module.split(".")
            for depth in range(1, len(parts) + 1):
                parent = ".".join(parts[:depth])
                sys.modules.setdefault(parent, types.ModuleType(parent))
            setattr(sys.modules[module], name, value)
        yield
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


# PyTorch


def torch_file(state, zipped=True):
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def repacked(data, compression=zipfile.ZIP_STORED, **members):
    """Write an archive anew with some members (by the end of their name, dots as in the name) replaced."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, members.get(name.rpartition("/")[2].replace(".", "_"), old.read(name)))
    return stream.getvalue()


# NVIDIA's torch_utils.persistence


def _reconstruct(meta):
    raise SystemExit("called")


class Persistent(torch.nn.Module):
    """Pickles as a persistent object does: its source, its class's name, its state."""

    class_name = "Generator"

    def __init__(self, *args, **kwargs):
        super().__init__()
        self._init_args, self._init_kwargs = args, kwargs

    def __reduce__(self):
        state = super().__reduce__()[2]
        source = "raise SystemExit('the source was run')\n"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": self.class_name, "state": state}
        return _reconstruct, (meta,), None


class EasyDict(dict):
    pass


def persistent(children, parameters=(), buffers=(), **kwargs):
    module = Persistent(**kwargs)
    for name, value in dict(parameters).items():
        module.register_parameter(name, torch.nn.Parameter(torch.tensor(value)))
    for name, value in dict(buffers).items():
        module.register_buffer(name, torch.tensor(value))
    for name, child in dict(children).items():
        module.add_module(name, child)
    return module


def persistent_tree(tensors, **kwargs):
    """Nest modules so that their state dict has the given names."""
    below, own = {}, {}
    for name, value in tensors.items():
        head, dot, rest = name.partition(".")
        if dot:
            below.setdefault(head, {})[rest] = value
        else:
            own[name] = value
    parameters = {name: value for name, value in own.items() if not name.startswith(("w_avg", "noise_const"))}
    buffers = {name: value for name, value in own.items() if name not in parameters}
    return persistent({name: persistent_tree(part) for name, part in below.items()}, parameters, buffers, **kwargs)


def nvidia_pickle(content, protocol=4):
    with standing_in(torch_utils__persistence___reconstruct_persistent_obj=_reconstruct):
        return pickle.dumps(content, protocol)


# Karras' tfutil.Network and dnnlib.tflib.network.Network


class Network:
    def __init__(self, state):
        self.state = state

    def __getstate__(self):
        return self.state


class DnnlibNetwork(Network):
    pass


def network(variables, cls=Network, version=2, components=None, **static_kwargs):
    state = {
        "version": version,
        "name": "Gs",
        "static_kwargs": static_kwargs,
        "build_module_src": "raise SystemExit('the source was run')\n",
        "build_func_name": "G_paper",
        "variables": list(variables.items()),
    }
    return cls(state if components is None else {**state, "components": components})


def network_pickle(content, protocol=4):
    with standing_in(tfutil__Network=Network, dnnlib__tflib__network__Network=DnnlibNetwork):
        return pickle.dumps(content, protocol)


# MXNet


V0, V1, V2, V3 = None, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
FLAGS = {"<f4": 0, "<f8": 1, "<f2": 2, "|u1": 3, "<i4": 4, "|i1": 5, "<i8": 6, "|b1": 7, "<i2": 8}


def mxnet_array(array, version=V2, storage=0, device=(1, 0)):
    head = struct.pack("<I", array.ndim if version is V0 else version)
    if version in (V2, V3):
        head += struct.pack("<i", storage)
    if version is V0:
        head += struct.pack(f"<{array.ndim}I", *array.shape)
    else:
        head += struct.pack(f"<i{array.ndim}q", array.ndim, *array.shape)
    return head + struct.pack("<iii", *device, FLAGS[array.dtype.str]) + array.tobytes()


def mxnet_file(arrays, names=None):
    names = [name.encode() for name in names or []]
    head = struct.pack("<QQQ", 0x112, 0, len(arrays))
    tail = struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(name)) + name for name in names)
    return head + b"".join(arrays) + tail


def mxnet_params(tensors, version=V2, prefix=""):
    arrays = [mxnet_array(np.ascontiguousarray(value), version) for value in tensors.values()]
    return mxnet_file(arrays, [f"{prefix}{name}" for name in tensors])


# Keras


def keras_file(layers, below=None, cut=None, variable=False, libver=None, **dataset):
    """Write {layer: {weight name: array}}; `cut` splits the lists of names as Keras does where they are long.

    With `variable`, names are texts of variable length, as h5py 3 makes them of the lists that Keras hands it.
    """
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver=libver) as file:
        root = file.create_group(below) if below else file
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = "2.0.6"
        _name_list(root, "layer_names", list(layers), cut, variable)
        for layer, weights in layers.items():
            group = root.create_group(layer)
            _name_list(group, "weight_names", list(weights), cut, variable)
            for name, value in weights.items():
                group.create_dataset(name, data=value, **dataset)
    return stream.getvalue()


def _name_list(group, attribute, names, cut, variable):
    names = [name.encode() for name in names]
    names = names if variable else np.asarray(names)
    if cut is None:
        group.attrs[attribute] = names
    else:
        for k in range(-(-len(names) // cut) or 1):
            group.attrs[f"{attribute}{k}"] = names[k * cut : (k + 1) * cut]


# Small files, one of each reader, for harming


def small_files(program=None):
    """Return {reader's name: (file name, bytes)}, as small as the formats allow; `program` hides in the pickles."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    state = OrderedDict(a=torch.tensor(a), b=torch.tensor(b).half(), n=torch.tensor(3), note=program)
    generator = persistent_tree({"mapping.w_avg": b, "fc.weight": a}, z_dim=3, nested={"clamp": 256.0}, note=program)
    inner = network({"noise": b}, DnnlibNetwork, 4, {}, size=2)
    outer = network({"w": a, "lod": np.float32(0)}, DnnlibNetwork, 4, {"synthesis": inner}, label_size=0, note=program)
    rows = [list(rng.normal(size=(n, k)).astype(np.float32)) for n, k in ((3, 2), (3, 4), (2, 2), (2, 4))]
    return {
        "torch zip": ("a.pth", torch_file(state)),
        "torch legacy": ("b.pth", torch_file({"g": state, "step": 7}, zipped=False)),
        "nvidia": ("c.pkl", nvidia_pickle({"G": None, "G_ema": generator, "augment_pipe": program})),
        "dnnlib": ("d.pkl", network_pickle((program, None, outer), 2)),
        "mxnet": (
            "e.params",
            mxnet_file([mxnet_array(a), mxnet_array(b, V1), mxnet_array(b, V0)], ["arg:a", "b", "c"]),
        ),
        "keras": ("f.h5", keras_file({"conv1/7x7": {"conv1/7x7/kernel:0": a, "conv1/7x7/bias:0": b}, "relu": {}})),
        "hyper data": ("g.dat", pickle.dumps(rows if program is None else [*rows, program], 4)),
        "safetensors": ("h.safetensors", safetensors.numpy.save({"a": a, "b": b}, {"family": "pggan"})),
    }
