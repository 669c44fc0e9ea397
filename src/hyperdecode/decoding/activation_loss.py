"""The paper's decoders that look through the generator: errors of latents and of one layer's activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hyperdecode.decoding.activation_targets import LayerCrop, TargetActivations
from hyperdecode.decoding.activation_training import Chosen, Problem, Resume, Rule, Trained, train
from hyperdecode.decoding.arrays import to_numpy
from hyperdecode.decoding.base import LinearDecoder, TrainingTrials
from hyperdecode.decoding.checks import refuse_constant
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.decoding.training import Checkpoint, fingerprint, held_out
from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator

__all__ = ["ActivationLossDecoder"]

Groups = Sequence[object]

STARTS = ("ridge", "random")
FIRST_WEIGHTS = 0.07
"""Half width of the paper's uniform first weights (MXNet's default)."""


class ActivationLossDecoder(LinearDecoder):
    r"""One dense layer, trained on the error of latents and on the error of what a generator makes of them.

    .. math::
        \min_{W, b} \; \lambda_y \frac{\langle (\hat y - y)^2 \rangle}{v_y}
        + \lambda_a \frac{\langle (A(\hat y) - A(y))^2 \rangle}{v_a}, \qquad \hat y = W z + b,

    with A(y) the centre crop of one layer's activation in the frozen generator and z the standardised voxels; means are
    over trials and over latents or features. With :math:`\lambda_y = 0` these are the paper's activation models, else
    its models of latent and activation. The paper tells neither the weights of the two errors nor the size of the
    crop. Minimised by Adam with the weight decay added to the gradient, as the authors do.

    From its random start such a model needs the paper's many epochs and overfits. `start="ridge"` begins at the
    solution of `RidgeDecoder`, and trials held out choose the epoch: it is never worse on these than where it began.

    Parameters
    ----------
    generator : Generator
        Never changed.
    layer : str
        Whose activation is compared (`hyperdecode.decoding.layers.layer_at_depth` finds the paper's).
    space : {"w", "z"}, optional
        Of the latents that are decoded. Default: the generator's `picture_space`.
    latent_weight, activation_weight : float
        :math:`\lambda_y` and :math:`\lambda_a`; not both 0.
    normalised : bool
        Divide each error by the variance of its targets over the training trials (:math:`v_y`, :math:`v_a`), so that
        both are 1 for a decoder that says the mean; else they are plain squared errors, as the paper's.
    crop : int or None
        Side of the centre crop in pixels; None compares whole maps.
    n_epochs : int
        At most. The paper's authors take 1500 from a random start.
    batch_size : int
    learning_rate, weight_decay : float
        Of Adam.
    start : {"ridge", "random"}
        First weights: the ridge solution, or uniform in -0.07..0.07 as the paper's.
    scale : tuple of two arrays of shape (latent_dim,), optional
        Mean and standard deviation by which Y was standardised, to bring it to the generator's latents.
    truncation : float
        Of the training faces, where z are decoded and pictures are made from w. Latents w are taken as they are.
    validation : float
        Share of the training trials that is held out to choose the epoch; 0 trains all epochs on all trials.
    patience : int
        Epochs without a lower validation loss after which training stops.
    refit : bool
        Having chosen the epoch, begin anew on all training trials and train as many epochs.
    precision : {"float32", "bfloat16"}
        bfloat16: mixed precision inside the generator, for GPUs.
    seed : int
        Trials held out, their order, random first weights.
    progress : callable, optional
        Called after each epoch with (epochs done, epochs at most).
    checkpoint : Checkpoint, optional
        Where training saves its state and goes on from: killed and fitted again to the same data with the same
        settings, it ends at the same weights.

    Attributes
    ----------
    coef_ : array of shape (n_latents, n_voxels)
        Weights for raw voxels: ``predict(X) == X @ coef_.T + intercept_``.
    intercept_ : array of shape (n_latents,)
        Constant that goes with `coef_`.
    losses_ : array of shape (n_epochs_,)
        Mean training loss of each epoch of the last training.
    validation_losses_ : array, (epochs tried + 1,) or (0,)
        Loss on the trials held out, of the first weights and after each epoch.
    best_epoch_ : int
        The one of the lowest validation loss, 0 for the first weights (the last epoch without `validation`).
    latent_variance_, activation_variance_ : float
        :math:`v_y` and :math:`v_a`.
    n_features_in_ : int
        Number of voxels.

    References
    ----------
    Dado et al. (2022), Sci. Rep. 12:141.
    """

    def __init__(
        self,
        generator: Generator,
        layer: str,
        space: str | None = None,
        latent_weight: float = 1.0,
        activation_weight: float = 1.0,
        normalised: bool = True,
        crop: int | None = 16,
        n_epochs: int = 8,
        batch_size: int = 30,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.01,
        start: str = "ridge",
        scale: tuple[ArrayLike, ArrayLike] | None = None,
        truncation: float = 1.0,
        validation: float = 0.1,
        patience: int = 2,
        refit: bool = True,
        precision: str = "float32",
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.generator = generator
        self.layer = layer
        self.space = space
        self.latent_weight = latent_weight
        self.activation_weight = activation_weight
        self.normalised = normalised
        self.crop = crop
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.start = start
        self.scale = scale
        self.truncation = truncation
        self.validation = validation
        self.patience = patience
        self.refit = refit
        self.precision = precision
        self.seed = seed
        self.progress = progress
        self.checkpoint = checkpoint

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
            Responses.
        Y : array or Tensor of shape (n_trials, latent_dim)
            Latents of the faces shown, standardised where `scale` says so.
        roles : sequence of {"train", "test"}, length n_trials, optional
            Role of each row; a single test trial is refused.
        groups : sequence of length n_trials, optional
            What each trial shows: trials of one group are held out together. Default: trials of the same latents are
            one group.
        sample_weight : array of shape (n_trials,), optional
            Weights of the trials in both errors and in the ridge solution that is begun from.

        Returns
        -------
        ActivationLossDecoder
            Itself, fitted.

        Raises
        ------
        LeakageError
            When a row is a test trial.
        UserError
            When arrays do not fit together or to the generator, contain NaN or constant voxels, a setting is out of
            range, or training diverges.

        Warns
        -----
        DataWarning
            When a checkpoint is of other data or settings (training starts anew), or the GPU's memory is too small for
            a batch (it is halved, with the same result up to rounding).
        """
        trials = self._training_trials(X, Y, roles, sample_weight)
        self._check_settings()
        looks = (self.layer, self.crop, self.space, self.scale, self.truncation, self.precision)
        crop = LayerCrop(self.generator, *looks, batch=int(self.batch_size))
        crop.require_latents(trials.latents)
        if groups is None:
            groups = torch.unique(trials.latents, dim=0, return_inverse=True)[1].tolist()
        held = torch.from_numpy(held_out(len(trials.voxels), self.validation, groups, self.seed))
        targets = TargetActivations(crop, trials.latents)
        self.latent_variance_ = float(trials.latents.var(0, correction=0).mean())
        self.activation_variance_ = targets.variance
        self._train(trials, targets, crop, groups, held)
        return self

    def _train(
        self, trials: TrainingTrials, targets: TargetActivations, crop: LayerCrop, groups: Groups, held: Tensor
    ) -> None:
        """Choose the epoch on trials held out, where there are any, and train as long on all of them."""
        every, watching = torch.arange(len(held)), bool(held.any())
        resume = Resume(self.checkpoint, self._fingerprint(trials, held) if self.checkpoint else None)
        at_most = self.n_epochs * (2 if watching and self.refit else 1)

        def stage(rows: Tensor, watched: Tensor, n_epochs: int, before: int) -> Trained:
            weights, mean, scale = self._first_weights(trials, rows, groups)
            inputs = torch.cat([(trials.voxels - mean) / scale, torch.ones_like(trials.voxels[:, :1])], 1)
            problem = Problem(inputs, trials.latents, trials.weights, targets, crop, self._error_weights())
            rule = Rule(int(self.batch_size), self.learning_rate, self.weight_decay, int(self.patience), int(self.seed))
            trained = train(
                problem, rule, weights, rows, watched, n_epochs, resume, lambda done: self._tell(before + done, at_most)
            )
            coef = trained.best_weights[:-1].T / scale
            self.coef_, self.intercept_ = to_numpy(coef), to_numpy(trained.best_weights[-1] - coef @ mean)
            return trained

        n_epochs = int(self.n_epochs)
        chosen: Chosen = resume.chosen() or ([], [], n_epochs)
        if watching and resume.chosen() is None:
            found = stage(every[~held], every[held], n_epochs, 0)
            chosen = (found.losses, found.held_losses, found.best.epoch)
        losses = chosen[0]
        if self.refit or not watching:
            resume.enter(1, chosen)
            losses = stage(every, every[:0], chosen[2], at_most - chosen[2]).losses
        self.losses_, self.validation_losses_, self.best_epoch_ = np.array(losses), np.array(chosen[1]), chosen[2]

    def _first_weights(self, trials: TrainingTrials, rows: Tensor, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights (n_voxels + 1, n_latents) to begin from, and mean and scale of the voxels, over `rows`."""
        rows = rows.to(trials.voxels.device)
        voxels, latents = trials.voxels[rows], trials.latents[rows]
        mean, scale = voxels.mean(0), voxels.std(0, correction=0)
        refuse_constant(voxels, scale)
        if self.start == "random":
            source = torch.Generator().manual_seed(int(self.seed))
            drawn = (2 * torch.rand(latents.shape[1], voxels.shape[1], generator=source) - 1) * FIRST_WEIGHTS
            weights, constant = drawn.T.to(voxels), torch.zeros_like(latents[:1])
        else:
            shown = [groups[row] for row in rows.tolist()]
            counts = None if trials.weights is None else trials.weights[rows]
            ridge = RidgeDecoder(seed=int(self.seed)).fit(voxels, latents, groups=shown, sample_weight=counts)
            coef, intercept = (torch.as_tensor(a).to(voxels) for a in (ridge.coef_, ridge.intercept_))
            weights, constant = (coef * scale).T, (intercept + coef @ mean)[None]
        return torch.cat([weights, constant]).contiguous(), mean, scale

    def _error_weights(self) -> tuple[float, float]:
        if not self.normalised:
            return float(self.latent_weight), float(self.activation_weight)
        return self.latent_weight / self.latent_variance_, self.activation_weight / self.activation_variance_

    def _tell(self, done: int, at_most: int) -> None:
        if self.progress is not None:
            self.progress(done, at_most)

    def _fingerprint(self, trials: TrainingTrials, held: Tensor) -> NDArray[np.uint8]:
        free = ("generator", "progress", "checkpoint", "scale")
        settings = {name: value for name, value in self.get_params(deep=False).items() if name not in free}
        scale = [torch.as_tensor(part) for part in self.scale or ()]
        settings["generator"] = self.generator.fingerprint
        return fingerprint(settings, trials.voxels, trials.latents, trials.weights, held, *scale)

    def _check_settings(self) -> None:
        for name in ("n_epochs", "batch_size", "patience"):
            if not getattr(self, name) >= 1 or int(getattr(self, name)) != getattr(self, name):
                raise UserError(f"{name} must be above 0 and whole, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        for name in ("weight_decay", "latent_weight", "activation_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if not self.latent_weight + self.activation_weight:
            raise UserError("latent_weight and activation_weight are both 0: nothing is left to train on")
        if self.start not in STARTS:
            raise UserError(f"start must be one of {', '.join(STARTS)}, got {self.start!r}")
        if self.checkpoint is not None and not self.checkpoint.every >= 1:
            raise UserError(f"a checkpoint is saved every 1 or more epochs, got {self.checkpoint.every}")
