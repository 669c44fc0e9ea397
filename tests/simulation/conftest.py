"""Heads and features that several tests of simulated subjects share."""

import numpy as np
import pytest

from hyperdecode.simulation.features import FeatureBank
from hyperdecode.simulation.head import grow_head


@pytest.fixture(scope="session")
def template_head(atlas):
    """The template's own head, 4 mm, ventral."""
    return grow_head(atlas, seed=0, voxel_size=4.0)


@pytest.fixture(scope="session")
def own_head(atlas):
    """A head of its own shape, 4 mm, whole brain."""
    return grow_head(atlas, seed=3, voxel_size=4.0, coverage="whole", shape="own")


@pytest.fixture(scope="session")
def bank():
    """Independent noise for features: five layers and a picture, 400 stimuli."""
    rng = np.random.default_rng(0)
    sizes = [(12, 4), (12, 8), (12, 8), (12, 8), (12, 8), (4, 8)]
    values = tuple(rng.standard_normal((400, channels, side, side)).astype(np.float32) for channels, side in sizes)
    return FeatureBank(("b4", "b8", "b16", "b32", "b64", "picture"), values)
