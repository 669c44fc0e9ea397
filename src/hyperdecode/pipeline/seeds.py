"""One seed a study, an independent stream for each use of it."""

from __future__ import annotations

import numpy as np

__all__ = ["derived_seed"]


def derived_seed(seed: int, *path: object) -> int:
    """Return a seed for one use, independent of those for other uses of the study's seed.

    Parameters
    ----------
    seed : int
        The study's seed.
    *path : object
        What it is for: ``derived_seed(0, "noise", "01", 3)``.

    Returns
    -------
    int
        In 0 .. 2^32 - 1.
    """
    entropy = [seed, *(int.from_bytes(str(part).encode(), "little") for part in path)]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
