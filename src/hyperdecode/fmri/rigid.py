"""Rigid motion as six parameters and as a matrix, and how much of it lies between neighbouring volumes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

__all__ = ["HEAD_RADIUS_MM", "framewise_displacement", "rigid_matrix", "rigid_parameters"]

FloatArray = NDArray[np.float64]

HEAD_RADIUS_MM = 50.0


def rigid_matrix(parameters: ArrayLike, centre: ArrayLike) -> FloatArray:
    """Return the 4x4 matrix ``p -> R (p - c) + c + t`` of (t_x, t_y, t_z in mm, r_x, r_y, r_z in rad).

    R turns about x, then y, then z: ``R = R_z R_y R_x``.
    """
    values, c = np.asarray(parameters, dtype=np.float64), np.asarray(centre, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", values[3:]).as_matrix()
    matrix[:3, 3] = c + values[:3] - matrix[:3, :3] @ c
    return matrix


def rigid_parameters(matrix: ArrayLike, centre: ArrayLike) -> FloatArray:
    """Return the six parameters of which `rigid_matrix` makes `matrix`."""
    m, c = np.asarray(matrix, dtype=np.float64), np.asarray(centre, dtype=np.float64)
    angles = Rotation.from_matrix(m[:3, :3]).as_euler("xyz")
    return np.concatenate([m[:3, :3] @ c + m[:3, 3] - c, angles])


def framewise_displacement(parameters: ArrayLike) -> FloatArray:
    """Return ``sum |d translation| + 50 mm * sum |d rotation|`` between neighbouring volumes.

    Parameters
    ----------
    parameters : array-like, shape (n_volumes, 6)
        Translations in mm, then rotations in rad. (FSL's files have the rotations first, AFNI's are in degrees.)

    Returns
    -------
    ndarray, shape (n_volumes,)
        In mm; 0 for the first volume, where fMRIPrep writes n/a.

    References
    ----------
    Power JD, Barnes KA, Snyder AZ, Schlaggar BL, Petersen SE (2012). Spurious but systematic correlations in
    functional connectivity MRI networks arise from subject motion. NeuroImage 59, 2142-2154.
    """
    change = np.abs(np.diff(np.asarray(parameters, dtype=np.float64), axis=0))
    moved = change[:, :3].sum(axis=1) + HEAD_RADIUS_MM * change[:, 3:].sum(axis=1)
    return np.concatenate([[0.0], moved])
