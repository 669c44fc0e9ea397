"""Which trials may be fitted on: the one object that every fitting step asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import LeakageError, UserError

__all__ = ["ROLES", "Split", "require_training"]

ROLES = ("train", "test")


@dataclass(frozen=True)
class Split:
    """Trials of one subject divided into training and test trials.

    A stimulus is on one side only: a face whose trials were in both would let the decoder be tested on
    what it was fitted on, so such a split is refused.

    Parameters
    ----------
    stimuli : tuple of str, length n_trials
        The stimulus shown in each trial.
    roles : tuple of {"train", "test"}, length n_trials
        The role of each trial.

    Raises
    ------
    UserError
        When the lengths differ or a role is neither ``"train"`` nor ``"test"``.
    LeakageError
        When a stimulus occurs in both roles.
    """

    stimuli: tuple[str, ...]
    roles: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.stimuli) != len(self.roles):
            raise UserError(
                f"a split needs one role a trial, got {len(self.stimuli)} stimuli and {len(self.roles)} roles"
            )
        unknown = sorted(set(self.roles) - set(ROLES))
        if unknown:
            raise UserError(f"unknown trial role {unknown[0]!r}: roles are 'train' and 'test'")
        both = {s for s, r in zip(self.stimuli, self.roles, strict=True) if r == "train"} & {
            s for s, r in zip(self.stimuli, self.roles, strict=True) if r == "test"
        }
        if both:
            raise LeakageError(
                f"stimulus {min(both)!r} stands in training and in test trials ({len(both)} such stimuli): "
                "give each stimulus one role"
            )

    @classmethod
    def of(cls, stimuli: Sequence[str], roles: Sequence[str]) -> Split:
        """Build a split from any two sequences (columns of a table, say)."""
        return cls(tuple(map(str, stimuli)), tuple(map(str, roles)))

    @property
    def training_rows(self) -> NDArray[np.intp]:
        """Row indices of the training trials."""
        return np.flatnonzero(np.asarray(self.roles) == "train")

    @property
    def test_stimuli(self) -> list[str]:
        """Test stimuli in the order of their names, each once."""
        return sorted({s for s, r in zip(self.stimuli, self.roles, strict=True) if r == "test"})

    def training(self, per_trial: ArrayLike) -> NDArray[np.generic]:
        """Rows of `per_trial` (n_trials, ...) that belong to training trials."""
        return self._checked(per_trial)[self.training_rows]

    def test_averages(self, per_trial: ArrayLike) -> NDArray[np.floating]:
        """Mean over the repeats of each test stimulus, (n_test_stimuli, ...), in `test_stimuli` order."""
        values = self._checked(per_trial)
        names = np.asarray(self.stimuli)
        if not self.test_stimuli:
            raise UserError("this split has no test trials: give at least one stimulus the role 'test'")
        return np.stack([values[names == name].mean(axis=0) for name in self.test_stimuli])

    def _checked(self, per_trial: ArrayLike) -> NDArray[np.generic]:
        values = np.asarray(per_trial)
        if len(values) != len(self.roles):
            raise UserError(f"the split has {len(self.roles)} trials, the array has {len(values)} rows")
        return values


def require_training(roles: Sequence[str] | None, n_rows: int, what: str) -> None:
    """Refuse to fit `what` when any of its rows is a test trial.

    Parameters
    ----------
    roles : sequence of str or None
        Role of each row; None when the caller works on arrays of their own and vouches for them.
    n_rows : int
        Rows about to be fitted.
    what : str
        Named in the message.

    Raises
    ------
    LeakageError
        When a row's role is not ``"train"``.
    UserError
        When the number of roles differs from the number of rows.
    """
    if roles is None:
        return
    if len(roles) != n_rows:
        raise UserError(f"{what}: {n_rows} rows came with {len(roles)} roles, give one a row")
    leaked = sum(role != "train" for role in roles)
    if leaked:
        raise LeakageError(
            f"{what} must never see test trials, got {leaked} among {n_rows} rows: pass split.training(...) only"
        )
