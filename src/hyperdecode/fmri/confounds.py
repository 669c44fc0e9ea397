"""Regressors of no interest that motion makes: expansions of the six parameters, and one column a scrubbed volume."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["MotionModel", "motion_confounds", "motion_names", "scrub_columns"]

FloatArray = NDArray[np.float64]
MotionModel = Literal["basic", "derivatives", "power2", "full"]

PARAMETERS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
SUFFIXES: dict[MotionModel, tuple[str, ...]] = {
    "basic": ("",),
    "derivatives": ("", "_derivative1"),
    "power2": ("", "_power2"),
    "full": ("", "_derivative1", "_power2", "_derivative1_power2"),
}


def motion_names(model: MotionModel) -> list[str]:
    """Return the names of the columns of `motion_confounds`, as fMRIPrep writes them.

    Raises
    ------
    UserError
        When there is no such model.
    """
    if model not in SUFFIXES:
        raise UserError(f"unknown motion model {model!r}: choose one of {', '.join(get_args(MotionModel))}")
    return [parameter + suffix for suffix in SUFFIXES[model] for parameter in PARAMETERS]


def motion_confounds(parameters: ArrayLike, model: MotionModel) -> FloatArray:
    """Expand the six motion parameters ``m_t`` of a run.

    With ``d_t = m_t - m_(t-1)`` and ``d_0 = 0``:

    - ``"basic"``: m, 6 columns;
    - ``"derivatives"``: m, d, 12 columns;
    - ``"power2"``: m, m^2, 12 columns;
    - ``"full"``: m, d, m^2, d^2, 24 columns.

    Names and columns are nilearn's and fMRIPrep's. They differ in the first row of d, which fMRIPrep writes as n/a and
    nilearn fills with the second row. The 24 regressors of Friston et al. hold ``m_(t-1)`` and its square in place of d
    and its square: the same span but for the squares.

    Parameters
    ----------
    parameters : array-like, shape (n_volumes, 6)
        Translations in mm, rotations in rad (`hyperdecode.fmri.realign.Motion.parameters`).
    model : {"basic", "derivatives", "power2", "full"}

    Returns
    -------
    ndarray, shape (n_volumes, k)
        Columns as in `motion_names`; not centred.

    Raises
    ------
    UserError
        When there is no such model, or the parameters are not six finite numbers a volume.

    References
    ----------
    Friston KJ, Williams S, Howard R, Frackowiak RSJ, Turner R (1996). Movement-related effects in fMRI time-series.
    Magnetic Resonance in Medicine 35, 346-355.
    """
    motion_names(model)
    moved = np.asarray(parameters, dtype=np.float64)
    if moved.ndim != 2 or moved.shape[1] != len(PARAMETERS) or not np.isfinite(moved).all():
        raise UserError(f"motion is 6 finite parameters a volume, got an array of shape {moved.shape}: check its table")
    change = np.diff(moved, axis=0, prepend=moved[:1])
    made = {"": moved, "_derivative1": change, "_power2": moved**2, "_derivative1_power2": change**2}
    return np.hstack([made[suffix] for suffix in SUFFIXES[model]])


def scrub_columns(
    framewise_displacement: ArrayLike, outliers: ArrayLike | None = None, threshold: float | None = 0.5
) -> FloatArray:
    """Return one column for each volume to be left out, 1 at that volume and 0 elsewhere.

    A GLM with these columns fits such a volume exactly, which is the same as to leave it out.

    Parameters
    ----------
    framewise_displacement : array-like, shape (n_volumes,)
        In mm. Not a number, as in the first row of fMRIPrep's, counts as no displacement.
    outliers : array-like of bool, shape (n_volumes,), optional
        Volumes to be left out whatever their displacement (`hyperdecode.fmri.realign.Motion.outliers`).
    threshold : float, optional
        Displacement in mm above which a volume is left out; None to leave out `outliers` alone.

    Returns
    -------
    ndarray, shape (n_volumes, k)
        k may be 0.

    Raises
    ------
    UserError
        When lengths differ, the threshold is not positive, or no volume would be left.

    References
    ----------
    Power JD, Barnes KA, Snyder AZ, Schlaggar BL, Petersen SE (2012). Spurious but systematic correlations in
    functional connectivity MRI networks arise from subject motion. NeuroImage 59, 2142-2154.
    """
    moved = np.nan_to_num(np.asarray(framewise_displacement, dtype=np.float64), nan=0.0)
    marked = np.zeros(moved.size, dtype=np.bool_) if outliers is None else np.asarray(outliers, dtype=np.bool_)
    if moved.ndim != 1 or marked.shape != moved.shape:
        raise UserError(
            f"displacement and outliers are one value a volume, got shapes {moved.shape} and {marked.shape}"
        )
    if threshold is not None:
        if not threshold > 0:
            raise UserError(f"the threshold of scrubbing is a displacement in mm above 0, got {threshold}")
        marked = marked | (moved > threshold)
    if moved.size and marked.all():
        raise UserError(
            f"scrubbing would leave out all {moved.size} volumes (threshold {threshold} mm): raise the threshold, or "
            "leave the run out"
        )
    return np.eye(moved.size)[:, marked]
