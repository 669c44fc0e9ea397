"""Neural decoding of what a person saw, through the latent space of a generative network."""

__version__ = "0.1.0"
