"""The voxels that a decoder sees, chosen on training trials without their labels."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.fmri.repeats import repeat_variance
from hyperdecode.fmri.trialmeans import TrialMeans
from hyperdecode.split import require_training

__all__ = [
    "MaskKind",
    "VoxelMask",
    "best_voxels",
    "labels_on_grid",
    "region_mask",
    "regions_by_name",
    "reliability_mask",
    "require_repeats",
    "voxel_mask",
    "whole_mask",
]

MaskKind = Literal["active", "reliable", "regions", "all"]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NUDGE_MM = 1e-3


@dataclass(frozen=True)
class VoxelMask:
    """The voxels chosen, and why.

    Attributes
    ----------
    selected : ndarray of bool, shape (n_voxels_in_volume,)
        True for the chosen voxels.
    mean_z : ndarray of float64, shape (n_voxels_in_volume,)
        Mean z over the training trials; NaN for dropped voxels, and everywhere when the choice needed no z.
    n_dropped_nan : int
        Voxels dropped because a z was not finite (constant or NaN in the BOLD), all their z are equal, or the caller
        ruled them out.
    kind : {"active", "reliable", "regions", "all"}
        What they were chosen by.
    score : ndarray of float64, shape (n_voxels_in_volume,), or None
        What the voxels were ranked by (mean z, or reliability over training repeats); None when all were taken.
    """

    selected: BoolArray
    mean_z: FloatArray
    n_dropped_nan: int
    kind: MaskKind = "active"
    score: FloatArray | None = None


def voxel_mask(
    z: ArrayLike, roles: Sequence[str] | None, n_voxels: int = 4096, *, usable: ArrayLike | None = None
) -> VoxelMask:
    """Choose the `n_voxels` voxels of highest mean z over the training trials.

    ``selected = top_n(mean_i z[i])`` over trials i whose role is ``"train"``. No label is used. Ties are broken by the
    voxel's position, the lower index first, so the count is exact and the choice repeatable.

    Parameters
    ----------
    z : array-like, shape (n_trials, n_voxels_in_volume)
        Single-trial z values of training trials only.
    roles : sequence of str or None, length n_trials
        Role of each row; None when the caller vouches that every row is a training trial.
    n_voxels : int
        How many voxels to choose.
    usable : array-like of bool, shape (n_voxels_in_volume,), optional
        Voxels that may be chosen (measured in every run, say). Default: all.

    Returns
    -------
    VoxelMask

    Raises
    ------
    LeakageError
        When a row is a test trial.
    UserError
        When fewer voxels are usable than asked for, or shapes do not fit.
    """
    return best_voxels(_means(_training_z(z, roles, "the voxel mask")), n_voxels, usable=usable)


def best_voxels(
    means: TrialMeans, n_voxels: int, reliability: FloatArray | None = None, *, usable: ArrayLike | None = None
) -> VoxelMask:
    """Choose voxels as `voxel_mask` does, or `reliability_mask`, from what trials left that came a few at a time.

    Parameters
    ----------
    means : TrialMeans
        Over the training trials.
    n_voxels : int
        How many voxels to choose.
    reliability : ndarray of float64, shape (n_voxels_in_volume,), optional
        Rank by this instead of the mean (`hyperdecode.fmri.repeats.RepeatVariance.reliability`).
    usable : array-like of bool, shape (n_voxels_in_volume,), optional
        Voxels that may be chosen. Default: all.

    Returns
    -------
    VoxelMask

    Raises
    ------
    UserError
        When fewer voxels are usable than asked for.
    """
    free, mean_z = _usable_and_mean(means, usable)
    if reliability is None:
        selected = _highest(mean_z, free, n_voxels, "usable")
        return VoxelMask(selected, mean_z, int(free.size - free.sum()), "active", mean_z)
    free &= np.isfinite(reliability)
    score = np.where(free, reliability, np.nan)
    selected = _highest(score, free, n_voxels, "usable")
    return VoxelMask(selected, mean_z, int(free.size - free.sum()), "reliable", score)


def reliability_mask(
    z: ArrayLike, roles: Sequence[str], stimuli: Sequence[str], n_voxels: int = 4096, *, usable: ArrayLike | None = None
) -> VoxelMask:
    """Choose the `n_voxels` voxels that answer most alike whenever a training stimulus comes again.

    ``score = s^2 / (s^2 + n^2)``, the intraclass correlation of single trials: s^2 and n^2 are the variances between
    and within the training stimuli shown more than once (`hyperdecode.fmri.repeats.repeat_variance`). Stimuli shown
    once take no part. Test stimuli, which repeat in most designs, must never be used for this: a voxel chosen for
    repeating its answers to the test faces is chosen on what is to be decoded.

    Parameters
    ----------
    z : array-like, shape (n_trials, n_voxels_in_volume)
        Single-trial z values of training trials only.
    roles : sequence of str, length n_trials
        Role of each row.
    stimuli : sequence of str, length n_trials
        The stimulus of each row.
    n_voxels : int
        How many voxels to choose.
    usable : array-like of bool, shape (n_voxels_in_volume,), optional
        Voxels that may be chosen. Default: all.

    Returns
    -------
    VoxelMask

    Raises
    ------
    LeakageError
        When a row is a test trial.
    UserError
        When fewer than two training stimuli repeat, fewer voxels are usable than asked for, or shapes do not fit.

    References
    ----------
    Tarhan L, Konkle T (2020). Reliability-based voxel selection. NeuroImage 207, 116350. Shrout PE, Fleiss JL
    (1979). Intraclass correlations. Psychological Bulletin 86, 420-428 (the coefficient, ICC(1,1)).
    """
    values = _training_z(z, _given(roles, "the reliability mask"), "the reliability mask")
    if len(stimuli) != values.shape[0]:
        raise UserError(
            f"the reliability mask: {values.shape[0]} trials came with {len(stimuli)} stimuli, give one each"
        )
    require_repeats(stimuli)
    return best_voxels(_means(values), n_voxels, repeat_variance(values, stimuli).reliability, usable=usable)


def require_repeats(stimuli: Sequence[str]) -> None:
    """Refuse to rank voxels by reliability where fewer than two of the training `stimuli` repeat."""
    names, counts = np.unique(np.asarray(stimuli, dtype=str), return_counts=True)
    if (counts > 1).sum() < 2:
        raise UserError(
            f"{int((counts > 1).sum())} of {names.size} training stimuli stand in more than one trial, at least 2 are "
            "needed to rank voxels by reliability: choose active voxels or regions (test repeats are no way out)"
        )


def region_mask(
    labels: ArrayLike,
    regions: Sequence[str | int],
    *,
    names: Mapping[str, int | Iterable[int]] | None = None,
    n_voxels: int | None = None,
    z: ArrayLike | None = None,
    roles: Sequence[str] | None = None,
    usable: ArrayLike | None = None,
) -> VoxelMask:
    """Choose the voxels of labelled regions: all of them, or the `n_voxels` most active on training trials.

    Parameters
    ----------
    labels : array-like of int or bool, shape (n_voxels_in_volume,)
        Region of each voxel, 0 for none (`labels_on_grid`). For any mask of your own: its True voxels and region 1.
    regions : sequence of str or int
        Names (looked up in `names`, upper or lower case) or label numbers.
    names : mapping of str to int or to several int, optional
        Name -> label or labels (`regions_by_name`).
    n_voxels : int, optional
        Keep the voxels of highest mean z. Default: all voxels of the regions.
    z : array-like, shape (n_trials, n_voxels_in_volume), optional
        Single-trial z values of training trials only; needed with `n_voxels`. Voxels without usable z are dropped.
    roles : sequence of str, length n_trials, optional
        Role of each row of `z`; required with it.
    usable : array-like of bool, shape (n_voxels_in_volume,), optional
        Voxels that may be chosen. Default: all.

    Returns
    -------
    VoxelMask

    Raises
    ------
    LeakageError
        When a row of `z` is a test trial.
    UserError
        When a name is unknown (close ones are listed), no voxel is left, fewer are than asked for, `n_voxels`
        comes without `z` or `z` without `roles`, or shapes do not fit.

    Warns
    -----
    DataWarning
        When one of several regions has no voxel here.
    """
    here = np.asarray(labels).ravel()
    wanted = _label_numbers(regions, names)
    if n_voxels is not None and z is None:
        raise UserError(
            f"the {n_voxels} most active voxels of regions need the z of the training trials: give z and roles"
        )
    if z is None:
        free, mean_z = _allowed(usable, here.size), np.full(here.size, np.nan)
    else:
        what = "the mask of regions"
        free, mean_z = _usable_and_mean(_means(_training_z(z, _given(roles, what), what, here.size)), usable)
    _say_what_is_empty(wanted, here[free])
    inside = free & np.isin(here, [number for numbers in wanted.values() for number in numbers])
    dropped = int(free.size - free.sum())
    if n_voxels is None:
        return VoxelMask(inside, mean_z, dropped, "regions")
    selected = _highest(mean_z, inside, n_voxels, "usable and in the regions")
    return VoxelMask(selected, mean_z, dropped, "regions", mean_z)


def whole_mask(usable: ArrayLike) -> VoxelMask:
    """Choose every voxel of `usable` (n_voxels_in_volume,), the brain that was measured in every run, say."""
    selected = np.array(usable, dtype=bool).ravel()
    if not selected.any():
        raise UserError(f"none of {selected.size} voxels is usable: check the brain mask and the runs")
    return VoxelMask(selected, np.full(selected.size, np.nan), int(selected.size - selected.sum()), "all")


def regions_by_name(names: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """Turn an atlas's label -> name into name -> labels; ``X_L`` and ``X_R`` can also be had together as ``X``.

    Examples
    --------
    >>> regions_by_name({1: "V1_L", 181: "V1_R"})
    {'V1_L': (1,), 'V1_R': (181,), 'V1': (1, 181)}
    """
    found: dict[str, tuple[int, ...]] = {}
    both: dict[str, tuple[int, ...]] = {}
    for label, name in names.items():
        found[name] = (*found.get(name, ()), int(label))
        if name.endswith(("_L", "_R")):
            both[name[:-2]] = (*both.get(name[:-2], ()), int(label))
    return found | {name: labels for name, labels in both.items() if name not in found}


def labels_on_grid(
    atlas_values: ArrayLike, atlas_affine: ArrayLike, shape: tuple[int, ...], affine: ArrayLike
) -> NDArray[np.int64]:
    """Carry a labelled volume to another grid in the same space: each voxel takes the label nearest to its centre.

    Centres midway between two atlas voxels take the one towards +x, +y, +z in mm, so the answer does not depend on the
    order in which either volume stores its axes (RAS or LAS, oblique).

    Parameters
    ----------
    atlas_values : array-like, shape (x, y, z)
        Whole numbers, 0 outside; NaN counts as 0.
    atlas_affine, affine : array-like, shape (4, 4)
        Voxel to mm, of the atlas and of the wanted grid.
    shape : tuple of int
        Of the wanted grid; what follows the first three is ignored.

    Returns
    -------
    ndarray of int64, shape `shape[:3]`
        0 outside the atlas.

    Raises
    ------
    UserError
        When the atlas is not 3D or holds fractions, or an affine cannot be inverted.
    """
    atlas = np.asarray(atlas_values)
    if atlas.ndim == 4 and atlas.shape[3] == 1:
        atlas = atlas[..., 0]
    if atlas.ndim != 3:
        raise UserError(f"an atlas is one 3D volume of labels, got shape {atlas.shape}: give a single volume")
    whole = np.nan_to_num(atlas, nan=0.0, posinf=0.5, neginf=0.5) if atlas.dtype.kind == "f" else atlas
    labels = np.rint(whole).astype(np.int64)
    if not np.array_equal(labels, whole):
        raise UserError("an atlas holds whole numbers, got fractions or infinities: give labels, not probabilities")
    to_atlas = _inverse(atlas_affine) @ _checked_affine(affine)
    nudge = _inverse(atlas_affine)[:3, :3] @ np.full(3, NUDGE_MM)
    out = np.zeros(shape[:3], dtype=np.int64)
    plane = np.indices(shape[1:3]).reshape(2, -1)
    for x in range(shape[0]):
        centres = to_atlas[:3, :1] * x + to_atlas[:3, 1:3] @ plane + (to_atlas[:3, 3] + nudge)[:, None]
        index = np.rint(centres).astype(np.int64)
        within = ((index >= 0) & (index < np.array(labels.shape)[:, None])).all(axis=0)
        out[x].reshape(-1)[within] = labels[tuple(index[:, within])]
    return out


def _given(roles: Sequence[str] | None, what: str) -> Sequence[str]:
    if roles is None:
        raise UserError(f"{what} looks at z, so it needs the role of each trial: give roles")
    return roles


def _training_z(z: ArrayLike, roles: Sequence[str] | None, what: str, size: int | None = None) -> NDArray[np.generic]:
    values = np.asarray(z)
    if values.ndim != 2 or values.shape[0] == 0:
        raise UserError(f"z must be trials x voxels with at least one trial, got shape {values.shape}")
    if size is not None and values.shape[1] != size:
        raise UserError(f"z has {values.shape[1]} voxels, the labels have {size}: carry the labels to the grid of z")
    require_training(roles, values.shape[0], what)
    return values


def _allowed(usable: ArrayLike | None, n: int) -> BoolArray:
    if usable is None:
        return np.ones(n, dtype=bool)
    allowed = np.array(usable, dtype=bool).ravel()
    if allowed.size != n:
        raise UserError(f"usable has {allowed.size} voxels, the data have {n}: give one flag a voxel")
    return allowed


def _means(values: NDArray[np.generic]) -> TrialMeans:
    means = TrialMeans(values.shape[1])
    means.add(values, None)
    return means


def _usable_and_mean(means: TrialMeans, usable: ArrayLike | None) -> tuple[BoolArray, FloatArray]:
    """Return which voxels vary and are finite in every trial, and their mean z (NaN elsewhere)."""
    mean_z = means.mean
    free = _allowed(usable, mean_z.size) & means.usable
    mean_z[~free] = np.nan
    return free, mean_z


def _highest(score: FloatArray, free: BoolArray, n_voxels: int, what: str) -> BoolArray:
    if n_voxels < 1:
        raise UserError(f"a mask needs at least one voxel, got n_voxels={n_voxels}")
    n_free = int(free.sum())
    if n_free < n_voxels:
        raise UserError(
            f"the mask asks for {n_voxels} voxels, {n_free} of {free.size} are {what}: ask for at most {n_free}"
        )
    order = np.argsort(np.where(free, -score, np.inf), kind="stable")
    selected = np.zeros(free.size, dtype=bool)
    selected[order[:n_voxels]] = True
    return selected


def _label_numbers(
    regions: Sequence[str | int], names: Mapping[str, int | Iterable[int]] | None
) -> dict[str, tuple[int, ...]]:
    """Return region -> its labels."""
    if isinstance(regions, str) or not len(regions):
        raise UserError(f"regions is a list of names or labels with at least one entry, got {regions!r}")
    known = {name: tuple(np.atleast_1d(np.array(label)).tolist()) for name, label in (names or {}).items()}
    folded = {name.casefold(): name for name in known}
    wanted: dict[str, tuple[int, ...]] = {}
    for region in regions:
        if not isinstance(region, str):
            wanted[str(region)] = (int(region),)
            continue
        name = region if region in known else folded.get(region.casefold())
        if name is None:
            close = difflib.get_close_matches(region.casefold(), folded, n=5, cutoff=0.5)
            listed = "close ones are " + ", ".join(folded[match] for match in close) if close else "none is close"
            raise UserError(f"unknown region {region!r} among {len(known)} names: {listed}")
        wanted[name] = known[name]
    return wanted


def _say_what_is_empty(wanted: Mapping[str, tuple[int, ...]], present: NDArray[np.generic]) -> None:
    there = set(np.unique(present).tolist())
    empty = [name for name, numbers in wanted.items() if not there & set(numbers)]
    if len(empty) == len(wanted):
        raise UserError(
            f"no usable voxel lies in {', '.join(empty[:5])}: check that labels and data are in the same space and grid"
        )
    if empty:
        warnings.warn(
            f"no usable voxel lies in {', '.join(empty)}: outside the field of view?", DataWarning, stacklevel=3
        )


def _checked_affine(affine: ArrayLike) -> FloatArray:
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise UserError("an affine is a finite 4 x 4 matrix that can be inverted: mend the header of the volume")
    return matrix


def _inverse(affine: ArrayLike) -> FloatArray:
    return np.asarray(np.linalg.inv(_checked_affine(affine)), dtype=np.float64)
