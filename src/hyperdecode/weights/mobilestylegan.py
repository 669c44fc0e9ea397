"""The layout of MobileStyleGAN in an OpenVINO IR, and our names for its tensors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.openvino_ir import Graph, Node

__all__ = ["tensors_from_ir"]

Tensors = dict[str, NDArray[np.float32]]

MAX_BLOCKS = 16


def tensors_from_ir(mapping: Graph, synthesis: Graph) -> Tensors:
    """Collect the weights of MobileStyleGAN under the names of `hyperdecode.generators.MobileStyleGAN`.

    The scalar that the exported graph multiplies a style by (the demodulation of a fixed weight) is
    folded into the style's affine map.

    Parameters
    ----------
    mapping, synthesis : Graph
        The two graphs of the export (``MappingNetwork``, ``SynthesisNetwork``).

    Returns
    -------
    dict of str to ndarray
        float32 tensors.

    Raises
    ------
    WeightFileError
        When a graph is not laid out as a MobileStyleGAN.
    """
    try:
        return _tensors(mapping, synthesis)
    except (IndexError, ValueError) as error:
        if isinstance(error, WeightFileError):
            raise
        raise WeightFileError(f"{synthesis.source}: a constant has a shape that no MobileStyleGAN has") from None


def _tensors(mapping: Graph, synthesis: Graph) -> Tensors:
    tensors: Tensors = {}
    for k, product in enumerate(mapping.of_type("MatMul")):
        tensors[f"mapping.{k}.weight"] = mapping.constant_input(product)
        tensors[f"mapping.{k}.bias"] = _mapping_bias(mapping, product)
    if not tensors:
        raise WeightFileError(f"{mapping.source}: no matrix products, so no mapping network")
    tensors["synthesis.input"] = synthesis.constant("m.input.input")[0]
    tensors |= _convolution(synthesis, "m.conv1", "synthesis.conv0")
    n_blocks = sum(node.name.endswith(".up.modulation.weight") for node in synthesis.of_type("Const"))
    if n_blocks > MAX_BLOCKS:
        raise WeightFileError(f"{synthesis.source}: {n_blocks} blocks, a MobileStyleGAN has at most {MAX_BLOCKS}")
    for i in range(n_blocks):
        tensors |= _style(synthesis, f"m.layers.{i}.up", f"synthesis.blocks.{i}.up")[0]
        for conv in ("conv1", "conv2"):
            tensors |= _convolution(synthesis, f"m.layers.{i}.{conv}", f"synthesis.blocks.{i}.{conv}")
    last = f"m.layers.{n_blocks - 1}.to_img"
    tensors |= _style(synthesis, f"{last}.conv", "synthesis.to_rgb")[0]
    tensors["synthesis.to_rgb.weight"] = synthesis.constant(f"{last}.conv.weight")
    tensors["synthesis.to_rgb.bias"] = synthesis.constant(f"{last}.bias").reshape(-1)
    return tensors


def _mapping_bias(graph: Graph, product: Node) -> NDArray[np.float32]:
    """Bias of a mapping layer: it passes a Reshape before it is added."""
    total = graph.next(product, "Add")
    reshaped = [graph.nodes[i] for i in total.inputs if graph.nodes[i].type == "Reshape"]
    if len(reshaped) == 1:
        return np.asarray(graph.nodes[reshaped[0].inputs[0]].value, np.float32).reshape(-1)
    return graph.constant_input(total).reshape(-1)


def _style(graph: Graph, theirs: str, ours: str) -> tuple[Tensors, Node]:
    """Affine map from w to the style of one layer, and the Multiply that applies it to the features."""
    weight = graph.constant(f"{theirs}.modulation.weight")
    bias = graph.constant(f"{theirs}.modulation.bias").reshape(-1)
    product = graph.next(graph.named(f"{theirs}.modulation.weight"), "MatMul")
    applied = graph.next(graph.next(graph.next(product, "Add"), "Reshape"), "Multiply")
    if graph.has_constant_input(applied):
        scale = graph.constant_input(applied).reshape(())
        with np.errstate(over="ignore", invalid="ignore"):  # whoever keeps the tensors refuses infinite ones
            weight, bias = weight * scale, bias * scale
        applied = graph.next(applied, "Multiply")
    return {f"{ours}.style.weight": weight, f"{ours}.style.bias": bias}, applied


def _convolution(graph: Graph, theirs: str, ours: str) -> Tensors:
    """Weights of one styled convolution: style, (depthwise,) pointwise or 3 x 3, noise, bias."""
    tensors, node = _style(graph, f"{theirs}.conv", ours)
    if any(consumer.type == "GroupConvolution" for consumer in graph.nodes.values() if node.id in consumer.inputs):
        node = graph.next(node, "GroupConvolution")
        tensors[f"{ours}.depthwise"] = graph.constant_input(node)[:, 0]
    node = graph.next(node, "Convolution")
    tensors[f"{ours}.weight"] = graph.constant_input(node)
    noisy = graph.next(node, "Add")
    tensors[f"{ours}.noise"] = graph.constant_input(noisy)[0, 0]
    tensors[f"{ours}.bias"] = graph.constant(f"{theirs}.bias").reshape(-1)
    return tensors
