"""Reconstruction without a GAN of faces, to compare with: eigenfaces and a VAE-GAN."""
