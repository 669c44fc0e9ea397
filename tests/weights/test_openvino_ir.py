import numpy as np
import pytest
import torch

from hyperdecode.errors import WeightFileError
from hyperdecode.generators import MobileStyleGAN
from hyperdecode.weights.mobilestylegan import tensors_from_ir
from hyperdecode.weights.openvino_ir import read_ir


@pytest.fixture
def small(writer):
    rng = np.random.default_rng(0)
    writer.value = rng.standard_normal((3, 4)).astype(np.float32)
    writer.half = rng.standard_normal((2, 1, 2)).astype(np.float16)
    x = writer.op("Parameter", name="x")
    product = writer.op("MatMul", x, writer.const(writer.value, "weight"), name="product")
    writer.op("Add", product, writer.const(writer.half, "bias", "f16"), name="sum")
    writer.const(np.array(7, np.int64), "scalar", "i64")
    return writer


def refused(xml, weights, words):
    with pytest.raises(WeightFileError, match=words) as error:
        read_ir(xml, weights, "net.xml")
    assert str(error.value).startswith("net.xml: ") and "\n" not in str(error.value)


def test_constants_and_connections_come_back(small):
    graph = read_ir(small.xml, small.bin)
    np.testing.assert_array_equal(graph.constant("weight"), small.value)
    np.testing.assert_array_equal(graph.constant("bias"), small.half.astype(np.float32))
    assert graph.constant("bias").dtype == np.float32 and graph.constant("scalar") == 7
    product = graph.next(graph.named("x"), "MatMul")
    assert product.name == "product" and graph.next(product, "Add").name == "sum"
    np.testing.assert_array_equal(graph.constant_input(product), small.value)
    assert [node.name for node in graph.of_type("Const")] == ["weight", "bias", "scalar"]
    assert graph.has_constant_input(product) and not graph.has_constant_input(graph.named("x"))


def test_ports_order_the_inputs_not_the_edges(small):
    xml = small.xml.decode()
    edges = small.edges
    graph = read_ir(xml.replace("".join(edges), "".join(reversed(edges))).encode(), small.bin)
    assert [graph.nodes[i].name for i in graph.named("product").inputs] == ["x", "weight"]


@pytest.mark.parametrize(
    "declaration",
    ['<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>', '<!DOCTYPE net SYSTEM "file:///etc/passwd">'],
)
def test_declarations_are_refused(small, declaration):
    refused(small.xml.replace(b"<net", declaration.encode() + b"<net"), small.bin, "declares entities")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_declarations_do_not_hide_in_another_encoding(small, encoding):
    bomb = '<!DOCTYPE net [<!ENTITY a "aaaa">]><net><layers><layer id="&a;"/></layers><edges/></net>'
    refused(bomb.encode(encoding), small.bin, "not readable as XML")


def test_a_declared_encoding_changes_nothing(small):
    bomb = '<!DOCTYPE net [<!ENTITY a "aaaa">]><net><layers><layer id="&a;"/></layers><edges/></net>'
    declared = b'<?xml version="1.0" encoding="cp037"?>' + bomb.encode("cp037")
    refused(declared, small.bin, "not readable as XML")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda xml: xml[: len(xml) // 2], "not readable as XML"),
        (lambda xml: b"", "not readable as XML"),
        (lambda xml: b"\x00\xff" + xml, "not readable as XML"),
        (lambda xml: b"<net/>", "no OpenVINO IR"),
        (lambda xml: xml.replace(b"<net", b"<web").replace(b"</net", b"</web"), "no OpenVINO IR"),
        (lambda xml: xml.replace(b'type="MatMul"', b""), "lacks what an IR must say"),
        (lambda xml: xml.replace(b'to-port="1"', b'to-port="one"', 1), "lacks what an IR must say"),
        (lambda xml: xml.replace(b'from-layer="0"', b'from-layer="99"'), "reads from layer id '99', which is absent"),
        (lambda xml: xml.replace(b'element_type="f32"', b'element_type="string"'), "not a number"),
        (lambda xml: xml.replace(b'size="48"', b'size="44"'), "claims 44 bytes at 0 for shape"),
        (lambda xml: xml.replace(b'shape="3, 4"', b'shape="3, 5"'), r"for shape \(3, 5\)"),
        (lambda xml: xml.replace(b'shape="3, 4"', b'shape="-3, -4"'), r"for shape \(-3, -4\)"),
        (lambda xml: xml.replace(b'shape="3, 4"', b'shape="3, x"'), "lacks what an IR must say"),
        (lambda xml: xml.replace(b'offset="0"', b'offset="-48"'), "claims 48 bytes at -48"),
        (lambda xml: xml.replace(b'offset="0"', b'offset="100000"'), "claims 48 bytes at 100000"),
    ],
)
def test_damaged_xml(small, harm, words):
    assert harm(small.xml) != small.xml
    refused(harm(small.xml), small.bin, words)


def test_a_binary_that_ends_too_soon(small):
    refused(small.xml, small.bin[:-1], f"the binary has {len(small.bin) - 1}")


def test_sizes_are_bounded(small, monkeypatch):
    monkeypatch.setattr("hyperdecode.weights.openvino_ir.MAX_BIN_BYTES", len(small.bin) - 1)
    refused(small.xml, small.bin, "more than an IR of a generator can have")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(writer, value):
    writer.const(np.array([1, value], np.float32), "weight")
    with pytest.raises(WeightFileError, match="'weight' holds NaN or infinite"):
        read_ir(writer.xml, writer.bin).constant("weight")


def test_what_is_not_there_is_named(small):
    graph = read_ir(small.xml, small.bin, "net.xml")
    for ask, words in (
        (lambda: graph.constant("gamma"), "no constant 'gamma'"),
        (lambda: graph.constant("product"), "'product' is not a constant"),
        (lambda: graph.named("gamma"), "no layer 'gamma'"),
        (lambda: graph.next(graph.named("product"), "Multiply"), "expected one Multiply behind layer 'product'"),
        (lambda: graph.constant_input(graph.named("x")), "layer 'x' has 0 constant inputs"),
    ):
        with pytest.raises(WeightFileError, match=words) as error:
            ask()
        assert str(error.value).startswith("net.xml: ")


def test_a_whole_network_comes_back_under_our_names(mobilestylegan_ir, make_tiny_tensors, tiny_generator):
    mapping, synthesis = (read_ir(ir.xml, ir.bin) for ir in mobilestylegan_ir)
    tensors = tensors_from_ir(mapping, synthesis)
    expected = make_tiny_tensors()
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("depthwise"):
            assert tensors[name].shape == tuple(value.shape)
        np.testing.assert_allclose(tensors[name], value.numpy(), rtol=1e-6, err_msg=name)
    generator = MobileStyleGAN({name: torch.from_numpy(value.copy()) for name, value in tensors.items()})
    z = generator.sample(2, 0)
    torch.testing.assert_close(generator.images(z, space="z"), tiny_generator.images(z, space="z"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"m.input.input", b"m.other", "no constant 'm.input.input'"),
        (b"m.layers.1.conv2.bias", b"m.other", "no constant 'm.layers.1.conv2.bias'"),
        (b"m.layers.1.up.modulation.bias", b"m.other", "no constant 'm.layers.1.up.modulation.bias'"),
        (b'type="Convolution"', b'type="Deconvolution"', "expected one Convolution behind layer"),
        (b"m.layers.", b"m.stages.", "another network"),
    ],
)
def test_another_network_is_refused(mobilestylegan_ir, old, new, words):
    mapping, synthesis = mobilestylegan_ir
    assert old in synthesis.xml
    graphs = read_ir(mapping.xml, mapping.bin), read_ir(synthesis.xml.replace(old, new), synthesis.bin)
    with pytest.raises(WeightFileError, match=words) as error:
        tensors_from_ir(*graphs)
    assert "\n" not in str(error.value)


def test_a_mapping_without_products_is_refused(writer, mobilestylegan_ir):
    synthesis = mobilestylegan_ir[1]
    writer.op("Parameter")
    with pytest.raises(WeightFileError, match="no mapping network"):
        tensors_from_ir(read_ir(writer.xml, b""), read_ir(synthesis.xml, synthesis.bin))
