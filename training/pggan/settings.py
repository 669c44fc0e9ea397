"""What may be chosen about a training run, and the schedule that follows from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hyperdecode.errors import UserError
from hyperdecode.files import sha256_bytes

__all__ = ["GROUP", "Phase", "Settings"]

GROUP = 4
LARGEST_SIDE = 1024


@dataclass(frozen=True)
class Phase:
    """Where a run stands after some number of images.

    Attributes
    ----------
    index : int
        Even: stabilising; odd: fading in.
    side : int
        Current side of the pictures.
    alpha : float
        How far its layers are faded in; 1 while stabilising.
    """

    index: int
    side: int
    alpha: float


@dataclass(frozen=True)
class Settings:
    """All that the trained parameters depend on besides the pictures; a run is resumed with equal settings only.

    Numbers of schedule, batches, rates and losses are those published for one GPU (Karras et al. 2018, appendix
    A.1, and their configuration `preset-v2-1gpu`). The widths are not: 224 channels at most, so that a network
    of 128 px has 5.5 million weights, 11.0 MB as float16 (published: 512 and 23 million).

    Attributes
    ----------
    side, first_side : int
        Sides of the finished pictures and of the first ones, powers of 2.
    latent_dim : int
        Dimensions of z.
    width_base, width_decay, width_max : int, float, int
        Channels at a side: ``min(width_max, width_base / (side / 2)^width_decay)``.
    stabilise_images, fade_images : int
        Real images shown with a side as it is, and while the next one is faded in.
    batches : mapping of int to int
        Side -> images a batch; sides without an entry take that of the nearest smaller side.
    rate : float
        Learning rate of Adam(0, 0.99, 1e-8).
    rates : mapping of int to float
        Side -> another learning rate.
    penalty, drift : float
        Weights of the gradient penalty and of the squared real scores.
    decay : float
        Of the averaged generator, a step.
    reset_moments : bool
        Forget Adam's moments at each change of phase, as published.
    flip : bool
        Mirror each real picture with probability 1/2.
    seed : int
    """

    side: int = 128
    first_side: int = 4
    latent_dim: int = 512
    width_base: int = 4096
    width_decay: float = 1.0
    width_max: int = 224
    stabilise_images: int = 600_000
    fade_images: int = 600_000
    batches: Mapping[int, int] = field(
        default_factory=lambda: {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4}
    )
    rate: float = 1e-3
    rates: Mapping[int, float] = field(default_factory=lambda: {1024: 1.5e-3})
    penalty: float = 10.0
    drift: float = 1e-3
    decay: float = 0.999
    reset_moments: bool = True
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("side", "first_side"):
            value = getattr(self, name)
            if value not in _sides(4, LARGEST_SIDE):
                raise UserError(f"{name} {value} is not a power of 2 from 4 to {LARGEST_SIDE}: choose one")
        if self.first_side > self.side:
            raise UserError(f"first_side {self.first_side} exceeds side {self.side}: choose a smaller one")
        for name in ("latent_dim", "width_base", "width_max"):
            _require(name, getattr(self, name), at_least=1)
        for name in ("stabilise_images", "fade_images"):
            _require(name, getattr(self, name), at_least=0)
        if self.growth and not self.stabilise_images + self.fade_images:
            raise UserError("stabilise_images and fade_images are both 0: give one of them more, or set first_side")
        if not 0 <= self.decay < 1:
            raise UserError(f"decay {self.decay} is not in 0..1 (1 excluded): 0.999 is usual")
        for side in self.sides:
            batch = self.batch(side)
            if batch < 1 or (batch > GROUP and batch % GROUP):
                raise UserError(f"a batch of {batch} images at {side} px is not a multiple of {GROUP}, nor below it")
            if self.width(side) < 1:
                raise UserError(f"no channels are left at {side} px: raise width_base")

    @property
    def growth(self) -> int:
        """How many times the side doubles."""
        return (self.side // self.first_side).bit_length() - 1

    @property
    def sides(self) -> tuple[int, ...]:
        """All sides of the networks, from 4 px on."""
        return _sides(4, self.side)

    @property
    def widths(self) -> dict[int, int]:
        """Side -> channels."""
        return {side: self.width(side) for side in self.sides}

    @property
    def total_images(self) -> int:
        """Images until the full side has been stabilised once."""
        return self.growth * (self.stabilise_images + self.fade_images) + self.stabilise_images

    def width(self, side: int) -> int:
        """Channels of the layers at `side` px (2 px: units of the discriminator's last hidden layer)."""
        return min(self.width_max, int(self.width_base / (side / 2) ** self.width_decay))

    def batch(self, side: int) -> int:
        """Images a batch at `side` px."""
        known = [s for s in self.batches if s <= side] or list(self.batches)
        if not known:
            raise UserError("batches is empty: give at least one side:images")
        return self.batches[max(known) if max(known) <= side else min(known)]

    def learning_rate(self, side: int) -> float:
        """Learning rate at `side` px."""
        return self.rates.get(side, self.rate)

    def phase(self, shown: int) -> Phase:
        """Where a run stands after `shown` images: side by side, each stabilised before the next is faded in."""
        cycle = self.stabilise_images + self.fade_images
        grown, rest = divmod(shown, cycle) if self.growth else (0, 0)
        if grown >= self.growth:
            return Phase(2 * self.growth, self.side, 1.0)
        side = self.first_side * 2**grown
        if rest < self.stabilise_images:
            return Phase(2 * grown, side, 1.0)
        return Phase(2 * grown + 1, 2 * side, (rest - self.stabilise_images) / self.fade_images)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        for name in ("batches", "rates"):
            values[name] = {str(side): value for side, value in sorted(values[name].items())}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """Undo `to_json`.

        Raises
        ------
        UserError
            For names or values that are no settings.
        """
        known = {entry.name for entry in fields(cls)}
        if set(values) != known:
            raise UserError(f"settings differ in {', '.join(sorted(set(values) ^ known))}: made by another version")
        try:
            tables = {n: {int(side): value for side, value in values[n].items()} for n in ("batches", "rates")}
            return cls(**{**values, **tables})
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"these are no settings of a run ({error}): start it anew") from None

    @property
    def digest(self) -> str:
        """SHA-256 over all settings."""
        return sha256_bytes(json.dumps(self.to_json(), sort_keys=True).encode())


def _sides(first: int, last: int) -> tuple[int, ...]:
    return tuple(2**k for k in range(first.bit_length() - 1, last.bit_length()))


def _require(name: str, value: int, at_least: int) -> None:
    if value < at_least:
        raise UserError(f"{name} is {value}: give {at_least} or more")
