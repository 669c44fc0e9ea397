"""Labelled faces, and the networks where their files can be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.features.dlib_network import DlibNetwork
from hyperdecode.features.labels import FaceLabeller

GOLDEN = Path(__file__).parent / "golden"


def _or_skip(build):
    try:
        return build()
    except WeightFileError:
        raise
    except UserError as error:
        pytest.skip(f"model files are neither in the cache nor to be had: {error}")


@pytest.fixture(scope="session")
def sheet() -> Image.Image:
    """Return the eight faces of golden/faces.png, side by side."""
    return Image.open(GOLDEN / "faces.png")


@pytest.fixture(scope="session")
def faces(sheet) -> torch.Tensor:
    """Return them as pictures (8, 3, 128, 128) in -1..1."""
    pixels = np.asarray(sheet).reshape(128, 8, 128, 3).transpose(1, 3, 0, 2)
    return torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1


@pytest.fixture(scope="session")
def plain_labeller() -> FaceLabeller:
    """Return one that does not look at mirror images."""
    return _or_skip(lambda: FaceLabeller(mirror=False))


@pytest.fixture(scope="session")
def labeller() -> FaceLabeller:
    return _or_skip(FaceLabeller)


@pytest.fixture(scope="session")
def labels(labeller, faces):
    return labeller(faces)


@pytest.fixture(scope="session")
def dlib_network() -> DlibNetwork:
    return _or_skip(DlibNetwork.load)
