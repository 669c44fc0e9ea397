"""StyleGAN2's own matters: noise, clamping, filters, sizes. What it shares with StyleGAN3 is in test_stylegans.py."""

import pytest
import torch

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.generators.stylegan2 import StyleGAN2

LATENT, WIDTHS = 6, {4: 8, 8: 7, 16: 5, 32: 3}


def random_tensors(seed=0, largest=32, noise=True):
    """Every width another, so that none can stand in for another."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    def modulated(place, inward, outward, kernel):
        return {
            f"{place}.weight": normal(outward, inward, kernel, kernel) / (inward * kernel**2) ** 0.5,
            f"{place}.bias": 0.2 * normal(outward),
            f"{place}.affine.weight": normal(inward, LATENT) / LATENT**0.5,
            f"{place}.affine.bias": 1 + 0.2 * normal(inward),
        }

    tensors = {
        "mapping.0.weight": normal(9, LATENT) / LATENT**0.5, "mapping.0.bias": 0.2 * normal(9),
        "mapping.1.weight": normal(LATENT, 9) / 3, "mapping.1.bias": 0.2 * normal(LATENT), "b4.const": normal(8, 4, 4),
    }  # fmt: skip
    inward = WIDTHS[4]
    for side, width in WIDTHS.items():
        if side > largest:
            break
        for k in (1,) if side == 4 else (0, 1):
            tensors |= modulated(f"b{side}.conv{k}", inward, width, 3)
            if noise:
                tensors[f"b{side}.conv{k}.noise"] = normal(side, side)
                tensors[f"b{side}.conv{k}.noise_strength"] = 0.2 + 0.2 * normal(1).abs()
            inward = width
        tensors |= modulated(f"b{side}.to_rgb", width, 3, 1)
    return tensors


@pytest.fixture(scope="module")
def w():
    return torch.randn(2, LATENT, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("largest", [4, 8, 16, 32])
def test_sides_and_widths_are_read_from_the_tensors(largest, w):
    generator = StyleGAN2(random_tensors(largest=largest))
    sides = [side for side in WIDTHS if side <= largest]
    assert generator.resolution == largest and generator.num_ws == 2 * len(sides)
    names = ["b4.conv1", *(f"b{side}.conv{k}" for side in sides[1:] for k in (0, 1)), "image"]
    assert list(generator.layer_names) == names
    found = generator.activations(w, names)
    for name in names[:-1]:
        side = int(name[1:].split(".")[0])
        assert found[name].shape == (2, WIDTHS[side], side, side)
    assert found["image"].shape == (2, 3, largest, largest)


def test_lower_pictures_are_the_sums_that_higher_ones_add_to(w):
    """The colours of a block are the picture less the upsampled picture of a network that ends before it."""
    tensors = random_tensors()
    small = {name: value for name, value in tensors.items() if not name.startswith("b32")}
    x = StyleGAN2(tensors).activations(w, ["b32.conv1"])["b32.conv1"]
    styles = w @ tensors["b32.to_rgb.affine.weight"].T + tensors["b32.to_rgb.affine.bias"]
    colours = torch.einsum("nchw,oc,nc->nohw", x, tensors["b32.to_rgb.weight"][:, :, 0, 0], styles)
    colours = colours + tensors["b32.to_rgb.bias"][:, None, None]
    lower = StyleGAN2(small).images(w)
    # [1, 3, 3, 1] at twice the rate: a pixel weighs 3/4 in the two nearest it, 1/4 in the next two.
    pad = torch.nn.functional.pad(lower, (1, 1, 1, 1))
    wide = torch.stack([0.75 * pad[..., 1:-1] + 0.25 * pad[..., :-2], 0.75 * pad[..., 1:-1] + 0.25 * pad[..., 2:]], -1)
    wide = wide.flatten(3)
    high = torch.stack(
        [0.75 * wide[:, :, 1:-1] + 0.25 * wide[:, :, :-2], 0.75 * wide[:, :, 1:-1] + 0.25 * wide[:, :, 2:]], 3
    ).flatten(2, 3)
    torch.testing.assert_close(StyleGAN2(tensors).images(w), high + colours, atol=1e-5, rtol=1e-5)


def test_noise_is_the_files_own_or_zero_or_drawn_from_a_seed(w):
    tensors = random_tensors()
    made = {noise: StyleGAN2(tensors, noise=noise).images(w) for noise in ("file", "zero", 0, 1)}
    assert torch.equal(StyleGAN2(tensors, noise=1).images(w), made[1])
    values = list(made.values())
    assert all((a - b).abs().max() > 0.01 for i, a in enumerate(values) for b in values[:i])
    # Zero noise is what strengths of zero, or no noise inputs at all, make.
    silent = {n: 0 * v if n.endswith("noise_strength") else v for n, v in tensors.items()}
    assert torch.equal(StyleGAN2(silent).images(w), made["zero"])
    bare = {n: v for n, v in tensors.items() if ".noise" not in n}
    assert torch.equal(StyleGAN2(bare).images(w), made["zero"])
    # A file that kept its strengths but not its noise gets that of seed 0.
    forgot = {n: v for n, v in tensors.items() if not n.endswith(".noise")}
    assert torch.equal(StyleGAN2(forgot).images(w), made[0])
    prints = {StyleGAN2(tensors, noise=noise).fingerprint for noise in ("file", "zero", 0, 1)}
    assert len(prints) == 4


def test_drawn_noise_is_standard_normal_and_differs_between_layers():
    tensors = {n: torch.ones(1) if n.endswith("noise_strength") else v for n, v in random_tensors().items()}
    one, other = (layer.noise / 2**0.5 for layer in list(StyleGAN2(tensors, noise=3).convolutions)[-2:])
    assert abs(one.mean()) < 0.1 and abs(one.std() - 1) < 0.1 and abs((one * other).mean()) < 0.1


@pytest.mark.parametrize("noise", ["random", None, 1.5])
def test_an_unknown_choice_of_noise_is_refused(noise):
    with pytest.raises(UserError, match="'file', 'zero' or the seed"):
        StyleGAN2(random_tensors(), noise=noise)


def test_activations_and_colours_are_clamped(w):
    free, tight = StyleGAN2(random_tensors()), StyleGAN2(random_tensors(), {"conv_clamp": 0.25})
    names = free.layer_names[:-1]
    assert min(value.abs().max() for value in free.activations(w, names).values()) > 0.5
    for value in tight.activations(w, names).values():
        assert value.abs().max() == 0.25
    assert tight.images(w).abs().max() <= 4 * 0.25
    wide = StyleGAN2(random_tensors(), {"conv_clamp": 256})
    assert torch.equal(wide.images(w), free.images(w)) and wide.fingerprint != free.fingerprint


def test_the_filter_is_a_setting(w):
    default = StyleGAN2(random_tensors()).images(w)
    assert torch.equal(
        StyleGAN2(random_tensors(), {"resample_filter": [0.125, 0.375, 0.375, 0.125]}).images(w), default
    )
    for taps in ([1], [1, 1], [1, 2, 1], [1, 4, 6, 4, 1], [1, 2, 3, 4, 4, 3, 2, 1]):
        made = StyleGAN2(random_tensors(), {"resample_filter": taps}).images(w)
        assert made.shape == default.shape and (made - default).abs().max() > 0.01


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"conv_clamp": "256"}, "conv_clamp is '256'"), ({"conv_clamp": -1}, "conv_clamp is '-1'"),
     ({"resample_filter": "abc"}, "resample_filter is 'abc'")],
)  # fmt: skip
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(WeightFileError, match=words):
        StyleGAN2(random_tensors(), settings)


def test_a_block_without_its_second_convolution_is_refused():
    tensors = random_tensors()
    del tensors["b16.conv1.weight"]
    with pytest.raises(WeightFileError, match="no place for: b16"):
        StyleGAN2(tensors)
