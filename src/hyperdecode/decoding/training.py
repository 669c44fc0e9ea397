"""What decoders trained by gradient descent share: batches, held-out trials, the best epoch, resuming, memory."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.errors import DataWarning, UserError

__all__ = ["BestEpoch", "Checkpoint", "State", "fingerprint", "held_out", "ordered_batches", "with_halved_batches"]

State = dict[str, NDArray[Any]]
T = TypeVar("T")


class Checkpoint(Protocol):
    """Somewhere that training can be resumed from.

    Attributes
    ----------
    every : int
        Epochs between two saves.
    """

    every: int

    def load(self) -> State | None:
        """Return what was saved last, None when nothing was."""

    def save(self, state: State) -> None:
        """Keep a state whole, or the one before."""


@dataclass
class BestEpoch:
    """The epoch whose weights do best on held-out trials, and when to give up hope of a better one.

    Attributes
    ----------
    patience : int
        Epochs without a lower loss after which training stops.
    epoch : int
        The best one, counted from 1; 0 before the first.
    loss : float
        Its loss.
    """

    patience: int
    epoch: int = 0
    loss: float = math.inf

    def is_new(self, epoch: int, loss: float) -> bool:
        """Take in the loss of an epoch and return whether it is the lowest so far."""
        if not loss < self.loss:
            return False
        self.epoch, self.loss = epoch, loss
        return True

    def is_over(self, epoch: int) -> bool:
        """Return whether `patience` epochs have passed since the best one."""
        return epoch - self.epoch >= self.patience


def ordered_batches(n_trials: int, batch_size: int) -> Tensor:
    """Return the rows of each batch of an epoch, in order.

    A last batch that is too short is filled up from the beginning, as MXNet's `NDArrayIter` does.

    Parameters
    ----------
    n_trials, batch_size : int
        A batch that is larger than all trials holds some of them more than once.

    Returns
    -------
    Tensor of shape (n_batches, batch_size), int64
    """
    n_batches = -(-n_trials // batch_size)
    return (torch.arange(n_batches * batch_size) % n_trials).view(n_batches, batch_size)


def held_out(n_trials: int, share: float, groups: Sequence[object] | None, seed: int) -> NDArray[np.bool_]:
    """Choose training trials that are not trained on but tell when to stop.

    Parameters
    ----------
    n_trials : int
    share : float
        Of the trials (of the groups, where these are given), from 0 (none) to below 1.
    groups : sequence of length n_trials, or None
        What each trial shows: trials of one group stay together, so that repeats of a stimulus never straddle.
    seed : int

    Returns
    -------
    array of bool, (n_trials,)
        True for trials held out: at least one group, and at least one is left.

    Raises
    ------
    UserError
        When the share is out of range, groups do not fit, or there are too few of them.
    """
    if not 0 <= share < 1:
        raise UserError(f"validation must be a share of the trials from 0 to below 1, got {share}")
    if groups is not None and len(groups) != n_trials:
        raise UserError(f"got {n_trials} trials and {len(groups)} groups: give one group a trial")
    if share == 0:
        return np.zeros(n_trials, dtype=bool)
    numbers: dict[object, int] = {}
    labels = np.array([numbers.setdefault(g, len(numbers)) for g in (range(n_trials) if groups is None else groups)])
    if len(numbers) < 2:
        raise UserError(f"validation = {share} needs at least 2 trials (or groups), got {len(numbers)}: set it to 0")
    count = min(max(1, round(share * len(numbers))), len(numbers) - 1)
    return np.isin(labels, np.random.default_rng(seed).permutation(len(numbers))[:count])


def fingerprint(settings: dict[str, object], *arrays: Tensor | None) -> NDArray[np.uint8]:
    """Return the SHA-256 of settings and arrays as 32 numbers: equal when training would be the same.

    Parameters
    ----------
    settings : dict
        Those that change the weights, with values that `repr` writes in full.
    *arrays : Tensor or None
        Training data.
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for values in arrays:
        digest.update(b"none" if values is None else f"{tuple(values.shape)} {values.dtype}".encode())
        if values is not None:
            digest.update(np.ascontiguousarray(values.numpy(force=True)).data)
    return np.frombuffer(digest.digest(), dtype=np.uint8).copy()


def with_halved_batches(run: Callable[[int], T], batch: int) -> T:
    """Run work on batches, with half the batch each time that the GPU has too little memory.

    Parameters
    ----------
    run : callable
        Given the batch size, does the work anew and returns its result.
    batch : int
        Size to begin with.

    Returns
    -------
    What `run` returns.

    Raises
    ------
    UserError
        When the memory is too small for a batch of 1.

    Warns
    -----
    DataWarning
        Each time the batch is halved.
    """
    while True:
        try:
            return run(batch)
        except torch.cuda.OutOfMemoryError as error:
            if batch <= 1:
                raise UserError(
                    "out of GPU memory with a batch of 1: free the GPU, or give the arrays to the CPU instead"
                ) from error
        # Outside the handler: the error's traceback holds the tensors that must go.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch //= 2
        warnings.warn(f"out of GPU memory: halved the batch to {batch}", DataWarning, stacklevel=2)
