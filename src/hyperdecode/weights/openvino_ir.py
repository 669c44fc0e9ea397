"""Read the constants of an OpenVINO IR (version 10 or 11): plain XML and a flat binary, nothing is executed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.limits import shown

__all__ = ["Graph", "Node", "read_ir"]

MAX_XML_BYTES = 8 * 2**20  # an element of three letters takes 300 bytes of memory; a real export has 0.4 MB
MAX_BIN_BYTES = 4 * 2**30
DTYPES = {
    "f32": "<f4", "f16": "<f2", "f64": "<f8", "i64": "<i8", "i32": "<i4", "i16": "<i2", "i8": "<i1", "u8": "<u1",
    "u16": "<u2", "u32": "<u4", "u64": "<u8",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One layer of an IR graph.

    Attributes
    ----------
    id, type, name : str
        As in the XML.
    inputs : tuple of str
        Ids of the nodes that feed the input ports, in port order.
    value : ndarray or None
        The constant of a ``Const`` node.
    """

    id: str
    type: str
    name: str
    inputs: tuple[str, ...]
    value: NDArray[np.generic] | None = None


class Graph:
    """Nodes of an IR with the questions that a weight converter asks.

    Parameters
    ----------
    nodes : list of Node
    source : str
        Named in error messages.
    """

    def __init__(self, nodes: list[Node], source: str) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.source = source
        self._by_name: dict[str, Node] = {node.name: node for node in nodes}
        self._consumers: dict[str, list[Node]] = {node.id: [] for node in nodes}
        for node in nodes:
            for producer in node.inputs:
                if producer not in self.nodes:
                    raise WeightFileError(
                        f"{source}: layer {shown(node.name)} reads from layer id {shown(producer)}, which is absent"
                    )
                self._consumers[producer].append(node)

    def of_type(self, kind: str) -> list[Node]:
        """Nodes of a layer type in file order."""
        return [node for node in self.nodes.values() if node.type == kind]

    def constant(self, name: str) -> NDArray[np.float32]:
        """Return the constant of that name as float32."""
        if name not in self._by_name:
            raise WeightFileError(f"{self.source}: no constant {shown(name)}, the file holds another network")
        return self._value(self._by_name[name])

    def named(self, name: str) -> Node:
        """Return the node of that name."""
        if name not in self._by_name:
            raise WeightFileError(f"{self.source}: no layer {shown(name)}, the file holds another network")
        return self._by_name[name]

    def next(self, node: Node, kind: str) -> Node:
        """Return the one consumer of `node` that has the type `kind`."""
        found = [consumer for consumer in self._consumers[node.id] if consumer.type == kind]
        if len(found) != 1:
            raise WeightFileError(
                f"{self.source}: expected one {kind} behind layer {shown(node.name)}, found {len(found)}"
            )
        return found[0]

    def constant_input(self, node: Node) -> NDArray[np.float32]:
        """Return the constant that feeds `node`, whichever port it enters."""
        values = [self.nodes[i] for i in node.inputs if self.nodes[i].type == "Const"]
        if len(values) != 1:
            raise WeightFileError(
                f"{self.source}: layer {shown(node.name)} has {len(values)} constant inputs, expected one"
            )
        return self._value(values[0])

    def has_constant_input(self, node: Node) -> bool:
        """Whether a constant feeds `node`."""
        return any(self.nodes[i].type == "Const" for i in node.inputs)

    def _value(self, node: Node) -> NDArray[np.float32]:
        if node.value is None:
            raise WeightFileError(f"{self.source}: layer {shown(node.name)} is not a constant")
        value = node.value.astype(np.float32)
        if not np.isfinite(value).all():
            raise WeightFileError(
                f"{self.source}: constant {shown(node.name)} holds NaN or infinite values, fetch the file anew"
            )
        return value


def read_ir(xml: bytes, weights: bytes, source: str = "OpenVINO IR") -> Graph:
    """Parse an IR into a graph of constants and layer types.

    Parameters
    ----------
    xml : bytes
        The ``.xml`` file. Document type declarations and entities are refused.
    weights : bytes
        The ``.bin`` file.
    source : str
        Named in error messages.

    Returns
    -------
    Graph

    Raises
    ------
    WeightFileError
        When the XML is no IR, is too large, declares entities, or a constant lies outside the binary or
        does not have the size its shape asks for.
    """
    if len(xml) > MAX_XML_BYTES or len(weights) > MAX_BIN_BYTES:
        raise WeightFileError(f"{source}: {len(xml)} + {len(weights)} bytes is more than an IR of a generator can have")
    try:
        # Decoded here: parsed as text, no declared encoding can hide a declaration from the check below.
        text = xml.decode("utf-8")
        if "\0" in text:
            raise ValueError("not UTF-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise WeightFileError(f"{source}: the XML declares entities, which no IR does; refusing to read it")
        root = ElementTree.fromstring(text)
    except WeightFileError:
        raise
    except (ElementTree.ParseError, ValueError) as error:
        raise WeightFileError(f"{source}: not readable as XML ({error}), fetch the file anew") from None
    layers, edges = root.find("layers"), root.find("edges")
    if root.tag != "net" or layers is None or edges is None:
        raise WeightFileError(f"{source}: the XML is no OpenVINO IR (no <net> with <layers> and <edges>)")
    feeds: dict[str, list[tuple[int, str]]] = {}
    try:
        for edge in edges:
            feeds.setdefault(edge.attrib["to-layer"], []).append(
                (int(edge.attrib["to-port"]), edge.attrib["from-layer"])
            )
        nodes = [_node(layer, feeds, weights, source) for layer in layers]
    except (KeyError, ValueError) as error:
        raise WeightFileError(f"{source}: a layer or edge lacks what an IR must say ({error!r})") from None
    return Graph(nodes, source)


def _node(layer: ElementTree.Element, feeds: dict[str, list[tuple[int, str]]], weights: bytes, source: str) -> Node:
    identifier, kind, name = layer.attrib["id"], layer.attrib["type"], layer.attrib.get("name", "")
    inputs = tuple(producer for _, producer in sorted(feeds.get(identifier, [])))
    value = _constant(layer, weights, source, name) if kind == "Const" else None
    return Node(identifier, kind, name, inputs, value)


def _constant(layer: ElementTree.Element, weights: bytes, source: str, name: str) -> NDArray[np.generic]:
    data = layer.find("data")
    if data is None or data.attrib["element_type"] not in DTYPES:
        raise WeightFileError(f"{source}: constant {shown(name)} has no data or an element type that is not a number")
    dtype = np.dtype(DTYPES[data.attrib["element_type"]])
    shape = tuple(int(n) for n in data.attrib["shape"].split(",")) if data.attrib["shape"].strip() else ()
    offset, size = int(data.attrib["offset"]), int(data.attrib["size"])
    count = 1
    for n in shape:
        count *= n
    if min(shape, default=1) < 0 or count * dtype.itemsize != size or offset < 0 or offset + size > len(weights):
        raise WeightFileError(
            f"{source}: constant {shown(name)} claims {size} bytes at {offset} for shape {shape}, "
            f"the binary has {len(weights)}"
        )
    return np.frombuffer(weights, dtype, count, offset).reshape(shape)
