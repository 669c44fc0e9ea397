"""One z-map a trial from one run of BOLD, every trial of the run from one factorization."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.interpolate import CubicSpline

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times, nuisance_matrix, trial_regressors

__all__ = ["Method", "SingleTrialMaps", "single_trial_zmaps", "z_from_t"]

Method = Literal["lss", "lsa"]
FloatArray = NDArray[np.float64]

SPLINE_TO, KNOTS = 12.0, 2048
SMALLEST_P = 1e-300
INSEPARABLE = 1e-8
CONSTANT = 1e-20


@dataclass(frozen=True)
class SingleTrialMaps:
    """One estimate a trial and voxel.

    Attributes
    ----------
    z : ndarray of float32, shape (n_trials, n_voxels)
        The t value of the trial's regressor as a standard normal deviate; NaN where a voxel is constant or
        has a value that is not finite.
    beta : ndarray of float32, shape (n_trials, n_voxels)
        Response amplitude in the units of the BOLD that came in.
    dof : int
        Residual degrees of freedom of each model.
    """

    z: NDArray[np.float32]
    beta: NDArray[np.float32]
    dof: int


def single_trial_zmaps(
    bold: ArrayLike,
    onsets: ArrayLike,
    durations: ArrayLike,
    t_r: float,
    *,
    method: Method = "lss",
    high_pass: float = 0.01,
    confounds: ArrayLike | None = None,
    slice_time_ref: float = 0.0,
    block: int = 4096,
) -> SingleTrialMaps:
    """Estimate the response to each trial by ordinary least squares.

    ``lss`` (least squares separate, one model a trial) fits ``y = x_i b_i + (sum_{j != i} x_j) o_i + N g + e``;
    ``lsa`` (least squares all) fits ``y = X b + N g + e``. X is (n_volumes, n_trials): the canonical SPM response
    to each trial; N is cosine drift, constant and confounds. ``t = b / se(b)`` with
    ``n_volumes - rank`` degrees of freedom, and ``z`` has the tail probability of ``t``.

    N is taken out of y and X once (QR). Every LSS model has then two columns, and its solution needs only the
    trial-by-trial products ``X'X`` and the trial-by-voxel products ``X'y``:
    with ``a = x_i'x_i``, ``b = x_i'o_i``, ``c = o_i'o_i``, ``d = ac - b^2``,
    ``beta_i = (c x_i'y - b o_i'y) / d`` and ``var(beta_i) = sigma^2 c / d``.

    Parameters
    ----------
    bold : array-like, shape (n_volumes, n_voxels)
        BOLD of one run, any unit: z does not depend on the scale of a voxel, so it is not rescaled to percent.
    onsets, durations : array-like, shape (n_trials,)
        Seconds from the first volume.
    t_r : float
        Repetition time in seconds.
    method : {"lss", "lsa"}
        LSS bears fast designs better: with a trial every few seconds neighbouring LSA regressors are nearly
        collinear and its estimates mostly noise.
    high_pass : float
        Cut-off of the drift in Hz.
    confounds : array-like, shape (n_volumes, n_confounds), optional
        Motion parameters and the like.
    slice_time_ref : float
        Where in the repetition time a volume counts as taken, 0 (start) to 1.
    block : int
        Voxels worked on at a time; bounds the memory at about ``8 * block * (3 n_trials + 2 n_volumes)`` bytes
        beside input and output.

    Returns
    -------
    SingleTrialMaps

    Raises
    ------
    UserError
        When shapes do not fit, `method` is unknown, onsets lie past the run's end, the model has no degrees
        of freedom left, or a trial's response cannot be told from the others'.

    References
    ----------
    Mumford JA, Turner BO, Ashby FG, Poldrack RA (2012). Deconvolving BOLD activation in event-related designs
    for multivoxel pattern classification analyses. NeuroImage 59, 2636-2643.

    Examples
    --------
    >>> import numpy as np
    >>> bold = np.random.default_rng(0).standard_normal((60, 5)) + 100
    >>> single_trial_zmaps(bold, [5.0, 30.0, 60.0], [1.0, 1.0, 1.0], t_r=2.0).z.shape
    (3, 5)
    """
    data = np.asarray(bold)
    if data.ndim != 2:
        raise UserError(f"bold must be volumes x voxels, got an array of shape {data.shape}: mask the 4D image first")
    if method not in get_args(Method):
        raise UserError(f"unknown single-trial method {method!r}: choose 'lss' or 'lsa'")
    if block < 1:
        raise UserError(f"block is a number of voxels, at least 1, got {block}")
    times = frame_times(data.shape[0], t_r, slice_time_ref)
    regressors = trial_regressors(onsets, durations, times)
    basis = _orthonormal(nuisance_matrix(times, high_pass, confounds))
    clean = regressors - basis @ (basis.T @ regressors)
    _require_seen(regressors, clean, np.asarray(onsets, dtype=np.float64).ravel())
    solver = _Separate(clean) if method == "lss" else _All(clean)
    dof = data.shape[0] - basis.shape[1] - solver.n_columns
    if dof < 1:
        raise UserError(
            f"{method} on {clean.shape[1]} trials and {data.shape[0]} volumes leaves {dof} degrees of freedom: "
            "use method 'lss', fewer confounds or a lower high_pass"
        )

    z = np.full((clean.shape[1], data.shape[1]), np.nan, dtype=np.float32)
    beta = np.full_like(z, np.nan)
    for first in range(0, data.shape[1], block):
        y = data[:, first : first + block].astype(np.float64)
        finite = np.isfinite(y).all(axis=0)
        y[:, ~finite] = 0.0
        total = (y * y).sum(axis=0)
        y -= basis @ (basis.T @ y)
        power = (y * y).sum(axis=0)
        usable = finite & (power > CONSTANT * total)
        estimate, variance = solver.solve(y[:, usable], power[usable], dof)
        columns = first + np.flatnonzero(usable)
        beta[:, columns] = estimate
        with np.errstate(divide="ignore", invalid="ignore"):
            z[:, columns] = z_from_t(estimate / np.sqrt(variance), dof)
    return SingleTrialMaps(z=z, beta=beta, dof=dof)


def z_from_t(t: ArrayLike, dof: float) -> FloatArray:
    """Return the standard normal deviate with the tail probability of t: ``z = sign(t) isf_N(sf_t(|t|))``.

    Each sign is worked out in its own tail, where the probability is small and exact, so z rises with t on both
    sides; probabilities are held at 1e-300 (|z| = 37.0), so z is finite for every t. Many values with |t| up to 12 are
    read off a cubic spline through 2,048 exact ones, which is off by less than 1e-9 and several times faster.

    Parameters
    ----------
    t : array-like
        Values of Student's t.
    dof : float
        Degrees of freedom.

    Returns
    -------
    ndarray of float64, shape of `t`
    """
    values = np.asarray(t, dtype=np.float64)
    if values.size < KNOTS:
        return _exact_z(values, dof)
    size = np.abs(values)
    far = ~(size < SPLINE_TO)
    step = np.where(far, 0.0, size * ((KNOTS - 1) / SPLINE_TO))
    knot = step.astype(np.int32)
    step -= knot
    cubic, square, slope, level = _spline(dof)
    z: FloatArray = np.copysign(((cubic[knot] * step + square[knot]) * step + slope[knot]) * step + level[knot], values)
    z[far] = _exact_z(values[far], dof)
    return z


@lru_cache(maxsize=8)
def _spline(dof: float) -> FloatArray:
    """Coefficients (4, `KNOTS` - 1) of the cubics between evenly spaced t, of the way from knot to knot."""
    coefficients: FloatArray = CubicSpline(np.arange(KNOTS), _exact_z(np.linspace(0, SPLINE_TO, KNOTS), dof)).c
    return coefficients


def _exact_z(t: FloatArray, dof: float) -> FloatArray:
    tail = np.maximum(special.stdtr(dof, -np.abs(t)), SMALLEST_P)
    z: FloatArray = np.sign(t) * -special.ndtri(tail)
    return z


class _Separate:
    """Least squares separate, in closed form from the trials' products."""

    n_columns = 2

    def __init__(self, clean: FloatArray) -> None:
        self.x = clean
        self.total = clean.sum(axis=1)
        if clean.shape[1] == 1:
            self.n_columns = 1
        gram = clean.T @ clean
        self.a = np.diag(gram).copy()
        self.b = gram.sum(axis=1) - self.a
        self.c = gram.sum() - 2 * gram.sum(axis=1) + self.a
        if self.n_columns == 1:
            self.b, self.c = np.zeros(1), np.ones(1)
        self.d = self.a * self.c - self.b**2
        bad = np.flatnonzero(self.d <= INSEPARABLE * self.a * self.c)
        if bad.size:
            raise _inseparable(int(bad[0]))

    def solve(self, y: FloatArray, power: FloatArray, dof: int) -> tuple[FloatArray, FloatArray]:
        """Return beta and its variance, each (n_trials, n_voxels)."""
        own = self.x.T @ y
        others = (self.total @ y)[None, :] - own
        if self.n_columns == 1:
            others[:] = 0.0
        a, b, c, d = (v[:, None] for v in (self.a, self.b, self.c, self.d))
        beta = (c * own - b * others) / d
        explained = beta * own + (a * others - b * own) / d * others
        residual = np.maximum(power[None, :] - explained, 0.0) / dof
        return beta, residual * (c / d)


class _All:
    """Least squares all: one model with every trial."""

    def __init__(self, clean: FloatArray) -> None:
        self.n_columns = clean.shape[1]
        scale = np.linalg.norm(clean, axis=0)
        if clean.shape[1] > clean.shape[0]:
            raise UserError(
                f"lsa needs more volumes than trials, got {clean.shape[0]} volumes and {clean.shape[1]} trials: "
                "use method 'lss'"
            )
        self.q, r = np.linalg.qr(clean / scale)
        weak = np.flatnonzero(np.abs(np.diag(r)) < INSEPARABLE**0.5)
        if weak.size:
            raise _inseparable(int(weak[0]))
        self.inverse = np.linalg.inv(r) / scale[:, None]
        self.spread = (self.inverse**2).sum(axis=1)[:, None]

    def solve(self, y: FloatArray, power: FloatArray, dof: int) -> tuple[FloatArray, FloatArray]:
        """Return beta and its variance, each (n_trials, n_voxels)."""
        part = self.q.T @ y
        residual = np.maximum(power - (part**2).sum(axis=0), 0.0) / dof
        return self.inverse @ part, self.spread * residual[None, :]


def _orthonormal(columns: FloatArray) -> FloatArray:
    """Return an orthonormal basis of the columns, dependent ones left out."""
    scale = np.linalg.norm(columns, axis=0)
    kept = columns[:, scale > 0] / scale[scale > 0]
    left, sizes, _ = np.linalg.svd(kept, full_matrices=False)
    basis: FloatArray = left[:, sizes > 1e-10 * sizes[0]]
    return basis


def _require_seen(regressors: FloatArray, clean: FloatArray, onsets: FloatArray) -> None:
    """Refuse trials whose response falls outside the run or inside the nuisance."""
    before, after = (regressors**2).sum(axis=0), (clean**2).sum(axis=0)
    unseen = np.flatnonzero((before == 0) | (after <= INSEPARABLE * before))
    if unseen.size:
        i = int(unseen[0])
        raise UserError(
            f"trial {i + 1} (onset {onsets[i]:g} s) leaves no response in the run that drift and confounds do not "
            "already explain: drop it, or use fewer confounds"
        )


def _inseparable(trial: int) -> UserError:
    return UserError(
        f"the response to trial {trial + 1} cannot be told from those to the other trials: "
        "check for repeated rows in the events"
    )
