"""What every generator can do, whatever its family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hyperdecode.errors import UserError

__all__ = ["Generator", "decoded_picture_latents", "picture_latents", "sample_z", "taken"]


@runtime_checkable
class Generator(Protocol):
    """A network from latents to pictures.

    Attributes
    ----------
    name : str
        The name it is registered under.
    latent_dim : int
        Dimensions of a latent (both spaces).
    resolution : int
        Side of the full picture in pixels.
    resolutions : tuple of int
        Sides that `images` can make, early exits first.
    spaces : tuple of str
        Latent spaces: ``"z"`` (drawn from N(0, I)) and, where the family has them, ``"w"`` and ``"w+"`` (one w a
        layer: latents (n, layers, latent_dim)).
    picture_space : str
        The space that `images` and `activations` take latents of unless told otherwise: ``"w"``, or ``"z"`` where
        there is no w.
    layer_names : tuple of str
        Layers whose activations can be asked for, in the order of the forward pass.
    fingerprint : str
        SHA-256 over names and values of the weights.
    """

    name: str
    latent_dim: int
    resolution: int
    resolutions: tuple[int, ...]
    spaces: tuple[str, ...]
    picture_space: str
    layer_names: tuple[str, ...]
    fingerprint: str

    def w_statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each dimension of w over many seeded z."""
        ...

    def sample(self, n: int, seed: int) -> Tensor:
        """Draw `n` latents z from N(0, I), (n, latent_dim) float32."""
        ...

    def to_w(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Map latents z to w, pulled towards the mean w; a `UserError` where the family has no w."""
        ...

    def picture_fingerprint(self, resolution: int) -> str:
        """SHA-256 over all weights that a picture of that side depends on."""
        ...

    def images(self, latents: Tensor, *, space: str | None = None, resolution: int | None = None) -> Tensor:
        """Pictures (n, 3, resolution, resolution), nominally in -1..1."""
        ...

    def activations(
        self, latents: Tensor, layers: Sequence[str], *, space: str | None = None, crop: int | None = None
    ) -> dict[str, Tensor]:
        """Activations (n, channels, height, width) of the named layers, or centre crops of `crop` px of them."""
        ...


def picture_latents(generator: Generator, z: Tensor, truncation: float = 1.0) -> Tensor:
    """Bring latents z into the space that pictures are made from.

    Parameters
    ----------
    generator : Generator
    z : Tensor, (n, latent_dim)
    truncation : float
        See `Generator.to_w`. Without a w it has no meaning (a PGGAN's picture depends on the direction of z alone)
        and z is returned as it is.

    Returns
    -------
    Tensor, (n, latent_dim)
        w where the generator has it, else z.
    """
    return generator.to_w(z, truncation) if "w" in generator.spaces else z


def decoded_picture_latents(generator: Generator, z: Tensor, truncation: float = 1.0) -> Tensor:
    r"""Bring decoded latents z into the space that pictures are made from, no further out than faces lie there.

    A decoded z is the little that responses tell of all its dimensions. A mapping network sees the direction of z
    alone and takes it for a whole face, many standard deviations along what was decoded; the w that it makes has the
    right direction and a length that no face has. It is brought back along its direction:

    .. math::
        w' = \mu + \min(1, t \sqrt d / \|(w - \mu) / \sigma\|) (w - \mu),

    with mean and standard deviation of the generator's w, d dimensions and truncation t: the root mean square length
    of the generator's own (truncated) faces.

    Parameters
    ----------
    generator : Generator
    z : Tensor, (n, latent_dim)
    truncation : float

    Returns
    -------
    Tensor, (n, latent_dim)
        w where the generator has it, else z as it is.
    """
    found = picture_latents(generator, z, truncation)
    if "w" not in generator.spaces:
        return found
    mean, sd = (value.to(found) for value in generator.w_statistics())
    away = found - mean
    length = torch.linalg.vector_norm(away / sd, dim=1, keepdim=True)
    share: Tensor = (truncation * generator.latent_dim**0.5 / length.clamp_min(1e-12)).clamp_max(1)
    return mean + away * share


def sample_z(n: int, latent_dim: int, seed: int) -> Tensor:
    """Draw latents from N(0, I).

    Latent k depends on the seed and k alone, so the first faces of a larger sample are those of a smaller one.

    Parameters
    ----------
    n : int
        Latents to draw.
    latent_dim : int
        Dimensions of each.
    seed : int
        Seed of the stream.

    Returns
    -------
    Tensor, (n, latent_dim)
        float32 on the CPU.

    Raises
    ------
    UserError
        When `n` is negative.
    """
    if n < 0:
        raise UserError(f"cannot draw {n} latents, give a number of 0 or more")
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(latent_dim, generator=generator) for _ in range(n)]
    return torch.stack(rows) if rows else torch.empty(0, latent_dim)


def taken(walk: Iterator[tuple[str, Tensor]], layers: Sequence[str]) -> dict[str, Tensor]:
    """Take the named layers of a forward pass that yields them one by one; no layer behind the last one is computed."""
    wanted, found = set(layers), {}
    while wanted:
        name, value = next(walk)
        if name in wanted:
            found[name] = value
            wanted.discard(name)
    return {name: found[name] for name in layers}
