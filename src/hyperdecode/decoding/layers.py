"""Which layer of any generator stands where the paper's layers stand in PGGAN."""

from __future__ import annotations

import math
import re

from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator

__all__ = ["MODEL_LAYERS", "PAPER_LAYERS", "layer_at_depth"]

PAPER_LAYERS = (4, 9, 14, 19)
"""Layers of PGGAN whose activations the paper's four activation models are trained on."""

MODEL_LAYERS = (1, 4, 9, 14, 19)
"""Layers of models 1 to 5 (latent loss and the activation of one layer).

The paper does not publish which they were: these are the layers of its activation models and the first one.
"""

PICTURE = 19
SIDE_IN_NAME = re.compile(r"b(\d+)\.conv\d?|L\d+_(\d+)_\d+")


def layer_at_depth(generator: Generator, k: int) -> str:
    """Return the layer that matches layer `k` of a PGGAN of 1024 px.

    Layers 1 and 2 have maps of 4 px, 3 and 4 of 8 px, ..., 17 and 18 of 1024 px; 19 is the picture. A match is the
    first (odd k) or the second (even k) convolution at that side. Where no layer has it, the nearest side counts, its
    last layer if it is smaller and its first if it is larger: MobileStyleGAN makes 1024 px behind its convolutions of
    512 px, StyleGAN3 begins at 36 px and its maps have a margin.

    Parameters
    ----------
    generator : Generator
    k : int
        1 to 19.

    Returns
    -------
    str
        One of the generator's `layer_names`.

    Raises
    ------
    UserError
        When k is out of range, the generator's pictures are smaller than the maps of that layer, or the generator
        has names of layers that tell no side.
    """
    if not 1 <= k <= PICTURE:
        raise UserError(f"depth {k!r}: layers are counted as PGGAN's, 1 to 18 its convolutions and 19 the picture")
    if k == PICTURE:
        return generator.layer_names[-1]
    side = 1 << ((k + 3) // 2)
    if side > generator.resolution:
        deepest = 2 * generator.resolution.bit_length() - 4
        raise UserError(
            f"{generator.name} makes pictures of {generator.resolution} px and has nothing as deep as layer {k}, whose "
            f"maps have {side} px: take a depth up to {deepest}, or 19 for the picture"
        )
    sides = {name: _side(generator, name) for name in generator.layer_names[:-1]}
    nearest = min(sides.values(), key=lambda s: abs(math.log2(s / side)))
    there = [name for name, value in sides.items() if value == nearest]
    away = math.log2(nearest / side)
    first = away > 0.5 or (away >= -0.5 and k % 2 == 1)  # within half an octave it is that side
    return there[0 if first else -1]


def _side(generator: Generator, name: str) -> int:
    found = SIDE_IN_NAME.fullmatch(name)
    if found:
        return int(found[1] or found[2])
    if name.isdigit():
        return 1 << ((int(name) + 3) // 2)
    raise UserError(f"layer {name!r} of {generator.name} tells no side: name the layer itself instead of a depth")
