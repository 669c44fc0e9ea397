"""StyleGAN layouts. That the pictures are those of the original programs is in tests/generators/test_stylegans.py."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.layouts import pggan, stylegan2, stylegan3

GOLDEN = Path(__file__).parents[1] / "generators" / "golden"
FORMATS = {"tensorflow": "dnnlib", "rosinality": "torch"}
LAYOUTS = {
    "ada": ("nvidia", stylegan2.from_nvidia),
    "tensorflow": ("dnnlib", stylegan2.from_dnnlib),
    "rosinality": ("rosinality", stylegan2.from_rosinality),
    "3-t": ("nvidia", stylegan3.from_nvidia),
    "3-r": ("nvidia", stylegan3.from_nvidia),
}


def read(name):
    with safe_open(GOLDEN / f"stylegan-{name}.safetensors", "np") as file:
        state = {k.removeprefix("weights."): file.get_tensor(k) for k in file.keys() if k.startswith("weights.")}  # noqa: SIM118
        return WeightContents(
            FORMATS.get(name, "nvidia-torch"), state, f"{name}.pkl", json.loads(file.metadata()["settings"])
        )


def changed(contents, tensors=None, drop=(), **settings):
    kept = {k: v for k, v in contents.tensors.items() if k not in drop}
    return replace(contents, tensors=kept | (tensors or {}), settings={**contents.settings, **settings})


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", LAYOUTS)
def test_recognised(name):
    contents, (layout, convert) = read(name), LAYOUTS[name]
    mine, other = (stylegan3, stylegan2) if name.startswith("3") else (stylegan2, stylegan3)
    assert mine.recognise(contents) == layout and other.recognise(contents) is None
    assert pggan.recognise(contents) is None
    weights = convert(contents)
    assert weights.family == ("stylegan3" if name.startswith("3") else "stylegan2")
    assert "StyleGAN" in weights.layout and "non-commercial" in weights.licence
    assert weights.settings == json.loads(json.dumps(weights.settings))
    for value in weights.tensors.values():
        # Scalars have one dimension, because writers of files turn those without any into such.
        assert value.dtype == np.float32 and value.flags.c_contiguous and value.ndim > 0


def test_others_are_not_recognised():
    stylegan1 = {"G_synthesis/4x4/Const/const": np.zeros((1, 8, 4, 4), np.float32), "G_mapping/Dense0/weight": 0}
    for tensors in ({}, {"layer0.weight": 0}, stylegan1, {"synthesis.b8.conv0.weight": 0}):
        contents = WeightContents("torch", tensors, "x")
        assert stylegan2.recognise(contents) is None and stylegan3.recognise(contents) is None


def test_gains_are_folded_in():
    t, ours = read("ada").tensors, stylegan2.from_nvidia(read("ada")).tensors
    np.testing.assert_allclose(ours["mapping.0.weight"], t["mapping.fc0.weight"] * 0.01 / np.sqrt(12), rtol=1e-6)
    np.testing.assert_allclose(ours["mapping.1.weight"], t["mapping.fc1.weight"] * 0.01 / np.sqrt(20), rtol=1e-6)
    np.testing.assert_allclose(ours["mapping.0.bias"], t["mapping.fc0.bias"] * 0.01, rtol=1e-6)
    affine = "b8.conv0.affine.weight"
    np.testing.assert_allclose(ours[affine], t[f"synthesis.{affine}"] / np.sqrt(12), rtol=1e-6)
    np.testing.assert_array_equal(ours["b8.conv0.affine.bias"], t["synthesis.b8.conv0.affine.bias"])
    colours = t["synthesis.b8.torgb.weight"] / np.sqrt(t["synthesis.b8.torgb.weight"].shape[1])
    np.testing.assert_allclose(ours["b8.to_rgb.weight"], colours, rtol=1e-6)
    rated = changed(read("ada"), mapping_kwargs={"lr_multiplier": 0.02})
    np.testing.assert_allclose(stylegan2.from_nvidia(rated).tensors["mapping.0.bias"], 2 * ours["mapping.0.bias"])
    t, ours = read("3-r").tensors, stylegan3.from_nvidia(read("3-r")).tensors
    np.testing.assert_allclose(np.square(ours["L2.weight"]).sum((1, 2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(ours["L2.gain"], t["synthesis.L2_40_8.magnitude_ema"].reshape(1) ** -0.5, rtol=1e-6)


def test_convolutions_of_tensorflow_are_turned_where_they_upsample():
    t, ours = read("tensorflow").tensors, stylegan2.from_dnnlib(read("tensorflow")).tensors
    up, plain = t["synthesis/8x8/Conv0_up/weight"], t["synthesis/8x8/Conv1/weight"]
    scale = np.sqrt(9 * up.shape[2])
    for i, j, y, x in ((1, 2, 0, 1), (3, 0, 2, 2)):
        np.testing.assert_allclose(ours["b8.conv0.weight"][i, j, y, x] * scale, up[2 - y, 2 - x, j, i], rtol=1e-6)
        np.testing.assert_allclose(ours["b8.conv1.weight"][i, j, y, x] * scale, plain[y, x, j, i], rtol=1e-6)
    np.testing.assert_allclose(ours["b8.conv0.affine.bias"], t["synthesis/8x8/Conv0_up/mod_bias"] + 1)
    for ours_noise, theirs in (("b4.conv1", 0), ("b8.conv0", 1), ("b8.conv1", 2), ("b16.conv0", 3), ("b16.conv1", 4)):
        np.testing.assert_array_equal(ours[f"{ours_noise}.noise"], t[f"synthesis/noise{theirs}"][0, 0])


def test_the_same_file_by_other_names():
    contents = read("tensorflow")
    other = {
        (f"G_{name}" if name.startswith(("mapping/", "synthesis/")) else name): value
        for name, value in contents.tensors.items()
    }
    other = replace(contents, tensors=other)
    assert stylegan2.recognise(other) == "dnnlib"
    assert same(stylegan2.from_dnnlib(other).tensors, stylegan2.from_dnnlib(contents).tensors)
    contents = read("rosinality")
    bare = replace(contents, tensors={k.removeprefix("g_ema."): v for k, v in contents.tensors.items()})
    assert stylegan2.recognise(bare) == "rosinality"
    assert same(stylegan2.from_rosinality(bare).tensors, stylegan2.from_rosinality(contents).tensors)
    beside = changed(contents, {f"{net}.conv1.conv.weight": np.zeros(3, np.float32) for net in ("g", "d")})
    assert same(stylegan2.from_rosinality(beside).tensors, stylegan2.from_rosinality(contents).tensors)
    # Arguments may lie in a dictionary of their own.
    for name, key in (("ada", "init_kwargs"), ("tensorflow", "static_kwargs"), ("3-r", "init_kwargs")):
        contents, (_, convert) = read(name), LAYOUTS[name]
        nested = replace(contents, settings={"class_name": "Generator", key: contents.settings})
        assert convert(nested).settings == convert(contents).settings
        assert same(convert(nested).tensors, convert(contents).tensors)


def test_clamp_and_filter_come_from_the_file():
    contents = read("ada")
    assert stylegan2.from_nvidia(contents).settings == {
        "conv_clamp": 1.5,
        "resample_filter": [0.125, 0.375, 0.375, 0.125],
    }
    # stylegan2-ada-pytorch has no clamp by default; the stylegan3 repository, which does not nest arguments, has one.
    nested = changed(contents, synthesis_kwargs={"channel_base": 128})
    assert stylegan2.from_nvidia(nested).settings["conv_clamp"] is None
    flat = {k: v for k, v in contents.settings.items() if k != "synthesis_kwargs"}
    assert stylegan2.from_nvidia(replace(contents, settings=flat)).settings["conv_clamp"] == 256
    off = replace(contents, settings={**flat, "conv_clamp": None})
    assert stylegan2.from_nvidia(off).settings["conv_clamp"] is None
    assert stylegan2.from_nvidia(replace(contents, settings={})).settings["conv_clamp"] is None
    filter_ = "synthesis.b4.conv1.resample_filter"
    other = changed(contents, {filter_: np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16})
    assert stylegan2.from_nvidia(other).settings["resample_filter"] == [0.25, 0.5, 0.25]
    assert stylegan2.from_nvidia(changed(contents, drop=[filter_])).settings["resample_filter"] == [1, 3, 3, 1]
    tensorflow = changed(read("tensorflow"), conv_clamp=256, resample_kernel=None)
    assert stylegan2.from_dnnlib(tensorflow).settings == {"conv_clamp": 256, "resample_filter": [1]}


def test_what_a_file_may_lack():
    contents = read("rosinality")
    lost = [name for name in contents.tensors if "noises." in name or name == "latent_avg"]
    left = stylegan2.from_rosinality(changed(contents, drop=lost)).tensors
    assert "w_avg" not in left and "b8.conv0.noise" not in left and "b8.conv0.noise_strength" in left
    contents = read("ada")
    lost = [name for name in contents.tensors if ".noise" in name or name == "mapping.w_avg"]
    left = stylegan2.from_nvidia(changed(contents, drop=lost)).tensors
    assert not any("noise" in name or name == "w_avg" for name in left)
    # Without arguments, names and shapes say what they can.
    for name, layout in (("3-t", "StyleGAN3-T"), ("3-r", "StyleGAN3-R")):
        weights = stylegan3.from_nvidia(replace(read(name), settings={}))
        assert weights.settings == {"resolution": 32, "use_radial_filters": name == "3-r"}
        assert weights.layout.startswith(layout)


OPTIONAL = ("w_avg", "dlatent_avg", "latent_avg", "lod", "resample_filter", "kernel", "_filter", "transform")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tensor_is_asked_for(name):
    """A tensor that is gone, empty, or of other dimensions is refused in one line, whichever it is."""
    contents, (_, convert) = read(name), LAYOUTS[name]
    for key, value in contents.tensors.items():
        if key.endswith(OPTIONAL):
            continue
        broken = {"empty": changed(contents, {key: np.zeros((0, 3), np.float32)})}
        if value.size > 1:
            broken["of more dimensions"] = changed(contents, {key: value[None, None]})
        if "noise" not in key:  # which some networks do without
            broken["gone"] = changed(contents, drop=[key])
        for how, file in broken.items():
            with pytest.raises(WeightFileError) as error:
                convert(file)
                pytest.fail(f"{key} was {how}")
            assert "\n" not in str(error.value) and str(error.value).startswith(f"{name}.pkl")


BLOCKS = (
    ("ada", "synthesis.b8."),
    ("ada", "synthesis.b32."),
    ("tensorflow", "synthesis/8x8/"),
    ("tensorflow", "synthesis/16x16/"),
    ("rosinality", "g_ema.convs.1."),
    ("3-r", "synthesis.L2_"),
)


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_a_block_that_is_left_out_is_missed(name, block):
    contents = read(name)
    with pytest.raises(WeightFileError, match=r"blocks of|not all there"):
        LAYOUTS[name][1](changed(contents, drop=[key for key in contents.tensors if key.startswith(block)]))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("ada", {"c_dim": 10}, "is conditional"),
        ("3-t", {"c_dim": 10}, "is conditional"),
        ("tensorflow", {"label_size": 10}, "is conditional"),
        ("ada", {"synthesis_kwargs": {"architecture": "resnet"}}, "architecture is 'resnet', only 'skip'"),
        ("ada", {"architecture": "orig"}, "architecture is 'orig', only 'skip'"),
        ("tensorflow", {"architecture": "resnet"}, "architecture is 'resnet', only 'skip'"),
        ("ada", {"synthesis_kwargs": {"activation": "relu"}}, "activation is 'relu'"),
        ("tensorflow", {"nonlinearity": "relu"}, "nonlinearity is 'relu'"),
        ("tensorflow", {"mapping_nonlinearity": "relu"}, "mapping_nonlinearity is 'relu'"),
        ("tensorflow", {"normalize_latents": False}, "normalize_latents is 'False'"),
        ("ada", {"img_channels": 1}, "img_channels is '1'"),
        ("3-r", {"img_channels": 4}, "img_channels is '4'"),
        ("ada", {"mapping_kwargs": {"lr_multiplier": "x"}}, "learning rate is 'x'"),
        ("tensorflow", {"mapping_lrmul": [0.01]}, "learning rate is"),
    ],
)
def test_other_networks_are_refused(name, settings, words):
    with pytest.raises(WeightFileError, match=words) as error:
        LAYOUTS[name][1](changed(read(name), **settings))
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{name}.pkl")


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        ("ada", {"mapping.embed.weight": (12, 5)}, "is conditional"),
        ("3-t", {"mapping.embed.weight": (12, 5)}, "is conditional"),
        ("tensorflow", {"mapping/LabelConcat/weight": (5, 12)}, "is conditional"),
        ("ada", {"synthesis.b8.skip.weight": (16, 16, 1, 1)}, "other than 'skip'"),
        ("tensorflow", {"synthesis/8x8/Skip/weight": (1, 1, 10, 10)}, "other than 'skip'"),
        ("tensorflow", {"synthesis/ToRGB_lod0/weight": (1, 1, 6, 3)}, "other than 'skip'"),
        ("ada", {"synthesis.b4.conv1.resample_filter": (4, 4)}, "no outer product"),
        ("3-t", {"synthesis.L20_32_3.weight": (3, 3, 1, 1)}, "are not all there"),
    ],
)
def test_tensors_of_other_networks_are_refused(name, tensors, words):
    source = np.random.RandomState(0)
    added = {key: source.random_sample(shape).astype(np.float32) for key, shape in tensors.items()}
    with pytest.raises(WeightFileError, match=words):
        LAYOUTS[name][1](changed(read(name), added))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_magnitude_that_is_none_is_refused(value):
    for layer in ("L0_36_8", "L14_32_3"):
        key = f"synthesis.{layer}.magnitude_ema"
        with pytest.raises(WeightFileError, match="magnitude_ema is"):
            stylegan3.from_nvidia(changed(read("3-t"), {key: np.array(value, np.float32)}))
    weight = read("3-t").tensors["synthesis.L0_36_8.weight"].copy()
    weight[3] = 0
    with pytest.raises(WeightFileError, match="all zero"):
        stylegan3.from_nvidia(changed(read("3-t"), {"synthesis.L0_36_8.weight": weight}))
