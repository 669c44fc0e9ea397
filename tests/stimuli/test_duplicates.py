import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from hyperdecode.errors import UserError
from hyperdecode.stimuli.duplicates import nearest_neighbours, picture_vectors


def faces(seed=0, n_test=36, n_train=1050, k=512):
    x = np.random.default_rng(seed).standard_normal((n_test + n_train, k))
    return x[:n_test], x[n_test:]


def test_distances_are_those_of_brute_force():
    test, train = faces(1, 7, 40, 12)
    found = nearest_neighbours(test, train, block=16)
    every = np.linalg.norm(test[:, None] - train[None], axis=-1)
    among = np.linalg.norm(train[:, None] - train[None], axis=-1)
    scale = math.sqrt((among**2).sum() / (40 * 39))
    assert found.scale == pytest.approx(scale)
    np.testing.assert_allclose(found.distance, every.min(1) / scale)
    np.testing.assert_array_equal(found.index, every.argmin(1))
    among[np.arange(40), np.arange(40)] = np.inf
    np.testing.assert_allclose(found.train_distance, among.min(1) / scale)
    assert found.limit == pytest.approx(0.5 * np.median(among.min(1)) / scale)


@pytest.mark.parametrize("seed", range(5))
def test_independent_faces_are_not_flagged(seed):
    found = nearest_neighbours(*faces(seed))
    assert found.flagged.size == 0 and found.chance < 1e-20
    assert found.distance.min() > 1.5 * found.limit


def test_planted_copies_are_flagged():
    test, train = faces()
    rng = np.random.default_rng(9)
    test[5] = train[700]
    test[20] = train[3] + 0.3 * rng.standard_normal(512)
    found = nearest_neighbours(test, train)
    assert found.flagged.tolist() == [5, 20] and found.index[found.flagged].tolist() == [700, 3]
    assert found.distance[5] < 1e-6
    # A relative's latent, halfway between two faces, is nearer than any stranger and still another face.
    test[20] = (train[3] + test[21]) / 2
    assert nearest_neighbours(test, train).flagged.tolist() == [5]


def test_copies_among_training_faces_hide_no_copy():
    test, train = faces()
    train[100:150] = train[200:250]
    test[8] = train[500]
    assert nearest_neighbours(test, train).flagged.tolist() == [8]


def test_the_unit_does_not_matter():
    test, train = faces(2, 10, 100, 30)
    test[4] = train[4] + 0.05
    one, other = nearest_neighbours(test, train), nearest_neighbours(1000 * test + 1e9, 1000 * train + 1e9)
    np.testing.assert_allclose(one.distance, other.distance, atol=1e-5)
    assert one.flagged.tolist() == other.flagged.tolist() == [4]


@pytest.mark.parametrize("k", [2, 5, 10])
def test_dimension_and_chance(k):
    """In few dimensions the rule flags by chance as often as it says."""
    rng = np.random.default_rng(k)
    plane = rng.standard_normal((k, 60)) / 8
    checks = [
        nearest_neighbours(rng.uniform(size=(40, k)) @ plane, rng.uniform(size=(600, k)) @ plane) for _ in range(40)
    ]
    assert np.mean([check.dimension for check in checks]) == pytest.approx(k, rel=0.2)
    flagged = np.mean([check.flagged.size > 0 for check in checks])
    assert abs(flagged - np.mean([check.chance for check in checks])) < 0.12


def test_pictures_that_look_alike():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (60, 6, 6, 3), dtype=np.uint8)
    pictures = [np.asarray(Image.fromarray(c).resize((96, 96), Image.Resampling.BICUBIC)) for c in coarse]
    train, test = pictures[:50], pictures[50:]
    assert nearest_neighbours(picture_vectors(test), picture_vectors(train)).flagged.size == 0
    test[3] = np.asarray(Image.fromarray(train[17]).filter(ImageFilter.GaussianBlur(1))) // 10 * 10
    test[7] = np.roll(train[40], 1, axis=1)
    found = nearest_neighbours(picture_vectors(test), picture_vectors(train))
    assert sorted(found.flagged) == [3, 7] and found.index[[3, 7]].tolist() == [17, 40]


def test_vectors_are_area_means():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    row = picture_vectors(iter([picture]), 16)[0].reshape(3, 16, 16)
    np.testing.assert_allclose(row[1, 2, 5], picture[8:12, 20:24, 1].mean(), rtol=1e-5)
    assert picture_vectors([picture], 128).shape == (1, 64 * 64 * 3)


@pytest.mark.parametrize(
    ("test", "train", "words"),
    [
        (np.zeros((2, 3)), np.zeros((5, 4)), r"\(2, 3\) and \(5, 4\)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "3 training faces, got 2 and 2"),
        (np.zeros((0, 3)), np.zeros((5, 3)), "got 0 and 5"),
        (np.full((2, 3), np.nan), np.zeros((5, 3)), "finite"),
        (np.zeros((2, 3)), np.ones((5, 3)), "faces are alike"),
    ],
)
def test_refused(test, train, words):
    with pytest.raises(UserError, match=words):
        nearest_neighbours(test, train)
    with pytest.raises(UserError, match="share"):
        nearest_neighbours(*faces(0, 3, 5, 4), share=1.0)
