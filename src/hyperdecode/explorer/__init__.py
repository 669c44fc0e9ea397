"""A page on this computer where latents are moved and the generator answers."""
