"""The trained early exits against the full picture, on faces that no head was fitted to (full range, truncation 1)."""

import statistics
import time

import numpy as np
import pytest
import torch

FIRST_SEED = 3_000_000  # training used 1,000,000 on


def r2(generator, seeds, sides, precision="float32"):
    """R^2 of each exit on each face: 1 - squared error / variance of the area-averaged full picture."""
    scores = {side: [] for side in sides}
    for seed in seeds:
        w = generator.to_w(generator.sample(1, seed))
        full = generator.images(w)
        for side in sides:
            target = torch.nn.functional.avg_pool2d(full, generator.resolution // side)
            error = (generator.images(w, resolution=side, precision=precision) - target).square().mean()
            scores[side].append(float(1 - error / target.var(correction=0)))
    return scores


def test_a_few_faces(face_generator, capsys):
    scores = r2(face_generator, range(FIRST_SEED, FIRST_SEED + 5), (64, 128, 256))
    with capsys.disabled():
        print("\nR^2 of early exits, 5 held-out faces:", {k: round(statistics.mean(v), 4) for k, v in scores.items()})
    assert statistics.mean(scores[64]) > 0.9
    assert statistics.mean(scores[128]) > 0.95 and statistics.mean(scores[256]) > 0.95


@pytest.mark.slow
def test_two_hundred_faces(face_generator):
    scores = r2(face_generator, range(FIRST_SEED, FIRST_SEED + 200), (64, 128, 256))
    assert statistics.mean(scores[128]) >= 0.97
    assert statistics.mean(scores[64]) >= 0.93 and statistics.mean(scores[256]) >= 0.98


@pytest.mark.slow
def test_an_early_exit_saves_most_of_the_time(face_generator):
    """How much depends on the CPU (benchmarks/generators.py): 128 px took 0.29 to 0.34 of the full picture's time."""
    w = face_generator.to_w(face_generator.sample(1, 0))
    full, small = [], []
    for _ in range(7):
        for taken, side in (full, None), (small, 128):
            start = time.perf_counter()
            face_generator.images(w, resolution=side)
            taken.append(time.perf_counter() - start)
    assert min(small) < 0.5 * min(full)


def test_bfloat16_keeps_the_picture(face_generator):
    w = face_generator.to_w(face_generator.sample(2, FIRST_SEED))
    exact, rough = (face_generator.images(w, resolution=128, precision=p) for p in ("float32", "bfloat16"))
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    error = (rough - exact).square().mean() / exact.var()
    assert error < 0.002, float(error)  # the exit itself misses about 0.03
    assert np.isfinite(rough.numpy()).all()
