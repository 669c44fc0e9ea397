"""Rigid head motion of a run: to a first volume, then to the mean of all; and between the means of two runs.

A motion matrix maps points, in mm, from the reference to a volume: the value that belongs at reference point p is
taken from the volume at ``M p``. Matrices compose with those of `hyperdecode.fmri.normalise`, so a value is
interpolated once, by `hyperdecode.fmri.resample`. (FSL's and SPM's matrices refer to voxel sizes or origins of their
own; ANTs' map the same way as these, but in LPS coordinates: x and y change sign.)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.fmri.gaussnewton import Fit, Reference, filtered_spline
from hyperdecode.fmri.resample import values_at
from hyperdecode.fmri.rigid import framewise_displacement, rigid_matrix, rigid_parameters
from hyperdecode.fmri.series import Series, in_order

__all__ = ["Motion", "align_to", "framewise_displacement", "realign", "rigid_matrix", "rigid_parameters"]

FloatArray = NDArray[np.float64]
Volume = NDArray[np.float32]
Progress = Callable[[int, int], None]

COARSE = ((20.0, 8.0), (10.0, 6.0))
"""Smoothing (FWHM) and distance of points in mm, for a head that lies far from where it was looked for."""
BLOCK = 8
"""Volumes that follow each other's motion; whole blocks go to threads, so results do not depend on their number."""
CANDIDATES = 5
"""Volumes among which the first reference is looked for."""
WORSE = 1.5
"""A candidate that the others fit this many times worse than the best one is no reference."""
ROUGH_MM = 0.02
"""Tolerance of a first look; what comes of it is refined."""
ENOUGH = 60
"""Volumes whose mean is the second reference; the mean of more would not differ."""
POOR = 0.1
"""Share of unexplained variance from which a fit is tried again from far away."""
LOST, LEAST_SEEN = 1.0, 0.5
"""A fit that leaves as much as there was, or moves half of the points out of sight, has not found the head."""
STRANGE = 0.3
"""Share of unexplained variance from which the means of two runs do not match."""
SPREADS, LEAST_EXCESS, LEAST_GAIN, GAIN_WINDOW = 6.0, 0.25, 0.02, 11
"""A spike: beyond the run's median by 6 robust standard deviations, and by 25 % (error) or 0.02 (gain)."""


@dataclass(frozen=True)
class Motion:
    """Head motion of one run.

    Attributes
    ----------
    matrices : ndarray, shape (n_volumes, 4, 4)
        Reference mm to volume mm.
    parameters : ndarray, shape (n_volumes, 6)
        Translations along x, y, z (mm) and rotations about x, y, z (rad) of `matrices` about `centre`.
    framewise_displacement : ndarray, shape (n_volumes,)
        In mm; 0 for the first volume.
    mean : ndarray of float32, shape (x, y, z)
        Mean of the realigned volumes without the outliers, the reference.
    centre : ndarray, shape (3,)
        Point, in mm, about which the parameters rotate.
    outliers : ndarray of bool, shape (n_volumes,)
        Spike volumes: constant, without finite values, or unlike the run (see `realign`).
    """

    matrices: FloatArray
    parameters: FloatArray
    framewise_displacement: FloatArray
    mean: Volume
    centre: FloatArray
    outliers: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))


def realign(
    volumes: Any,
    affine: ArrayLike,
    *,
    smoothing: float = 5.0,
    sampling: float = 4.0,
    max_iterations: int = 20,
    tolerance: float = 1e-3,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Motion:
    """Estimate the six rigid parameters of every volume by robust least squares on intensity.

    Every volume is aligned to the first, then to the mean of the realigned volumes (of 60 spread evenly over a longer
    run), as described in `hyperdecode.fmri.gaussnewton`. A gain of its own and robust weights take up changes of
    signal.

    - The *first reference* is the first of the first five volumes that fits the others: for each of them, the median
      error of the other four aligned to it must be less than 1.5 times the least such median. So a first volume that is
      a spike, or was taken before the magnetisation was steady, is passed over, constant ones too.
    - A volume whose fit leaves a tenth of the variance unexplained is tried again from coarse to fine.
    - *Outliers* are volumes that are constant, mostly not finite, or in which the head is not found (the fit explains
      nothing): these get the motion of the nearest good volume before them, or else after them. Outliers are also those
      whose error against the mean (root mean square of all residuals, not robust) exceeds the run's median by 6 robust
      standard deviations and by a quarter, and those whose gain is off the running median of 11 volumes by 6 robust
      standard deviations and by 0.02; they keep their own motion. None of them enters the mean.

    Memory holds the series as it is stored and a few volumes a thread. Results are the same, bit for bit, for any
    number of threads.

    Parameters
    ----------
    volumes : ndarray, nibabel array proxy or Series, shape (x, y, z, n_volumes)
        BOLD, of any number type. Voxels that are not finite count as 0.
    affine : array-like, shape (4, 4)
        Voxel to mm; oblique or flipped as it may be.
    smoothing : float
        FWHM in mm of the Gaussian applied before the comparison.
    sampling : float
        Distance of the sampled points in mm.
    max_iterations : int
        Steps a volume at most, in each of the two passes.
    tolerance : float
        A volume is done when a step moves no point of a 50 mm sphere by more than this, in mm.
    progress : callable, optional
        Called with (volumes done, volumes to do); two passes count.
    threads : int, optional
        Default: the usable cores.

    Returns
    -------
    Motion

    Raises
    ------
    UserError
        When `volumes` is not 4D, half of its volumes or more are constant or do not match, or there is no structure to
        align on.

    References
    ----------
    Baker S, Matthews I (2004). Lucas-Kanade 20 years on: a unifying framework. International Journal of
    Computer Vision 56, 221-255. Power JD et al. (2012). NeuroImage 59, 2142-2154 (framewise displacement).
    """
    to_mm = np.asarray(affine, dtype=np.float64)
    run = _Run(Series(volumes), to_mm, smoothing, sampling, max_iterations, tolerance, threads)
    usable = run.usable()
    n, steps = usable.size, 2 * int(usable.sum())

    def counted(fits: Iterator[Fit], before: int) -> list[Fit]:
        done = []
        for fit in fits:
            done.append(fit)
            if progress is not None:
                progress(before + len(done), steps)
        return done

    kept = np.flatnonzero(usable)
    fits = counted(run.follow(run.first_reference(kept[:CANDIDATES]), kept), 0)
    found, fits = _found(fits, kept)
    matrices = _carried(fits, found, n)
    good = found[~_spikes(fits)]
    few = np.unique(np.linspace(0, good.size - 1, min(good.size, ENOUGH)).astype(np.intp))
    reference = run.reference(run.mean(matrices, good[few]))
    found, fits = _found(counted(run.refine(reference, matrices, kept), kept.size), kept)
    matrices = _carried(fits, found, n)
    outliers = np.ones(n, dtype=np.bool_)
    outliers[found] = _spikes(fits)
    parameters = np.stack([rigid_parameters(m, reference.fine.centre) for m in matrices])
    return Motion(
        matrices=matrices,
        parameters=parameters,
        framewise_displacement=framewise_displacement(parameters),
        mean=run.mean(matrices, np.flatnonzero(~outliers)),
        centre=reference.fine.centre,
        outliers=outliers,
    )


def align_to(
    image: NDArray[np.generic], reference: NDArray[np.generic], affine_image: ArrayLike, affine_reference: ArrayLike
) -> FloatArray:
    """Return the rigid motion between the means of two runs or sessions of the same subject.

    From coarse to fine (20, 10, 5 mm smoothing), from two starting positions: as the scanner says, and with the centres
    of the bright parts laid over each other; the better fit is kept. Heads that lie 20 mm and some degrees apart are
    found. Grids, fields of view and gains may differ.

    Parameters
    ----------
    image, reference : ndarray, shapes (x, y, z)
        Mean functionals (`Motion.mean`).
    affine_image, affine_reference : array-like, shape (4, 4)
        Voxel to mm of each.

    Returns
    -------
    ndarray, shape (4, 4)
        Reference mm to image mm: the value that belongs at p of the reference is taken from the image at ``M p``.

    Raises
    ------
    UserError
        When one of them is not 3D or has no structure.

    Warns
    -----
    DataWarning
        When 30 % of the reference's variance or more is left unexplained.
    """
    sides = []
    for values, affine, what in ((image, affine_image, "image"), (reference, affine_reference, "reference")):
        if np.ndim(values) != 3:
            raise UserError(f"the {what} to align must be 3D, got shape {np.shape(values)}: give the mean of a run")
        sides.append((_finite(np.asarray(values, dtype=np.float32)), np.asarray(affine, dtype=np.float64)))
    (moving, moving_affine), (fixed, fixed_affine) = sides
    pyramid = _Pyramid(fixed, fixed_affine, 5.0, 4.0)
    shift = np.eye(4)
    shift[:3, 3] = _bright_centre(moving, moving_affine) - _bright_centre(fixed, fixed_affine)
    fit = pyramid.align(moving, moving_affine, [np.eye(4), shift], 50, 1e-3)
    if fit.unexplained > STRANGE:
        warnings.warn(
            f"the means of two runs do not match: rigid alignment leaves {fit.unexplained:.0%} of the variance "
            f"unexplained, expected less than {STRANGE:.0%}: check that both are of one subject, and their affines",
            DataWarning,
            stacklevel=2,
        )
    return fit.matrix


class _Pyramid:
    """One reference image at several levels of smoothing, coarse to fine."""

    def __init__(self, image: Volume, affine: FloatArray, smoothing: float, sampling: float) -> None:
        self.image, self.affine = image, affine
        self.fine = Reference(image, affine, smoothing, sampling)

    @cached_property
    def levels(self) -> list[Reference]:
        """Coarse to fine; most runs need the fine one alone."""
        return [Reference(self.image, self.affine, *coarse, band=False) for coarse in COARSE] + [self.fine]

    def align(
        self, image: Volume, affine: FloatArray, starts: Iterable[FloatArray], max_iterations: int, tolerance: float
    ) -> Fit:
        """Align an image from coarse to fine from each start; return the best fit."""
        to_voxel = np.asarray(np.linalg.inv(affine), dtype=np.float64)
        splines = [reference.prepare(image, affine) for reference in self.levels]
        found = []
        for start in starts:
            matrix = start
            for spline, reference in zip(splines, self.levels, strict=True):
                fit = reference.align(spline, to_voxel, matrix, max_iterations=max_iterations, tolerance=tolerance)
                matrix = fit.matrix
            found.append(fit)
        return min(found, key=_badness)


@dataclass
class _Run:
    """The volumes of a run and how they are compared."""

    series: Series
    affine: FloatArray
    smoothing: float
    sampling: float
    max_iterations: int
    tolerance: float
    threads: int | None

    def __post_init__(self) -> None:
        self.to_voxel: FloatArray = np.asarray(np.linalg.inv(self.affine), dtype=np.float64)

    def usable(self) -> NDArray[np.bool_]:
        """Return which volumes show anything: finite for the most part, and not constant."""
        told = [_spread_and_finite(volume) for volume in self.series.volumes()]
        spread, finite = np.array(told).T
        usable: NDArray[np.bool_] = (spread > 0) & (finite > 0.5 * np.median(finite))
        bad = int((~usable).sum())
        if 2 * bad >= usable.size:
            raise UserError(
                f"{bad} of {usable.size} volumes are constant or not finite, expected a BOLD run with few such volumes "
                "or none: check the BOLD image"
            )
        return usable

    def first_reference(self, candidates: NDArray[np.intp]) -> _Pyramid:
        """Return the first of some volumes that the others fit, as `realign` says."""
        volumes = [self._volume(k) for k in candidates]
        splines = [filtered_spline(volume, self.affine, self.smoothing) for volume in volumes]

        def misfit(i: int) -> float:
            try:
                reference = Reference(volumes[i], self.affine, self.smoothing, self.sampling)
            except UserError:
                return np.inf
            others = [spline for j, spline in enumerate(splines) if j != i]
            fits = [reference.align(o, self.to_voxel, np.eye(4), tolerance=ROUGH_MM) for o in others]
            return float(np.median([fit.error for fit in fits])) if fits else 0.0

        misfits = np.array(list(in_order(misfit, ((i,) for i in range(len(volumes))), self.threads)))
        good = np.flatnonzero(misfits <= WORSE * misfits.min())
        return self.reference(volumes[good[0]])

    def reference(self, image: Volume) -> _Pyramid:
        """Return an image of this run as what its volumes are aligned to."""
        return _Pyramid(image, self.affine, self.smoothing, self.sampling)

    def follow(self, reference: _Pyramid, which: NDArray[np.intp]) -> Iterator[Fit]:
        """Align volumes block by block, each from where the one before it lay."""

        def block(volumes: NDArray[np.intp]) -> list[Fit]:
            fits, start = [], np.eye(4)
            for k in volumes:
                fits.append(self._align(reference, k, start, max(self.tolerance, ROUGH_MM)))
                start = fits[-1].matrix if fits[-1].unexplained < POOR else start
            return fits

        for fits in in_order(block, ((which[i : i + BLOCK],) for i in range(0, which.size, BLOCK)), self.threads):
            yield from fits

    def refine(self, reference: _Pyramid, starts: FloatArray, which: NDArray[np.intp]) -> Iterator[Fit]:
        """Align volumes, each from a start of its own."""
        return in_order(self._align, ((reference, k, starts[k], self.tolerance) for k in which), self.threads)

    def mean(self, matrices: FloatArray, which: NDArray[np.intp]) -> Volume:
        """Mean of realigned volumes on the reference's grid; 0 where none of them sees a voxel."""
        shape = self.series.shape[:3]
        voxels = np.indices(shape).reshape(3, -1).T.astype(np.float64)
        total, count = np.zeros(len(voxels)), np.zeros(len(voxels))
        work = ((self.series.volume(k), self.to_voxel @ matrices[k] @ self.affine, voxels) for k in which)
        for values in in_order(values_at, work, self.threads):
            seen = np.isfinite(values)
            total += np.where(seen, values, 0)
            count += seen
        return (total / np.maximum(count, 1)).reshape(shape).astype(np.float32)

    def _volume(self, k: int) -> Volume:
        return _finite(self.series.volume(k))

    def _align(self, reference: _Pyramid, k: int, start: FloatArray, tolerance: float) -> Fit:
        """Align one volume; from coarse to fine when that leaves much unexplained."""
        volume = self._volume(k)
        spline = reference.fine.prepare(volume, self.affine)
        fit = reference.fine.align(
            spline, self.to_voxel, start, max_iterations=self.max_iterations, tolerance=tolerance
        )
        if fit.unexplained < POOR and fit.seen >= LEAST_SEEN:
            return fit
        far = reference.align(volume, self.affine, [start, np.eye(4)], self.max_iterations, tolerance)
        return min(fit, far, key=_badness)


def _badness(fit: Fit) -> tuple[bool, float]:
    """Order of fits: one that has moved half of the points out of sight is worse than any that has not."""
    return fit.seen < LEAST_SEEN, fit.unexplained


def _spikes(fits: list[Fit]) -> NDArray[np.bool_]:
    """Return which volumes are unlike the others, as `realign` says."""
    error, gain = np.array([fit.error for fit in fits]), np.array([fit.gain for fit in fits])
    # mirrored without repeating the first and last, lest a spike there be its own median
    gain -= ndimage.median_filter(gain, size=GAIN_WINDOW, mode="mirror")
    typical = np.median(error)
    worse = error - typical > np.maximum(SPREADS * _spread(error), LEAST_EXCESS * typical)
    return np.asarray(worse | (np.abs(gain) > max(SPREADS * _spread(gain), LEAST_GAIN)))


def _spread(values: FloatArray) -> float:
    """Robust standard deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _found(fits: list[Fit], which: NDArray[np.intp]) -> tuple[NDArray[np.intp], list[Fit]]:
    """Keep the volumes in which the head was found."""
    found = np.array([fit.unexplained < LOST and fit.seen >= LEAST_SEEN for fit in fits])
    if 2 * found.sum() <= found.size:
        raise UserError(
            f"{int((~found).sum())} of {found.size} volumes do not match the volume they are aligned to: expected one "
            "head throughout the run; check the BOLD image"
        )
    return which[found], [fit for fit, here in zip(fits, found, strict=True) if here]


def _carried(fits: list[Fit], which: NDArray[np.intp], n: int) -> FloatArray:
    """Return all volumes' matrices: without a fit that of the nearest fit before, or else of the first."""
    nearest = np.maximum(np.searchsorted(which, np.arange(n), side="right") - 1, 0)
    return np.stack([fit.matrix for fit in fits])[nearest]


def _finite(volume: Volume) -> Volume:
    return volume if np.isfinite(volume).all() else np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0)


def _spread_and_finite(volume: Volume) -> tuple[float, float]:
    """Range of a volume's finite values, and the share of them."""
    finite = np.isfinite(volume)
    values = volume if finite.all() else volume[finite]
    return (float(values.max() - values.min()) if values.size else 0.0), float(finite.mean())


def _bright_centre(image: Volume, affine: FloatArray) -> FloatArray:
    """Centre of the bright part of an image in mm."""
    low, top = np.percentile(image, (2, 98))
    bright = np.argwhere(image > (low + top) / 2)
    at = bright.mean(axis=0) if len(bright) else (np.array(image.shape) - 1) / 2
    return np.asarray(affine[:3, :3] @ at + affine[:3, 3])
