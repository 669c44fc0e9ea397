import numpy as np
import pytest
import torch

from hyperdecode.decoding.training import BestEpoch, fingerprint, held_out, ordered_batches, with_halved_batches
from hyperdecode.errors import DataWarning, UserError


def test_a_short_last_batch_is_filled_from_the_beginning():
    assert ordered_batches(7, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    assert ordered_batches(2, 5).tolist() == [[0, 1, 0, 1, 0]]


def test_held_out_trials_are_whole_groups_and_the_seed_chooses():
    groups = [f"face{i // 3}" for i in range(60)]
    held = held_out(60, 0.25, groups, seed=1)
    assert held.sum() == 15
    assert {g for g, h in zip(groups, held, strict=True) if h}.isdisjoint(
        g for g, h in zip(groups, held, strict=True) if not h
    )
    np.testing.assert_array_equal(held, held_out(60, 0.25, groups, seed=1))
    assert (held != held_out(60, 0.25, groups, seed=2)).any()
    assert held_out(40, 0.1, None, seed=0).sum() == 4
    assert not held_out(40, 0.0, None, seed=0).any()
    assert held_out(3, 0.01, None, seed=0).sum() == 1
    assert held_out(3, 0.99, None, seed=0).sum() == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 1.0, None), "from 0 to below 1, got 1.0"),
        ((10, float("nan"), None), "from 0 to below 1, got nan"),
        ((10, 0.2, [0] * 9), "10 trials and 9 groups"),
        ((10, 0.2, [0] * 10), "at least 2 trials"),
    ],
)
def test_validation_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        held_out(*arguments, seed=0)


def test_the_best_epoch_is_the_first_of_the_lowest_loss():
    best = BestEpoch(patience=2)
    news = [best.is_new(epoch, loss) for epoch, loss in enumerate([3.0, 2.0, 2.0, float("nan")], start=1)]
    assert news == [True, True, False, False]
    assert (best.epoch, best.loss) == (2, 2.0)
    assert [best.is_over(epoch) for epoch in (2, 3, 4)] == [False, False, True]


def test_a_fingerprint_tells_any_change():
    x = torch.arange(6.0).view(2, 3)
    changed = x.clone()
    changed[1, 2] += 1e-6
    prints = [
        fingerprint({"a": 1, "b": 0.1}, x, None),
        fingerprint({"a": 1, "b": 0.1}, changed, None),
        fingerprint({"a": 2, "b": 0.1}, x, None),
        fingerprint({"a": 1, "b": 0.1}, x.view(3, 2), None),
        fingerprint({"a": 1, "b": 0.1}, None, x),
    ]
    assert len({p.tobytes() for p in prints}) == len(prints)
    np.testing.assert_array_equal(prints[0], fingerprint({"b": 0.1, "a": 1}, x.T.contiguous().T, None))


def test_batches_are_halved_until_they_fit():
    tried = []

    def run(batch):
        tried.append(batch)
        if batch > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    with pytest.warns(DataWarning) as said:
        assert with_halved_batches(run, 13) == "done"
    assert tried == [13, 6, 3]
    assert [str(w.message) for w in said] == [f"out of GPU memory: halved the batch to {n}" for n in (6, 3)]


def test_no_batch_fits():
    def run(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.warns(DataWarning, match="to 1$"), pytest.raises(UserError, match="with a batch of 1"):
        with_halved_batches(run, 2)
