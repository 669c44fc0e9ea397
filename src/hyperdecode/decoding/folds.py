"""Which trials are left out together when a penalty is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.model_selection import GroupKFold, KFold
from torch import Tensor

from hyperdecode.errors import UserError

__all__ = ["folds_of"]


def folds_of(n_trials: int, cv: int | str, groups: Sequence[object] | None, seed: int) -> list[Tensor] | None:
    """Return the trials of each fold, ascending; None for each trial alone.

    Parameters
    ----------
    n_trials : int
    cv : "loo" or int
        Each trial (each group, where there are groups) alone, or this number of folds.
    groups : sequence of length n_trials, optional
        Trials of one group stay together.
    seed : int
        Shuffles trials into folds; not used with groups.

    Raises
    ------
    UserError
        When `cv` is neither, or the trials or groups are too few for it.
    """
    if cv != "loo" and (isinstance(cv, bool | str) or int(cv) != cv or cv < 2):
        raise UserError(f'cross-validation needs at least 2 folds, or "loo" to leave one out, got cv={cv!r}')
    if groups is not None and len(groups) != n_trials:
        raise UserError(f"got {n_trials} trials and {len(groups)} groups: give one group a trial")
    number_of = {} if groups is None else {group: number for number, group in enumerate(dict.fromkeys(groups))}
    n_folds = 0 if cv == "loo" else int(cv)
    units, unit = (n_trials, "trials") if groups is None else (len(number_of), "groups of trials")
    if cv == "loo":
        if units < (3 if groups is None else 2):
            least = "3 trials" if groups is None else "2 groups of trials"
            raise UserError(f"leaving one out needs at least {least}, got {units} (n_samples={n_trials}): add trials")
        return None if groups is None else _members([number_of[group] for group in groups], len(number_of))
    if units < n_folds:
        least = f"{n_folds} folds need at least {n_folds} {unit}"
        raise UserError(f"{least}, got {units} (n_samples={n_trials}): lower cv or add trials")
    if groups is None:
        splits = KFold(n_folds, shuffle=True, random_state=seed).split(np.zeros(n_trials))
    else:
        splits = GroupKFold(n_folds).split(np.zeros(n_trials), groups=[number_of[group] for group in groups])
    return [torch.from_numpy(np.sort(held_out)) for _, held_out in splits]


def _members(numbers: Sequence[int], n_groups: int) -> list[Tensor]:
    order = np.argsort(numbers, kind="stable")
    return [
        torch.from_numpy(part) for part in np.split(order, np.cumsum(np.bincount(numbers, minlength=n_groups))[:-1])
    ]
