"""The proof that our network is the published one: OpenVINO's own runtime on the same files."""

import zipfile

import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError
from hyperdecode.features.sources import optional
from hyperdecode.generators.base import taken

try:
    openvino = optional("openvino")
except UserError as absent:
    pytest.skip(str(absent), allow_module_level=True)

N_BATCHED = 2


@pytest.fixture(scope="module")
def networks(wheel, tmp_path_factory):
    """Compile the mapping and the synthesis network of the wheel."""
    folder = tmp_path_factory.mktemp("ir")
    core = openvino.Core()
    compiled = []
    with zipfile.ZipFile(wheel) as archive:
        for part in ("Mapping", "Synthesis"):
            for ending in ("xml", "bin"):
                member = f"random_face/data/{part}Network.{ending}"
                (folder / f"{part}.{ending}").write_bytes(archive.read(member))
            settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
            compiled.append(core.compile_model(folder / f"{part}.xml", "CPU", settings))
    return compiled


def run(network, value):
    return torch.from_numpy(np.array(next(iter(network([value.numpy()]).values()))))


@pytest.mark.parametrize("n_faces", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_faces_equal_openvinos(face_generator, networks, n_faces, capsys):
    mapping, synthesis = networks
    z = face_generator.sample(n_faces, seed=2021)
    w = face_generator.to_w(z)
    difference_w, difference_tiled, difference_batched, spread = 0.0, 0.0, 0.0, []
    for i in range(n_faces):
        their_w = run(mapping, z[i : i + 1])
        difference_w = max(difference_w, float((their_w - w[i]).abs().max()))
        theirs = run(synthesis, their_w.reshape(1, -1))
        assert theirs.shape == (1, 3, 1024, 1024)
        spread.append(float(theirs.std()))
        # Each chain from its own w: what a user of either would see.
        difference_tiled = max(difference_tiled, float((face_generator.images(w[i : i + 1]) - theirs).abs().max()))
        if i < N_BATCHED:
            ours = taken(face_generator._layers(w[i : i + 1]), ["image"])["image"]  # the pass of gradients and GPUs
            difference_batched = max(difference_batched, float((ours - theirs).abs().max()))
    with capsys.disabled():
        print(
            f"\nlargest difference from OpenVINO over {n_faces} faces: w {difference_w:.1e}, pictures by strips "
            f"{difference_tiled:.1e}, as a batch ({N_BATCHED} faces) {difference_batched:.1e}"
        )
    assert min(spread) > 0.1
    assert difference_w < 1e-4
    assert difference_tiled < 2e-3
    assert difference_batched < 2e-3
