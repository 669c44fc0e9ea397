import dataclasses

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from hyperdecode.decoding.activation_ridge import ActivationRidge
from hyperdecode.errors import UserError
from hyperdecode.mapping import linear_occlusion
from hyperdecode.mapping.linear_occlusion import (
    occlude_block,
    occlude_linear,
    occlusion_blocks,
    similarity,
    similarity_loss,
)
from hyperdecode.mapping.neighbourhoods import Neighbourhoods, ball_neighbourhoods, cube_neighbourhoods
from hyperdecode.mapping.readout import LinearReadout, readout_of_activations

FACES, SHAPE = 6, (5, 4, 6)
AFFINE = np.diag([2.0, 2, 2, 1])


def blob(n=150, seed=0):
    """Voxels of a mask with holes, ordered as numpy.argwhere does."""
    return np.argwhere(np.random.default_rng(seed).random((7, 8, 9)) < 0.4)[:n]


def subject(voxels, seed=0):
    """A fitted decoder of activations, test responses, their training mean, truths and training activations."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((40 + FACES, 5))
    x = 2 + hidden @ rng.standard_normal((5, voxels)) + rng.standard_normal((40 + FACES, voxels))
    a = 10 + hidden @ rng.standard_normal((5, 120)) + rng.standard_normal((40 + FACES, 120))
    a = a.reshape(-1, *SHAPE)
    ridge = ActivationRidge(alphas=[50.0]).fit(x[:40], a[:40], roles=["train"] * 40)
    return ridge, x[40:], x[:40].mean(axis=0), a[40:], a[:40]


def by_the_plain_loop(ridge, responses, fill, shown, a, neighbourhoods):
    """Occlude a copy of the responses, predict all features, compare with each face; the loss of every pair."""
    variance = a.reshape(len(a), -1).var(axis=0).mean()
    truths = shown.reshape(len(shown), -1)

    def similarities(x):
        made = np.empty((len(x), *SHAPE))
        ridge.expand(ridge.predict(x), a, out=made)
        away = made.reshape(len(x), 1, -1) - truths[None]
        return 1 / (1 + np.sqrt((away**2).sum(-1) / (truths.shape[1] * variance)))

    before, losses = similarities(responses), []
    for k in range(len(neighbourhoods)):
        occluded = responses.copy()
        occluded[:, neighbourhoods.of(k)] = fill[neighbourhoods.of(k)]
        losses.append(before - similarities(occluded))
    return np.array(losses)


@pytest.mark.parametrize("shape", ["cube", "ball", "stride"])
def test_losses_are_those_of_predicting_anew(shape):
    u = blob()
    around = {
        "cube": lambda: cube_neighbourhoods(u, AFFINE, 10.0),
        "ball": lambda: ball_neighbourhoods(u, AFFINE, 4.1),
        "stride": lambda: cube_neighbourhoods(u, AFFINE, stride=2),
    }[shape]()
    ridge, responses, fill, shown, a = subject(len(u))
    expected = by_the_plain_loop(ridge, responses, fill, shown, a, around)
    readout = readout_of_activations(ridge, responses, ridge.compress(shown, a))
    scale = np.abs(expected).max()
    assert scale > 0.01
    found = occlude_linear(readout, responses - fill, around)
    assert found.dtype == np.float32 and found.shape == (len(around), FACES, FACES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * scale)
    diagonal = occlude_linear(readout, responses - fill, around, pairs=False)
    assert diagonal.dtype == np.float64 and diagonal.shape == (len(around), FACES)
    np.testing.assert_allclose(diagonal, expected[:, range(FACES), range(FACES)], rtol=0, atol=1e-9 * scale)


def random_readout(voxels, k=20, seed=0):
    rng = np.random.default_rng(seed)
    weights, x = rng.standard_normal((voxels, k)) / 30, rng.standard_normal((FACES, voxels))
    return LinearReadout(weights, x @ weights, rng.standard_normal((FACES, k)), rng.random(FACES), 40, 0.7), x


def exact(readout, x, neighbourhoods):
    """Each neighbourhood by itself, in long doubles."""
    w, p, t, r = (np.asarray(v, np.longdouble) for v in (readout.weights, readout.predicted, readout.true, x))
    outside = np.asarray(readout.residuals, np.longdouble) ** 2

    def similarities(predicted):
        squared = ((t[None] - predicted[:, None]) ** 2).sum(-1) + outside
        return 1 / (1 + np.sqrt(squared / (readout.n_features * np.longdouble(readout.variance))))

    without = [p - r[:, s] @ w[s] for s in (neighbourhoods.of(c) for c in range(len(neighbourhoods)))]
    return np.array([similarities(p) - similarities(q) for q in without])


def test_any_order_of_voxels_and_any_neighbourhoods():
    """Running predictions must not rest on neighbours sharing voxels, nor on centres being among the members."""
    rng = np.random.default_rng(4)
    members = [np.sort(rng.choice(300, rng.integers(1, 60), replace=False)) for _ in range(290)]
    starts = np.concatenate([[0], np.cumsum([len(m) for m in members])])
    scattered = Neighbourhoods(np.arange(290), np.concatenate(members).astype(np.int32), starts)
    readout, x = random_readout(300)
    expected = exact(readout, x, scattered).astype(float)
    np.testing.assert_allclose(occlude_linear(readout, x, scattered), expected, rtol=3e-7, atol=1e-13)
    shuffled = cube_neighbourhoods(rng.permutation(np.argwhere(np.ones((6, 5, 10)))), AFFINE, 6.0)
    expected = exact(readout, x, shuffled).astype(float)
    np.testing.assert_allclose(occlude_linear(readout, x, shuffled), expected, rtol=3e-7, atol=1e-13)


def test_small_losses_keep_their_digits():
    """Of voxels that hardly count the loss is 1e-9 of the similarity, and right all the same."""
    u = np.argwhere(np.ones((4, 5, 6)))
    around = cube_neighbourhoods(u, AFFINE, 6.0)
    readout, x = random_readout(len(u))
    faint = dataclasses.replace(readout, weights=readout.weights * 1e-8)
    expected = exact(faint, x, around)
    assert np.abs(expected).max() < 1e-8
    found = occlude_linear(faint, x, around, pairs=False)
    diagonal = expected[:, range(FACES), range(FACES)].astype(float)
    np.testing.assert_allclose(found, diagonal, rtol=0, atol=1e-8 * np.abs(diagonal).max())


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_same_bits_however_the_work_is_cut(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    u = np.argwhere(np.ones((6, 7, 8)))
    around = cube_neighbourhoods(u, AFFINE, 10.0)
    readout, x = random_readout(len(u))
    blocks = occlusion_blocks(around)
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate(blocks), np.arange(len(around)))
    seen = []
    whole = occlude_linear(readout, x, around, progress=lambda done, total: seen.append((done, total)))
    with threadpool_limits(1):
        backwards = [occlude_block(readout, x, around, block) for block in blocks[::-1]][::-1]
    np.testing.assert_array_equal(np.concatenate(backwards), whole)
    assert seen == [(128, 336), (256, 336), (336, 336)]
    monkeypatch.setattr(linear_occlusion, "BLOCK_CENTRES", 1)  # no centre has one before it
    np.testing.assert_allclose(occlude_linear(readout, x, around), whole, rtol=2e-7, atol=1e-14)


def test_voxels_without_weight_lose_exactly_nothing():
    u = np.argwhere(np.ones((10, 1, 1)))
    around = cube_neighbourhoods(u, AFFINE, 2.0, side_voxels=1)
    readout, x = random_readout(10)
    readout.weights[3] = 0
    found = occlude_linear(readout, x, around)
    assert (found[3] == 0).all() and (found[[2, 4]] != 0).all()


def test_occluding_everything_is_predicting_from_the_training_mean():
    u = np.argwhere(np.ones((3, 3, 3)))
    around = cube_neighbourhoods(u, AFFINE, 100.0)
    readout, x = random_readout(27)
    found = occlude_linear(readout, x, around, pairs=False)
    blind = (readout.true**2).sum(1) + readout.residuals**2  # predictions without an intercept are zero then
    s, s_blind = (similarity(d, 40, 0.7) for d in (np.diag(readout.squared_distances), blind))
    np.testing.assert_allclose(found, np.broadcast_to(s - s_blind, found.shape), rtol=1e-9)


def test_weights_of_half_the_size():
    u = blob()
    around = cube_neighbourhoods(u, AFFINE)
    readout, x = random_readout(len(u))
    half = dataclasses.replace(readout, weights=readout.weights.astype(np.float32))
    same = dataclasses.replace(half, weights=half.weights.astype(np.float64))
    np.testing.assert_array_equal(occlude_linear(half, x, around), occlude_linear(same, x, around))


def test_similarity_and_its_loss():
    assert similarity(0.0, 10, 2.0) == 1
    assert similarity(20.0, 10, 2.0) == 0.5  # as far as an average training face
    d2, change = np.array([0.0, 0.0, 5.0, 5.0, 20.0]), np.array([0.0, 20.0, -5.0, 1e-3, -7.0])
    np.testing.assert_allclose(
        similarity_loss(d2, change, 10, 2.0), similarity(d2, 10, 2.0) - similarity(d2 + change, 10, 2.0), rtol=1e-10
    )
    # By rounding a squared distance may fall below zero: a perfect prediction, not NaN.
    assert similarity_loss(5.0, -5.0 - 1e-14, 10, 2.0) == pytest.approx(similarity(5.0, 10, 2.0) - 1)
    assert similarity_loss(1e20, 1e-3, 10, 2.0) > 0


def test_other_faces_and_voxels():
    around = cube_neighbourhoods(blob(), AFFINE)
    readout, x = random_readout(len(blob()))
    with pytest.raises(UserError, match="the readout is of 6 faces and 150 voxels, the responses"):
        occlude_linear(readout, x[1:], around)
    with pytest.raises(UserError, match=r"names voxel 14\d, the readout has 140"):
        occlude_linear(*random_readout(140), around)
    x[0, 0] = np.nan
    with pytest.raises(UserError, match="NaN or infinite"):
        occlude_block(readout, x, around, np.arange(3))
