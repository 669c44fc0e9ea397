"""A searchlight over centres and faces as units of work that any process may do, in any order, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError

__all__ = ["Arrays", "MemoryResults", "Results", "Unit", "collected", "run_units", "work_units"]

Arrays = Mapping[str, NDArray[Any]]
"""What a unit gives: arrays by name, each (centres of the unit, faces of the unit, ...)."""


@dataclass(frozen=True, order=True)
class Unit:
    """A rectangle of work.

    Attributes
    ----------
    first_centre, last_centre : int
        Centres ``first_centre`` to before ``last_centre``.
    first_face, last_face : int
        Faces ``first_face`` to before ``last_face``.
    """

    first_centre: int
    last_centre: int
    first_face: int
    last_face: int

    @property
    def centres(self) -> slice:
        """Its centres."""
        return slice(self.first_centre, self.last_centre)

    @property
    def faces(self) -> slice:
        """Its faces."""
        return slice(self.first_face, self.last_face)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of centres and faces."""
        return self.last_centre - self.first_centre, self.last_face - self.first_face

    @property
    def name(self) -> str:
        """A name for a file."""
        return f"centres-{self.first_centre}-{self.last_centre}_faces-{self.first_face}-{self.last_face}"


class Results(Protocol):
    """Somewhere that the arrays of finished units are kept: memory, or files that outlive a killed run."""

    def has(self, unit: Unit) -> bool:
        """Return whether the unit is done."""

    def put(self, unit: Unit, arrays: Arrays) -> None:
        """Keep the arrays of a unit whole, or not at all."""

    def get(self, unit: Unit) -> Arrays:
        """Return the arrays of a unit that is done."""


class MemoryResults:
    """Results in memory."""

    def __init__(self) -> None:
        self._kept: dict[Unit, Arrays] = {}

    def has(self, unit: Unit) -> bool:
        """Return whether the unit is done."""
        return unit in self._kept

    def put(self, unit: Unit, arrays: Arrays) -> None:
        """Keep the arrays of a unit."""
        self._kept[unit] = arrays

    def get(self, unit: Unit) -> Arrays:
        """Return the arrays of a unit that is done."""
        return self._kept[unit]


def work_units(
    n_centres: int, n_faces: int, *, block: int = 32, centres: int = 64, faces: int | None = None
) -> list[Unit]:
    """Cut all pairs of a centre and a face into units.

    Parameters
    ----------
    n_centres, n_faces : int
    block : int
        Centres that are computed together (`hyperdecode.mapping.generator_occlusion.GeneratorOcclusion.batch`): no
        unit cuts through a block, so that every block is computed as the same batch whatever the units.
    centres : int
        Centres of a unit, rounded up to whole blocks.
    faces : int, optional
        Faces of a unit. Default: all.

    Returns
    -------
    list of Unit
        Every pair once, centres in order.

    Raises
    ------
    UserError
        When a number is not positive.
    """
    faces = n_faces if faces is None else faces
    numbers = {"n_centres": n_centres, "n_faces": n_faces, "block": block, "centres": centres, "faces": faces}
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"units of work need {name} of 1 or more, got {value}")
    step = -(-centres // block) * block
    return [
        Unit(centre, min(centre + step, n_centres), face, min(face + faces, n_faces))
        for centre in range(0, n_centres, step)
        for face in range(0, n_faces, faces)
    ]


def run_units(
    run: Callable[[Unit], Arrays],
    units: Sequence[Unit],
    results: Results,
    progress: Callable[[int, int], None] | None = None,
    side_by_side: Callable[[Callable[[Unit], Arrays], Sequence[Unit]], Iterable[tuple[Unit, Arrays]]] | None = None,
) -> None:
    """Do the units that are not done yet.

    Parameters
    ----------
    run : callable
        A pure function of the unit.
    units : sequence of Unit
    results : Results
        Each unit is put there as it ends.
    progress : callable, optional
        Called with the units done and all units, first before anything runs.
    side_by_side : callable, optional
        Given `run` and units, yields each unit with its arrays as it ends, in any order (a cluster, say). Default: one
        after the other in this process.
    """
    left = [unit for unit in units if not results.has(unit)]
    done = len(units) - len(left)
    if progress is not None:
        progress(done, len(units))
    for unit, arrays in (side_by_side or _in_order)(run, left):
        results.put(unit, arrays)
        done += 1
        if progress is not None:
            progress(done, len(units))


def _in_order(run: Callable[[Unit], Arrays], units: Sequence[Unit]) -> Iterator[tuple[Unit, Arrays]]:
    for unit in units:
        yield unit, run(unit)


def collected(results: Results, units: Sequence[Unit]) -> dict[str, NDArray[Any]]:
    """Put the arrays of all units together.

    Parameters
    ----------
    results : Results
    units : sequence of Unit
        All of `work_units`, all done.

    Returns
    -------
    dict of str to array, shape (n_centres, n_faces, ...)

    Raises
    ------
    UserError
        When a unit is not done, or units leave a pair out.
    """
    missing = [unit for unit in units if not results.has(unit)]
    if missing or not units:
        raise UserError(
            f"{len(missing)} of {len(units)} units of work are not done: run them before their results are put together"
        )
    shape = (max(unit.last_centre for unit in units), max(unit.last_face for unit in units))
    if sum(int(np.prod(unit.shape)) for unit in units) != np.prod(shape):
        raise UserError(
            f"units of work do not cover {shape[0]} centres x {shape[1]} faces once: give all of work_units"
        )
    whole: dict[str, NDArray[Any]] = {}
    for unit in units:
        for name, part in results.get(unit).items():
            if name not in whole:
                whole[name] = np.empty(shape + part.shape[2:], part.dtype)
            whole[name][unit.centres, unit.faces] = part
    return whole
