"""The decoders by name: the paper's, and ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.decoding.activation_loss import ActivationLossDecoder
from hyperdecode.decoding.banded import BandedRidgeDecoder
from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.components import ComponentRidgeDecoder
from hyperdecode.decoding.dense import DenseDecoder
from hyperdecode.decoding.inverted import InvertedEncodingDecoder
from hyperdecode.decoding.layers import MODEL_LAYERS, PAPER_LAYERS, layer_at_depth
from hyperdecode.decoding.posterior import latent_prior
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.decoding.training import Checkpoint
from hyperdecode.decoding.weighted import WeightedRidgeDecoder
from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator

__all__ = ["MODELS", "Context", "Model", "build_decoder"]

LECUN = (3 / 4096) ** 0.5
"""First weights of Chainer's `Linear` (variance 1 / voxels), the library of the authors' published models."""


@dataclass(frozen=True)
class Context:
    """What a decoder may need beside the trials.

    Attributes
    ----------
    seed : int
    cv : int or "loo"
        Folds that choose ridge penalties, or leave one out (five folds for decoders that fit anew for each).
    n_averaged : float
        How many times more trials are averaged for a test stimulus than for a training row.
    generator : Generator, optional
        For losses on activations.
    space : str
        Latent space that is decoded.
    truncation : float
        Of the stimuli; a loss on activations needs it to bring z to pictures.
    scale : tuple of arrays, each (latent_dim,)
        Mean and standard deviation by which latents were standardised.
    bands : sequence, optional
        Region of each voxel, for banded ridge.
    progress : callable, optional
        Called with (epochs done, epochs in all).
    checkpoint : Checkpoint, optional
        Where a long training keeps its state.
    """

    seed: int = 0
    cv: int | str = "loo"
    n_averaged: float = 1.0
    generator: Generator | None = None
    space: str = "w"
    truncation: float = 1.0
    scale: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    bands: Sequence[object] | None = None
    progress: Callable[[int, int], None] | None = None
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Model:
    """A decoder by name.

    Attributes
    ----------
    words : str
        What it is, for people: half a sentence.
    paper : bool
        Whether it is one of the paper's.
    build : callable
        Context -> estimator.
    shrinks : bool
        Whether it predicts what is best for single trials, so that averages deserve more
        (`hyperdecode.decoding.rescale.averages_stretch`).
    epochs_a_save : int
        Epochs between two saves of a training's state.
    """

    words: str
    paper: bool
    build: Callable[[Context], LinearDecoder]
    shrinks: bool = False
    epochs_a_save: int = 50


def _ridge(context: Context) -> LinearDecoder:
    return RidgeDecoder(cv=context.cv, seed=context.seed)


def _ridge_per_latent(context: Context) -> LinearDecoder:
    return RidgeDecoder(cv=context.cv, per_latent=True, seed=context.seed)


def _weighted(context: Context) -> LinearDecoder:
    return WeightedRidgeDecoder(cv=_few_folds(context), n_averaged=context.n_averaged, seed=context.seed)


def _banded(context: Context) -> LinearDecoder:
    if context.bands is None:
        raise UserError("banded-ridge needs the region of each voxel, which is known in MNI space only: take ridge")
    return BandedRidgeDecoder(bands=context.bands, seed=context.seed)


def _prior(context: Context) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and covariance of the generator's latents, standardised as those that are fitted to."""
    if context.generator is None or context.scale is None:
        raise UserError("this decoder needs the generator, whose latents are its prior: give it and the scale")
    mean, covariance = latent_prior(context.generator, context.space, context.truncation)
    centre, sd = context.scale
    return (mean - centre) / sd, covariance / np.outer(sd, sd)


def _components(context: Context) -> LinearDecoder:
    return ComponentRidgeDecoder(_prior(context)[1], cv=context.cv, seed=context.seed)


def _inverted(context: Context) -> LinearDecoder:
    return InvertedEncodingDecoder(*_prior(context), n_folds=_few_folds(context), seed=context.seed)


def _few_folds(context: Context) -> int:
    """Return the folds of decoders for which each fold is a fit."""
    return 5 if context.cv == "loo" else int(context.cv)


def _dense(context: Context, **changes: Any) -> LinearDecoder:
    return DenseDecoder(seed=context.seed, progress=context.progress, checkpoint=context.checkpoint, **changes)


def _activation(context: Context, depth: int, latent_weight: float) -> LinearDecoder:
    if context.generator is None:
        raise UserError("a loss on activations needs the generator: give it")
    return ActivationLossDecoder(
        context.generator,
        layer_at_depth(context.generator, depth),
        space=context.space,
        latent_weight=latent_weight,
        scale=context.scale,
        truncation=context.truncation,
        seed=context.seed,
        progress=context.progress,
        checkpoint=context.checkpoint,
    )


def _layer_model(words: str, depth: int, latent_weight: float) -> Model:
    return Model(words.format(depth), True, lambda context: _activation(context, depth, latent_weight), epochs_a_save=1)


MODELS: dict[str, Model] = {
    "weighted-ridge": Model(
        "ridge regression that trusts each voxel as far as latents explain it", False, _weighted, True
    ),
    "ridge": Model("ridge regression, one penalty", False, _ridge, True),
    "ridge-per-latent": Model("ridge regression, a penalty for each latent dimension", False, _ridge_per_latent, True),
    "ridge-per-component": Model(
        "ridge regression, a penalty for each principal component of the generator's latents", False, _components, True
    ),
    "banded-ridge": Model("ridge regression, a penalty for each brain region", False, _banded, True),
    "inverted": Model("an encoding model turned round, with the generator's latents as prior", False, _inverted, True),
    "dense": Model("the dense layer of the paper's notebook", True, _dense),
    "dense-no-decay": Model(
        "the dense layer without weight decay",
        False,
        lambda context: _dense(context, weight_decay=0.0, first_weights=LECUN),
    ),
    **{
        f"hyper-{number}": _layer_model("latent loss and activation loss at depth {}", depth, 1.0)
        for number, depth in enumerate(MODEL_LAYERS, start=1)
    },
    **{f"activation-{depth}": _layer_model("activation loss at depth {} alone", depth, 0.0) for depth in PAPER_LAYERS},
}
"""Decoders by the name that ``study.toml`` and ``--model`` take."""


def build_decoder(name: str, context: Context) -> LinearDecoder:
    """Return an estimator that is not fitted.

    Raises
    ------
    UserError
        When there is no model of that name, or the context lacks what it needs.
    """
    if name not in MODELS:
        raise UserError(f"no decoder {name!r}: choose among {', '.join(MODELS)}")
    return MODELS[name].build(context)
