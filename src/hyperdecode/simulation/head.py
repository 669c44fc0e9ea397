"""A head for a simulated subject: tissue, regions, a T1w and the way to MNI space, all from one known warp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hyperdecode.errors import UserError
from hyperdecode.simulation.regions import Region, region_labels
from hyperdecode.weights.atlas import Atlas

__all__ = ["GREY_MATTER", "Head", "Warp", "draw_warp", "grow_head"]

FloatArray = NDArray[np.float64]

GREY_MATTER = 0.3
"""Share of grey matter above which a voxel counts as cortex."""
SPREAD_MM = 2.0
"""How far a region's label reaches into unlabelled grey matter: the atlas is thinner than coarse voxels."""
SUBJECT_MM = ((-100.0, 100.0), (-140.0, 110.0), (-90.0, 115.0))
COARSE_MM = 3.0
"""Grid on which the extent of a head is looked for within `SUBJECT_MM`."""
MARGIN_MM = 8.0
"""Room around what must stay in the field of view when the head moves."""
SHELLS_MM = (2.5, 7.0, 13.0)
"""Outer edge of cerebrospinal fluid, skull and scalp, from the brain's surface."""
TEMPLATE_MM = 20
"""Air around the template's brain: room for the shells, and for smoothing them."""
AIR_MM = 6.0
"""Air around the scalp in the T1w."""
EPI = {"grey": 1000.0, "white": 800.0, "fluid": 1400.0, "skull": 60.0, "scalp": 250.0}
T1 = {"fluid": 90.0, "skull": 60.0, "scalp": 900.0, "brain": 1000.0}
WARP_SMOOTH_MM, WARP_MM = 14.0, 2.2
SHRINK, TILT_DEG, SHIFT_MM = 0.04, 3.0, 4.0
LEAST_JACOBIAN = 0.3
BIAS, T1_NOISE = 0.15, 12.0


@dataclass(frozen=True)
class Head:
    """A head on the grid of the EPI.

    Attributes
    ----------
    affine : ndarray, (4, 4)
        Voxel to subject mm.
    brain : ndarray of bool, (x, y, z)
    grey, white, csf : ndarray of float32, (x, y, z)
        Share of each tissue, 0 to 1.
    regions : ndarray of int16, (x, y, z)
        HCP-MMP1 label, 0 where none.
    epi : ndarray of float32, (x, y, z)
        Mean intensity, about 1000 in grey matter.
    mni : ndarray of float32, (x, y, z, 3)
        MNI position in mm of each voxel: the true warp.
    table : mapping of int to Region
        What the regions that respond are.
    make_t1w : callable
        Makes `t1w`, which takes some seconds and is not always wanted.
    """

    affine: FloatArray
    brain: NDArray[np.bool_]
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    csf: NDArray[np.float32]
    regions: NDArray[np.int16]
    epi: NDArray[np.float32]
    mni: NDArray[np.float32]
    table: Mapping[int, Region]
    make_t1w: Callable[[], Any] = field(repr=False)

    @cached_property
    def t1w(self) -> Any:
        """NIfTI image, int16, 1 mm: the whole head with skull and scalp, in subject mm."""
        return self.make_t1w()


@dataclass(frozen=True)
class Warp:
    """From subject mm to MNI mm: ``A p + u(p)`` with a smooth displacement u.

    Attributes
    ----------
    affine : ndarray, (4, 4)
        A.
    displacement : ndarray of float32, (x, y, z, 3)
        u in mm on a coarse grid of subject space.
    grid : ndarray, (4, 4)
        Voxel of `displacement` to subject mm.
    """

    affine: FloatArray
    displacement: NDArray[np.float32]
    grid: FloatArray

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return MNI positions (..., 3) of subject positions (..., 3), both in mm."""
        at = np.asarray(points, np.float32).reshape(-1, 3)
        moved = _transformed(self.affine, at)
        if self.displacement.any():
            index = _transformed(np.linalg.inv(self.grid), at).T
            for k in range(3):
                moved[:, k] += ndimage.map_coordinates(self.displacement[..., k], index, order=1, mode="nearest")
        return np.asarray(moved.reshape(np.shape(points)))

    def on_grid(self, size: tuple[int, ...], affine: FloatArray) -> NDArray[np.float32]:
        """Return MNI positions (x, y, z, 3) of the voxels of a grid whose axes are those of space.

        The same as to call the warp with each voxel's position, and many times faster: A and the interpolation of u
        are worked out axis by axis.
        """
        lines = [affine[axis, axis] * np.arange(n) + affine[axis, 3] for axis, n in enumerate(size)]
        places = np.ix_(*(line.astype(np.float32) for line in lines))
        weights = [
            _linear_weights((line - self.grid[axis, 3]) / self.grid[axis, axis], self.displacement.shape[axis])
            for axis, line in enumerate(lines)
        ]
        moved = np.empty((*size, 3), np.float32)
        for k, row in enumerate(self.affine[:3].astype(np.float32)):
            moved[..., k] = row[0] * places[0] + row[1] * places[1] + row[2] * places[2] + row[3]
            part = self.displacement[..., k]
            if part.any():
                for axis_weights in weights:
                    # The axis worked on is the first and becomes the last: after three the order is the old one.
                    part = np.tensordot(part, axis_weights, (0, 1))
                moved[..., k] += part
        return moved

    def jacobian(self) -> NDArray[np.float64]:
        """Return the determinant of the warp's derivative on its grid, (x, y, z): above 0 means no fold."""
        spacing = self.grid[0, 0]
        parts = [np.gradient(self.displacement[..., k], spacing, axis=a) for k in range(3) for a in range(3)]
        gradient = np.stack(parts, -1).reshape(*self.displacement.shape, 3)
        determinant: NDArray[np.float64] = np.linalg.det(gradient + self.affine[:3, :3])
        return determinant


def draw_warp(shape: Literal["own", "mni"], seed: int) -> Warp:
    """Draw a head's shape: of ``"own"`` size, tilt, place and form, or the template itself (``"mni"``).

    The displacement is Gaussian noise, smooth over about 30 mm, about 4 mm long on average; it is drawn weaker until no
    place shrinks to less than `LEAST_JACOBIAN` of its volume, so that the warp can be inverted.
    """
    step = 4.0
    low, high = np.array(SUBJECT_MM).T
    size = np.ceil((high - low) / step).astype(int) + 1
    grid = nib.affines.from_matvec(np.eye(3) * step, low)
    if shape == "mni":
        return Warp(np.eye(4), np.zeros((*size, 3), np.float32), grid)
    if shape != "own":
        raise UserError(f"a head's shape is 'own' or 'mni', got {shape!r}")
    rng = np.random.default_rng(seed)
    turn = Rotation.from_euler("xyz", TILT_DEG * rng.standard_normal(3), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(1 + SHRINK * np.clip(rng.standard_normal(3), -2, 2))
    affine[:3, 3] = SHIFT_MM * rng.standard_normal(3)
    noise = rng.standard_normal((*size, 3)).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, (*(WARP_SMOOTH_MM / step,) * 3, 0))
    moved = WARP_MM * smooth / smooth.std()
    while (warp := Warp(affine, moved, grid)).jacobian().min() < LEAST_JACOBIAN:
        moved = 0.9 * moved
    return warp


def grow_head(
    atlas: Atlas,
    *,
    seed: int,
    voxel_size: float = 3.0,
    coverage: Literal["ventral", "whole"] = "ventral",
    shape: Literal["own", "mni"] = "mni",
) -> Head:
    """Grow a head: every volume is pulled from MNI space through one warp.

    Tissue and T1 contrast come from nilearn's MNI152 templates, which hold a brain alone: cerebrospinal fluid, skull
    and scalp are shells around it. EPI intensities are those of the tissues, smoothed to the size of a voxel.

    Parameters
    ----------
    atlas : Atlas
        HCP-MMP1.
    seed : int
        Seed of shape, bias fields and noise.
    voxel_size : float
        Of the EPI, in mm.
    coverage : {"ventral", "whole"}
        Field of view: a box around all regions that respond, or around the brain.
    shape : {"own", "mni"}
        See `draw_warp`.

    Returns
    -------
    Head

    Raises
    ------
    UserError
        When a setting is out of range.
    """
    if not 1 <= voxel_size <= 10:
        raise UserError(f"voxel_size is in mm, from 1 to 10, got {voxel_size}")
    if coverage not in ("ventral", "whole"):
        raise UserError(f"coverage is 'ventral' or 'whole', got {coverage!r}")
    warp, template = draw_warp(shape, seed), _template(atlas)
    table = region_labels(atlas.names)
    rng = np.random.default_rng([seed, 1])
    affine, size = _field_of_view(template, warp, coverage, table, voxel_size)
    mni = warp.on_grid(size, affine)
    pulled = {name: template.pull(values, mni, voxel_size) for name, values in template.shares.items()}
    epi = sum((EPI[name] * share for name, share in pulled.items()), np.zeros(size, np.float32))
    epi *= _bias(rng, size, affine)
    regions = template.pull_labels(mni)
    regions[pulled["grey"] < GREY_MATTER] = 0
    return Head(
        affine=affine,
        brain=template.pull(template.brain.astype(np.float32), mni, voxel_size) > 0.5,
        grey=pulled["grey"],
        white=pulled["white"],
        csf=pulled["fluid"],
        regions=regions,
        epi=epi.astype(np.float32),
        mni=mni,
        table=table,
        make_t1w=partial(_t1w, template, warp, seed),
    )


class _Template:
    """The MNI head at 1 mm: nilearn's brain in shells of fluid, skull and scalp, and the atlas on its own grid."""

    def __init__(self, atlas: Atlas) -> None:
        image = load_mni152_template(resolution=1)
        box = _box(np.asarray(image.dataobj) > 0)
        self.affine = np.asarray(image.affine, np.float64).copy()
        self.affine[:3, 3] = apply_affine(image.affine, [part.start - TEMPLATE_MM for part in box])
        self.t1, grey, white = (
            np.pad(np.asarray(each.dataobj, np.float32)[box], TEMPLATE_MM)
            for each in (image, load_mni152_gm_template(resolution=1), load_mni152_wm_template(resolution=1))
        )
        self.brain = self.t1 > 0
        outside = ndimage.distance_transform_edt(~self.brain).astype(np.float32)
        fluid, skull, scalp = SHELLS_MM
        within = np.clip(1 - grey - white, 0, 1) * self.brain
        self.shares = {
            "grey": grey * self.brain,
            "white": white * self.brain,
            "fluid": within + ((outside > 0) & (outside <= fluid)),
            "skull": ((outside > fluid) & (outside <= skull)).astype(np.float32),
            "scalp": ((outside > skull) & (outside <= scalp)).astype(np.float32),
        }
        self.head = (outside <= scalp).astype(np.float32)
        self.atlas = atlas

    @cached_property
    def labels(self) -> NDArray[np.int16]:
        """Atlas, each label grown into what lies within `SPREAD_MM` of it and has none."""
        grown = np.zeros(self.atlas.labels.shape, np.int16)
        box = _box(self.atlas.labels > 0, int(np.ceil(SPREAD_MM)))
        labels = self.atlas.labels[box]
        far, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
        grown[box] = np.where(far <= SPREAD_MM, labels[tuple(nearest)], 0)
        return grown

    def pull(self, values: NDArray[np.float32], mni: NDArray[np.float32], voxel_size: float) -> NDArray[np.float32]:
        """Return values at MNI positions, averaged over about a voxel."""
        smooth = ndimage.gaussian_filter(values, 0.35 * voxel_size) if voxel_size > 1 else values
        index = _transformed(np.linalg.inv(self.affine), mni.reshape(-1, 3)).T
        pulled: NDArray[np.float32] = ndimage.map_coordinates(smooth, index, order=1, mode="constant")
        return pulled.reshape(mni.shape[:3])

    def pull_labels(self, mni: NDArray[np.float32]) -> NDArray[np.int16]:
        """Return regions at MNI positions, by the nearest voxel of the atlas."""
        index = np.rint(apply_affine(np.linalg.inv(self.atlas.affine), mni.reshape(-1, 3))).astype(np.intp)
        inside = ((index >= 0) & (index < self.labels.shape)).all(axis=1)
        found = np.zeros(len(index), np.int16)
        found[inside] = self.labels[tuple(index[inside].T)]
        return found.reshape(mni.shape[:3])


@lru_cache(maxsize=1)
def _template(atlas: Atlas) -> _Template:
    return _Template(atlas)


def _box(inside: NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...]:
    """Return the smallest box around what is true, and a margin as far as the array goes."""
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    return tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in box)


def _transformed(matrix: NDArray[np.floating], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return points (n, 3) moved by an affine map, in single precision: 0.1 um at the size of a head."""
    moved: NDArray[np.float32] = points @ matrix[:3, :3].T.astype(np.float32) + matrix[:3, 3].astype(np.float32)
    return moved


def _linear_weights(at: FloatArray, n: int) -> NDArray[np.float32]:
    """Matrix (len(at), n) that reads a line of n values at fractional indices; beyond its ends the last value."""
    inside = np.clip(at, 0, n - 1)
    below = np.minimum(np.floor(inside).astype(np.intp), n - 2)
    weights = np.zeros((len(at), n), np.float32)
    rows = np.arange(len(at))
    weights[rows, below], weights[rows, below + 1] = 1 - (inside - below), inside - below
    return weights


def _extent(warp: Warp, wanted: Callable[[NDArray[np.float32]], NDArray[np.bool_]]) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and highest subject mm at whose MNI position something is wanted, on a coarse grid."""
    low, high = np.array(SUBJECT_MM).T
    size = tuple(np.ceil((high - low) / COARSE_MM).astype(int) + 1)
    coarse = nib.affines.from_matvec(np.eye(3) * COARSE_MM, low)
    where = apply_affine(coarse, np.argwhere(wanted(warp.on_grid(size, coarse))))
    return where.min(axis=0), where.max(axis=0)


def _field_of_view(
    template: _Template, warp: Warp, coverage: str, table: Mapping[int, Region], voxel_size: float
) -> tuple[FloatArray, tuple[int, int, int]]:
    """Return affine and size of a grid that holds the brain, or all regions that respond, with a margin."""

    def wanted(mni: NDArray[np.float32]) -> NDArray[np.bool_]:
        if coverage == "whole":
            return template.pull(template.brain.astype(np.float32), mni, COARSE_MM) > 0.1
        return np.isin(template.pull_labels(mni), list(table))

    low, high = _extent(warp, wanted)
    first, last = low - MARGIN_MM, high + MARGIN_MM
    # Voxel centres at multiples of the voxel size: grids of one size line up between subjects.
    first = np.floor(first / voxel_size) * voxel_size
    n = np.ceil((last - first) / voxel_size).astype(int) + 1
    return nib.affines.from_matvec(np.eye(3) * voxel_size, first), (int(n[0]), int(n[1]), int(n[2]))


def _bias(rng: np.random.Generator, size: tuple[int, ...], affine: FloatArray) -> NDArray[np.float32]:
    """Draw the smooth unevenness of a receive coil: a quadratic of the position with random weights, about 1."""
    places = [np.linspace(-1, 1, n, dtype=np.float32) for n in size]
    x, y, z = np.meshgrid(*places, indexing="ij", sparse=True)
    a = BIAS / 2 * rng.standard_normal(6).astype(np.float32)
    return np.asarray(1 + a[0] * x + a[1] * y + a[2] * z + a[3] * x * y + a[4] * y * z + a[5] * (z * z - 1 / 3))


def _t1w(template: _Template, warp: Warp, seed: int) -> Any:
    """Make the whole head at 1 mm, with skull and scalp, uneven and noisy."""
    rng = np.random.default_rng([seed, 2])
    low, high = _extent(warp, lambda mni: template.pull(template.head, mni, 1.0) > 0)
    # No head reaches over the edge of the box that it was looked for in.
    size = tuple(np.ceil(high - low + 2 * AIR_MM).astype(int) + 1)
    affine = nib.affines.from_matvec(np.eye(3), np.floor(low - AIR_MM))
    shells = {name: template.shares[name] for name in ("skull", "scalp")}
    rim = template.shares["fluid"] * ~template.brain
    head = T1["brain"] * template.t1 / template.t1.max() + T1["fluid"] * rim
    head += sum(T1[name] * share for name, share in shells.items())
    values = template.pull(head.astype(np.float32), warp.on_grid(size, affine), 1.0)
    values *= _bias(rng, size, affine)
    values += T1_NOISE * rng.standard_normal(size, np.float32)
    return nib.Nifti1Image(np.clip(np.rint(values), 0, 4095).astype(np.int16), affine)
