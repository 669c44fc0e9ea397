"""Adam on a dense layer whose loss looks through a generator; the best epoch; going on after a kill."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.decoding.activation_targets import LayerCrop, TargetActivations
from hyperdecode.decoding.arrays import to_numpy
from hyperdecode.decoding.training import BestEpoch, Checkpoint, State, ordered_batches
from hyperdecode.errors import DataWarning, UserError

__all__ = ["Chosen", "Problem", "Resume", "Rule", "Trained", "loss_and_gradient", "train"]

Chosen = tuple[list[float], list[float], int]
"""Losses, held-out losses and best epoch of the training that chose it."""


class Problem(NamedTuple):
    """What is trained on.

    Attributes
    ----------
    inputs : Tensor, (n_trials, n_inputs)
        Standardised voxels and a column of ones.
    latents : Tensor, (n_trials, n_latents)
    of_trials : Tensor, (n_trials,), or None
        Weights of the trials, with a mean of 1.
    targets : TargetActivations
        Of the same trials.
    crop : LayerCrop
        Latents to activations.
    weights : tuple of float
        Of the squared error of latents and of activations.
    """

    inputs: Tensor
    latents: Tensor
    of_trials: Tensor | None
    targets: TargetActivations
    crop: LayerCrop
    weights: tuple[float, float]


class Rule(NamedTuple):
    """How it is trained.

    Attributes
    ----------
    batch_size, patience, seed : int
    learning_rate, weight_decay : float
    """

    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int
    seed: int


@dataclass
class Trained:
    """A training as far as it has come.

    Attributes
    ----------
    weights, first, second : Tensor, (n_inputs, n_latents)
        Weights and Adam's running means of gradient and squared gradient.
    steps : int
        Taken so far.
    losses, held_losses : list of float
        Training loss of each epoch; loss on held-out trials, of the first weights and after each epoch.
    best : BestEpoch
    best_weights : Tensor
        Those of the best epoch.
    """

    weights: Tensor
    first: Tensor
    second: Tensor
    steps: int
    losses: list[float]
    held_losses: list[float]
    best: BestEpoch
    best_weights: Tensor

    @classmethod
    def begin(cls, weights: Tensor, patience: int) -> Trained:
        """Return the state before the first step."""
        zeros = torch.zeros_like(weights)
        return cls(weights.clone(), zeros, zeros.clone(), 0, [], [], BestEpoch(patience), weights.clone())

    def arrays(self) -> State:
        """Return it as arrays."""
        # Copies, as training goes on in the same memory.
        tensors = {
            name: np.array(to_numpy(getattr(self, name))) for name in ("weights", "first", "second", "best_weights")
        }
        numbers = {"losses": self.losses, "held_losses": self.held_losses, "best_loss": self.best.loss}
        return {
            **tensors,
            **{name: np.asarray(value, np.float64) for name, value in numbers.items()},
            "steps": np.asarray(self.steps),
            "best_epoch": np.asarray(self.best.epoch),
        }

    @classmethod
    def from_arrays(cls, state: State, patience: int, like: Tensor) -> Trained:
        """Return what `arrays` made, on the device of `like`."""
        weights, first, second, best_weights = (
            torch.from_numpy(np.array(state[name])).to(like) for name in ("weights", "first", "second", "best_weights")
        )
        best = BestEpoch(patience, int(state["best_epoch"]), float(state["best_loss"]))
        losses, held_losses = state["losses"].tolist(), state["held_losses"].tolist()
        return cls(weights, first, second, int(state["steps"]), losses, held_losses, best, best_weights)


@dataclass
class Resume:
    """Where the two trainings of a fit (the epoch is chosen; all trials are trained on) keep their state.

    Attributes
    ----------
    checkpoint : Checkpoint or None
    fingerprint : array of uint8, or None
        Of data and settings; a state of others is not gone on from.
    stage : int
        0 while the epoch is chosen, then 1.
    kept : dict
        What goes with every state: the result of stage 0 once it is over.
    """

    checkpoint: Checkpoint | None
    fingerprint: NDArray[np.uint8] | None
    stage: int = 0
    kept: State = field(default_factory=dict)
    _found: State | None = None

    def __post_init__(self) -> None:
        state = self.checkpoint.load() if self.checkpoint is not None else None
        if state is None:
            return
        if not np.array_equal(state.get("fingerprint", ()), self.fingerprint):  # type: ignore[arg-type]
            warnings.warn(
                "the checkpoint is of other data or settings: training starts anew", DataWarning, stacklevel=2
            )
            return
        self._found = state

    def chosen(self) -> Chosen | None:
        """Return losses, held-out losses and best epoch of stage 0, where the checkpoint is past it."""
        if self._found is None or int(self._found["stage"]) == 0:
            return None
        found = self._found
        return found["chosen_losses"].tolist(), found["chosen_held_losses"].tolist(), int(found["chosen_epoch"])

    def enter(self, stage: int, chosen: Chosen | None = None) -> None:
        """Begin a stage."""
        self.stage = stage
        if chosen is not None:
            self.kept = {
                "chosen_losses": np.asarray(chosen[0], np.float64),
                "chosen_held_losses": np.asarray(chosen[1], np.float64),
                "chosen_epoch": np.asarray(chosen[2]),
            }

    def state(self) -> State | None:
        """Return what the stage goes on from."""
        return self._found if self._found is not None and int(self._found["stage"]) == self.stage else None

    def save(self, trained: Trained, last: bool) -> None:
        """Keep the state when it is due."""
        if self.checkpoint is None or self.fingerprint is None:
            return
        if last or len(trained.losses) % self.checkpoint.every == 0:
            own = {"fingerprint": self.fingerprint, "stage": np.asarray(self.stage)}
            self.checkpoint.save({**trained.arrays(), **self.kept, **own})


def train(
    problem: Problem,
    rule: Rule,
    first: Tensor,
    rows: Tensor,
    watched: Tensor,
    n_epochs: int,
    resume: Resume,
    tell: Callable[[int], None],
) -> Trained:
    """Train for `n_epochs`, or until held-out trials say that it gets no better.

    Parameters
    ----------
    problem : Problem
    rule : Rule
    first : Tensor, (n_inputs, n_latents)
        First weights.
    rows, watched : Tensor of int64
        Trials trained on, and those held out (may be none).
    n_epochs : int
    resume : Resume
    tell : callable
        Called after each epoch with the epochs done.

    Returns
    -------
    Trained
        `best_weights` are those of the lowest loss on held-out trials, the first weights among them; the last ones
        where none are held out.

    Raises
    ------
    UserError
        When the loss is no longer finite.
    """
    state = resume.state()
    t = Trained.begin(first, rule.patience) if state is None else Trained.from_arrays(state, rule.patience, first)
    adam = _Adam(t, rule)
    if len(watched) and not t.held_losses:
        t.held_losses.append(_loss(problem, t.weights, watched))
        t.best.is_new(0, t.held_losses[0])
    while len(t.losses) < n_epochs and not (len(watched) and t.best.is_over(len(t.losses))):
        epoch = len(t.losses) + 1
        t.losses.append(_epoch(problem, adam, rule, rows, epoch))
        loss = _loss(problem, t.weights, watched) if len(watched) else t.losses[-1]
        if not math.isfinite(loss) or not math.isfinite(t.losses[-1]):
            raise UserError(f"training diverged at learning_rate = {rule.learning_rate}: lower it")
        if len(watched):
            t.held_losses.append(loss)
        if not len(watched) or t.best.is_new(epoch, loss):
            t.best_weights = t.weights.clone()
        adam.write_to(t)
        resume.save(t, last=epoch == n_epochs)
        tell(epoch)
    return t


def _epoch(problem: Problem, adam: _Adam, rule: Rule, rows: Tensor, epoch: int) -> float:
    """Show every trial once, in an order that the epoch's number tells, and return the mean loss."""
    order = torch.from_numpy(np.random.default_rng([rule.seed, epoch]).permutation(len(rows)))
    losses = []
    for batch in ordered_batches(len(rows), rule.batch_size):
        trials = rows[order[batch]].to(problem.inputs.device)
        inputs = problem.inputs[trials]
        loss, gradient = loss_and_gradient(problem, inputs @ adam.weights, trials)
        adam.step(inputs.T @ gradient)
        losses.append(loss)
    return float(np.mean(losses))


def loss_and_gradient(problem: Problem, decoded: Tensor, trials: Tensor) -> tuple[float, Tensor]:
    """Return the loss of decoded latents (n, n_latents) of these trials, and its gradient by them.

    Trials do not meet in the loss but by their mean, so that parts of a batch give the same as the whole.
    """

    def part(rows: slice) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            latents = decoded[rows].detach().requires_grad_()
            loss = _errors(problem, latents, trials[rows]).sum() / len(decoded)
            (gradient,) = torch.autograd.grad(loss, latents)
        return loss.detach(), gradient

    losses, gradients = zip(*problem.crop.in_parts(part, len(decoded)), strict=True)
    return float(sum(losses)), torch.cat(gradients)


def _errors(problem: Problem, latents: Tensor, trials: Tensor) -> Tensor:
    """Weighted squared errors of each trial, (n,)."""
    of_latents, of_activations = problem.weights
    errors = torch.zeros_like(latents[:, 0])
    if of_latents:
        errors = errors + of_latents * (latents - problem.latents[trials]).square().mean(1)
    if of_activations:
        away = (problem.crop(latents) - problem.targets.of(trials)).square().mean(1)
        errors = errors + of_activations * away.to(errors)
    return errors if problem.of_trials is None else errors * problem.of_trials[trials]


def _loss(problem: Problem, weights: Tensor, trials: Tensor) -> float:
    """Mean loss over trials, without gradients."""
    trials = trials.to(problem.inputs.device)
    with torch.no_grad():
        decoded = problem.inputs[trials] @ weights
        errors = problem.crop.in_parts(
            lambda part: _errors(problem, decoded[part], trials[part]).double(), len(decoded)
        )
        return float(torch.cat(errors).mean())


class _Adam:
    """Torch's Adam on one matrix, whose state can be taken out and put in."""

    def __init__(self, trained: Trained, rule: Rule) -> None:
        self.weights = trained.weights
        self.weights.grad = torch.zeros_like(self.weights)
        self._optimizer = torch.optim.Adam(
            [self.weights], lr=rule.learning_rate, weight_decay=rule.weight_decay, fused=True
        )
        content = self._optimizer.state_dict()
        step = torch.tensor(float(trained.steps), device=self.weights.device)
        content["state"] = {0: {"step": step, "exp_avg": trained.first, "exp_avg_sq": trained.second}}
        self._optimizer.load_state_dict(content)

    def step(self, gradient: Tensor) -> None:
        self.weights.grad = gradient.to(self.weights)
        self._optimizer.step()

    def write_to(self, trained: Trained) -> None:
        moments = self._optimizer.state[self.weights]
        trained.first, trained.second, trained.steps = moments["exp_avg"], moments["exp_avg_sq"], int(moments["step"])
