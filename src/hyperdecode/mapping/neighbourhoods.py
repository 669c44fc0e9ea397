"""The voxels around each voxel that are taken out together: cubes and balls of mask members."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import DataWarning, UserError

__all__ = ["Neighbourhoods", "ball_neighbourhoods", "cube_neighbourhoods"]

Integers = NDArray[np.int64]

LARGEST_BOX = 2**28
"""Voxels of the smallest box around all coordinates: more are no voxel indices of a scan."""
LOOKUPS = 2**22
"""Voxels that are looked up at once."""
HEADER_ROUNDING = 1e-5
"""Headers hold float32: a size that is off by less is the size that was meant."""


@dataclass(frozen=True)
class Neighbourhoods:
    """For each centre, the voxels that are occluded together.

    Attributes
    ----------
    centres : ndarray of intp, shape (n_centres,)
        Voxels (columns of the responses), ascending.
    members : ndarray of int32, shape (total,)
        Voxels of all neighbourhoods, one after the other, each in ascending order.
    starts : ndarray of intp, shape (n_centres + 1,)
        Neighbourhood k is ``members[starts[k]:starts[k + 1]]``.

    Raises
    ------
    UserError
        When the three do not fit together, or a neighbourhood is empty.
    """

    centres: NDArray[np.intp]
    members: NDArray[np.int32]
    starts: NDArray[np.intp]

    def __post_init__(self) -> None:
        n = len(self.centres)
        if not n or self.starts.shape != (n + 1,) or self.starts[0] != 0 or self.starts[-1] != len(self.members):
            raise UserError(
                f"{n} neighbourhoods need {n + 1} starts from 0 to {len(self.members)}, the number of members, and at "
                f"least one centre: got starts of shape {self.starts.shape}"
            )
        if np.any(self.sizes < 1):
            raise UserError(
                f"{int((self.sizes < 1).sum())} of {n} neighbourhoods are empty: leave their centres out, nothing can "
                "be occluded there"
            )
        if self.members.min() < 0:
            raise UserError("members of neighbourhoods are numbers of voxels from 0, got a negative one")

    def __len__(self) -> int:
        return len(self.centres)

    @property
    def sizes(self) -> NDArray[np.intp]:
        """Number of members of each neighbourhood, shape (n_centres,)."""
        return np.diff(self.starts)

    def of(self, k: int) -> NDArray[np.int32]:
        """Return the members of centre number `k` (not of voxel `k`), ascending."""
        return self.members[self.starts[k] : self.starts[k + 1]]


def cube_neighbourhoods(
    coordinates: ArrayLike,
    affine: ArrayLike | None,
    side_mm: float = 14.0,
    stride: int = 1,
    *,
    side_voxels: int | None = None,
) -> Neighbourhoods:
    r"""Take the mask members in a cube around each voxel.

    .. math:: S_c = \{v : |u_{va} - u_{ca}| \le (m_a - 1) / 2 \text{ on each axis } a\}

    with u the voxel indices and m_a the odd number nearest to `side_mm` over the voxel's size on that axis (between
    two, the larger): 14 mm are 7 voxels of 2 mm and 5 of 3 mm. Axes are those of the grid, also where it is oblique.

    Parameters
    ----------
    coordinates : array of int, shape (n_voxels, 3)
        Voxel indices of the mask members, in the order of the responses' columns.
    affine : array, shape (4, 4)
        Voxel indices to mm. None only with `side_voxels`.
    side_mm : float
        Side of the cube, mm.
    stride : int
        Centres are the voxels whose indices are all multiples of it; 1 takes all.
    side_voxels : int, optional
        Odd side in voxels, on all axes, instead of `side_mm`.

    Returns
    -------
    Neighbourhoods

    Raises
    ------
    UserError
        When there is no voxel, one comes twice, the affine is missing or singular, a size is not positive, the side in
        voxels is even, or no voxel lies on the stride.

    Warns
    -----
    DataWarning
        When voxels are alone in their cube, with their number.

    References
    ----------
    Dado et al. (2022), Sci. Rep. 12:141, searchlight-occlusion (7 x 7 x 7 voxels of 2 mm).
    """
    voxels = _checked_coordinates(coordinates)
    if side_voxels is not None:
        if side_voxels < 1 or side_voxels % 2 == 0:
            raise UserError(f"a cube around a voxel has an odd side of at least 1 voxel, got {side_voxels}")
        half = np.full(3, side_voxels // 2)
    else:
        if not (np.isfinite(side_mm) and side_mm > 0):
            raise UserError(f"the side of a cube is a positive number of mm, got {side_mm}")
        sizes = np.linalg.norm(_checked_directions(affine), axis=0)
        half = np.floor(side_mm / sizes / 2 + HEADER_ROUNDING).astype(np.int64)
    around = _box(np.minimum(half, np.ptp(voxels, axis=0)))
    return _neighbourhoods(voxels, around, stride, "cube", said_alone=side_voxels == 1)


def ball_neighbourhoods(
    coordinates: ArrayLike, affine: ArrayLike | None, radius_mm: float, stride: int = 1
) -> Neighbourhoods:
    r"""Take the mask members in a ball around each voxel.

    .. math:: S_c = \{v : \|M (u_v - u_c)\| \le r\}

    with u the voxel indices and M the affine's 3 x 3 part, so that the ball is one in mm on any grid.

    Parameters
    ----------
    coordinates : array of int, shape (n_voxels, 3)
        Voxel indices of the mask members, in the order of the responses' columns.
    affine : array, shape (4, 4)
        Voxel indices to mm.
    radius_mm : float
        Radius between centres of voxels, mm; a voxel at exactly this distance is in.
    stride : int
        Centres are the voxels whose indices are all multiples of it; 1 takes all.

    Returns
    -------
    Neighbourhoods

    Raises
    ------
    UserError
        When there is no voxel, one comes twice, the affine is missing or singular, the radius is not positive, or no
        voxel lies on the stride.

    Warns
    -----
    DataWarning
        When voxels are alone in their ball, with their number.
    """
    voxels = _checked_coordinates(coordinates)
    if not (np.isfinite(radius_mm) and radius_mm > 0):
        raise UserError(f"the radius of a ball is a positive number of mm, got {radius_mm}")
    directions = _checked_directions(affine)
    reach = radius_mm * (1 + HEADER_ROUNDING)
    # Along axis a nothing further than r times the length of row a of the inverse can lie in the ball.
    half = np.floor(reach * np.linalg.norm(np.linalg.inv(directions), axis=1)).astype(np.int64)
    around = _box(np.minimum(half, np.ptp(voxels, axis=0)))
    return _neighbourhoods(voxels, around[np.linalg.norm(around @ directions.T, axis=1) <= reach], stride, "ball")


def _checked_coordinates(coordinates: ArrayLike) -> Integers:
    given = np.asarray(coordinates)
    if given.ndim != 2 or given.shape[1] != 3 or not len(given):
        raise UserError(f"coordinates are the 3 indices of each voxel, at least one voxel: got shape {given.shape}")
    if given.dtype.kind not in "iu":
        raise UserError(f"coordinates are whole voxel indices, got {given.dtype}: give np.argwhere(mask), not mm")
    voxels = given.astype(np.int64)
    twice = len(voxels) - len(np.unique(voxels, axis=0))
    if twice:
        raise UserError(f"{twice} of {len(voxels)} voxels have the coordinates of another: give each voxel once")
    span = np.ptp(voxels, axis=0) + 1
    if np.prod(span.astype(np.float64)) > LARGEST_BOX:
        raise UserError(f"coordinates span {' x '.join(map(str, span))} voxels, more than a scan: give voxel indices")
    return voxels


def _checked_directions(affine: ArrayLike | None) -> NDArray[np.float64]:
    if affine is None:
        raise UserError("sizes in mm need the affine of the mask, got none: give it (nibabel's image.affine)")
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise UserError("an affine is a finite 4 x 4 matrix that can be inverted: mend the header of the mask")
    return matrix[:3, :3]


def _box(half: Integers) -> Integers:
    """Return all offsets up to `half` on each axis, (n, 3)."""
    return np.stack(np.meshgrid(*(np.arange(-h, h + 1) for h in half), indexing="ij"), axis=-1).reshape(-1, 3)


def _neighbourhoods(
    voxels: Integers, around: Integers, stride: int, shape: str, said_alone: bool = False
) -> Neighbourhoods:
    if stride < 1 or stride != int(stride):
        raise UserError(f"the stride is a whole number of voxels from 1, got {stride}")
    centres = np.flatnonzero((voxels % stride == 0).all(axis=1))
    if not len(centres):
        raise UserError(
            f"none of {len(voxels)} voxels has indices that are all multiples of {stride}: lower the stride"
        )
    # A margin as wide as the reach: no neighbour is looked up outside the box.
    reach = np.abs(around).max(axis=0)
    span = np.ptp(voxels, axis=0) + 1 + 2 * reach
    numbers = np.full(span, -1, dtype=np.int32)
    steps = np.array([span[1] * span[2], span[2], 1])
    at = (voxels - voxels.min(axis=0) + reach) @ steps
    numbers.ravel()[at] = np.arange(len(voxels), dtype=np.int32)
    offsets, rows = around @ steps, max(1, LOOKUPS // len(around))
    found, sizes = [], []
    for start in range(0, len(centres), rows):
        near = np.sort(numbers.ravel()[at[centres[start : start + rows], None] + offsets], axis=1)
        there = near >= 0
        found.append(near[there])
        sizes.append(there.sum(axis=1))
    size = np.concatenate(sizes)
    alone = int((size == 1).sum())
    if alone and not said_alone:
        warnings.warn(
            f"{alone} of {len(centres)} voxels are alone in their {shape}: their loss is that of one voxel",
            DataWarning,
            stacklevel=3,
        )
    return Neighbourhoods(centres, np.concatenate(found), np.concatenate([[0], np.cumsum(size)]))
