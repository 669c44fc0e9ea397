"""Adam on one dense layer: blocks of latents that stay in the CPU's cache, or whole steps on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.decoding.training import with_halved_batches
from hyperdecode.threads import default_threads, one_thread_each

__all__ = ["AdamState", "Batches", "BlockedLayer", "Layer", "Rule", "WholeLayer"]

Float32Array = NDArray[np.float32]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
# Weights, gradient and both moments of one block. Narrower blocks stay closer to the core and multiply more slowly: at
# 4096 voxels 2 MiB (32 latents) took 1.3 times as long as 4 MiB, 8 MiB 0.92 to 0.97 times, 16 MiB 0.86 to 1.2 times.
BLOCK_BYTES = 4 * 2**20
MIN_WIDTH = 16


@dataclass(frozen=True)
class Rule:
    """How weights follow from a gradient.

    Attributes
    ----------
    learning_rate, weight_decay : float
    decoupled : bool
        Weight decay shrinks the weights directly (AdamW), else it is added to the gradient (Adam).
    """

    learning_rate: float
    weight_decay: float
    decoupled: bool


class Batches(NamedTuple):
    """Training trials in the order in which every epoch shows them.

    Attributes
    ----------
    inputs : Tensor, (n_batches, batch, n_inputs), float32
    targets : Tensor, (n_batches, batch, n_latents), float32
    weights : Tensor, (n_batches, batch), float32
        Of the trials in the loss.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor


class AdamState(NamedTuple):
    """What the next step depends on, beside the batches.

    Attributes
    ----------
    weights, first, second : Tensor, (n_inputs, n_latents), float32
        Weights and running means of the gradient and of its square.
    steps : int
        Taken so far.
    """

    weights: Tensor
    first: Tensor
    second: Tensor
    steps: int

    @classmethod
    def begin(cls, weights: Tensor) -> AdamState:
        """Return the state before the first step."""
        return cls(weights, torch.zeros_like(weights), torch.zeros_like(weights), 0)


class Layer(Protocol):
    """A dense layer in training."""

    def train(self, batches: Batches, n_epochs: int) -> NDArray[np.float64]:
        """Show all batches `n_epochs` times and return the mean loss of each epoch."""

    def state(self) -> AdamState:
        """Return copies of what training goes on from."""

    def weights(self) -> Tensor:
        """Return a copy of the weights, (n_inputs, n_latents)."""


class BlockedLayer:
    """Training on a CPU, where a step moves more memory than it computes.

    The latents do not meet in the squared error nor in Adam, so a block of them takes all steps of many epochs
    while it lies in the cache, and blocks run side by side in as many threads as `default_threads` says. Blocks are cut
    by the layer's size alone and multiply in one thread each: the weights do not depend on the threads, bit by bit.

    Parameters
    ----------
    state : AdamState
        To begin from.
    rule : Rule
    block_bytes : int, optional
        Of memory for one block.
    """

    def __init__(self, state: AdamState, rule: Rule, block_bytes: int = BLOCK_BYTES) -> None:
        self._rule = rule
        self._steps = state.steps
        n_inputs, n_latents = state.weights.shape
        width = max(MIN_WIDTH, block_bytes // (16 * n_inputs) // MIN_WIDTH * MIN_WIDTH)
        self._blocks = [
            _Block(slice(at, min(at + width, n_latents)), state, n_latents) for at in range(0, n_latents, width)
        ]

    def train(self, batches: Batches, n_epochs: int) -> NDArray[np.float64]:
        """Show all batches `n_epochs` times and return the mean loss of each epoch."""
        with one_thread_each(min(default_threads(), len(self._blocks))) as pool:
            futures = [pool.submit(block.train, batches, n_epochs, self._steps, self._rule) for block in self._blocks]
            losses = np.zeros(n_epochs)
            for future in futures:  # one after another: NumPy's order of a sum depends on the number of epochs
                losses += future.result()
        self._steps += n_epochs * len(batches.inputs)
        return losses

    def state(self) -> AdamState:
        """Return copies of what training goes on from."""
        first = torch.cat([block.first for block in self._blocks], dim=1)
        second = torch.cat([block.second for block in self._blocks], dim=1)
        return AdamState(self.weights(), first, second, self._steps)

    def weights(self) -> Tensor:
        """Return a copy of the weights, (n_inputs, n_latents)."""
        return torch.cat([block.weights for block in self._blocks], dim=1)


class _Block:
    """Some latents of a layer, with arrays of their own that are contiguous."""

    def __init__(self, latents: slice, state: AdamState, n_latents: int) -> None:
        self.latents = latents
        self.weights, self.first, self.second = (
            part[:, latents].clone(memory_format=torch.contiguous_format) for part in state[:3]
        )
        self._n_latents = n_latents

    def train(self, batches: Batches, n_epochs: int, steps: int, rule: Rule) -> NDArray[np.float64]:
        n_batches, size, _ = batches.inputs.shape
        targets = batches.targets[:, :, self.latents].contiguous().numpy()
        of_trials = batches.weights.numpy()
        gradient = torch.empty_like(self.weights)
        error = torch.empty(size, self.weights.shape[1])
        w, g, m, v = (part.view(-1).numpy() for part in (self.weights, gradient, self.first, self.second))
        added = np.float32(0.0 if rule.decoupled else rule.weight_decay)
        kept = np.float32(1.0 - rule.learning_rate * rule.weight_decay if rule.decoupled else 1.0)
        losses = np.zeros(n_epochs)
        for epoch in range(n_epochs):
            for number, shown in enumerate(batches.inputs):
                torch.mm(shown, self.weights, out=error)
                losses[epoch] += _scaled_error(
                    error.numpy(), targets[number], of_trials[number], np.float32(1 / (size * self._n_latents))
                )
                torch.mm(shown.T, error, out=gradient)
                steps += 1
                rate = np.float32(rule.learning_rate / (1 - BETA1**steps))
                root = np.float32((1 - BETA2**steps) ** -0.5)
                _adam_step(w, g, m, v, rate, root, added, kept)
        return losses / (2 * n_batches * size * self._n_latents)


_B1, _B2, _EPSILON = np.float32(1 - BETA1), np.float32(1 - BETA2), np.float32(EPSILON)
_KEPT2 = np.float32(BETA2)


# The error model lets a division by zero be infinite, and with that the loop be made of vector instructions.
@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _adam_step(
    weights: Float32Array,
    gradient: Float32Array,
    first: Float32Array,
    second: Float32Array,
    rate: Any,
    root: Any,
    added: Any,
    kept: Any,
) -> None:
    for i in range(weights.size):
        g = gradient[i] + added * weights[i]
        m = first[i] + _B1 * (g - first[i])
        v = _KEPT2 * second[i] + _B2 * g * g
        first[i] = m
        second[i] = v
        weights[i] = kept * weights[i] - rate * m / (np.sqrt(v) * root + _EPSILON)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _scaled_error(predicted: Float32Array, targets: Float32Array, of_trials: Float32Array, scale: Any) -> float:
    """Turn predictions into the gradient of the loss by them, and return the weighted sum of squared errors."""
    total = 0.0
    for i in range(predicted.shape[0]):
        row = 0.0
        factor = of_trials[i] * scale
        for j in range(predicted.shape[1]):
            error = predicted[i, j] - targets[i, j]
            row += error * error
            predicted[i, j] = error * factor
        total += of_trials[i] * row
    return total


class WholeLayer:
    """Training by whole steps, on any device; made for a GPU.

    Parameters
    ----------
    state : AdamState
        To begin from; on its device.
    rule : Rule
    precision : {"float32", "tf32", "bfloat16"}
        Of the multiplications; everything else is float32.
    """

    def __init__(self, state: AdamState, rule: Rule, precision: str = "float32") -> None:
        self._weights, self._steps, self._precision = state.weights.clone(), state.steps, precision
        self._micro: int | None = None
        kind = torch.optim.AdamW if rule.decoupled else torch.optim.Adam
        self._optimizer = kind(
            [self._weights],
            lr=rule.learning_rate,
            betas=(BETA1, BETA2),
            eps=EPSILON,
            weight_decay=rule.weight_decay,
            fused=self._weights.is_cuda,
        )
        content = self._optimizer.state_dict()
        step = torch.tensor(float(state.steps))
        content["state"] = {0: {"step": step, "exp_avg": state.first.clone(), "exp_avg_sq": state.second.clone()}}
        self._optimizer.load_state_dict(content)
        self._weights.grad = torch.zeros_like(self._weights)

    def train(self, batches: Batches, n_epochs: int) -> NDArray[np.float64]:
        """Show all batches `n_epochs` times and return the mean loss of each epoch."""
        size = batches.inputs.shape[1]
        self._micro = min(self._micro or size, size)
        losses = torch.zeros(n_epochs, dtype=torch.float64, device=self._weights.device)
        with _multiplying(self._precision, self._weights.device):
            for epoch in range(n_epochs):
                for batch in zip(*batches, strict=True):
                    losses[epoch] += with_halved_batches(partial(self._backward, batch), self._micro)
                    self._optimizer.step()
                    self._steps += 1
        return losses.cpu().numpy() / len(batches.inputs)

    def _backward(self, batch: tuple[Tensor, ...], micro: int) -> Tensor:
        """Set the gradient, a few trials at a time, and return the loss."""
        self._micro = micro
        assert self._weights.grad is not None
        self._weights.grad.zero_()
        count = batch[1].numel()
        loss = torch.zeros((), dtype=torch.float64, device=self._weights.device)
        for inputs, targets, of_trials in zip(*(torch.split(part, micro) for part in batch), strict=True):
            error = torch.mm(inputs, self._weights).float() - targets
            loss += 0.5 * (of_trials * error.square().sum(1)).sum() / count
            self._weights.grad += torch.mm(inputs.T, error * of_trials[:, None] / count)
        return loss

    def state(self) -> AdamState:
        """Return copies of what training goes on from."""
        moments = self._optimizer.state[self._weights]
        return AdamState(self.weights(), moments["exp_avg"].clone(), moments["exp_avg_sq"].clone(), self._steps)

    def weights(self) -> Tensor:
        """Return a copy of the weights, (n_inputs, n_latents)."""
        return self._weights.clone()


@contextmanager
def _multiplying(precision: str, device: torch.device) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
