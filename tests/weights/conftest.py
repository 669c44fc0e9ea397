"""Writers of weight files, and a watch over what the interpreter does while they are read."""

from __future__ import annotations

import codecs
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from hyperdecode.errors import WeightFileError

RUNS_CODE = {
    "compile", "exec", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class",
    "marshal.loads", "ctypes.dlopen", "socket.connect",
}  # fmt: skip
_watching: list[list[str]] = []


def _hook(event, args):
    if _watching and event in RUNS_CODE:
        _watching[-1].append(f"{event} {args!r:.200}")


@contextmanager
def _nothing_runs():
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield
    finally:
        _watching.pop()
    assert not seen


@pytest.fixture(scope="session")
def nothing_runs():
    """Return a context in which the interpreter's own audit must not see code compiled, executed, or looked up."""
    for name in ("cp437", "latin-1", "ascii", "raw_unicode_escape", "unicode_escape"):
        codecs.lookup(name)  # the standard library imports a codec when it is first asked for
    sys.addaudithook(_hook)
    return _nothing_runs


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def files():
    """Return the module of file makers beside this file."""
    return _beside("file_makers")


@pytest.fixture(scope="session")
def network_files(files):
    """Return tiny networks in files of each layout (`tiny_networks.network_files`)."""
    return _beside("tiny_networks").network_files(files)


class IRWriter:
    """Layers and edges as text, constants one after the other in a binary."""

    def __init__(self):
        self.layers, self.edges, self.bin = [], [], b""

    def op(self, kind, *inputs, name=None, data=""):
        number = len(self.layers)
        self.layers.append(
            f'<layer id="{number}" name={quoteattr(name or f"{kind}_{number}")} type="{kind}" version="opset1">'
            f"{data}</layer>"
        )
        for port, producer in enumerate(inputs):
            self.edges.append(f'<edge from-layer="{producer}" from-port="0" to-layer="{number}" to-port="{port}"/>')
        return number

    def const(self, value, name=None, element_type="f32"):
        value = np.ascontiguousarray(value)
        shape = ", ".join(map(str, value.shape))
        data = f'<data element_type="{element_type}" shape="{shape}" offset="{len(self.bin)}" size="{value.nbytes}"/>'
        self.bin += value.tobytes()
        return self.op("Const", name=name, data=data)

    @property
    def xml(self):
        return (
            f'<?xml version="1.0"?><net name="n" version="10"><layers>{"".join(self.layers)}</layers>'
            f"<edges>{''.join(self.edges)}</edges></net>"
        ).encode()


@pytest.fixture
def writer():
    """Return a new, empty IR."""
    return IRWriter()


@pytest.fixture(scope="session")
def mobilestylegan_ir(make_tiny_tensors):
    """(mapping, synthesis) of the tiny generator as IRs, styles behind fixed scales as in the export."""
    tensors = {key: value.numpy() for key, value in make_tiny_tensors().items()}
    return _mapping(tensors), _synthesis(tensors)


def _mapping(t):
    ir = IRWriter()
    x = ir.op("Parameter", name="z")
    for k in range(3):
        product = ir.op("MatMul", x, ir.const(t[f"mapping.{k}.weight"]))
        bias = t[f"mapping.{k}.bias"]
        if k:
            total = ir.op("Add", product, ir.const(bias[None]))
        else:
            shaped = ir.op("Reshape", ir.const(bias), ir.const(np.array([1, len(bias)], np.int64), element_type="i64"))
            total = ir.op("Add", product, shaped)
        x = ir.op("PRelu", total, ir.const(np.array([0.2], np.float32)))
    return ir


def _synthesis(t):
    ir = IRWriter()
    w = ir.op("Parameter", name="w")

    def styled(theirs, ours, x, scale=None):
        weight, bias = t[f"{ours}.style.weight"], t[f"{ours}.style.bias"]
        by = np.float32(1 if scale is None else scale)
        product = ir.op("MatMul", w, ir.const(weight / by, f"{theirs}.modulation.weight"))
        total = ir.op("Add", product, ir.const((bias / by)[None], f"{theirs}.modulation.bias"))
        shape = ir.const(np.array([1, -1, 1, 1], np.int64), element_type="i64")
        style = ir.op("Reshape", total, shape)
        if scale is not None:
            style = ir.op("Multiply", style, ir.const(np.full((1, 1, 1, 1), scale, np.float32)))
        return ir.op("Multiply", x, style)

    def convolution(theirs, ours, x, scale):
        x = styled(f"{theirs}.conv", ours, x, scale)
        if f"{ours}.depthwise" in t:
            x = ir.op("GroupConvolution", x, ir.const(t[f"{ours}.depthwise"][:, None]))
        x = ir.op("Convolution", x, ir.const(t[f"{ours}.weight"]))
        x = ir.op("Add", x, ir.const(t[f"{ours}.noise"][None, None]))
        return ir.op("PRelu", ir.op("Add", x, ir.const(t[f"{ours}.bias"][None, :, None, None], f"{theirs}.bias")))

    x = convolution("m.conv1", "synthesis.conv0", ir.const(t["synthesis.input"][None], "m.input.input"), 0.25)
    for i in range(3):
        ours, theirs = f"synthesis.blocks.{i}", f"m.layers.{i}"
        x = ir.op("Haar", styled(f"{theirs}.up", f"{ours}.up", x))
        x = convolution(f"{theirs}.conv1", f"{ours}.conv1", x, 0.5)
        x = convolution(f"{theirs}.conv2", f"{ours}.conv2", x, None)
    x = styled("m.layers.2.to_img.conv", "synthesis.to_rgb", x, 2.0)
    x = ir.op("Convolution", x, ir.const(t["synthesis.to_rgb.weight"], "m.layers.2.to_img.conv.weight"))
    ir.op("Add", x, ir.const(t["synthesis.to_rgb.bias"][None, :, None, None], "m.layers.2.to_img.bias"))
    return ir


@pytest.fixture
def read(request, tmp_path):
    """Call the READER of a test module on bytes, under the name ODD_FILE."""
    path = tmp_path / request.module.ODD_FILE

    def work(data):
        path.write_bytes(data)
        return request.module.READER(path)

    return work


@pytest.fixture
def refused(request, read):
    """Assert that bytes are refused in one line that names the file and the reason."""

    def work(data, words):
        with pytest.raises(WeightFileError) as error:
            read(data)
        message = str(error.value)
        assert message.startswith(f"{request.module.ODD_FILE}: ") and "\n" not in message and len(message) < 300
        assert words in message, message

    return work
