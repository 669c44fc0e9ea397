"""Run other people's PGGANs on small random weights and keep what they made; README.md says how to call it.

python make_pggan.py genforce|interfacegan|ptrblck|hyper PATH

PATH is a checkout of genforce/genforce, genforce/interfacegan or ptrblck/prog_gans_pytorch_inference, or `hyper.ipynb`
of neuralcodinglab/HYPER. Their code runs as it is; only the numbers of channels and the number of blocks are set lower.
Nothing of hyperdecode is used, so that what is kept owes nothing to it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np

LATENT, WIDTHS, SIDE, FACES = 8, (8, 8, 6, 4), 32, 2
KEPT = (1, 4, 5)  # layers of which the first face's activation is kept


def module(path: Path) -> ModuleType:
    """Import one file of a checkout."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def values(shape: tuple[int, ...], source: np.random.RandomState, scale: float) -> np.ndarray:
    """Random numbers that float16 holds exactly, so that they take half the room."""
    return (scale * source.standard_normal(shape)).astype(np.float16).astype(np.float32)


def keep(name: str, state: dict, latents: np.ndarray, pictures: np.ndarray, activations: dict) -> None:
    """Write one npz: ``state/...``, ``z``, ``pictures``, ``activation/{layer}`` (of the first face)."""
    arrays = {f"state/{key}": value.astype(np.float16) for key, value in state.items()}
    for key, value in state.items():
        assert (arrays[f"state/{key}"].astype(np.float32) == value).all(), key
    arrays |= {f"activation/{key}": value for key, value in activations.items()}
    path = Path(__file__).parent / f"pggan-{name}.npz"
    np.savez_compressed(path, z=latents, pictures=pictures, **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, pictures {pictures.shape}, sd {pictures.std():.3f}")


def with_torch(name: str, network: object, norms: dict[int, object], seed: int, fixed: dict | None = None) -> None:
    """Fill a PyTorch network, run it, and keep the outputs of `norms` as the activations of the layers they follow."""
    import torch

    source, state = np.random.RandomState(seed), {}
    for key, value in network.state_dict().items():
        # Scales of ptrblck's networks are weights of their own, of the size that equalised learning rate gives them.
        is_scale, is_weight = key.endswith("wscale.scale"), key.endswith("weight")
        spread = 0.1 if is_scale else 1.0 if is_weight else 0.3
        state[key] = values(tuple(value.shape), source, spread) + np.float32(0.125 if is_scale else 0)
        state[key] = state[key].astype(np.float16).astype(np.float32)
    state |= fixed or {}
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    latents, found = source.standard_normal((FACES, LATENT)).astype(np.float32), {}
    for layer, norm in norms.items():
        norm.register_forward_hook(lambda _, __, out, layer=layer: found.update({layer: out[0].numpy()}))
    with torch.no_grad():
        z = torch.from_numpy(latents)
        made = network(z[:, :, None, None] if name == "ptrblck" else z)
    made = made["image"] if isinstance(made, dict) else made
    keep(name, state, latents, made.numpy(), {layer: found[layer] for layer in KEPT})


def genforce(path: Path) -> None:
    """Three variants: as it is, with fused upsampling, and while it grows."""
    made = module(path / "models" / "pggan_generator.py")

    class Small(made.PGGANGenerator):
        def get_nf(self, res: int) -> int:
            return WIDTHS[int(np.log2(res)) - 2]

    for name, fused, lod, seed in (("genforce", False, 0.0, 1), ("genforce-fused", True, 0.0, 2),
                                   ("genforce-growing", False, 0.25, 3)):  # fmt: skip
        network = Small(SIDE, z_space_dim=LATENT, fused_scale=fused)
        norms = {k: getattr(network, f"layer{k}").pixel_norm for k in range(1, 8)} | {8: network.output3.pixel_norm}
        with_torch(name, network, norms, seed, {"lod": np.array(lod, np.float32)})


def interfacegan(path: Path) -> None:
    """Run the generator that InterFaceGAN's published boundaries were found in."""
    made = module(path / "models" / "pggan_generator_model.py")
    made._RESOLUTIONS_TO_CHANNELS[SIDE] = [LATENT, *WIDTHS]
    network = made.PGGANGeneratorModel(resolution=SIDE)
    norms = {k: getattr(network, f"layer{k}").pixel_norm for k in range(1, 8)} | {8: network.output3.pixel_norm}
    with_torch("interfacegan", network, norms, 4, {"lod": np.array(0, np.float32)})


def ptrblck(path: Path) -> None:
    """Build its blocks at lower widths; the class itself has those of 1024 px written into it."""
    from torch import nn

    made = module(path / "model.py")
    network = made.Generator()
    blocks, inward = [made.NormConvBlock(LATENT, WIDTHS[0], kernel_size=4, padding=3)], WIDTHS[0]
    blocks.append(made.NormConvBlock(inward, inward, kernel_size=3, padding=1))
    for width in WIDTHS[1:]:
        blocks.append(made.NormUpscaleConvBlock(inward, width, kernel_size=3, padding=1))
        blocks.append(made.NormConvBlock(width, width, kernel_size=3, padding=1))
        inward = width
    network.features = nn.Sequential(*blocks)
    network.output.conv = nn.Conv2d(inward, 3, kernel_size=1, bias=False)
    norms = {k: blocks[k].norm for k in range(1, 8)} | {8: network.output.norm}
    with_torch("ptrblck", network, norms, 5)


def hyper(path: Path) -> None:
    """Run the classes of the notebook by MXNet, its widths and number of blocks set lower in its text."""
    import mxnet

    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    imports = next(text for text in cells if "from mxnet.gluon.nn import HybridBlock" in text)
    imports = "\n".join(line for line in imports.splitlines() if not line.startswith("!"))
    blocks = next(text for text in cells if "class Pixelnorm" in text)
    network = next(text for text in cells if "class Generator" in text)
    few = "".join(f"            self.add(Block({o}, {i}))\n" for i, o in pairwise(WIDTHS))
    network = re.sub(r"( +self\.add\(Block\(.*\n)+", few, network)
    network = network.replace("in_channels=16", f"in_channels={WIDTHS[-1]}")
    network = network.replace("8192", str(16 * WIDTHS[0])).replace("in_units=512", f"in_units={LATENT}")
    network = network.replace("512", str(WIDTHS[0]))
    scope: dict = {}
    exec("from __future__ import annotations\n" + "\n".join([imports, blocks, network]), scope)
    generator = scope["Generator"]()
    generator.initialize()
    source, state = np.random.RandomState(6), {}
    for key, parameter in generator._collect_params_with_prefix().items():
        fan_in = int(np.prod(parameter.shape[1:]))
        state[key] = values(parameter.shape, source, 0.3 if len(parameter.shape) == 1 else (2 / fan_in) ** 0.5)
        parameter.set_data(mxnet.nd.array(state[key]))
    with tempfile.TemporaryDirectory() as folder:
        generator.save_parameters(f"{folder}/generator.params")
        saved = mxnet.nd.load(f"{folder}/generator.params")
    latents = source.standard_normal((FACES, LATENT)).astype(np.float32)
    z = mxnet.nd.array(latents)
    blocks_out = {2 * (k + 1): generator(z, k).asnumpy()[0] for k in range(3)}
    keep("hyper", {k: v.asnumpy() for k, v in saved.items()}, latents, generator(z, 9).asnumpy(), blocks_out)


if __name__ == "__main__":
    {"genforce": genforce, "interfacegan": interfacegan, "ptrblck": ptrblck, "hyper": hyper}[sys.argv[1]](
        Path(sys.argv[2])
    )
