"""Read MobileStyleGAN from files: the two OpenVINO IRs of its export, or the wheel that holds them."""

from __future__ import annotations

import os
from pathlib import Path

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.limits import TensorTable, read_bytes, shown
from hyperdecode.weights.mobilestylegan import tensors_from_ir
from hyperdecode.weights.openvino_ir import MAX_BIN_BYTES, MAX_XML_BYTES, Graph, read_ir
from hyperdecode.weights.torch_files import open_archive, read_member

__all__ = ["MAPPING_XML", "read_openvino"]

MAPPING_XML, SYNTHESIS_XML = "MappingNetwork.xml", "SynthesisNetwork.xml"


def read_openvino(path: str | os.PathLike[str]) -> WeightContents:
    """Read a MobileStyleGAN export.

    Parameters
    ----------
    path : path-like
        ``MappingNetwork.xml`` or ``SynthesisNetwork.xml``, with the other and the two ``.bin`` files beside it; or an
        archive (wheel) that holds the four.

    Returns
    -------
    WeightContents
        Format ``"openvino-ir"``; the tensors have our names already, those of `hyperdecode.generators.MobileStyleGAN`,
        because the graph and not the names tells what they are.

    Raises
    ------
    UserError
        When one of the four files is absent.
    WeightFileError
        When a file is damaged, or its graph no MobileStyleGAN.
    """
    path = Path(path)
    head = read_bytes(path)
    if head[:2] == b"PK":
        mapping, synthesis, size = _from_archive(head, path.name)
    else:
        if path.name not in (MAPPING_XML, SYNTHESIS_XML):
            raise WeightFileError(
                f"{path.name}: an OpenVINO network, expected {MAPPING_XML} or {SYNTHESIS_XML} of a MobileStyleGAN"
            )
        files = {
            name: read_bytes(path.with_name(name), limit)
            for xml in (MAPPING_XML, SYNTHESIS_XML)
            for name, limit in ((xml, MAX_XML_BYTES), (f"{xml[:-4]}.bin", MAX_BIN_BYTES))
        }
        mapping, synthesis = (_graph(files, name, name) for name in (MAPPING_XML, SYNTHESIS_XML))
        size = sum(map(len, files.values()))
    table = TensorTable(path.name, size)
    for name, value in tensors_from_ir(mapping, synthesis).items():
        table.add(name, value)
    return WeightContents("openvino-ir", table.tensors, path.name)


def _graph(files: dict[str, bytes], xml: str, source: str) -> Graph:
    return read_ir(files[xml], files[f"{xml[:-4]}.bin"], source)


def _from_archive(data: bytes, source: str) -> tuple[Graph, Graph, int]:
    archive = open_archive(data, source)
    found = [name for name in archive.namelist() if name.rpartition("/")[2] == MAPPING_XML]
    if len(found) != 1:
        raise WeightFileError(f"{source}: {len(found)} members {shown(MAPPING_XML)}, expected one")
    folder = found[0].removesuffix(MAPPING_XML)
    names = [f"{part[:-4]}.{end}" for part in (MAPPING_XML, SYNTHESIS_XML) for end in ("xml", "bin")]
    files = {name: read_member(archive, f"{folder}{name}", source) for name in names}
    mapping, synthesis = (_graph(files, name, f"{name} in {source}") for name in (MAPPING_XML, SYNTHESIS_XML))
    return mapping, synthesis, len(data)
