"""Contrasts between conditions: what ``face > other`` means, its z-map, and the peaks of a map."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times

__all__ = ["Contrast", "contrast_zmap", "find_peaks", "parse_contrast"]

OTHER = "other"


@dataclass(frozen=True)
class Contrast:
    """A difference of means of conditions.

    Attributes
    ----------
    label : str
        For file names, in camel case: ``faceOther``.
    weights : dict of str to float
        Weight of each condition; the positive ones sum to 1, the negative ones to -1.
    """

    label: str
    weights: dict[str, float]


def parse_contrast(text: str, conditions: Sequence[str]) -> Contrast:
    """Read ``A > B``, ``A + B > C`` or ``A > other``, where `other` means every condition not on the left.

    Conditions of one side weigh the same: ``1 / n`` on the left, ``-1 / n`` on the right.

    Parameters
    ----------
    text : str
        The contrast.
    conditions : sequence of str
        The trial types there are.

    Returns
    -------
    Contrast

    Raises
    ------
    UserError
        When the text has not one ``>``, names an unknown condition, names one twice, or leaves nothing for `other`.

    Examples
    --------
    >>> parse_contrast("face > other", ["face", "house", "object"]).weights
    {'face': 1.0, 'house': -0.5, 'object': -0.5}
    """
    known = sorted(set(conditions))
    sides = text.split(">")
    if len(sides) != 2:
        raise UserError(f"contrast {text!r} is not 'A > B', 'A + B > C' or 'A > other': write one '>'")
    left, right = ([name.strip() for name in side.split("+")] for side in sides)
    label = "".join(_capital(word) for word in (*left, *right))
    if right == [OTHER] and OTHER not in known:
        right = [name for name in known if name not in left]
    for name in (*left, *right):
        if name not in known:
            raise UserError(f"contrast {text!r}: no condition {name!r} in the events, there are: {', '.join(known)}")
    if not right or len({*left, *right}) < len(left) + len(right):
        raise UserError(f"contrast {text!r} must name each condition once and leave some for the right side")
    weights = {name: 1 / len(left) for name in left} | {name: -1 / len(right) for name in right}
    return Contrast(label=label[:1].lower() + label[1:], weights=weights)


def _capital(word: str) -> str:
    parts = re.findall(r"[A-Za-z0-9]+", word)
    return "".join(part[:1].upper() + part[1:] for part in parts)


def contrast_zmap(
    bold: Any,
    mask: Any,
    events: pd.DataFrame,
    t_r: float,
    contrast: Contrast,
    *,
    smoothing_fwhm: float | None = 5.0,
    high_pass: float = 0.01,
    confounds: ArrayLike | None = None,
    slice_time_ref: float = 0.5,
) -> Any:
    """Return the z-map of a contrast: canonical SPM response, cosine drift, AR(1) noise.

    Parameters
    ----------
    bold : nibabel image, shape (x, y, z, n_volumes)
        Preprocessed run.
    mask : nibabel image, shape (x, y, z)
        Voxels to model.
    events : pandas.DataFrame
        ``onset`` and ``duration`` in seconds, ``trial_type``.
    t_r : float
        Repetition time in seconds.
    contrast : Contrast
        From `parse_contrast`.
    smoothing_fwhm : float or None
        Gaussian in mm applied to the BOLD first.
    high_pass : float
        Cut-off of the drift in Hz.
    confounds : array-like, shape (n_volumes, n_confounds), optional
        Motion parameters and the like.
    slice_time_ref : float
        Where in the repetition time a volume counts as taken.

    Returns
    -------
    nibabel.Nifti1Image, shape (x, y, z)
    """
    from nilearn.glm.first_level import FirstLevelModel, make_first_level_design_matrix

    names = {kind: f"c{i}" for i, kind in enumerate(sorted(events["trial_type"].unique()))}
    renamed = pd.DataFrame(
        {
            "onset": events["onset"],
            "duration": events["duration"],
            "trial_type": events["trial_type"].map(names),
        }
    )
    extra = None if confounds is None else np.asarray(confounds, dtype=np.float64)
    design = make_first_level_design_matrix(
        frame_times(bold.shape[3], t_r, slice_time_ref),
        renamed,
        hrf_model="spm",
        drift_model="cosine",
        high_pass=high_pass,
        add_regs=extra,
    )
    model = FirstLevelModel(mask_img=mask, noise_model="ar1", smoothing_fwhm=smoothing_fwhm, minimize_memory=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Given mask will be used", category=RuntimeWarning)
        model.fit(bold, design_matrices=design)
    vector = np.zeros(design.shape[1])
    for kind, weight in contrast.weights.items():
        vector[list(design.columns).index(names[kind])] = weight
    return model.compute_contrast(vector, output_type="z_score")


def find_peaks(
    z: NDArray[np.floating], affine: ArrayLike, *, threshold: float = 3.1, min_distance: float = 8.0
) -> pd.DataFrame:
    """List the local maxima of a map above a threshold, strongest first.

    A peak is a voxel not smaller than its 26 neighbours; a weaker peak closer than `min_distance` to a stronger one is
    left out.

    Parameters
    ----------
    z : ndarray, shape (x, y, z)
        The map.
    affine : array-like, shape (4, 4)
        Voxel to mm.
    threshold : float
        Smallest value that counts.
    min_distance : float
        In mm.

    Returns
    -------
    pandas.DataFrame
        Columns ``x``, ``y``, ``z`` (mm) and ``stat``.
    """
    values = np.nan_to_num(np.asarray(z, dtype=np.float64), nan=-np.inf)
    highest = values >= ndimage.maximum_filter(values, size=3, mode="constant", cval=-np.inf)
    index = np.argwhere(highest & (values > threshold))
    stat = values[tuple(index.T)]
    order = np.argsort(-stat, kind="stable")
    points = apply_affine(np.asarray(affine, dtype=np.float64), index[order])
    kept: list[int] = []
    for i in range(len(points)):
        if all(np.linalg.norm(points[i] - points[j]) >= min_distance for j in kept):
            kept.append(i)
    table = pd.DataFrame(points[kept].reshape(-1, 3), columns=["x", "y", "z"])
    table["stat"] = stat[order][kept]
    return table
