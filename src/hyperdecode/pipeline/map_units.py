"""Units of a searchlight on disk, where a killed run finds them, and on the GPUs of workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hyperdecode.files import atomic_path
from hyperdecode.mapping.chunks import Arrays, Unit
from hyperdecode.mapping.generator_occlusion import GeneratorOcclusion
from hyperdecode.pipeline.flights import SideBySide

__all__ = ["FileResults", "on_their_gpus"]


@dataclass(frozen=True)
class FileResults:
    """Results in a folder, one file a unit (`hyperdecode.mapping.chunks.Results`).

    Attributes
    ----------
    folder : pathlib.Path
        Its name tells what the units are of: units of anything else must not lie there.
    """

    folder: Path

    def has(self, unit: Unit) -> bool:
        """Return whether the unit is done; what is there and cannot be read is thrown away."""
        path = self._path(unit)
        if not path.is_file():
            return False
        try:
            load_file(path)
        except SafetensorError:
            path.unlink()
            return False
        return True

    def put(self, unit: Unit, arrays: Arrays) -> None:
        """Write the arrays of a unit whole, or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path(unit)) as temporary:
            save_file(dict(arrays), temporary)

    def get(self, unit: Unit) -> Arrays:
        """Read the arrays of a unit that is done."""
        found: Arrays = load_file(self._path(unit))
        return found

    def _path(self, unit: Unit) -> Path:
        return self.folder / f"{unit.name}.safetensors"


def on_their_gpus(each: SideBySide[Unit, Arrays]) -> SideBySide[Unit, Arrays]:
    """Return what runs units side by side, each on the GPU of its worker where that has one."""
    return lambda run, units: each(partial(_run, run), units)


def _run(run: Callable[[Unit], Arrays], unit: Unit) -> Arrays:
    problem = getattr(run, "args", (None,))[0]
    if isinstance(problem, GeneratorOcclusion) and problem.crops.device.type == "cpu" and torch.cuda.is_available():
        problem.crops.to(torch.device("cuda"))
    return run(unit)
