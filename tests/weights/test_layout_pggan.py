import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hyperdecode.errors import WeightFileError
from hyperdecode.generators.pggan import PGGAN
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.layouts import pggan as layouts

WIDTHS = (12, 12, 10, 9)
LATENT = 11
SIDES = (4, 8, 16, 32)
FILES = ("dnnlib", "dnnlib-fused", "genforce", "genforce-fused", "interfacegan", "interfacegan-fused", "ptrblck",
         "mxnet", "mxnet-old")  # fmt: skip


def random(shape, source, scale=1.0):
    return (scale * source.standard_normal(shape)).astype(np.float32)


def layers():
    """Level, place in the level, widths in and out of each convolution."""
    inward = LATENT
    for level, width in enumerate(WIDTHS):
        for place in (0, 1):
            yield level, place, inward, width
            inward = width


def dnnlib(fused, seed=0):
    source, tensors = np.random.default_rng(seed), {"lod": np.zeros((), np.float32)}
    for level, place, inward, width in layers():
        side = 4 << level
        names = ("Dense", "Conv") if level == 0 else ("Conv0_up" if fused else "Conv0", "Conv1")
        scope = f"{side}x{side}/{names[place]}"
        shape = (3, 3, width, inward) if names[place] == "Conv0_up" else (3, 3, inward, width)
        tensors[f"{scope}/weight"] = random((inward, 16 * width) if names[place] == "Dense" else shape, source)
        tensors[f"{scope}/bias"] = random(width, source, 0.3)
        tensors[f"ToRGB_lod{3 - level}/weight"] = random((1, 1, width, 3), source)
        tensors[f"ToRGB_lod{3 - level}/bias"] = random(3, source, 0.3)
    return tensors


def genforce(fused, interfacegan, seed=0):
    source, tensors = np.random.default_rng(seed), {"lod": np.zeros((), np.float32)}
    weight, bias = ("conv.weight", "wscale.bias") if interfacegan else ("weight", "bias")
    for level, place, inward, width in layers():
        k, up = 2 * level + place, fused and level > 0 and place == 0
        if up and interfacegan:
            tensors[f"layer{k}.weight"] = random((3, 3, inward, width), source)
        else:
            shape = (width, inward, 4, 4) if k == 0 else (inward, width, 3, 3) if up else (width, inward, 3, 3)
            tensors[f"layer{k}.{weight}"] = random(shape, source)
        tensors[f"layer{k}.{bias}"] = random(width, source, 0.3)
        tensors[f"output{level}.{weight}"] = random((3, width, 1, 1), source)
        tensors[f"output{level}.{bias}"] = random(3, source, 0.3)
    return tensors


def ptrblck(seed=0):
    source, tensors = np.random.default_rng(seed), {}
    for level, place, inward, width in layers():
        name = f"features.{2 * level + place}"
        kernel = 4 if name == "features.0" else 3
        tensors[f"{name}.conv.weight"] = random((width, inward, kernel, kernel), source)
        tensors[f"{name}.wscale.scale"] = 0.1 + abs(random(1, source, 0.1))
        tensors[f"{name}.wscale.b"] = random(width, source, 0.3)
    tensors["output.conv.weight"] = random((3, WIDTHS[-1], 1, 1), source)
    tensors["output.wscale.scale"] = 0.3 + abs(random(1, source, 0.1))
    tensors["output.wscale.b"] = random(3, source, 0.3)
    return tensors


def mxnet(old, seed=0):
    source, tensors = np.random.default_rng(seed), {}
    for level, place, inward, width in layers():
        present = ("", "5")[place] if level == 0 else f"{7 + level}.{3 * place}"
        name = (f"block{level - 1}_conv{place}" if level else "conv0") if old else present
        joint = "_" if old else "."
        if level == place == 0:
            tensors["dense0_weight" if old else "1.weight"] = random((16 * width, inward), source, inward**-0.5)
            tensors["bias0_b" if old else "2.b"] = random(width, source, 0.3)
        else:
            tensors[f"{name}{joint}weight"] = random((width, inward, 3, 3), source, (2 / (9 * inward)) ** 0.5)
            tensors[f"{name}{joint}bias"] = random(width, source, 0.3)
    last = "conv1_" if old else "11."
    tensors[f"{last}weight"] = random((3, WIDTHS[-1], 1, 1), source, 0.2)
    tensors[f"{last}bias"] = random(3, source, 0.3)
    return tensors


def build(name, **settings):
    """A file of the layout `name` with random values."""
    family, _, variant = name.partition("-")
    makers = {
        "dnnlib": lambda: dnnlib(variant == "fused"),
        "genforce": lambda: genforce(variant == "fused", interfacegan=False),
        "interfacegan": lambda: genforce(variant == "fused", interfacegan=True),
        "ptrblck": ptrblck,
        "mxnet": lambda: mxnet(variant == "old"),
    }
    container = {"dnnlib": "dnnlib", "mxnet": "mxnet"}.get(family, "torch")
    return WeightContents(container, makers[family](), f"{name}.file", settings)


def read(contents):
    return layouts.LAYOUTS[layouts.recognise(contents)](contents)


# An evaluation of each layout by the equations of its own program, without the reader and without PGGAN.


def norm(x):
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def leaky(x):
    return torch.maximum(x, 0.2 * x)


def up(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def transposed(x, kernel):
    """TensorFlow's fused upsampling: kernel (3, 3, in, out), widened to 4 x 4 by adding its four shifts, stride 2."""
    padded = F.pad(kernel, (0, 0, 0, 0, 1, 1, 1, 1))
    wide = padded[1:, 1:] + padded[:-1, 1:] + padded[1:, :-1] + padded[:-1, :-1]
    n, _, h, w = x.shape
    out = torch.zeros(n, kernel.shape[3], 2 * h + 2, 2 * w + 2, dtype=x.dtype)
    for i in range(4):
        for j in range(4):
            out[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2] += torch.einsum("nchw,co->nohw", x, wide[i, j])
    return out[:, :, 1:-1, 1:-1]


def around(x, kernel):
    """Cross-correlation with a kernel (3, 3, in, out), zeros outside."""
    padded, (h, w) = F.pad(x, (1, 1, 1, 1)), x.shape[2:]
    return sum(
        torch.einsum("nchw,co->nohw", padded[:, :, i : i + h, j : j + w], kernel[i, j])
        for i in range(3)
        for j in range(3)
    )


def evaluated(name, contents, z):
    t = {key: torch.from_numpy(value).double() for key, value in contents.tensors.items()}
    family, _, variant = name.partition("-")
    x = norm(z.double())
    for level, place, inward, width in layers():
        k, side = 2 * level + place, 4 << level
        he = math.sqrt(2 / (9 * inward if k else 16 * inward))
        if family == "dnnlib":
            scope = (
                f"{side}x{side}/" + ("Dense", "Conv", "Conv0_up" if variant else "Conv0", "Conv1")[min(k, 2 + k % 2)]
            )
            weight, bias = t[f"{scope}/weight"] * he, t[f"{scope}/bias"]
            if k == 0:
                y = (x @ weight).reshape(-1, width, 4, 4)
            elif place == 0:
                y = transposed(x, weight.transpose(2, 3)) if variant else around(up(x), weight)
            else:
                y = around(x, weight)
        elif family in ("genforce", "interfacegan"):
            fused = variant and level and place == 0
            suffix = "conv.weight" if family == "interfacegan" and not fused else "weight"
            weight = t[f"layer{k}.{suffix}"] * he
            bias = t[f"layer{k}." + ("wscale.bias" if family == "interfacegan" else "bias")]
            if k == 0:
                y = F.conv2d(x[:, :, None, None], weight, padding=3)
            elif fused:
                y = transposed(x, weight if family == "interfacegan" else weight.permute(2, 3, 0, 1))
            else:
                y = F.conv2d(x if place else up(x), weight, padding=1)
        elif family == "ptrblck":
            weight, bias = t[f"features.{k}.conv.weight"], t[f"features.{k}.wscale.b"]
            x = x[:, :, None, None] if k == 0 else x if place else up(x)
            y = F.conv2d(x, weight, padding=1 if k else 3) * t[f"features.{k}.wscale.scale"]
        elif k == 0:
            dense, bias = (t["dense0_weight"], t["bias0_b"]) if variant else (t["1.weight"], t["2.b"])
            y = (x @ dense.T).reshape(-1, width, 4, 4)
        else:
            present = "5." if level == 0 else f"{7 + level}.{3 * place}."
            old = "conv0_" if level == 0 else f"block{level - 1}_conv{place}_"
            weight, bias = (t[f"{old if variant else present}{kind}"] for kind in ("weight", "bias"))
            y = F.conv2d(x if place else up(x), weight, padding=1)
        x = norm(leaky(y + bias[:, None, None]))
    weight, bias, gain = {
        "dnnlib": ("ToRGB_lod0/weight", "ToRGB_lod0/bias", 1 / math.sqrt(WIDTHS[-1])),
        "genforce": ("output3.weight", "output3.bias", 1 / math.sqrt(WIDTHS[-1])),
        "interfacegan": ("output3.conv.weight", "output3.wscale.bias", 1 / math.sqrt(WIDTHS[-1])),
        "ptrblck": ("output.conv.weight", "output.wscale.b", t.get("output.wscale.scale")),
        "mxnet": ("conv1_weight", "conv1_bias", 1) if variant else ("11.weight", "11.bias", 1),
    }[family]
    colours = t[weight].reshape(-1, 3) if family == "dnnlib" else t[weight].reshape(3, -1).T
    return torch.einsum("nchw,co->nohw", x, colours * gain) + t[bias][:, None, None]


@pytest.mark.parametrize("name", FILES)
def test_a_file_makes_the_picture_of_its_own_program(name):
    contents = build(name)
    weights = read(contents)
    generator = PGGAN({key: torch.from_numpy(value) for key, value in weights.tensors.items()})
    z = generator.sample(2, 1)
    expected = evaluated(name, contents, z)
    assert expected.shape == (2, 3, 32, 32) and expected.std() > 0.2
    torch.testing.assert_close(generator.images(z).double(), expected, atol=1e-4, rtol=0)
    assert weights.family == "pggan" and weights.layout.startswith("PGGAN, ") and "CC BY-NC 4.0" in weights.licence
    assert generator.resolutions == ((32,) if name[:3] in ("ptr", "mxn") else SIDES)
    assert all(value.dtype == np.float32 and value.flags.c_contiguous for value in weights.tensors.values())


@pytest.mark.parametrize("name", FILES)
def test_each_layout_is_recognised_as_itself(name):
    expected = {"interfacegan": "genforce"}.get(name.split("-")[0], name.split("-")[0])
    assert layouts.recognise(build(name)) == expected


def test_one_network_in_two_layouts_has_the_same_tensors():
    """Karras' variables and genforce's conversion of them, whose rules are those of its `pggan_converter.py`."""
    contents = build("dnnlib")
    converted = {"generator_smooth.lod": np.zeros((), np.float32)}
    for level, place, inward, width in layers():
        k, side = 2 * level + place, 4 << level
        scope = f"{side}x{side}/" + ("Dense", "Conv", "Conv0", "Conv1")[min(k, 2 + k % 2)]
        weight = contents.tensors[f"{scope}/weight"]
        if k == 0:
            weight = weight.reshape(inward, width, 4, 4).transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
        else:
            weight = weight.transpose(3, 2, 0, 1)
        converted[f"generator_smooth.layer{k}.weight"] = weight
        converted[f"generator_smooth.layer{k}.bias"] = contents.tensors[f"{scope}/bias"]
        for kind in ("weight", "bias"):
            colours = contents.tensors[f"ToRGB_lod{3 - level}/{kind}"]
            converted[f"generator_smooth.output{level}.{kind}"] = colours.T if kind == "weight" else colours
    there = read(WeightContents("torch", converted, "converted.pth")).tensors
    here = read(contents).tensors
    assert here.keys() == there.keys() and "lod" not in here
    assert all(np.array_equal(here[key], there[key]) for key in here)


@pytest.mark.parametrize("name", ["genforce", "interfacegan"])
@pytest.mark.parametrize("prefix", ["generator_smooth.", "models.generator_smooth.", "generator."])
def test_the_averaged_generator_is_taken_from_a_checkpoint(name, prefix):
    plain, other = build(name).tensors, genforce(False, name == "interfacegan", seed=1)
    tensors = {f"{prefix}{key}": value for key, value in plain.items()}
    if "smooth" in prefix:
        tensors |= {f"{prefix.replace('_smooth', '')}{key}": value for key, value in other.items()}
    tensors |= {f"{prefix.replace('generator_smooth', 'generator')}".replace("generator", "discriminator") + key: value
                for key, value in other.items()}  # fmt: skip
    contents = WeightContents("torch", tensors, "checkpoint.pth")
    assert layouts.recognise(contents) == "genforce"
    found, expected = read(contents).tensors, read(build(name)).tensors
    assert found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in found)


def test_equal_widths_do_not_tell_whether_upsampling_is_fused(monkeypatch):
    monkeypatch.setattr(f"{__name__}.WIDTHS", (LATENT,) * 4)
    fused, plain = genforce(True, False), genforce(False, False)
    assert {key: value.shape for key, value in fused.items()} == {key: value.shape for key, value in plain.items()}
    assert np.array_equal(
        read(WeightContents("torch", plain, "f", {"fused_scale": True})).tensors["conv.3.weight"],
        read(WeightContents("torch", plain, "f")).tensors["conv.3.weight"].transpose(1, 0, 2, 3)[:, :, ::-1, ::-1],
    )


@pytest.mark.parametrize("name", ["dnnlib", "genforce"])
def test_weights_without_equalised_learning_rate_are_taken_as_they_are(name):
    plain, equalised = read(build(name, use_wscale=False)).tensors, read(build(name)).tensors
    for k, (_, _, inward, _) in enumerate(layers(), 1):
        scale = math.sqrt(2 / (9 * inward if k > 1 else 16 * inward))
        np.testing.assert_allclose(equalised[f"conv.{k}.weight"], plain[f"conv.{k}.weight"] * scale, rtol=1e-6)
        assert np.array_equal(equalised[f"conv.{k}.bias"], plain[f"conv.{k}.bias"])


@pytest.mark.parametrize("name", ["dnnlib", "genforce", "interfacegan"])
def test_the_level_of_detail_is_kept(name):
    contents = build(name)
    contents.tensors["lod"] = np.array(1.25, np.float32)
    tensors = read(contents).tensors
    assert tensors["lod"].shape == () and tensors["lod"] == 1.25
    assert PGGAN({key: torch.from_numpy(value) for key, value in tensors.items()}).lod == 1.25


@pytest.mark.parametrize("name", ["dnnlib", "genforce", "interfacegan"])
@pytest.mark.parametrize("lod", [-1.0, 3.5, float("nan"), float("inf")])
def test_an_impossible_level_of_detail_is_refused(name, lod):
    contents = build(name)
    contents.tensors["lod"] = np.array(lod, np.float32)
    with pytest.raises(WeightFileError, match=rf"{name}.file has lod .*, expected 0 to 3"):
        read(contents)


def cases():
    return [(name, key) for name in FILES for key in build(name).tensors if key != "lod"]


@pytest.mark.parametrize(("name", "key"), cases())
def test_every_absent_or_misshapen_tensor_is_refused_in_one_line(name, key):
    reader = layouts.LAYOUTS[layouts.recognise(build(name))]
    absent = build(name)
    del absent.tensors[key]
    with pytest.raises(WeightFileError, match=rf"^{name}.file (is|holds)") as error:
        reader(absent)
    assert "\n" not in str(error.value)
    value = build(name).tensors[key]
    # The first weight says by itself how long a latent is: one less is another network.
    latent_axis = {"4x4/Dense/weight": 0, "1.weight": 1, "dense0_weight": 1}.get(key)
    shorter = [value[:-1], value[..., :-1]]
    if latent_axis is not None:
        shorter.pop(latent_axis)
    for wrong in (*shorter, value[:0], value[..., :0], value[None], value.reshape(-1)[:0], np.float32(1)):
        broken = build(name)
        broken.tensors[key] = wrong
        with pytest.raises(WeightFileError, match=rf"^{name}.file is no PGGAN that fits") as error:
            reader(broken)
        assert "\n" not in str(error.value) and "has shape" in str(error.value) and "expected" in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("label_size", 10), ("use_pixelnorm", False), ("normalize_latents", False), ("use_leakyrelu", False),
     ("pixelnorm_epsilon", 1e-6), ("num_channels", 1), ("label_size", "a\nb")],
)  # fmt: skip
def test_networks_of_other_equations_are_refused(setting, value):
    with pytest.raises(WeightFileError, match=f"dnnlib.file holds a PGGAN with {setting} = .*, only") as error:
        read(build("dnnlib", **{setting: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("reader", "names", "words"),
    [
        ("dnnlib", ["99999x99999/Conv1/weight"], "of a side from 4 to 1024"),
        ("dnnlib", ["12x12/Conv1/weight"], "of a side from 4 to 1024"),
        ("dnnlib", ["x"], "of a side from 4 to 1024"),
        ("genforce", ["layer99999.weight"], "100000 PGGAN layers, expected 2 to 18"),
        ("genforce", ["layer2.weight"], "3 PGGAN layers"),
        ("genforce", ["x"], "lacks the tensor layer0.weight"),
        ("ptrblck", ["features.18.conv.weight"], "19 PGGAN layers"),
        ("ptrblck", ["x"], "lacks the tensor features.0.conv.weight"),
        ("mxnet", ["17.weight"], "of a side from 4 to 1024"),
        ("mxnet", ["x"], "of a side from 4 to 1024"),
    ],
)
def test_what_is_no_pggan_is_refused(reader, names, words):
    contents = WeightContents("any", {name: np.zeros((2, 2, 3, 3), np.float32) for name in names}, "odd.pth")
    assert layouts.recognise(contents) is None
    with pytest.raises(WeightFileError, match=words) as error:
        layouts.LAYOUTS[reader](contents)
    assert "\n" not in str(error.value)


def test_other_families_are_not_recognised():
    zeros = np.zeros((4, 4, 3, 3), np.float32)
    for names in (
        [
            "synthesis.layer0.weight",
            "synthesis.output0.weight",
            "synthesis.layer0.style.weight",
            "mapping.dense0.weight",
        ],
        ["G_synthesis/4x4/Const/const", "G_synthesis/ToRGB_lod0/weight"],
        ["features.0.weight", "classifier.weight"],
        ["1.weight", "5.weight", "8.0.weight"],
        [],
    ):
        assert layouts.recognise(WeightContents("torch", dict.fromkeys(names, zeros), "other")) is None
