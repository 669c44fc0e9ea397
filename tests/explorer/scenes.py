"""A scene of the tiny generator with two test faces of one subject."""

import numpy as np
import torch

from hyperdecode.explorer.scene import DecodedFaces, Scene
from hyperdecode.generators.attributes import AttributeNormals


def normals(dim, space="w"):
    rows = torch.nn.functional.normalize(torch.randn(3, dim, generator=torch.Generator().manual_seed(5)), dim=1)
    return AttributeNormals(("age", "smile", "pose"), rows, torch.zeros(3), torch.tensor([0.5, 1.0, 2.0]), space)


def scene(generator, **changes):
    """Faces whose pictures on disk are of one grey each."""
    decoded, true = (generator.to_w(generator.sample(2, seed)).clone() for seed in (7, 8))
    looks = {"shown": 40, "decoded": 200}
    faces = DecodedFaces(("a", "b"), decoded, true, lambda face, what: np.full((8, 8, 3), looks[what] + face, np.uint8))
    given = {"title": "tiny", "space": "w", "normals": normals(generator.latent_dim), "subjects": {"sub-01": faces}}
    return Scene(generator=generator, **given | changes)
