"""The classifier of eyeglasses: what it reads, what it refuses; its accuracy is printed by training/eyeglasses.py."""

import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError
from hyperdecode.features.eyeglasses import COLUMNS, ROWS, eye_features, eyeglasses_scores


@pytest.fixture
def noise():
    return torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_only_the_eye_region_is_read(noise):
    elsewhere = noise.clone()
    elsewhere[:, :, : ROWS.start] = 0
    elsewhere[:, :, ROWS.stop :] = 0
    elsewhere[:, :, :, : COLUMNS.start] = 0
    elsewhere[:, :, :, COLUMNS.stop :] = 0
    assert np.array_equal(eye_features(noise), eye_features(elsewhere))
    within = noise.clone()
    within[:, :, ROWS, COLUMNS] = 0.5
    assert np.abs(eyeglasses_scores(noise) - eyeglasses_scores(within)).min() > 0.01


def test_faces_do_not_depend_on_their_batch(noise):
    assert np.allclose(eyeglasses_scores(noise)[1:2], eyeglasses_scores(noise[1:2]), atol=1e-5)


def test_larger_pictures_are_averaged(noise):
    large = noise.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert np.allclose(eyeglasses_scores(large), eyeglasses_scores(noise), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 128, 128), (1, 3, 64, 64), (1, 1, 128, 128), (1, 3, 128, 96)])
def test_other_pictures_are_refused(shape):
    with pytest.raises(UserError, match="128 px or more, got shape"):
        eyeglasses_scores(torch.zeros(shape))


@pytest.mark.parametrize(
    ("number", "glasses"), [(3, True), (4, True), (33, True), (10, False), (16, False), (56, False)]
)
def test_faces_that_were_labelled_by_eye(face_generator, number, glasses):
    """Clear cases of the labels that it was trained on: the file, the region and the signs belong together."""
    w = face_generator.to_w(face_generator.sample(1, 3_000_000 + number))
    score = eyeglasses_scores(face_generator.images(w, resolution=128))[0]
    assert (score > 0) == glasses and abs(score) > 0.3
