"""Tensors of tiny networks by the names of each program that publishes such files, with random values."""

import numpy as np
import torch

MAPPING = 2


def _normal(rng, *shape):
    return rng.normal(scale=0.3, size=shape).astype(np.float32)


def pggan_tensorflow(rng, latent=4, width=4, side=8):
    tensors = {"4x4/Dense/weight": _normal(rng, latent, 16 * width), "lod": np.float32(0)}
    convolutions = ["4x4/Conv"] + [f"{s}x{s}/Conv{k}" for s in _sides(side)[1:] for k in (0, 1)]
    tensors |= {f"{name}/weight": _normal(rng, 3, 3, width, width) for name in convolutions}
    tensors |= {f"{name}/bias": _normal(rng, width) for name in ["4x4/Dense", *convolutions]}
    for lod in range(len(_sides(side))):
        tensors |= {f"ToRGB_lod{lod}/weight": _normal(rng, 1, 1, width, 3), f"ToRGB_lod{lod}/bias": _normal(rng, 3)}
    return tensors


def _sides(side):
    return [4 * 2**k for k in range(side.bit_length() - 2)]


def pggan_genforce(rng, latent=4, width=4, depth=4):
    tensors = {"layer0.weight": _normal(rng, width, latent, 4, 4), "lod": np.float32(0)}
    tensors |= {f"layer{k}.weight": _normal(rng, width, width, 3, 3) for k in range(1, depth)}
    tensors |= {f"layer{k}.bias": _normal(rng, width) for k in range(depth)}
    for k in range(depth // 2):
        tensors |= {f"output{k}.weight": _normal(rng, 3, width, 1, 1), f"output{k}.bias": _normal(rng, 3)}
    return tensors


def pggan_interfacegan(rng):
    names = {".weight": ".conv.weight", ".bias": ".wscale.bias"}
    tensors = pggan_genforce(rng)
    return {
        next((name.replace(old, new) for old, new in names.items() if name.endswith(old)), name): value
        for name, value in tensors.items()
    }


def pggan_ptrblck(rng, latent=4, width=4, depth=4):
    tensors = {"features.0.conv.weight": _normal(rng, width, latent, 4, 4)}
    tensors |= {f"features.{k}.conv.weight": _normal(rng, width, width, 3, 3) for k in range(1, depth)}
    for k in range(depth):
        tensors |= {f"features.{k}.wscale.scale": _normal(rng, 1), f"features.{k}.wscale.b": _normal(rng, width)}
    return tensors | {
        "output.conv.weight": _normal(rng, 3, width, 1, 1),
        "output.wscale.scale": _normal(rng, 1),
        "output.wscale.b": _normal(rng, 3),
    }


def pggan_mxnet(rng, latent=4, width=4, blocks=1):
    tensors = {"1.weight": _normal(rng, 16 * width, latent), "2.b": _normal(rng, width)}
    for name in ["5", *(f"{8 + block}.{place}" for block in range(blocks) for place in (0, 3))]:
        tensors |= {f"{name}.weight": _normal(rng, width, width, 3, 3), f"{name}.bias": _normal(rng, width)}
    return tensors | {f"{8 + blocks}.weight": _normal(rng, 3, width, 1, 1), f"{8 + blocks}.bias": _normal(rng, 3)}


def _mapping_nvidia(rng, size):
    tensors = {"mapping.w_avg": _normal(rng, size)}
    for k in range(MAPPING):
        tensors |= {f"mapping.fc{k}.weight": _normal(rng, size, size), f"mapping.fc{k}.bias": _normal(rng, size)}
    return tensors


def _affine(rng, name, size, width):
    return {f"{name}.affine.weight": _normal(rng, width, size), f"{name}.affine.bias": _normal(rng, width)}


def stylegan2_nvidia(rng, size=4, width=4, side=8):
    tensors = _mapping_nvidia(rng, size) | {"synthesis.b4.const": _normal(rng, width, 4, 4)}
    for s in _sides(side):
        for conv in ("conv1",) if s == 4 else ("conv0", "conv1"):
            name = f"synthesis.b{s}.{conv}"
            tensors |= {f"{name}.weight": _normal(rng, width, width, 3, 3), f"{name}.bias": _normal(rng, width)}
            tensors |= {f"{name}.noise_const": _normal(rng, s, s), f"{name}.noise_strength": _normal(rng)}
            tensors |= _affine(rng, name, size, width)
        name = f"synthesis.b{s}.torgb"
        tensors |= {f"{name}.weight": _normal(rng, 3, width, 1, 1), f"{name}.bias": _normal(rng, 3)}
        tensors |= _affine(rng, name, size, width)
    return tensors


def stylegan2_tensorflow(rng, size=4, width=4, side=8):
    """Return the tensors of the network, of its mapping, and of its synthesis, which are networks of their own."""
    mapping, synthesis = {}, {"4x4/Const/const": _normal(rng, 1, width, 4, 4)}
    for k in range(MAPPING):
        mapping |= {f"Dense{k}/weight": _normal(rng, size, size), f"Dense{k}/bias": _normal(rng, size)}
    for k, (s, conv) in enumerate([(4, "Conv"), *((s, c) for s in _sides(side)[1:] for c in ("Conv0_up", "Conv1"))]):
        name = f"{s}x{s}/{conv}"
        synthesis |= {f"{name}/weight": _normal(rng, 3, 3, width, width), f"noise{k}": _normal(rng, 1, 1, s, s)}
        synthesis |= {f"{name}/noise_strength": _normal(rng)} | _style_tensorflow(rng, name, size, width, width)
    for s in _sides(side):
        name = f"{s}x{s}/ToRGB"
        synthesis |= {f"{name}/weight": _normal(rng, 1, 1, width, 3)} | _style_tensorflow(rng, name, size, width, 3)
    return {"dlatent_avg": _normal(rng, size)}, mapping, synthesis


def _style_tensorflow(rng, name, size, width, out):
    return {
        f"{name}/mod_weight": _normal(rng, size, width),
        f"{name}/mod_bias": _normal(rng, width),
        f"{name}/bias": _normal(rng, out),
    }


def stylegan2_rosinality(rng, size=4, width=4, side=8):
    tensors = {"input.input": _normal(rng, 1, width, 4, 4)}
    for k in range(MAPPING):
        tensors |= {f"style.{k + 1}.weight": _normal(rng, size, size), f"style.{k + 1}.bias": _normal(rng, size)}
    blocks = len(_sides(side)) - 1
    for name in ["conv1", *(f"convs.{k}" for k in range(2 * blocks))]:
        tensors |= {f"{name}.conv.weight": _normal(rng, 1, width, width, 3, 3), f"{name}.noise.weight": _normal(rng, 1)}
        tensors[f"{name}.activate.bias"] = _normal(rng, width)
        tensors |= _modulation(rng, f"{name}.conv", size, width)
    for name in ["to_rgb1", *(f"to_rgbs.{k}" for k in range(blocks))]:
        tensors |= {f"{name}.conv.weight": _normal(rng, 1, 3, width, 1, 1), f"{name}.bias": _normal(rng, 1, 3, 1, 1)}
        tensors |= _modulation(rng, f"{name}.conv", size, width)
    return tensors


def _modulation(rng, name, size, width):
    return {f"{name}.modulation.weight": _normal(rng, width, size), f"{name}.modulation.bias": _normal(rng, width)}


STYLEGAN3 = {"img_resolution": 32, "num_layers": 6, "num_critical": 2, "margin_size": 4, "output_scale": 0.25}


def stylegan3_nvidia(rng, size=4, width=4):
    name = "synthesis.input"
    tensors = _mapping_nvidia(rng, size) | {f"{name}.weight": _normal(rng, width, width)}
    tensors |= {f"{name}.transform": np.eye(3, dtype=np.float32), f"{name}.freqs": _normal(rng, width, 2)}
    tensors |= {f"{name}.phases": _normal(rng, width)} | _affine(rng, name, size, 4)
    for name in ("L0_24_4", "L1_24_4", "L2_40_4", "L3_40_4", "L4_40_4", "L5_32_4", "L6_32_3"):
        name, last = f"synthesis.{name}", name.startswith("L6")
        out, side = (3, 1) if last else (width, 3)
        tensors |= {f"{name}.weight": _normal(rng, out, width, side, side), f"{name}.bias": _normal(rng, out)}
        tensors |= {f"{name}.magnitude_ema": np.float32(1.25)} | _affine(rng, name, size, width)
    return tensors


def resnet50_keras(rng, width=2):
    """Return {layer: {weight name: array}} of a ResNet50 of keras-vggface, narrow."""
    layers = {"input_1": {}} | _normalised(rng, "conv1/7x7_s2", 7, 3, width)
    inward = width
    for stage, blocks in enumerate((3, 4, 6, 3), 2):
        for block in range(1, blocks + 1):
            name, out = f"conv{stage}_{block}", 2 * width
            layers |= _normalised(rng, f"{name}_1x1_reduce", 1, inward, width)
            layers |= _normalised(rng, f"{name}_3x3", 3, width, width)
            layers |= _normalised(rng, f"{name}_1x1_increase", 1, width, out)
            layers |= _normalised(rng, f"{name}_1x1_proj", 1, inward, out) if block == 1 else {}
            inward = out
    return layers


def _normalised(rng, name, side, inward, out):
    parts = {part: np.abs(_normal(rng, out)) + 0.5 for part in ("gamma", "beta", "moving_mean", "moving_variance")}
    return {
        name: {f"{name}/kernel:0": _normal(rng, side, side, inward, out)},
        f"{name}/bn": {f"{name}/bn/{part}:0": value for part, value in parts.items()},
    }


def network_files(files):
    """Return {layout: (file name, bytes, format, tensors and settings as a reader must find them, family)}."""
    rng = np.random.default_rng(0)
    found = {}

    def put(layout, name, data, form, tensors, family, **settings):
        found[layout] = (name, data, form, tensors, settings, family)

    def torch_state(tensors, prefix="", zipped=True):
        state = {name: torch.tensor(value) for name, value in tensors.items()}
        return files.torch_file({prefix: state} if prefix else state, zipped)

    t = pggan_tensorflow(rng)
    options = {"resolution": 8, "num_channels": 3, "label_size": 0, "fused_scale": False}
    data = files.network_pickle((None, None, files.network(t, **options)), 2)
    put("PGGAN, TensorFlow", "karras2018.pkl", data, "dnnlib", t, "pggan", **options)
    t = pggan_genforce(rng)
    smooth = {f"generator_smooth.{name}": value for name, value in t.items()}
    data = torch_state(t, "generator_smooth")
    put("PGGAN, genforce", "pggan_celebahq1024.pth", data, "torch", smooth, "pggan")
    t = pggan_interfacegan(rng)
    put("PGGAN, InterFaceGAN", "pggan_celebahq.pth", torch_state(t, zipped=False), "torch", t, "pggan")
    t = pggan_ptrblck(rng)
    put("PGGAN, ptrblck", "100_celeb_hq.pth", torch_state(t, zipped=False), "torch", t, "pggan")
    t = pggan_mxnet(rng)
    put("PGGAN, MXNet", "generator.params", files.mxnet_params(t), "mxnet", t, "pggan")
    t, options = stylegan2_nvidia(rng), {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 8, "img_channels": 3}
    options["synthesis_kwargs"] = {"conv_clamp": 256.0}
    data = files.nvidia_pickle({"G": None, "D": None, "G_ema": files.persistent_tree(t, **options)})
    put("StyleGAN2, NVIDIA", "ffhq.pkl", data, "nvidia-torch", t, "stylegan2", **options)
    own, mapping, synthesis = stylegan2_tensorflow(rng)
    cls, options = files.DnnlibNetwork, {"resolution": 8, "num_channels": 3, "label_size": 0}
    parts = {"mapping": files.network(mapping, cls, 4, {}), "synthesis": files.network(synthesis, cls, 4, {})}
    data = files.network_pickle((None, None, files.network(own, cls, 4, parts, **options)))
    t = own | {f"mapping/{k}": v for k, v in mapping.items()} | {f"synthesis/{k}": v for k, v in synthesis.items()}
    put("StyleGAN2, TensorFlow", "stylegan2-ffhq-config-f.pkl", data, "dnnlib", t, "stylegan2", **options)
    t = {f"g_ema.{name}": value for name, value in stylegan2_rosinality(rng).items()}
    data = torch_state({name.removeprefix("g_ema."): value for name, value in t.items()}, "g_ema")
    put("StyleGAN2, rosinality", "550000.pt", data, "torch", t, "stylegan2")
    t, options = stylegan3_nvidia(rng), {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_channels": 3, **STYLEGAN3}
    data = files.nvidia_pickle({"G_ema": files.persistent_tree(t, **options)}, 5)
    put("StyleGAN3, NVIDIA", "stylegan3-t-ffhq.pkl", data, "nvidia-torch", t, "stylegan3", **options)
    layers = resnet50_keras(rng)
    t = {name: value for weights in layers.values() for name, value in weights.items()}
    name = "rcmalli_vggface_tf_notop_resnet50.h5"
    put("ResNet50, Keras", name, files.keras_file(layers), "keras-hdf5", t, "resnet50-vggface2")
    return found
