"""Run other people's StyleGANs on small random weights and keep what they made; README-stylegan.md says how to call it.

python make_stylegan.py ada|tensorflow|rosinality|stylegan3-t|stylegan3-r PATH

PATH is a checkout of NVlabs/stylegan2-ada-pytorch (ada, tensorflow), rosinality/stylegan2-pytorch (rosinality) or
NVlabs/stylegan3 (stylegan3-t, stylegan3-r). Their code runs as it is, on the CPU, in float32; rosinality's fixed widths
are set lower. Nothing of hyperdecode is used, so that what is kept owes nothing to it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

LATENT, FACES = 12, 2


def keep(name: str, state: dict[str, Tensor], results: dict[str, Tensor], settings: dict) -> None:
    """Write one safetensors file: ``weights.*`` as in a file of that layout, then what the network made of ``z``."""
    tensors = {f"weights.{key}": value for key, value in state.items()} | results
    tensors = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    path = Path(__file__).parent / f"stylegan-{name}.safetensors"
    save_file(tensors, path, metadata={"settings": json.dumps(settings)})
    path.chmod(0o644)
    print(f"{path.name}: {path.stat().st_size} bytes")
    for key, value in results.items():
        print(f"  {key} {tuple(value.shape)}, sd {value.std():.3f}, largest {value.abs().max():.3f}")


def randomise(network: nn.Module, generator: torch.Generator) -> None:
    """Give biases, noise strengths, averages and the Fourier features' affine map values that are seen."""
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        noise = torch.randn(value.shape, generator=generator)
        if name.startswith("mapping.") and name.endswith(".bias"):
            value.copy_(10 * noise)  # a learning rate of 0.01 is still to come
        elif name.endswith("w_avg"):
            value.copy_(0.3 * noise)
        elif name == "synthesis.input.affine.weight":
            value.copy_(noise)
        elif name == "synthesis.input.transform":
            value.copy_(torch.tensor([[0.9, -0.2, 0.1], [0.3, 1.1, -0.2], [0, 0, 1]]))
        elif name.endswith("affine.bias"):
            value.add_(0.3 * noise)
        elif name.endswith(".bias"):
            value.copy_(0.3 * noise)
        elif name.endswith("noise_strength"):
            value.copy_(0.3 + 0.1 * noise)
        elif name.endswith("magnitude_ema"):
            value.copy_(0.5 + noise.abs())


def run_nvidia(network: nn.Module, layers: dict[str, nn.Module], generator: torch.Generator) -> dict[str, Tensor]:
    """Pictures of z, and of one z truncated or without noise, of one w+, and the activations that belong to it."""
    z, none = torch.randn(FACES, LATENT, generator=generator), torch.zeros(FACES, 0)
    results = {"z": z}
    for truncation in (1, 0.7):
        ws = network.mapping(z, none, truncation_psi=truncation)
        results[f"w.{truncation}"] = ws[:, 0]
        faces = FACES if truncation == 1 else 1
        results[f"image.{truncation}"] = network.synthesis(ws[:faces], noise_mode="const", force_fp32=True)
    ws = network.mapping(z[:1], none[:1])
    results["image.no-noise"] = network.synthesis(ws, noise_mode="none", force_fp32=True)
    results["w+"] = torch.randn(1, network.num_ws, LATENT, generator=generator)
    kept: dict[str, Tensor] = {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, __, made, name=name: kept.update({name: made.clone()}))
    results["image.w+"] = network.synthesis(results["w+"], noise_mode="const", force_fp32=True)
    return results | {f"activation.{name}": value for name, value in kept.items()}


def ada() -> None:
    """StyleGAN2-ADA, 32 px, clamped where values are commonly seen."""
    from training import networks

    settings = {
        "z_dim": LATENT, "c_dim": 0, "w_dim": LATENT, "img_resolution": 32, "img_channels": 3,
        "mapping_kwargs": {"num_layers": 3, "layer_features": 20},
        "synthesis_kwargs": {"channel_base": 128, "channel_max": 16, "num_fp16_res": 4, "conv_clamp": 1.5},
    }  # fmt: skip
    network = networks.Generator(**settings).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    randomise(network, generator)
    places = ("b4.conv1", "b8.conv0", "b16.conv1", "b32.conv0")
    layers = {place: network.synthesis.get_submodule(place) for place in places}
    results = run_nvidia(network, layers, generator)
    keep("ada", network.state_dict(), results, settings)


def tensorflow() -> None:
    """A TensorFlow network's variables, turned by NVIDIA's own `legacy.py` into the network that runs."""
    import legacy

    rng = np.random.RandomState(2)
    widths = {4: 10, 8: 10, 16: 6}
    static = {
        "latent_size": LATENT, "dlatent_size": LATENT, "resolution": 16, "fmap_base": 48, "fmap_max": 10,
        "mapping_layers": 2, "mapping_fmaps": 14, "mapping_lrmul": 0.02, "num_channels": 3, "label_size": 0,
        "truncation_psi": 0.5, "style_mixing_prob": 0.9,
    }  # fmt: skip

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def modulated(scope: str, inward: int, outward: int, kernel: int) -> dict[str, np.ndarray]:
        return {
            f"{scope}/weight": normal(kernel, kernel, inward, outward), f"{scope}/bias": 0.3 * normal(outward),
            f"{scope}/mod_weight": normal(LATENT, inward), f"{scope}/mod_bias": 0.3 * normal(inward),
        }  # fmt: skip

    mapping = {
        "Dense0/weight": 50 * normal(LATENT, 14), "Dense0/bias": 10 * normal(14),
        "Dense1/weight": 50 * normal(14, LATENT), "Dense1/bias": 10 * normal(LATENT),
    }  # fmt: skip
    synthesis = {f"noise{k}": normal(1, 1, side, side) for k, side in enumerate((4, 8, 8, 16, 16))}
    synthesis["4x4/Const/const"] = normal(1, widths[4], 4, 4)
    inward = widths[4]
    for side, width in widths.items():
        for scope in ("Conv",) if side == 4 else ("Conv0_up", "Conv1"):
            synthesis |= modulated(f"{side}x{side}/{scope}", inward, width, 3)
            synthesis[f"{side}x{side}/{scope}/noise_strength"] = np.float32(0.3 * rng.rand() + 0.1)
            inward = width
        synthesis |= modulated(f"{side}x{side}/ToRGB", width, 3, 1)

    def network_of(variables: dict, components: dict) -> SimpleNamespace:
        return SimpleNamespace(
            version=4, static_kwargs=static, variables=list(variables.items()), components=components
        )

    own = {"lod": np.float32(0), "dlatent_avg": 0.3 * normal(LATENT)}
    parts = {"synthesis": network_of(synthesis, {}), "mapping": network_of(mapping, {})}
    network = legacy.convert_tf_generator(network_of(own, parts))
    results = run_nvidia(network, {}, torch.Generator().manual_seed(3))
    state = own | {f"{part}/{key}": value for part, net in parts.items() for key, value in net.variables}
    keep("tensorflow", {key: torch.from_numpy(np.array(value)) for key, value in state.items()}, results, static)


def rosinality(checkout: Path) -> None:
    """rosinality's independent implementation, 16 px, its custom kernels replaced by the CPU paths beside them."""
    import torch.utils.cpp_extension

    torch.utils.cpp_extension.load = lambda *_, **__: None
    text = re.sub(r"(4|8|16|32): 512,", r"\1: 10,", (checkout / "model.py").read_text())
    model = ModuleType("model")
    exec(compile(text, "model.py", "exec"), model.__dict__)
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(5)
    network = model.Generator(16, LATENT, 2).eval().requires_grad_(False)
    for name, value in network.named_parameters():
        if name.endswith(("bias", "noise.weight")):
            value.add_((30 if name.startswith("style") else 0.3) * torch.randn(value.shape, generator=generator))
    z = torch.randn(FACES, LATENT, generator=generator)
    mean = 0.3 * torch.randn(1, LATENT, generator=generator)
    results = {"z": z, "w.1": network.get_latent(z)}
    for truncation in (1, 0.7):
        results[f"image.{truncation}"] = network(
            [z], truncation=truncation, truncation_latent=mean, randomize_noise=False
        )[0]
    state = {f"g_ema.{key}": value for key, value in network.state_dict().items()} | {"latent_avg": mean}
    keep("rosinality", state, results, {})


def stylegan3(config: str) -> None:
    """StyleGAN3, 32 px: T with its defaults, R with few layers, other margins and a clamp that is felt."""
    from packaging.version import parse

    # Their code asks it for the version of PyTorch; setuptools no longer brings it along.
    sys.modules.setdefault("pkg_resources", SimpleNamespace(parse_version=parse))
    from training import networks_stylegan3

    settings = {
        "z_dim": LATENT, "c_dim": 0, "w_dim": LATENT, "img_resolution": 32, "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2}, "channel_base": 96, "channel_max": 8, "magnitude_ema_beta": 0.999,
    }  # fmt: skip
    if config == "r":
        settings |= {
            "conv_kernel": 1, "use_radial_filters": True, "channel_base": 128, "channel_max": 12, "num_layers": 5,
            "margin_size": 4, "conv_clamp": 1.5, "output_scale": 0.5,
        }  # fmt: skip
    generator = torch.Generator().manual_seed(6 if config == "t" else 7)
    network = networks_stylegan3.Generator(**settings).eval().requires_grad_(False)
    randomise(network, generator)
    if config == "t":
        network.synthesis.input.transform.copy_(torch.eye(3))
    names = network.synthesis.layer_names
    layers = {name: getattr(network.synthesis, name) for name in (names[0], names[-2])}
    results = run_nvidia(network, layers, generator)
    del results["image.no-noise"]
    keep(f"3-{config}", network.state_dict(), results, settings)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    what, path = sys.argv[1], Path(sys.argv[2]).resolve()
    sys.path.insert(0, str(path))
    if what.startswith("stylegan3-"):
        stylegan3(what[-1])
    elif what == "rosinality":
        rosinality(path)
    else:
        {"ada": ada, "tensorflow": tensorflow}[what]()
