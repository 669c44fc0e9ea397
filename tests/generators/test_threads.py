"""Pictures and activations are the same bits by any number of threads."""

import os

import pytest
import torch

from hyperdecode import threads


@pytest.fixture
def by_threads(monkeypatch):
    """Call something with one thread and with two, whatever the machine has."""
    before = torch.get_num_threads()

    def call(work):
        found = []
        for n in (1, 2):
            monkeypatch.setattr(threads, "usable_cores", lambda: 2)
            monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", str(n))
            torch.set_num_threads(n)
            found.append(work())
            assert torch.get_num_threads() == n
        return found

    yield call
    torch.set_num_threads(before)


def test_faces_do_not_hang_on_threads(face_generator, by_threads):
    w = face_generator.to_w(face_generator.sample(3, 0), 0.7)
    one, two = by_threads(lambda: face_generator.images(w, resolution=256))
    assert one.shape == (3, 3, 256, 256) and torch.equal(one, two)
    # Alone as among others.
    assert torch.equal(by_threads(lambda: face_generator.images(w[1:2], resolution=256))[1], one[1:2])
    one, two = by_threads(lambda: face_generator.activations(w, ["b8.conv2", "b64.conv1"]))
    assert all(torch.equal(one[name], two[name]) for name in ("b8.conv2", "b64.conv1"))


def test_work_side_by_side_keeps_its_order_and_its_errors(by_threads):
    def work(x):
        assert torch.get_num_threads() == 1
        return x * x

    assert by_threads(lambda: threads.side_by_side(work, range(7))) == [[x * x for x in range(7)]] * 2
    assert by_threads(lambda: threads.side_by_side(work, [])) == [[], []]
    with pytest.raises(ZeroDivisionError):
        by_threads(lambda: threads.side_by_side(lambda x: 1 / x, [1, 0]))
