"""Latents to pictures to schedule."""
