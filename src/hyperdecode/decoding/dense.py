"""The decoder of the paper's notebook: one dense layer from voxels to latents, trained by Adam."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.decoding.adam import AdamState, Batches, BlockedLayer, Layer, Rule, WholeLayer
from hyperdecode.decoding.arrays import to_numpy
from hyperdecode.decoding.base import LinearDecoder, TrainingTrials
from hyperdecode.decoding.checks import refuse_constant
from hyperdecode.decoding.training import BestEpoch, Checkpoint, State, fingerprint, held_out, ordered_batches
from hyperdecode.errors import DataWarning, UserError

__all__ = ["DenseDecoder"]

PRECISIONS = ("float32", "tf32", "bfloat16")
# Blocks of latents stay in the cache for so many epochs; progress is told as often.
STRETCH = 10


class DenseDecoder(LinearDecoder):
    r"""One dense layer, fitted by gradient descent as the paper's authors do.

    .. math::
        \hat y = W z + b, \qquad
        \min_{W, b} \frac{1}{2 n d} \sum_i s_i \lVert W z_i + b - y_i \rVert^2,

    over batches, by Adam (d latents, n trials a batch, weights of trials s of mean 1). With g the gradient,
    :math:`\lambda` the weight decay and :math:`\eta` the learning rate, step t is

    .. math::
        g \leftarrow g + \lambda w, \quad m \leftarrow 0.9 m + 0.1 g, \quad v \leftarrow 0.999 v + 0.001 g^2, \quad
        w \leftarrow w - \eta \frac{m / (1 - 0.9^t)}{\sqrt{v / (1 - 0.999^t)} + 10^{-8}},

    or, `decoupled`, with :math:`w \leftarrow (1 - \eta \lambda) w` in place of the first. First weights are uniform
    and b starts at 0, as MXNet's `Dense` does; trials are shuffled once, before the first epoch, and a last batch that
    is too short is filled up from the beginning, as its `NDArrayIter` does. Training is float32.

    It neither reaches the minimum nor chooses its penalty: what the first weights leave behind in directions that no
    trial spans stays in its predictions as noise. It is here to reproduce published figures and as a yardstick;
    `RidgeDecoder` solves the same problem exactly.

    Parameters
    ----------
    n_epochs : int
        At most; all of them without `validation`.
    batch_size : int
    learning_rate, weight_decay : float
        Of Adam.
    decoupled : bool
        Weight decay as in AdamW; else, as in the paper, added to the gradient.
    first_weights : float
        Half width of the uniform first weights; 0.07 is MXNet's default.
    validation : float
        Share of the training trials that is held out to tell when to stop, 0 for none. The weights of its lowest loss
        are kept.
    patience : int
        Epochs without a lower validation loss after which training stops.
    standardize : bool
        Centre each voxel and divide it by its standard deviation over the trials trained on.
    seed : int
        First weights, order of trials and those held out.
    progress : callable, optional
        Called every few epochs with (epochs done, epochs at most).
    checkpoint : Checkpoint, optional
        Where training saves its state and goes on from: killed and fitted again to the same data with the same
        settings, it ends at the same weights, bit by bit. `n_epochs` may grow in between.
    precision : {"float32", "tf32", "bfloat16"}
        Of the multiplications on a GPU.

    Attributes
    ----------
    coef_ : array of shape (n_latents, n_voxels)
        Weights for raw voxels: ``predict(X) == X @ coef_.T + intercept_``.
    intercept_ : array of shape (n_latents,)
        Constant that goes with `coef_`.
    x_mean_, x_scale_ : arrays of shape (n_voxels,)
        Mean and scale of the voxels over the trials trained on (zeros and ones when not `standardize`).
    losses_ : array of shape (n_epochs_,)
        Training loss of each epoch.
    validation_losses_ : array of shape (n_epochs_,), or (0,)
        Loss on the trials held out after each epoch.
    n_epochs_, best_epoch_ : int
        Epochs run, and the one whose weights were kept (the last without `validation`).
    n_features_in_ : int
        Number of voxels.

    References
    ----------
    Dado et al. (2022), Sci. Rep. 12:141; the notebook of neuralcodinglab/HYPER. Kingma & Ba (2015), ICLR; Loshchilov &
    Hutter (2019), ICLR.
    """

    def __init__(
        self,
        n_epochs: int = 1500,
        batch_size: int = 30,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.01,
        decoupled: bool = False,
        first_weights: float = 0.07,
        validation: float = 0.0,
        patience: int = 50,
        standardize: bool = True,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
        checkpoint: Checkpoint | None = None,
        precision: str = "float32",
    ) -> None:
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.decoupled = decoupled
        self.first_weights = first_weights
        self.validation = validation
        self.patience = patience
        self.standardize = standardize
        self.seed = seed
        self.progress = progress
        self.checkpoint = checkpoint
        self.precision = precision

    def fit(
        self,
        X: Any,
        Y: Any,
        roles: Sequence[str] | None = None,
        groups: Sequence[object] | None = None,
        sample_weight: Any | None = None,
    ) -> Self:
        """Fit to training trials.

        Parameters
        ----------
        X : array or Tensor of shape (n_trials, n_voxels)
            Responses; a CUDA tensor is trained on where it lies.
        Y : array or Tensor of shape (n_trials, n_latents)
            Latents of the stimuli shown.
        roles : sequence of {"train", "test"}, length n_trials, optional
            Role of each row; a single test trial is refused.
        groups : sequence of length n_trials, optional
            What each trial shows: with `validation`, trials of one group are held out together.
        sample_weight : array of shape (n_trials,), optional
            Weights of the trials in the loss.

        Returns
        -------
        DenseDecoder
            Itself, fitted.

        Raises
        ------
        LeakageError
            When a row is a test trial.
        UserError
            When arrays do not fit together, contain NaN or constant voxels, a setting is out of range, or training
            diverges.

        Warns
        -----
        DataWarning
            When a checkpoint is of other data or settings (training starts anew), or the GPU's memory is too small for
            a batch (it is halved).
        """
        trials = self._training_trials(X, Y, roles, sample_weight)
        self._check_settings(trials.voxels.device)
        held = torch.from_numpy(held_out(len(trials.voxels), self.validation, groups, self.seed))
        held = held.to(trials.voxels.device)
        voxels = trials.voxels[~held]
        if len(voxels) < 2:
            raise UserError(f"got {len(voxels)} sample (trial) to train on: give at least 2")
        mean, scale = torch.zeros_like(voxels[0]), torch.ones_like(voxels[0])
        if self.standardize:
            mean, scale = voxels.mean(0), voxels.std(0, correction=0)
            refuse_constant(voxels, scale)
        weights = self._train(_scaled(trials, mean, scale, ~held), _scaled(trials, mean, scale, held)).to(mean)
        coef = weights[:-1].T / scale
        self.x_mean_, self.x_scale_ = to_numpy(mean), to_numpy(scale)
        self.coef_, self.intercept_ = to_numpy(coef), to_numpy(weights[-1] - coef @ mean)
        return self

    def _check_settings(self, device: torch.device) -> None:
        for name in ("n_epochs", "batch_size", "patience"):
            if not getattr(self, name) >= 1 or int(getattr(self, name)) != getattr(self, name):
                raise UserError(f"{name} must be above 0 and whole, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        for name in ("weight_decay", "first_weights"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if self.precision not in PRECISIONS or (self.precision != "float32" and device.type == "cpu"):
            raise UserError(
                f"precision must be one of {', '.join(PRECISIONS)} on a GPU and float32 on a CPU, got "
                f"{self.precision!r} on a {device.type.upper()}"
            )
        if self.checkpoint is not None and not self.checkpoint.every >= 1:
            raise UserError(f"a checkpoint is saved every 1 or more epochs, got {self.checkpoint.every}")

    def _train(self, trained: Batches, held: Batches) -> Tensor:
        """Return the weights, (n_voxels + 1, n_latents), the last row for the constant."""
        source = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(trained.inputs), generator=source)
        rows = order[ordered_batches(len(order), int(self.batch_size))].to(trained.inputs.device)
        batches = Batches(*(part[rows] for part in trained))
        n_inputs, n_latents = trained.inputs.shape[1], trained.targets.shape[1]
        first = (2 * torch.rand(n_latents, n_inputs - 1, generator=source) - 1) * self.first_weights
        state = AdamState.begin(torch.cat([first.T, torch.zeros(1, n_latents)]).to(trained.inputs))
        course = _Course(BestEpoch(int(self.patience)))
        mark = self._mark(batches, held) if self.checkpoint else None
        if self.checkpoint and mark is not None:
            state, course = _resumed(self.checkpoint.load(), mark, len(rows), self.n_epochs, state, course)
        rule = Rule(self.learning_rate, self.weight_decay, self.decoupled)
        on_cpu = trained.inputs.device.type == "cpu"
        layer: Layer = BlockedLayer(state, rule) if on_cpu else WholeLayer(state, rule, self.precision)
        while course.done < self.n_epochs and not (len(held.inputs) and course.best.is_over(course.done)):
            course.losses.extend(layer.train(batches, self._stretch(course.done, len(held.inputs) > 0)).tolist())
            self._refuse_divergence(course.losses[-1])
            if len(held.inputs):
                course.watch(layer, held)
            if self.checkpoint and mark is not None and self._is_saved_at(course.done):
                self.checkpoint.save(_saved(layer.state(), course, mark))
            if self.progress:
                self.progress(course.done, self.n_epochs)
        weights = layer.weights() if course.best_weights is None else course.best_weights
        self._refuse_divergence(float(weights.abs().max()))
        self.losses_, self.validation_losses_ = np.array(course.losses), np.array(course.held_losses)
        self.n_epochs_, self.best_epoch_ = course.done, course.best.epoch or course.done
        return weights

    def _mark(self, batches: Batches, held: Batches) -> NDArray[np.uint8]:
        names = ["learning_rate", "weight_decay", "decoupled", "first_weights", "seed", "validation", "patience"]
        return fingerprint({name: getattr(self, name) for name in [*names, "precision"]}, *batches, *held)

    def _stretch(self, done: int, watched: bool) -> int:
        """Return how many epochs come before the next look at the weights."""
        ends = [self.n_epochs, done + (1 if watched else STRETCH)]
        if self.checkpoint:
            ends.append((done // self.checkpoint.every + 1) * self.checkpoint.every)
        return int(min(ends)) - done

    def _is_saved_at(self, done: int) -> bool:
        return self.checkpoint is not None and (done % self.checkpoint.every == 0 or done == self.n_epochs)

    def _refuse_divergence(self, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(f"the dense layer diverged at learning_rate = {self.learning_rate}: lower it")


@dataclass
class _Course:
    """What training leaves behind beside its layer."""

    best: BestEpoch
    best_weights: Tensor | None = None
    losses: list[float] = field(default_factory=list)
    held_losses: list[float] = field(default_factory=list)

    @property
    def done(self) -> int:
        return len(self.losses)

    def watch(self, layer: Layer, held: Batches) -> None:
        weights = layer.weights()
        error = torch.mm(held.inputs, weights) - held.targets
        per_trial = 0.5 * error.square().mean(1).double()
        self.held_losses.append(float((held.weights * per_trial).sum() / held.weights.sum()))
        if self.best.is_new(self.done, self.held_losses[-1]):
            self.best_weights = weights


def _scaled(trials: TrainingTrials, mean: Tensor, scale: Tensor, rows: Tensor) -> Batches:
    """Return some trials to train with in float32, with a voxel of ones for the constant, as one long batch."""
    z = ((trials.voxels[rows] - mean) / scale).float()
    weights = torch.ones_like(trials.voxels[:, 0]) if trials.weights is None else trials.weights
    chosen = weights[rows].float()
    if len(chosen):
        chosen = chosen / chosen.mean()
    return Batches(torch.cat([z, torch.ones_like(z[:, :1])], dim=1), trials.latents[rows].float(), chosen)


def _saved(state: AdamState, course: _Course, mark: NDArray[np.uint8]) -> State:
    best = torch.empty(0, 0) if course.best_weights is None else course.best_weights
    return {
        "fingerprint": mark,
        "weights": to_numpy(state.weights),
        "first": to_numpy(state.first),
        "second": to_numpy(state.second),
        "losses": np.array(course.losses),
        "held_losses": np.array(course.held_losses),
        "best_weights": to_numpy(best),
    }


def _resumed(
    saved: State | None, mark: NDArray[np.uint8], n_batches: int, n_epochs: int, state: AdamState, course: _Course
) -> tuple[AdamState, _Course]:
    """Return a saved state and its course, or, where none fits, those given."""
    if saved is None:
        return state, course
    wrong = _what_is_wrong(saved, mark, n_epochs, state.weights)
    if wrong:
        warnings.warn(f"{wrong}: training starts anew", DataWarning, stacklevel=4)
        return state, course
    weights, first, second = (
        torch.from_numpy(saved[name].copy()).to(state.weights) for name in ("weights", "first", "second")
    )
    course.losses, course.held_losses = saved["losses"].tolist(), saved["held_losses"].tolist()
    for epoch, loss in enumerate(course.held_losses, start=1):
        course.best.is_new(epoch, loss)
    if course.held_losses:
        course.best_weights = torch.from_numpy(saved["best_weights"].copy()).to(state.weights)
    return AdamState(weights, first, second, course.done * n_batches), course


def _what_is_wrong(saved: State, mark: NDArray[np.uint8], n_epochs: int, weights: Tensor) -> str:
    if not np.array_equal(saved.get("fingerprint", ()), mark):
        return "the checkpoint is of other data or settings"
    matrices = [saved.get(name) for name in ("weights", "first", "second")]
    losses, held, best = (saved.get(name) for name in ("losses", "held_losses", "best_weights"))
    if losses is None or held is None or best is None or losses.ndim != 1 or held.shape not in ((0,), losses.shape):
        return "the checkpoint is damaged"
    matrices += [best] if len(held) else []
    if any(m is None or m.shape != tuple(weights.shape) or m.dtype != np.float32 for m in matrices):
        return "the checkpoint is damaged"
    if len(losses) > n_epochs:
        return f"the checkpoint is of {len(losses)} epochs, more than n_epochs = {n_epochs}"
    return ""
