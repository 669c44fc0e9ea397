"""The loss: Wasserstein with gradient penalty (Gulrajani et al. 2017) and a drift term (Karras et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CriticLoss", "critic_loss", "gradient_penalty"]

Critic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CriticLoss:
    """What the discriminator minimises, and its parts.

    Attributes
    ----------
    total : Tensor, ()
        ``-wasserstein + weight penalty + drift mean(D(real)^2)``.
    wasserstein : Tensor, ()
        ``mean D(real) - mean D(fake)``, an estimate of the distance between the two distributions, up to D's slope.
    penalty : Tensor, ()
        See `gradient_penalty`.
    """

    total: Tensor
    wasserstein: Tensor
    penalty: Tensor


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Tell how far the critic's slope between real and generated pictures is from 1.

    ``mean (|grad_x D(x)| - 1)^2  at  x = real + mix (fake - real)``

    Parameters
    ----------
    critic : callable
        Pictures -> scores (n,).
    real, fake : Tensor, (n, channels, h, w)
    mix : Tensor, (n, 1, 1, 1)
        Uniform on 0..1.

    Returns
    -------
    Tensor, ()
        Differentiable in the critic's parameters.
    """
    between = torch.lerp(real, fake.to(real.dtype), mix).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(slope.float().flatten(1), dim=1)
    return (norms - 1).square().mean()


def critic_loss(critic: Critic, real: Tensor, fake: Tensor, mix: Tensor, *, weight: float, drift: float) -> CriticLoss:
    """Return the discriminator's loss on one batch.

    Parameters
    ----------
    critic, real, fake, mix
        As of `gradient_penalty`.
    weight : float
        Of the gradient penalty.
    drift : float
        Of the squared real scores, which keeps them near zero.

    Returns
    -------
    CriticLoss
    """
    # Real and generated pictures go through apart, so that no group of the minibatch deviation mixes them.
    of_real, of_fake = critic(real), critic(fake)
    wasserstein = of_real.mean() - of_fake.mean()
    penalty = gradient_penalty(critic, real, fake, mix)
    total = -wasserstein + weight * penalty + drift * of_real.square().mean()
    return CriticLoss(total, wasserstein.detach(), penalty.detach())
