"""Render the pool of generated faces that attributes and baselines are learned from: latents and 128 px pictures.

    python training/face_pool.py --faces 20000     # resumable, chunks of 500 faces in the cache (1 GB)

`hyperdecode.pipeline.face_pool` says what a chunk holds; `hyperdecode attributes fit` renders the same pool itself
where it is not there.
"""

from __future__ import annotations

import argparse
import time

from hyperdecode.generators import load_generator
from hyperdecode.pipeline.face_pool import pool_chunks
from hyperdecode.threads import set_threads


def main() -> None:
    """Read the command line and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", default="mobilestylegan-ffhq")
    parser.add_argument("--faces", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    set_threads(args.threads)
    start = time.perf_counter()
    pool_chunks(
        load_generator(args.generator),
        args.faces,
        lambda done, total: print(f"{done} of {total} faces, {time.perf_counter() - start:.0f} s", flush=True),
    )


if __name__ == "__main__":
    main()
