"""StyleGAN3's own matters: sizes, filters, margins. What it shares with StyleGAN2 is in test_stylegans.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from hyperdecode.errors import WeightFileError
from hyperdecode.generators import stylegan3 as module
from hyperdecode.generators.stylegan3 import StyleGAN3
from hyperdecode.generators.stylegan3_design import Design, lowpass
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.layouts.stylegan3 import from_nvidia

GOLDEN = Path(__file__).parent / "golden"


def read(config):
    """A golden file as NVIDIA's code wrote it, and as ours reads it."""
    with safe_open(GOLDEN / f"stylegan-3-{config}.safetensors", "np") as file:
        state = {k.removeprefix("weights."): file.get_tensor(k) for k in file.keys() if k.startswith("weights.")}  # noqa: SIM118
        contents = WeightContents("nvidia-torch", state, "golden.pkl", json.loads(file.metadata()["settings"]))
    return contents, from_nvidia(contents)


def build(weights, drop=(), **settings):
    tensors = {k: torch.from_numpy(v) for k, v in weights.tensors.items() if not k.endswith(tuple(drop) or ("?",))}
    return StyleGAN3(tensors, {**weights.settings, **settings})


@pytest.mark.parametrize("config", ["t", "r"])
def test_designed_filters_and_sizes_are_those_of_nvidias_file(config):
    contents, weights = read(config)
    generator = build(weights)
    names = {name.split(".")[1] for name in contents.tensors if name.startswith("synthesis.L")}
    names = sorted(names, key=lambda name: int(name[1:].split("_")[0]))
    assert list(generator.layer_names) == [*names[:-1], "image"]
    design = Design.from_settings(weights.settings, len(names) - 1)
    kernel = 3 if config == "t" else 1
    filters = 0
    for index, name in enumerate(names):
        plan = design.layer(index, kernel)
        assert plan.out_size == int(name.split("_")[1])
        for which in ("up_filter", "down_filter"):
            mine, theirs = getattr(plan, which), contents.tensors.get(f"synthesis.{name}.{which}")
            assert (mine is None) == (theirs is None)
            if theirs is not None:
                np.testing.assert_allclose(mine, theirs, atol=1e-7)
                filters += 1
    assert filters == 2 * (len(names) - 1)
    radial = [design.layer(index, kernel).down_filter.ndim for index in range(len(names) - 1)]
    assert radial == ([1] * 14 if config == "t" else [2, 2, 2, 1, 1])
    w = generator.sample(1, 0)
    assert torch.allclose(build(weights, drop=("_filter",)).images(w), generator.images(w), atol=1e-6)


@pytest.mark.parametrize(
    ("design", "kernel", "sizes", "ups", "paddings"),
    [
        # What networks_stylegan3.py of NVlabs/stylegan3 at c233a91 works out for its three published sizes.
        (Design(1024), 3, [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024],
         [2, 2, 4, 2, 4, 4, 2, 4, 2, 4, 4, 2, 2, 2, 1], {2: (9, 8), 4: (-6, -9), "critical": (-11, -12)}),
        (Design(256), 3, [36, 36, 36, 52, 52, 84, 84, 148, 148, 148, 276, 276, 276, 256, 256],
         [2, 2, 2, 4, 2, 4, 2, 4, 2, 2, 4, 2, 2, 2, 1], {2: (9, 8), 4: (-6, -9), "critical": (-11, -12)}),
        (Design(512, radial=True), 1, [36, 36, 52, 52, 84, 84, 148, 148, 276, 276, 532, 532, 532, 512, 512],
         [2, 2, 4, 2, 4, 2, 4, 2, 4, 2, 4, 2, 2, 2, 1], {2: (11, 10), 4: (-2, -5), "critical": (-9, -10)}),
    ],
)  # fmt: skip
def test_published_sizes(design, kernel, sizes, ups, paddings):
    plans = [design.layer(index, kernel) for index in range(15)]
    assert [plan.out_size for plan in plans] == sizes == design.sizes
    assert [plan.up for plan in plans] == ups and [plan.down for plan in plans] == [2] * 14 + [1]
    assert [plan.padding for plan in plans[:13]] == [paddings[up] for up in ups[:13]]
    assert [plan.padding for plan in plans[13:]] == [paddings["critical"], (0, 0)]


def test_filters_pass_what_is_below_the_cutoff_and_stop_what_is_above():
    for radial in (False, True):
        filter_ = lowpass(24, cutoff=2.0, width=3.0, rate=16.0, radial=radial)
        assert filter_.shape == ((24, 24) if radial else (24,)) and abs(filter_.sum() - 1) < 1e-6
        along = filter_.sum(0) if radial else filter_
        assert np.allclose(filter_, filter_[::-1], atol=1e-7)
        response = np.abs(np.fft.rfft(along, 1024))
        frequencies = np.arange(513) * 16 / 1024
        assert response[frequencies < 0.4].min() > 0.98 and response[frequencies > 3.6].max() < 0.02
    radial = lowpass(24, 2.0, 3.0, 16.0, radial=True)
    assert np.allclose(radial, radial.T, atol=1e-7)
    assert np.linalg.matrix_rank(radial, tol=1e-4) > 1  # no product of two filters
    assert np.isfinite(lowpass(7, 2.0, 3.0, 16.0, radial=True)).all()  # an odd one has a tap in the middle


@pytest.mark.parametrize("config", ["t", "r"])
def test_channels_in_chunks_make_the_same_picture(config, monkeypatch):
    generator = build(read(config)[1])
    w = generator.to_w(generator.sample(2, 1))
    layers = generator.layer_names
    whole = generator.activations(w, layers)
    monkeypatch.setattr(module, "CHUNK_BYTES", {"cpu": 1})
    monkeypatch.setattr(module, "LEAST_CHANNELS", 1)
    for layer, value in generator.activations(w, layers).items():
        torch.testing.assert_close(value, whole[layer], atol=1e-6, rtol=1e-5)


def test_the_files_transform_moves_the_picture():
    """A translation by one pixel of the first layer's grid moves its features by one pixel."""
    weights = read("t")[1]
    generator = build(weights)
    w = generator.sample(1, 0)
    still = generator.input(w)
    generator.input.transform[0, 2] = 1 / 16  # 16 samples a picture, along x
    moved = generator.input(w)
    # The turn by w comes after the file's transform: undo it to see the shift along x alone.
    generator.input.affine.weight.zero_()
    generator.input.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    moved_unturned = generator.input(w)
    generator.input.transform[0, 2] = 0
    unturned = generator.input(w)
    torch.testing.assert_close(moved_unturned[..., :-1], unturned[..., 1:], atol=1e-4, rtol=1e-4)
    assert (moved - still).abs().max() > 0.1 and unturned.shape == (1, 8, 36, 36)


def test_frequencies_out_of_the_band_fade():
    generator = build(read("t")[1], drop=("transform",))
    generator.input.affine.weight.zero_()
    generator.input.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    w = generator.sample(1, 0)
    generator.input.transform[:2, :2] *= 1000
    assert generator.input(w).abs().max() == 0
    generator.input.transform[:2, :2] /= 1000
    assert generator.input(w).abs().max() > 0.1


def test_clamp_and_scale():
    weights = read("t")[1]
    w = build(weights).sample(1, 0)
    plain, scaled = build(weights).images(w), build(weights, output_scale=1.0).images(w)
    torch.testing.assert_close(4 * plain, scaled)
    assert torch.equal(build(weights, conv_clamp=None).images(w), plain)  # nothing here reaches 256
    assert build(weights, conv_clamp=0.05).images(w).abs().max() <= 0.05 * 0.25


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 33}, "resolution is 33, expected a power of two"),
        ({"resolution": 2**30}, "resolution is"),
        ({"resolution": None}, "resolution is"),
        ({"resolution": 64}, "has shape|do not fit"),
        ({"num_critical": 14}, "num_critical"),
        ({"first_cutoff": 0}, "first_cutoff"),
        ({"first_stopband": 1.0}, "first_stopband"),
        ({"last_stopband_rel": 0.5}, "last_stopband_rel"),
        ({"margin_size": 10**6}, "margin_size"),
        ({"filter_size": 10**6}, "filter_size"),
        ({"filter_size": 5}, "up_filter has shape"),
        ({"lrelu_upsampling": 1}, "lrelu_upsampling"),
        ({"conv_clamp": "x"}, "conv_clamp"),
        ({"output_scale": 0}, "output_scale"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(WeightFileError, match=words) as error:
        build(read("t")[1], **settings)
    assert "\n" not in str(error.value)


def test_odd_settings_build_or_are_refused_in_one_line():
    """Settings come out of a file: whatever they are, no other error."""
    source, weights, built = np.random.RandomState(0), read("r")[1], 0
    for _ in range(60):
        settings = {
            "resolution": int(2 ** source.randint(4, 8)), "num_critical": int(source.randint(0, 6)),
            "first_cutoff": float(source.uniform(0.5, 12)), "first_stopband": float(source.uniform(0.5, 40)),
            "last_stopband_rel": float(source.uniform(0.9, 4.1)), "margin_size": int(source.randint(0, 20)),
            "filter_size": int(source.randint(1, 9)), "lrelu_upsampling": int(source.randint(1, 5)),
            "use_radial_filters": bool(source.randint(2)),
        }  # fmt: skip
        try:
            generator = build(weights, drop=("_filter",), **settings)
            side = settings["resolution"]
            picture = generator.images(generator.sample(1, 0))
            assert picture.shape == (1, 3, side, side) and torch.isfinite(picture).all()
            built += 1
        except WeightFileError as error:
            assert "\n" not in str(error)
    assert built > 10
