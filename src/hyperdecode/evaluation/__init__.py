"""How well latents and pictures were decoded, always beside predictors that never saw the brain."""
