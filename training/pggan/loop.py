"""One step after the other: discriminator, generator, average; phases, batches and rates by the schedule."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from hyperdecode.errors import UserError
from training.pggan.data import Pictures, area_average, faded
from training.pggan.loss import critic_loss
from training.pggan.networks import Discriminator, Generator
from training.pggan.settings import Phase, Settings

__all__ = ["PRECISIONS", "Figures", "Machine", "Trainer"]

Network = TypeVar("Network", bound=nn.Module)

PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class Machine:
    """Where and how it is computed; none of it is part of a run's settings.

    Attributes
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    precision : {"float32", "tf32", "bfloat16"}
        Of the convolutions. Parameters, moments, minibatch deviation, scores and losses stay in float32.
    channels_last : bool, optional
        Layout of the maps in memory. Default: on a GPU.
    """

    device: str = "cpu"
    precision: str = "float32"
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r} is none of {', '.join(PRECISIONS)}: choose one")
        if self.gpu and not torch.cuda.is_available():
            raise UserError(f"device {self.device!r}, but this torch sees no GPU: take --device cpu or mend the driver")
        if self.precision == "tf32" and not self.gpu:
            raise UserError("precision tf32 is for GPUs: choose float32 or bfloat16")

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of the maps in memory."""
        last = self.gpu if self.channels_last is None else self.channels_last
        return torch.channels_last if last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which the networks run."""
        if self.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

    def prepare(self) -> None:
        """Set the process-wide switches of torch that the precision asks for."""
        if self.gpu:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision != "float32"
            torch.backends.cudnn.benchmark = True

    def send(self, value: Tensor) -> Tensor:
        """Move a tensor of the CPU to the device; on a GPU without waiting for it."""
        return value.pin_memory().to(self.device, non_blocking=True) if self.gpu else value.to(self.device)


@dataclass(frozen=True)
class Figures:
    """What one step had to say, as tensors on the device: reading them would make a GPU wait."""

    critic: Tensor
    generator: Tensor
    wasserstein: Tensor
    penalty: Tensor


class Trainer:
    """Both networks, the averaged generator, their optimisers, and one stream of random numbers.

    On a CPU the parameters after n steps depend on the settings and the pictures alone, to the bit.

    Parameters
    ----------
    settings : Settings
    pictures : Pictures
        Of the settings' full side.
    machine : Machine

    Attributes
    ----------
    generator, average : Generator
        What is trained, and its exponential average, which is what is exported.
    discriminator : Discriminator
    shown : int
        Real images shown so far.
    before : int
        Real images shown before the last step: the phase that is trained so far follows from it.
    steps : int
    """

    def __init__(self, settings: Settings, pictures: Pictures, machine: Machine | None = None) -> None:
        if pictures.side != settings.side:
            raise UserError(f"pictures of {pictures.side} px for a network of {settings.side} px: read them anew")
        self.settings, self.pictures, self.machine = settings, pictures, machine or Machine()
        self.machine.prepare()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            generator = Generator(settings.latent_dim, settings.widths)
            discriminator = Discriminator(settings.widths, settings.width(2))
        self.generator = _placed(generator, self.machine)
        self.discriminator = _placed(discriminator, self.machine)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.random = torch.Generator().manual_seed(settings.seed)
        self.shown = self.before = self.steps = 0
        self.reset_optimizers()
        self._reals = torch.empty(0, 3, 0, 0, dtype=torch.uint8)

    @property
    def trained(self) -> Phase:
        """Phase of the last step: how far the networks have grown."""
        return self.settings.phase(self.before)

    def reset_optimizers(self) -> None:
        """Begin Adam anew, its moments forgotten."""
        adam = partial(torch.optim.Adam, lr=self.settings.rate, betas=(0.0, 0.99), eps=1e-8)
        self.generator_optimizer = adam(self.generator.parameters())
        self.discriminator_optimizer = adam(self.discriminator.parameters())

    def step(self) -> Figures:
        """Show one batch to the discriminator, then teach the generator once."""
        phase = self._enter_phase()
        n = self.settings.batch(phase.side)
        real = self._real(n, phase)
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            optimizer.param_groups[0]["lr"] = self.settings.learning_rate(phase.side)
        critic = self._teach_discriminator(real, phase)
        generator = self._teach_generator(n, phase)
        self._update_average()
        self.before, self.shown = self.shown, self.shown + n
        self.steps += 1
        return Figures(critic[0], generator, *critic[1:])

    def _enter_phase(self) -> Phase:
        phase = self.settings.phase(self.shown)
        if self.settings.reset_moments and phase.index != self.trained.index:
            self.reset_optimizers()
        if self._reals.shape[-1] != phase.side:
            self._reals = area_average(self.pictures.values, phase.side)
        return phase

    def _teach_discriminator(self, real: Tensor, phase: Phase) -> tuple[Tensor, Tensor, Tensor]:
        mix = self.machine.send(torch.rand(len(real), 1, 1, 1, generator=self.random))
        with torch.no_grad(), self.machine.autocast():
            fake = self.generator(self.latents(len(real)), phase.side, phase.alpha).float()
        loss = critic_loss(
            partial(self._scores, phase=phase), real, fake, mix, weight=self.settings.penalty, drift=self.settings.drift
        )
        _descend(self.discriminator_optimizer, loss.total)
        return loss.total.detach(), loss.wasserstein, loss.penalty

    def _teach_generator(self, n: int, phase: Phase) -> Tensor:
        self.discriminator.requires_grad_(False)
        with self.machine.autocast():
            fake = self.generator(self.latents(n), phase.side, phase.alpha)
        loss = -self._scores(fake, phase).mean()
        _descend(self.generator_optimizer, loss)
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def _update_average(self) -> None:
        """``average <- decay average + (1 - decay) generator``."""
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mean.lerp_(value, 1 - self.settings.decay)

    def latents(self, n: int) -> Tensor:
        """Draw z (n, latent_dim) from the run's stream."""
        return self.machine.send(torch.randn(n, self.settings.latent_dim, generator=self.random))

    def samples(self, z: Tensor) -> Tensor:
        """Make pictures (n, 3, side, side) of latents z by the averaged generator as far as it has grown."""
        phase = self.trained
        with torch.no_grad(), self.machine.autocast():
            parts = [self.average(part, phase.side, phase.alpha) for part in torch.split(self.machine.send(z), 64)]
        return torch.cat(parts).float().cpu()

    def _scores(self, pictures: Tensor, phase: Phase) -> Tensor:
        with self.machine.autocast():
            scores: Tensor = self.discriminator(pictures, phase.side, phase.alpha)
        return scores

    def _real(self, n: int, phase: Phase) -> Tensor:
        """Draw n real pictures in -1..1, mirrored at random, faded as the networks are."""
        rows = torch.randint(len(self._reals), (n,), generator=self.random)
        mirrored = torch.rand(n, generator=self.random) < 0.5
        batch = self._reals[rows]
        if self.settings.flip:
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        pictures = self.machine.send(batch).float().div(127.5).sub(1)
        return faded(pictures, phase.alpha).contiguous(memory_format=self.machine.memory_format)


def _placed(network: Network, machine: Machine) -> Network:
    network.to(machine.device)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=machine.memory_format)
    return network


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
