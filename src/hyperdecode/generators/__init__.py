"""Latent to picture, and the activations on the way; one module a family."""

from hyperdecode.generators.base import Generator, picture_latents, sample_z
from hyperdecode.generators.mobilestylegan import MobileStyleGAN
from hyperdecode.generators.registry import generator_names, load_generator

__all__ = ["Generator", "MobileStyleGAN", "generator_names", "load_generator", "picture_latents", "sample_z"]
