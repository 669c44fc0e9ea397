"""Pictures of faces to features and labels: attributes for fitting directions, networks for perceptual similarity."""

from hyperdecode.features.base import FeatureNetwork
from hyperdecode.features.labels import FaceLabeller, FaceLabels, label_faces
from hyperdecode.features.registry import feature_network_names, load_feature_network

__all__ = [
    "FaceLabeller",
    "FaceLabels",
    "FeatureNetwork",
    "feature_network_names",
    "label_faces",
    "load_feature_network",
]
