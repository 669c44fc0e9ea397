"""Volumes on the cortex: values and labels of voxels at the vertices of fsaverage5, which nilearn ships.

fsaverage lies in MNI305 space, volumes in MNI152: its surfaces are carried over by the affine transform that FreeSurfer
documents. Regions are read from the same volume as the regions of the voxels, so that a voxel is drawn within the
borders of the region that it is counted in; outlines made on the surface itself differ from these in the small areas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from nibabel.affines import apply_affine
from nilearn.datasets import load_fsaverage, load_fsaverage_data
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.mapping.regions import Partition, RegionSet, regions_of_voxels

__all__ = [
    "HEMISPHERES",
    "Cortex",
    "Hemisphere",
    "load_cortex",
    "majority",
    "regions_on_cortex",
    "sample_labels",
    "sample_values",
]

Hemisphere = Literal["left", "right"]
HEMISPHERES: tuple[Hemisphere, ...] = ("left", "right")

FloatArray = NDArray[np.float64]

MNI305_TO_MNI152 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
        [0, 0, 0, 1],
    ]
)
"""https://surfer.nmr.mgh.harvard.edu/fswiki/CoordinateSystems, use case 8; mm to mm."""

N_DEPTHS = 11
"""Points between white and pial surface at which a vertex reads the volume, both ends included."""


@dataclass(frozen=True, eq=False)
class Cortex:
    """One hemisphere.

    Attributes
    ----------
    white, pial : ndarray of float64, shape (n_vertices, 3)
        Inner and outer surface in MNI152 space, mm.
    inflated : ndarray of float64, shape (n_vertices, 3)
        For drawing.
    faces : ndarray of intp, shape (n_faces, 3)
        Triangles.
    sulcal : ndarray of float64, shape (n_vertices,)
        Depth of folding, positive in sulci.
    """

    white: FloatArray
    pial: FloatArray
    inflated: FloatArray
    faces: NDArray[np.intp]
    sulcal: FloatArray

    def finer(self) -> Cortex:
        """Return the hemisphere with each triangle split into four; the old vertices come first."""
        edges = np.sort(self.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        pairs, inverse = np.unique(edges, axis=0, return_inverse=True)
        middle = len(self.sulcal) + inverse.reshape(-1, 3)
        a, b, c = self.faces.T
        ab, bc, ca = middle.T
        corners = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        faces = np.concatenate([np.stack(corner, axis=1) for corner in corners])
        halved = [
            np.concatenate([each, each[pairs].mean(axis=1)])
            for each in (self.white, self.pial, self.inflated, self.sulcal)
        ]
        return Cortex(halved[0], halved[1], halved[2], faces, halved[3])


@cache
def load_cortex(*, finer: bool = False) -> dict[Hemisphere, Cortex]:
    """Return both hemispheres of fsaverage5, 10,242 vertices each, or four times as fine for drawing.

    References
    ----------
    Fischl B, Sereno MI, Tootell RBH, Dale AM (1999). Hum. Brain Mapp. 8:272-284. Wu J et al. (2018). Hum. Brain Mapp.
    39:3793-3808 (how well the affine transform does, and what does better).
    """
    meshes = load_fsaverage("fsaverage5")
    folding = load_fsaverage_data(mesh="fsaverage5", data_type="sulcal").data.parts
    cortex = {}
    for side in HEMISPHERES:
        white, pial = (_in_mni152(meshes[name].parts[side].coordinates) for name in ("white_matter", "pial"))
        inflated = meshes["inflated"].parts[side]
        one = Cortex(
            white,
            pial,
            np.asarray(inflated.coordinates, np.float64),
            np.asarray(inflated.faces, np.intp),
            np.asarray(folding[side], np.float64),
        )
        cortex[side] = one.finer() if finer else one
    return cortex


def sample_labels(values: ArrayLike, affine: ArrayLike, cortex: Cortex) -> NDArray[np.int64]:
    """Return the label that most points of each vertex meet between white and pial surface.

    Parameters
    ----------
    values : array-like of whole numbers, shape (x, y, z)
        0 for no label.
    affine : array-like, shape (4, 4)
        Voxel to mm in MNI152 space.
    cortex : Cortex

    Returns
    -------
    ndarray of int64, shape (n_vertices,)
        0 where no point meets a label; points without one have no vote. Of labels that tie the lowest is taken.

    Raises
    ------
    UserError
        When the volume is not 3D, holds other than whole numbers >= 0, or its affine cannot be inverted.
    """
    volume = np.asarray(values)
    if volume.dtype.kind == "f" and np.array_equal(volume, np.rint(volume)):
        volume = volume.astype(np.int64)
    if volume.dtype.kind not in "iub" or (volume.size and volume.min() < 0):
        raise UserError("labels on the cortex are whole numbers with 0 for none: give a volume of labels")
    read = _read(volume, affine, cortex, 0)
    best = np.zeros(read.shape[1], np.int64)
    votes = np.zeros(read.shape[1], np.int64)
    for label in np.setdiff1d(read, [0]):
        own = (read == label).sum(axis=0)
        more = own > votes
        best[more], votes[more] = label, own[more]
    return best


def sample_values(values: ArrayLike, affine: ArrayLike, cortex: Cortex) -> FloatArray:
    """Return the mean of the voxels that each vertex meets between white and pial surface.

    Parameters
    ----------
    values : array-like, shape (x, y, z)
        NaN outside the mask.
    affine : array-like, shape (4, 4)
        Voxel to mm in MNI152 space.
    cortex : Cortex

    Returns
    -------
    ndarray of float64, shape (n_vertices,)
        NaN where all points lie outside.

    Raises
    ------
    UserError
        When the volume is not 3D or its affine cannot be inverted.
    """
    read = _read(np.asarray(values, np.float64), affine, cortex, np.nan)
    inside = np.isfinite(read)
    total, n = np.where(inside, read, 0.0).sum(axis=0), inside.sum(axis=0)
    return np.asarray(np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0))


def regions_on_cortex(
    values: ArrayLike,
    affine: ArrayLike,
    names: Mapping[int, str] | None = None,
    by: Partition = "groups",
    *,
    groups: Mapping[str, Iterable[str | int]] | None = None,
    finer: bool = True,
) -> dict[Hemisphere, RegionSet]:
    """Return the region of each vertex, by the rules of `hyperdecode.mapping.regions.regions_of_voxels`.

    Vertices without a label take the one that most of their neighbours have, a few vertices deep: a volume and the
    surface do not meet everywhere.

    Parameters
    ----------
    values, affine
        The labelled volume, as in `sample_labels`.
    names, by, groups
        As in `regions_of_voxels`.
    finer : bool
        On the mesh for drawing (`load_cortex`).

    Returns
    -------
    dict of str to RegionSet
        For ``"left"`` and ``"right"``, with the same names.
    """
    cortex = load_cortex(finer=finer)
    labels = [_filled(sample_labels(values, affine, cortex[side]), cortex[side], 3 + finer) for side in HEMISPHERES]
    both = regions_of_voxels(np.concatenate(labels), names, by, groups=groups)
    ends = np.cumsum([0] + [len(each) for each in labels])
    return {
        side: both.at(np.arange(start, stop))
        for side, start, stop in zip(HEMISPHERES, ends[:-1], ends[1:], strict=True)
    }


def majority(labels: NDArray[np.integer[Any]], cortex: Cortex, rounds: int = 2) -> NDArray[np.int64]:
    """Give each vertex the label that most triangles around it bear, itself included: for borders that are no noise.

    Parameters
    ----------
    labels : ndarray of int, shape (n_vertices,)
    cortex : Cortex
    rounds : int
        How often.

    Returns
    -------
    ndarray of int64, shape (n_vertices,)
    """
    kinds, found = np.unique(labels, return_inverse=True)
    for _ in range(rounds):
        votes = _votes(found, len(kinds), cortex)
        # One's own vote breaks ties.
        votes[np.arange(len(labels)), found] += 1.5
        found = votes.argmax(axis=1)
    return np.asarray(kinds[found], np.int64)


def _filled(labels: NDArray[np.int64], cortex: Cortex, rounds: int) -> NDArray[np.int64]:
    kinds, found = np.unique(np.append(labels, 0), return_inverse=True)
    found = found[:-1]
    for _ in range(rounds):
        votes = _votes(found, len(kinds), cortex)
        votes[:, 0] = 0.5
        found = np.where(found == 0, votes.argmax(axis=1), found)
    return np.asarray(kinds[found], np.int64)


def _votes(found: NDArray[np.intp], n_kinds: int, cortex: Cortex) -> FloatArray:
    """Count the labels at the other corners of each vertex's triangles, (n_vertices, n_kinds)."""
    corner = cortex.faces[:, [0, 1, 2, 0, 1, 2]].ravel()
    other = found[cortex.faces[:, [1, 2, 0, 2, 0, 1]]].ravel()
    cells = np.bincount(corner * n_kinds + other, minlength=len(found) * n_kinds)
    return cells.reshape(len(found), n_kinds).astype(np.float64)


def _in_mni152(coordinates: ArrayLike) -> FloatArray:
    return np.asarray(apply_affine(MNI305_TO_MNI152, np.asarray(coordinates, np.float64)))


def _read(volume: NDArray[np.generic], affine: ArrayLike, cortex: Cortex, outside: float) -> NDArray[np.generic]:
    """Return what the points of each vertex meet, (n_depths, n_vertices): nearest voxels, `outside` beyond the grid."""
    matrix = np.asarray(affine, np.float64)
    if volume.ndim != 3 or matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.linalg.det(matrix):
        raise UserError(
            f"the cortex reads one 3D volume with an affine that can be inverted, got shape {volume.shape}: mend the "
            "header"
        )
    to_voxel = np.linalg.inv(matrix)
    read = np.full((N_DEPTHS, len(cortex.white)), outside, volume.dtype)
    for row, depth in zip(read, np.linspace(0, 1, N_DEPTHS), strict=True):
        points = (1 - depth) * cortex.white + depth * cortex.pial
        index = np.rint(apply_affine(to_voxel, points)).astype(np.intp)
        within = ((index >= 0) & (index < np.array(volume.shape))).all(axis=1)
        row[within] = volume[tuple(index[within].T)]
    return read
