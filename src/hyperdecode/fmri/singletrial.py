"""One z-map a trial from one run of BOLD, every trial of the run from one factorization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import check_trials, frame_times, nuisance_matrix, trial_columns
from hyperdecode.fmri.hrf import LIBRARY, Hrf, hrf_kernels, hrf_library
from hyperdecode.fmri.solvers import All, Design, Separate, Solver, orthonormal
from hyperdecode.fmri.zscore import z_from_t

__all__ = ["Hrf", "Method", "NoiseModel", "SingleTrialMaps", "single_trial_zmaps", "z_from_t"]

Method = Literal["lss", "lsa", "ridge"]
NoiseModel = Literal["ols", "ar1"]
FloatArray = NDArray[np.float64]

CONSTANT = 1e-20


@dataclass(frozen=True)
class SingleTrialMaps:
    """One estimate a trial and voxel.

    Attributes
    ----------
    z : ndarray of float32, shape (n_trials, n_voxels)
        The t value of the trial's regressor as a standard normal deviate; for method "ridge", amplitude over
        posterior standard deviation. NaN where a voxel is constant or has a value that is not finite.
    beta : ndarray of float32, shape (n_trials, n_voxels)
        Response amplitude in the units of the BOLD that came in.
    dof : int
        Residual degrees of freedom of each model; for "ridge", of the model with the mean response alone, which
        is more than any voxel's effective number.
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
    noise_model: NoiseModel = "ols",
    hrf: Hrf = "spm",
    high_pass: float = 0.01,
    confounds: ArrayLike | None = None,
    slice_time_ref: float = 0.0,
    block: int = 4096,
    hrf_index: ArrayLike | None = None,
) -> SingleTrialMaps:
    """Estimate the response to each trial by least squares.

    ``lss`` (least squares separate, one model a trial) fits ``y = x_i b_i + (sum_{j != i} x_j) o_i + N g + e``;
    ``lsa`` (least squares all) fits ``y = X b + N g + e``. X is (n_volumes, n_trials): the modelled response
    to each trial; N is cosine drift, constant and confounds. ``t = b / se(b)`` with
    ``n_volumes - rank`` degrees of freedom, and ``z`` has the tail probability of ``t``.
    ``ridge`` fits the LSA model with amplitudes ``b_i = mu + d_i`` and the penalty ``lambda sum_i d_i^2``, lambda
    chosen for each voxel by generalized cross-validation over the run's volumes: no label and no repeat of a
    stimulus is looked at. Its ``z`` is ``b_i`` over its posterior standard deviation under
    ``d ~ N(0, sigma^2 / lambda)``: a shrunken estimate in units of its uncertainty, not a test statistic.

    N is taken out of y and X once. Every LSS model has then two columns, and its solution needs only the
    trial-by-trial products ``X'X`` and the trial-by-voxel products ``X'y``:
    with ``a = x_i'x_i``, ``b = x_i'o_i``, ``c = o_i'o_i``, ``d = ac - b^2``,
    ``beta_i = (c x_i'y - b o_i'y) / d`` and ``var(beta_i) = sigma^2 c / d``.

    With ``ar1`` the noise of each model and voxel is ``e_t = rho e_{t-1} + w_t``; rho is the Yule-Walker coefficient
    of the model's ordinary residuals, cut to two digits, and the model is solved again on whitened data, as
    nilearn does (`hyperdecode.fmri.autoregression`). Every LSS model has a rho of its own in every voxel. For
    ``ridge`` rho comes from the residuals of its white fit.

    With derivatives in `hrf`, every trial has further columns, as has the group of all others in LSS, and a
    trial's derivatives are made orthogonal to its canonical column; beta and z are the canonical column's, as
    for nilearn's contrast of that name. For ``ridge`` the common response alone has derivatives.

    t and z of ``lss`` and ``lsa`` are those of nilearn's `FirstLevelModel` and `compute_contrast`, one model a trial
    for ``lss``.

    Parameters
    ----------
    bold : array-like, shape (n_volumes, n_voxels)
        BOLD of one run, any unit: z does not depend on the scale of a voxel, so it is not rescaled to percent.
    onsets, durations : array-like, shape (n_trials,)
        Seconds from the first volume.
    t_r : float
        Repetition time in seconds.
    method : {"lss", "lsa", "ridge"}
        LSS bears fast designs better than LSA: with a trial every few seconds neighbouring LSA regressors are nearly
        collinear and its estimates mostly noise.
    noise_model : {"ols", "ar1"}
        White noise, or first-order autoregression.
    hrf : str
        "spm", "spm + derivative", "spm + derivative + dispersion", "glover", "glover + derivative", or "library":
        each voxel's own response, named by `hrf_index`.
    high_pass : float
        Cut-off of the drift in Hz.
    confounds : array-like, shape (n_volumes, n_confounds), optional
        Motion parameters, one-hot columns of scrubbed volumes and the like; a column that depends on others costs no
        degree of freedom.
    slice_time_ref : float
        Where in the repetition time a volume counts as taken, 0 (start) to 1.
    block : int
        Voxels worked on at a time; bounds the memory at about ``8 * block * (2 n_volumes + 10 n_trials)`` bytes beside
        input and output (18 instead of 10 for ``ridge``), and, for ``ar1``, tables of some ``8 n_trials^2`` bytes for
        each coefficient present.
    hrf_index : array-like of int, shape (n_voxels,), optional
        For ``hrf="library"``: each voxel's response in `hyperdecode.fmri.hrf.LIBRARY`, from `best_hrf`.

    Returns
    -------
    SingleTrialMaps

    Raises
    ------
    UserError
        When shapes do not fit, a name is unknown, onsets lie past the run's end or coincide, the model has no degrees
        of freedom left, a trial is wholly scrubbed, or its response cannot be told from the others'.

    Warns
    -----
    DataWarning
        When trials overlap or start before the first volume.

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
    _check_arguments(data, method, noise_model, block)
    times = frame_times(data.shape[0], t_r, slice_time_ref)
    groups = _groups(data.shape[1], t_r, hrf, hrf_index)
    basis = orthonormal(nuisance_matrix(times, high_pass, confounds))
    start = np.asarray(onsets, dtype=np.float64).ravel()
    solvers: list[tuple[Solver, NDArray[np.intp]]] = []
    for kernels, voxels in groups:
        columns = trial_columns(onsets, durations, times, kernels)
        if not solvers:
            check_trials(onsets, durations)
        solvers.append((_solver(method, noise_model, Design.of(columns, basis, start)), voxels))

    z = np.full((start.size, data.shape[1]), np.nan, dtype=np.float32)
    beta = np.full_like(z, np.nan)
    for solver, voxels in solvers:
        for first in range(0, voxels.size, block):
            part = voxels[first : first + block]
            y, power, usable = _cleaned(data, part, basis)
            chosen = _as_slice(part[usable])
            beta[:, chosen], ratio = solver.solve(y, power)
            z[:, chosen] = ratio if method == "ridge" else z_from_t(ratio, solver.dof)
    return SingleTrialMaps(z=z, beta=beta, dof=solvers[0][0].dof)


def _solver(method: Method, noise_model: NoiseModel, design: Design) -> Solver:
    if noise_model == "ols" and method == "lsa":
        return All(design)
    if noise_model == "ols" and method == "lss" and design.n_kernels == 1:
        return Separate(design)
    # Compiled code is loaded by those who need it.
    from hyperdecode.fmri.autoregression import AllAR1, SeparateAR1, SeparateWhite
    from hyperdecode.fmri.trialridge import Ridge, RidgeAR1

    solvers: dict[tuple[str, str], type[Solver]] = {
        ("lss", "ols"): SeparateWhite,
        ("lss", "ar1"): SeparateAR1,
        ("lsa", "ar1"): AllAR1,
        ("ridge", "ols"): Ridge,
        ("ridge", "ar1"): RidgeAR1,
    }
    return solvers[method, noise_model](design)  # type: ignore[call-arg]


def _groups(
    n_voxels: int, t_r: float, hrf: Hrf, hrf_index: ArrayLike | None
) -> list[tuple[FloatArray, NDArray[np.intp]]]:
    """Return the kernels in use, each with the voxels that have them."""
    if hrf != "library":
        if hrf_index is not None:
            raise UserError(f"hrf_index belongs to hrf='library', got hrf={hrf!r}: leave one of the two out")
        return [(hrf_kernels(hrf, t_r), np.arange(n_voxels))]
    if hrf_index is None:
        raise UserError("hrf='library' needs hrf_index, the response of each voxel: best_hrf makes it")
    index = np.asarray(hrf_index)
    if index.shape != (n_voxels,) or not np.issubdtype(index.dtype, np.integer):
        raise UserError(
            f"hrf_index must be {n_voxels} integers, one a voxel, got {index.dtype} of shape {index.shape}: best_hrf "
            "makes it"
        )
    if index.size and not 0 <= index.min() <= index.max() < len(LIBRARY):
        raise UserError(f"hrf_index counts from 0 to {len(LIBRARY) - 1}, got {index.min()} to {index.max()}")
    library = hrf_library(t_r)
    return [(library[k : k + 1], np.flatnonzero(index == k)) for k in np.unique(index)]


def _check_arguments(data: NDArray[np.generic], method: str, noise_model: str, block: int) -> None:
    if data.ndim != 2 or data.shape[1] == 0:
        raise UserError(f"bold must be volumes x voxels, got an array of shape {data.shape}: mask the 4D image first")
    if method not in get_args(Method):
        raise UserError(f"unknown single-trial method {method!r}: choose 'lss', 'lsa' or 'ridge'")
    if noise_model not in get_args(NoiseModel):
        raise UserError(f"unknown noise model {noise_model!r}: choose 'ols' or 'ar1'")
    if block < 1:
        raise UserError(f"block is a number of voxels, at least 1, got {block}")


def _cleaned(
    data: NDArray[np.generic], voxels: NDArray[np.intp], basis: FloatArray
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Return the usable ones of some voxels with the basis taken out, their sums of squares, and which they are."""
    y = data[:, _as_slice(voxels)].astype(np.float64)
    finite = np.isfinite(y).all(axis=0)
    y[:, ~finite] = 0.0
    total = np.einsum("tv,tv->v", y, y)
    y -= basis @ (basis.T @ y)
    power = np.einsum("tv,tv->v", y, y)
    usable = finite & (power > CONSTANT * total)
    if usable.all():
        return y, power, usable
    return y[:, usable], power[usable], usable


def _as_slice(voxels: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Return neighbouring voxels as a slice, which costs no copy."""
    if voxels.size and voxels[-1] - voxels[0] == voxels.size - 1:
        return slice(int(voxels[0]), int(voxels[-1]) + 1)
    return voxels
