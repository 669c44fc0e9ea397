"""From responses to latents: estimators that are fitted on training trials only."""
