from __future__ import annotations

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.classification import classify_blocks, find_blocks

ORDER = ["a", "b", "c", "d", "d", "b", "a", "c"]
PER_BLOCK = 6


def design():
    kinds = np.repeat(ORDER, PER_BLOCK)
    starts = np.repeat(np.arange(len(ORDER)) * 30.0, PER_BLOCK)
    onsets = starts + np.tile(np.arange(PER_BLOCK), len(ORDER)) * 1.0
    return kinds, find_blocks(kinds, onsets)


def test_blocks_are_found_and_equal_neighbours_told_apart_by_the_pause():
    kinds, blocks = design()
    assert blocks.tolist() == np.repeat(np.arange(8), PER_BLOCK).tolist()
    assert find_blocks(["a", "a", "b", "a"]).tolist() == [0, 0, 1, 2]
    assert find_blocks(["a", "a", "a"], [0.0, 1.0, 20.0]).tolist() == [0, 0, 1]
    with pytest.raises(UserError, match="order of time"):
        find_blocks(["a", "a"], [2.0, 1.0])
    assert len(kinds) == len(blocks)


def test_a_planted_pattern_is_found():
    rng = np.random.default_rng(0)
    kinds, blocks = design()
    z = rng.standard_normal((len(kinds), 300)) + 0.5
    z[:, :40] += 3  # active voxels, which the mask must find
    patterns = dict(zip("abcd", rng.standard_normal((4, 40)), strict=True))
    z[:, :40] += np.stack([patterns[k] for k in kinds])
    result = classify_blocks(z, kinds, blocks, n_voxels=40)
    assert result.accuracy > 0.9 and result.chance == 0.25
    assert result.null.size == 23 and result.p_value == pytest.approx(1 / 24)
    assert result.confusion.sum() == len(kinds) and np.trace(result.confusion) > 0.9 * len(kinds)


def test_a_pattern_of_the_block_alone_is_not_a_category():
    """Each block has its own strong pattern that says nothing of the category: leaving trials out would score 1."""
    rng = np.random.default_rng(1)
    kinds, blocks = design()
    p_values, scores = [], []
    for _ in range(12):
        z = rng.standard_normal((len(kinds), 60)) + 4 * rng.standard_normal((8, 60))[blocks]
        result = classify_blocks(z, kinds, blocks, n_voxels=60)
        p_values.append(result.p_value)
        scores.append(result.accuracy)
    assert 0.1 < np.mean(scores) < 0.4
    assert np.mean(np.asarray(p_values) < 0.1) < 0.4


def test_the_null_is_that_of_refitting_with_permuted_blocks():
    """The shortcut (rename predictions, do not refit) gives what permuted labels from scratch give."""
    rng = np.random.default_rng(2)
    kinds, blocks = design()
    z = rng.standard_normal((len(kinds), 30)) + np.stack([np.eye(4, 30)["abcd".index(k)] for k in kinds]) * 2
    reference = classify_blocks(z, kinds, blocks, n_voxels=30)
    renamed = kinds.copy()
    second = blocks >= 4
    swap = {"a": "b", "b": "c", "c": "a", "d": "d"}
    renamed[second] = [swap[k] for k in kinds[second]]
    permuted = classify_blocks(z, renamed, blocks, n_voxels=30)
    assert np.isclose(reference.null, permuted.accuracy).any()
    everything = sorted([*reference.null, reference.accuracy])
    np.testing.assert_allclose(everything, sorted([*permuted.null, permuted.accuracy]), atol=1e-12)


def test_three_blocks_a_category_are_sampled():
    rng = np.random.default_rng(3)
    kinds = np.repeat(["a", "b", "b", "a", "a", "b"], 4)
    blocks = np.repeat(np.arange(6), 4)
    z = rng.standard_normal((24, 20))
    z[kinds == "a", 0] += 4
    result = classify_blocks(z, kinds, blocks, n_voxels=20, n_permutations=2)
    assert len(result.fold_accuracy) == 3 and result.null.size == 2 and result.accuracy > 0.7


@pytest.mark.parametrize(
    ("kinds", "blocks", "words"),
    [
        (["a", "a"], [0, 1], "two categories"),
        (["a", "b", "a"], [0, 1, 2], "a 2, b 1"),
        (["a", "b"], [0, 1], "a 1, b 1"),
        (["a", "b"], [0, 0], "block 0 holds"),
        (["a"], [0, 1], "one a trial"),
    ],
)
def test_unusable_designs(kinds, blocks, words):
    with pytest.raises(UserError, match=words):
        classify_blocks(np.ones((len(blocks), 4)), kinds, blocks, n_voxels=2)
