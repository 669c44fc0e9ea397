"""Which category was on the screen: single-trial maps classified, whole blocks left out.

Trials of one block share drift, state and haemodynamic overlap, so trials of a block never stand on both sides of
a fold, and the exchangeable unit of the permutation test is the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.svm import LinearSVC

from hyperdecode.errors import UserError
from hyperdecode.fmri.mask import voxel_mask

__all__ = ["BlockClassification", "classify_blocks", "find_blocks"]


@dataclass(frozen=True)
class BlockClassification:
    """Accuracy of leaving out one block of each category at a time.

    Attributes
    ----------
    accuracy : float
        Part of the trials whose category was found, averaged over categories and folds.
    chance : float
        ``1 / n_categories``.
    fold_accuracy : tuple of float
        One a fold.
    categories : tuple of str
        In the order of `confusion`.
    confusion : ndarray of int, shape (n_categories, n_categories)
        Trials by true (row) and predicted (column) category.
    p_value : float
        ``(1 + #{permuted >= observed}) / (1 + n_permutations)``.
    null : ndarray, shape (n_permutations,)
        Accuracy under each permutation.
    """

    accuracy: float
    chance: float
    fold_accuracy: tuple[float, ...]
    categories: tuple[str, ...]
    confusion: NDArray[np.int64]
    p_value: float
    null: NDArray[np.float64]


def find_blocks(trial_types: Sequence[str], onsets: ArrayLike | None = None, gap: float = 5.0) -> NDArray[np.int64]:
    """Return each trial's block: consecutive trials of one type are one block.

    Parameters
    ----------
    trial_types : sequence of str, length n_trials
        In the order of time.
    onsets : array-like, shape (n_trials,), optional
        Seconds. Given, two blocks of one type that follow each other are told apart by a pause: an onset more than
        `gap` seconds after the one before starts a block.
    gap : float
        Seconds.

    Returns
    -------
    ndarray of int64, shape (n_trials,)
        0 for the first block, 1 for the next, and so on.
    """
    types = np.asarray(trial_types)
    if types.size == 0:
        raise UserError("no trials: blocks need at least one")
    new = types[1:] != types[:-1]
    if onsets is not None:
        times = np.asarray(onsets, dtype=np.float64)
        if times.shape != types.shape:
            raise UserError(f"{types.size} trials came with {times.size} onsets: give one a trial")
        if (np.diff(times) < 0).any():
            raise UserError("trials must be in the order of time to find their blocks: sort the events by onset")
        new = new | (np.diff(times) > gap)
    return np.concatenate([[0], np.cumsum(new)]).astype(np.int64)


def classify_blocks(
    z: ArrayLike,
    trial_types: Sequence[str],
    blocks: ArrayLike,
    *,
    n_voxels: int = 4096,
    n_permutations: int = 719,
    seed: int = 0,
) -> BlockClassification:
    """Classify single trials by category, leaving out one block of each category at a time.

    In fold f the f-th block of every category is tested on and all other blocks are trained on. Voxels are the
    `n_voxels` of highest mean z over the training trials (no labels), standardised by the training mean and standard
    deviation; the classifier is a linear support vector machine (one against rest, C = 1), never tuned.

    Under the null hypothesis the category names of the f-th blocks can be exchanged among each other. A permutation
    renames the categories of every fold's blocks but the first's, of training and test blocks alike, and
    the whole cross-validation is done again. With two blocks a category there are ``n_categories!`` such
    renamings (720 for six), and ``p = (1 + #{permuted >= observed}) / (1 + n_permutations)`` over all others than the
    true one is exact; when there are more than `n_permutations`, a seeded sample is drawn.

    Parameters
    ----------
    z : array-like, shape (n_trials, n_voxels_in_volume)
        Single-trial z-maps; voxels with a value that is not finite are dropped.
    trial_types : sequence of str, length n_trials
        Category of each trial.
    blocks : array-like of int, shape (n_trials,)
        From `find_blocks`.
    n_voxels : int
        Size of the mask.
    n_permutations : int
        At most this many permutations.
    seed : int
        Of the sample of permutations and of the classifier.

    Returns
    -------
    BlockClassification

    Raises
    ------
    UserError
        When there are fewer than two categories, categories differ in their number of blocks or have fewer
        than two, a block mixes categories, or shapes do not fit.
    """
    values, kinds, block = np.asarray(z), np.asarray(trial_types), np.asarray(blocks)
    if values.ndim != 2 or not values.shape[0] == kinds.size == block.size:
        raise UserError(
            f"z has shape {values.shape}, with {kinds.size} trial types and {block.size} blocks: one a trial"
        )
    categories = tuple(str(c) for c in np.unique(kinds))
    fold = _folds(kinds, block, categories)
    label = np.searchsorted(np.asarray(categories), kinds)
    n, n_folds = len(categories), int(fold.max()) + 1
    folds = [_Fold(values, label, fold, f, n, n_voxels, seed) for f in range(n_folds)]

    truth = np.tile(np.arange(n), (n_folds, 1))
    tables = [f.confusion(truth) for f in folds]
    scores = tuple(_accuracy(table) for table in tables)
    observed = float(np.mean(scores))
    null = np.asarray(
        [
            np.mean([_accuracy(f.confusion(names)) for f in folds])
            for names in _renamings(n, n_folds, n_permutations, seed)
        ]
    )
    return BlockClassification(
        accuracy=observed,
        chance=1.0 / n,
        fold_accuracy=scores,
        categories=categories,
        confusion=np.sum(tables, axis=0),
        p_value=float((1 + (null >= observed - 1e-12).sum()) / (1 + null.size)),
        null=null,
    )


class _Fold:
    """One train/test division; remembers the classifiers it has fitted."""

    def __init__(
        self,
        z: NDArray[np.generic],
        label: NDArray[np.intp],
        fold: NDArray[np.int64],
        test_fold: int,
        n_categories: int,
        n_voxels: int,
        seed: int,
    ) -> None:
        training = fold != test_fold
        roles = ["train"] * int(training.sum())
        chosen = voxel_mask(z[training], roles, n_voxels).selected
        chosen &= np.isfinite(z).all(axis=0)
        train, test = (z[rows][:, chosen].astype(np.float64) for rows in (training, ~training))
        mean, spread = train.mean(axis=0), train.std(axis=0)
        self.train, self.test = (train - mean) / spread, (test - mean) / spread
        self.train_label, self.train_fold = label[training], fold[training]
        self.test_label, self.test_fold = label[~training], test_fold
        self.n_categories, self.seed = n_categories, seed
        self._fitted: dict[tuple[int, ...], NDArray[np.intp]] = {}

    def confusion(self, names: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return trials by true (row) and predicted (column) category under `names`, (n_folds, n_categories).

        ``names[f, c]`` is the name that the blocks of category c in fold f bear. A classifier that treats its classes
        alike predicts renamed classes when all training blocks are renamed alike; so only the renaming of training
        folds relative to the first of them asks for a new fit.
        """
        others = [f for f in range(len(names)) if f != self.test_fold]
        base = names[others[0]]
        back = np.argsort(base)
        relative = back[names]
        key = tuple(int(v) for f in others for v in relative[f])
        if key not in self._fitted:
            model = LinearSVC(C=1.0, max_iter=50_000, random_state=self.seed)
            model.fit(self.train, relative[self.train_fold, self.train_label])
            self._fitted[key] = np.asarray(model.predict(self.test), dtype=np.intp)
        table = np.zeros((self.n_categories, self.n_categories), dtype=np.int64)
        np.add.at(table, (names[self.test_fold, self.test_label], base[self._fitted[key]]), 1)
        return table


def _accuracy(table: NDArray[np.int64]) -> float:
    """Mean over categories of the part of their trials that was found."""
    return float(np.mean(np.diag(table) / table.sum(axis=1)))


def _folds(kinds: NDArray[np.generic], block: NDArray[np.generic], categories: tuple[str, ...]) -> NDArray[np.int64]:
    """Fold of each trial: how many blocks of its category came before."""
    if len(categories) < 2:
        raise UserError(f"classification needs at least two categories, got {len(categories)}: {', '.join(categories)}")
    fold = np.full(kinds.size, -1, dtype=np.int64)
    counts: dict[str, int] = {}
    for number in dict.fromkeys(block.tolist()):
        rows = block == number
        inside = np.unique(kinds[rows])
        if inside.size > 1:
            raise UserError(
                f"block {number} holds trials of {', '.join(map(str, inside))}: find blocks with find_blocks"
            )
        kind = str(inside[0])
        fold[rows] = counts.get(kind, 0)
        counts[kind] = counts.get(kind, 0) + 1
    if len(set(counts.values())) > 1 or min(counts.values()) < 2:
        listed = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        raise UserError(f"leaving blocks out needs the same number of blocks, two or more, a category, got {listed}")
    return fold


def _renamings(n: int, n_folds: int, n_permutations: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield names (n_folds, n) with the first fold's true, others permuted; never all true."""
    total = factorial(n) ** (n_folds - 1) - 1
    if total <= n_permutations:
        for rest in product(permutations(range(n)), repeat=n_folds - 1):
            names = np.asarray([tuple(range(n)), *rest], dtype=np.intp)
            if (names != np.arange(n)).any():
                yield names
        return
    rng = np.random.default_rng(seed)
    for _ in range(n_permutations):
        yield np.stack([np.arange(n), *(rng.permutation(n) for _ in range(n_folds - 1))]).astype(np.intp)
