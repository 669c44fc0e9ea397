"""Single-trial estimates made elsewhere: z-maps or betas into trials x voxels with a table of the trials.

Three layouts, each below ``FOLDER/sub-LABEL/`` at any depth, or in FOLDER itself by names that start with
``sub-LABEL_``. Every table has a row a trial and at least the column ``stim_file``, the picture shown; ``run``,
``trial``, ``onset`` and others are kept. Rows without a ``stim_file`` (``n/a``) and one-back repeats (``trial_type``
``repeat``) are left out. z-values and betas are told apart by the name: ``stat-z`` or ``_zmaps``, ``stat-beta``,
``stat-effect`` or ``_betas``.

Maps, one pair a run or one a subject; volume k of the NIfTI is row k of the table::

    sub-01/sub-01_task-faces_run-1_stat-z_statmap.nii.gz
    sub-01/sub-01_task-faces_run-1_stat-z_statmap.tsv

GLMsingle's output folder (``TYPED``, else ``TYPEC``, else ``TYPEB``; ``.npy`` or ``.hdf5``); rows in the order of time,
run after run, as GLMsingle orders trials. The mask says where the voxels lie: one of the grid of ``betasmd``, or, where
GLMsingle was given voxels x time, the mask by which they were taken (``data[mask]`` in NumPy)::

    sub-01/TYPED_FITHRF_GLMDENOISE_RR.npy
    sub-01/trials.tsv
    sub-01/mask.nii.gz          (optional)

Plain arrays, trials x voxels, ``.npy`` or ``.safetensors``; the columns are the mask's voxels in the order of
``data[mask]``, or those of a tensor ``voxels`` (flat indices into the mask's grid)::

    sub-01/sub-01_stat-beta_trials.npy
    sub-01/sub-01_stat-beta_trials.tsv
    sub-01/sub-01_stat-beta_trials_mask.nii.gz      (optional; or mask.nii.gz)

Nothing in these files is executed, and nothing is written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.study.bids_names import FileIndex
from hyperdecode.study.estimate_files import GLMSINGLE, Kind, check_size, kind_of, read_array, read_glmsingle
from hyperdecode.study.estimate_tables import STIMULUS, TrialTable, all_trials, read_trials
from hyperdecode.study.images import check_grid, iterate_volumes, open_image, read_image

__all__ = ["Estimates", "estimates_files", "find_estimates"]

NIFTI = (".nii.gz", ".nii")
ARRAYS = (".npy", ".safetensors")
DESIGN = "DESIGNINFO"

N_ROWS = 64
"""Trials that are handed on together."""

Rows = Callable[[NDArray[np.intp]], Iterator[NDArray[np.float32]]]


@dataclass(frozen=True)
class Estimates:
    """Responses to single trials of one subject.

    Attributes
    ----------
    rows : callable
        Numbers of voxels, ascending -> their values in all trials, a few trials after the other: (n, n_chosen),
        float32, finite. Maps are read anew from the disk each time.
    n_voxels : int
    trials : pandas.DataFrame
        A row a trial: ``run``, ``trial`` (its number in the run), ``stim_file`` (the name without folders) and what
        else the tables have.
    shape : tuple of int, or None
        (x, y, z) of the grid, where it is known.
    affine : ndarray, (4, 4), or None
        Voxel to mm, where it is known.
    voxels : ndarray of int64, (n_voxels,), or None
        Flat indices (C order) of the columns in the grid; without a grid, in the file that they come from.
    kind : str
        ``"z"`` or ``"beta"``.
    files : tuple of pathlib.Path
        What was read.
    n_left_out : int
        Rows that are no decoding trials.
    """

    rows: Rows
    n_voxels: int
    trials: pd.DataFrame
    shape: tuple[int, int, int] | None
    affine: NDArray[np.float64] | None
    voxels: NDArray[np.int64] | None
    kind: Kind
    files: tuple[Path, ...]
    n_left_out: int = 0

    @property
    def values(self) -> NDArray[np.float32]:
        """All of them in memory, (n_trials, n_voxels)."""
        return np.concatenate(list(self.rows(np.arange(self.n_voxels))))


def find_estimates(folder: str | os.PathLike[str], subject: str) -> Estimates:
    """Find and read the estimates of one subject; see the module for the layouts.

    Parameters
    ----------
    folder : path-like
    subject : str
        Label without ``sub-``.

    Returns
    -------
    Estimates

    Raises
    ------
    UserError
        When there are none, or of two layouts or kinds; when a table is missing, lacks ``stim_file`` or has other than
        a row a trial; when a trial stands there twice or has no values; when grids differ, or a mask does not fit.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"no such folder: {root}: give the folder that holds the estimates")
    mine = _files_of(root, subject)
    layouts: tuple[tuple[str, list[Path], Callable[[list[Path]], Estimates]], ...] = (
        ("GLMsingle's output", _glmsingle_files(mine), _from_glmsingle),
        ("maps with tables", [path for path in mine if _is_map(path) and _table_of(path).exists()], _from_maps),
        ("arrays with tables", [path for path in mine if _is_array(path) and _table_of(path).exists()], _from_arrays),
    )
    there = [(what, files, read) for what, files, read in layouts if files]
    if len(there) > 1:
        (one, a, _), (other, b, _) = there[:2]
        raise UserError(
            f"{root} holds {one} ({a[0].name}) and {other} ({b[0].name}) of sub-{subject}: keep one of them"
        )
    if not there:
        lonely = next((path for path in mine if _is_map(path) or _is_array(path)), None)
        if lonely is not None:
            raise UserError(f"{lonely} has no table: name the {STIMULUS} of each trial in {_table_of(lonely).name}")
        raise UserError(
            f"{root} holds no estimates of sub-{subject}: expected sub-{subject}/*_stat-z_*.nii.gz with a .tsv of the "
            f"same name, {GLMSINGLE[0]}.npy with trials.tsv, or *_stat-beta_*.npy with a .tsv"
        )
    _, files, read = there[0]
    return read(files)


def estimates_files(folder: str | os.PathLike[str], subject: str) -> list[Path]:
    """Return every file that `find_estimates` may read; none where there is no such folder."""
    root = Path(folder)
    return _files_of(root, subject) if root.is_dir() else []


def _files_of(root: Path, subject: str) -> list[Path]:
    def belongs(path: Path) -> bool:
        parts = path.relative_to(root).parts
        return parts[0] == f"sub-{subject}" or (len(parts) == 1 and path.name.startswith(f"sub-{subject}_"))

    return [path for path in FileIndex(root).files if belongs(path)]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _table_of(path: Path) -> Path:
    return path.with_name(f"{_stem(path)}.tsv")


def _is_map(path: Path) -> bool:
    return path.name.endswith(NIFTI) and not (_stem(path) == "mask" or _stem(path).endswith("_mask"))


def _is_array(path: Path) -> bool:
    return path.suffix in ARRAYS and not path.name.startswith(("TYPE", DESIGN))


def _glmsingle_files(files: list[Path]) -> list[Path]:
    """Return the best model's file of each folder of GLMsingle."""
    best: dict[Path, Path] = {}
    for name in GLMSINGLE:
        for path in files:
            if path.name in (f"{name}.npy", f"{name}.hdf5", f"{name}.mat"):
                best.setdefault(path.parent, path)
    return sorted(best.values(), key=files.index)


def _one_kind(kinds: Iterable[Kind], files: list[Path]) -> Kind:
    first, *others = kinds
    for kind, path in zip(others, files[1:], strict=True):
        if kind != first:
            raise UserError(f"{files[0]} holds {first}, {path} holds {kind}: give one of the two")
    return first


# Maps


def _from_maps(files: list[Path]) -> Estimates:
    images = [open_image(path) for path in files]
    for path, image in zip(files, images, strict=True):
        check_grid(images[0], files[0], image, path)
    tables = [
        read_trials(_table_of(path), _stem(path), math.prod(image.shape[3:]), path)
        for path, image in zip(files, images, strict=True)
    ]
    kind, trials = _one_kind([kind_of(path) for path in files], files), all_trials(tables)
    shape = (int(images[0].shape[0]), int(images[0].shape[1]), int(images[0].shape[2]))
    # A voxel without a value in some trial lies outside of the brain: zero or NaN, by the habits of who wrote it.
    finite, nonzero = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for path, row, volume in _kept_volumes(files, tables):
        known = np.isfinite(volume)
        if not np.any(volume, where=known):
            raise UserError(f"{path}: volume {row + 1} holds no value: leave out its row's {STIMULUS} (n/a)")
        finite &= known
        nonzero |= known & (volume != 0)
    usable = finite & nonzero
    if not usable.any():
        raise UserError(f"{files[0]}: no voxel has a value in every trial: look at the maps")
    columns = np.flatnonzero(usable).astype(np.int64)

    def rows(chosen: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
        volumes = (volume.ravel()[columns[chosen]] for _, _, volume in _kept_volumes(files, tables))
        while block := list(islice(volumes, N_ROWS)):
            yield np.stack(block).astype(np.float32, copy=False)

    return Estimates(
        rows=rows,
        n_voxels=len(columns),
        trials=trials,
        shape=shape,
        affine=np.asarray(images[0].affine, dtype=np.float64),
        voxels=columns,
        kind=kind,
        files=(*files, *(table.path for table in tables)),
        n_left_out=_left_out(tables),
    )


def _kept_volumes(files: list[Path], tables: list[TrialTable]) -> Iterator[tuple[Path, int, NDArray[Any]]]:
    for path, table in zip(files, tables, strict=True):
        for row, volume in enumerate(iterate_volumes(path)):
            if table.kept[row]:
                yield path, row, volume


def _left_out(tables: list[TrialTable]) -> int:
    return sum(int((~table.kept).sum()) for table in tables)


# GLMsingle and plain arrays: matrices, with a mask beside them that says where the voxels lie


@dataclass(frozen=True)
class _Matrix:
    """Trials x voxels of one file, and where its columns lie."""

    path: Path
    values: NDArray[np.float32]
    shape: tuple[int, int, int] | None
    affine: NDArray[np.float64] | None
    voxels: NDArray[np.int64] | None


def _mask_beside(path: Path) -> tuple[Path, Any] | None:
    names = [f"{stem}{extension}" for stem in (f"{_stem(path)}_mask", "mask") for extension in NIFTI]
    found = next((path.with_name(name) for name in names if path.with_name(name).exists()), None)
    return None if found is None else (found, read_image(found, n_dimensions=3))


def _inside(mask: Any, path: Path) -> NDArray[np.bool_]:
    values = np.asarray(mask.dataobj)
    if not np.isfinite(values).all():
        raise UserError(f"{path} holds NaN or infinite values: a mask has 0 and 1, make it anew")
    inside: NDArray[np.bool_] = values > 0.5
    return inside


def _from_glmsingle(files: list[Path]) -> Estimates:
    parts, tables = [], []
    for path in files:
        betas = read_glmsingle(path)
        tables.append(read_trials(path.with_name("trials.tsv"), path.parent.name, betas.shape[-1], path))
        parts.append(_betas_matrix(path, betas[..., tables[-1].kept]))
    return _joined(parts, tables, "beta")


def _betas_matrix(path: Path, betas: NDArray[Any]) -> _Matrix:
    """Lay betas (x, y, z, trials) or (voxels, trials) out as trials x voxels."""
    sides = tuple(int(n) for n in betas.shape[:-1])
    flat = betas.reshape(-1, betas.shape[-1])
    columns: NDArray[np.int64] | None = None
    shape: tuple[int, int, int] | None = None
    affine = None
    wanted = np.ones(len(flat), dtype=bool)
    if (beside := _mask_beside(path)) is not None:
        where, mask = beside
        inside = _inside(mask, where)
        shape, affine = tuple(mask.shape), np.asarray(mask.affine, dtype=np.float64)
        if sides == shape:
            wanted, columns = inside.ravel(), np.arange(inside.size)
        elif inside.sum() == len(flat) == max(sides):
            columns = np.flatnonzero(inside)
        else:
            raise UserError(
                f"{where} {shape} has {int(inside.sum())} voxels, {path.name} has betas of shape {betas.shape}: give "
                "the mask of that grid or of those voxels"
            )
    elif len(sides) == 3 and max(sides) < len(flat):
        shape, columns = sides, np.arange(len(flat))
    usable = wanted & np.isfinite(flat).all(axis=1) & (flat != 0).any(axis=1)
    if not usable.any():
        raise UserError(f"{path}: no voxel has a value in every trial: look at the betas")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(flat[usable].T, dtype=np.float32)
    if columns is None and not usable.all():
        columns = np.arange(len(flat))
    return _Matrix(path, values, shape, affine, None if columns is None else columns[usable].astype(np.int64))


def _from_arrays(files: list[Path]) -> Estimates:
    parts, tables, kinds = [], [], []
    for path in files:
        values, voxels, kind = read_array(path)
        tables.append(read_trials(_table_of(path), _stem(path), len(values), path))
        kept = tables[-1].kept
        parts.append(_placed(path, values if kept.all() else values[kept], voxels))
        kinds.append(kind)
    return _joined(parts, tables, _one_kind(kinds, files))


def _placed(path: Path, values: NDArray[np.float32], voxels: NDArray[np.int64] | None) -> _Matrix:
    if (beside := _mask_beside(path)) is None:
        return _Matrix(path, values, None, None, voxels)
    where, mask = beside
    inside = _inside(mask, where)
    if voxels is None:
        voxels = np.flatnonzero(inside).astype(np.int64)
        if len(voxels) != values.shape[1]:
            raise UserError(
                f"{where} has {len(voxels)} voxels, {path.name} has {values.shape[1]} columns: give the mask that the "
                "voxels were taken by"
            )
    elif voxels.min() < 0 or voxels.max() >= inside.size or len(np.unique(voxels)) < len(voxels):
        raise UserError(f"{path}: voxels are no different indices into the {inside.size} voxels of {where}: mend them")
    return _Matrix(path, values, tuple(mask.shape), np.asarray(mask.affine, dtype=np.float64), voxels)


def _joined(parts: list[_Matrix], tables: list[TrialTable], kind: Kind) -> Estimates:
    """Put the trials of several files one under the other, on the voxels that all have."""
    first, files = parts[0], [part.path for part in parts]
    for part in parts[1:]:
        same_affine = (first.affine is None) == (part.affine is None) and (
            first.affine is None or part.affine is None or np.allclose(first.affine, part.affine, rtol=0, atol=1e-3)
        )
        placed = first.voxels is not None and part.voxels is not None
        if (
            part.shape != first.shape
            or not same_affine
            or not (placed or part.values.shape[1] == first.values.shape[1])
        ):
            raise UserError(f"{part.path} has other voxels than {first.path}: give both on one grid, with their mask")
    trials = all_trials(tables)
    voxels = first.voxels
    matrices = [part.values for part in parts]
    if all(part.voxels is not None for part in parts) and len(parts) > 1:
        where = [part.voxels for part in parts if part.voxels is not None]
        voxels = where[0][np.isin(where[0], _common(where))]
        if not len(voxels):
            raise UserError(f"{files[0]} and {files[-1].name} share no voxel: give both on one grid, with their mask")
        matrices = [part[:, _positions(own, voxels)] for part, own in zip(matrices, where, strict=True)]
    check_size((len(trials), matrices[0].shape[1]), files[0])

    def rows(chosen: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
        for matrix in matrices:
            for start in range(0, len(matrix), N_ROWS):
                yield np.ascontiguousarray(matrix[start : start + N_ROWS, chosen])

    return Estimates(
        rows=rows,
        n_voxels=matrices[0].shape[1],
        trials=trials,
        shape=first.shape,
        affine=first.affine,
        voxels=voxels,
        kind=kind,
        files=(*files, *(table.path for table in tables)),
        n_left_out=_left_out(tables),
    )


def _common(voxels: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    shared = voxels[0]
    for other in voxels[1:]:
        shared = np.intersect1d(shared, other)
    return shared


def _positions(own: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(own, kind="stable")
    return order[np.searchsorted(own, wanted, sorter=order)].astype(np.int64)
