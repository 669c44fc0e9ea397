"""The sliders of the report: WebP or JPEG, time a picture, size of a study, size of a network in the page instead.

python benchmarks/moves.py [--json]
"""

from __future__ import annotations

import argparse
import io
import json
import time

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hyperdecode.generators import load_generator
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.strips import STEPS
from hyperdecode.report.moves import QUALITY, move_sheet
from hyperdecode.study.config import PRESETS, preset

FACES = 20
BASE64 = 4 / 3
EXITS = ("conv0", "block_modules.0", "block_modules.1", "block_modules.2", "block_modules.3")
"""What a picture needs of the default generator's network up to 64 px; each larger exit a block more."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON line a claim")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    generator = load_generator("mobilestylegan-ffhq")
    space = LatentSpace(generator, "w", 0.7)
    w = generator.to_w(generator.sample(FACES, 5), 0.7).double().numpy()
    rows: list[dict[str, object]] = []
    for side in (128, 256):
        begin = time.process_time()
        pictures = space.pictures(w, side)
        seconds = (time.process_time() - begin) / FACES
        rows.append({"what": f"a picture of {side} px", "cpu_seconds": round(seconds, 3)})
        rows += [
            _written(pictures, side, *kind) for kind in (("WEBP", QUALITY), ("WEBP", 80), ("JPEG", 75), ("JPEG", 80))
        ]
        rows.append(_network(generator, side))
        if side == 256:
            a_tile = len(move_sheet(pictures)) / FACES
            rows += [_study(name, a_tile, seconds) for name in ("quick", "paper")]
    for row in rows:
        print(json.dumps(row) if as_json else ", ".join(f"{key} {value}" for key, value in row.items()))


def _written(pictures: NDArray[np.uint8], side: int, kind: str, quality: int) -> dict[str, object]:
    """Bytes a picture, and how far it is from the one that was drawn."""
    sheet = pictures.reshape(FACES // 5, 5, side, side, 3).swapaxes(1, 2).reshape(-1, 5 * side, 3)
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, kind, quality=quality)
    error = (np.asarray(Image.open(stream).convert("RGB"), float) - sheet) ** 2
    return {
        "what": f"{kind} {quality}, {side} px",
        "bytes_a_picture": round(len(stream.getvalue()) / FACES),
        "psnr_db": round(float(10 * np.log10(255**2 / error.mean())), 1),
    }


def _network(generator: torch.nn.Module, side: int) -> dict[str, object]:
    """Size of the weights that a network in the page would need, as 16-bit floats in base64."""
    parts = (*EXITS, *[f"block_modules.{k}" for k in (4, 5)[: {128: 1, 256: 2}[side]]], f"heads.{side}")
    n = sum(
        value.numel() for name, value in generator.named_parameters() if name.startswith(tuple(f"{p}." for p in parts))
    )
    return {
        "what": f"weights up to the exit of {side} px",
        "parameters": n,
        "mb_in_page": round(2 * n * BASE64 / 1e6, 1),
    }


def _study(name: str, a_tile: float, seconds: float) -> dict[str, object]:
    config = preset(name)
    tiles = STEPS + 5 * 2 * len(config.report.moves)
    n = config.stimuli.n_test * len(config.subjects) * tiles
    assert name in PRESETS
    return {
        "what": f"the {name} study at 256 px",
        "pictures": n,
        "mb_in_page": round(n * a_tile * BASE64 / 1e6, 1),
        "cpu_seconds": round(n * seconds),
    }


if __name__ == "__main__":
    main()
