"""Pictures of faces to features and labels: attributes for fitting directions, networks for perceptual similarity."""
