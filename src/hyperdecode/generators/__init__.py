"""Latent to picture, and the activations on the way; one module a family."""

from hyperdecode.generators.base import Generator, picture_latents, sample_z
from hyperdecode.generators.mobilestylegan import MobileStyleGAN
from hyperdecode.generators.pggan import PGGAN
from hyperdecode.generators.registry import generator_names, load_generator
from hyperdecode.generators.stylegan2 import StyleGAN2
from hyperdecode.generators.stylegan3 import StyleGAN3

__all__ = [
    "PGGAN",
    "Generator",
    "MobileStyleGAN",
    "StyleGAN2",
    "StyleGAN3",
    "generator_names",
    "load_generator",
    "picture_latents",
    "sample_z",
]
