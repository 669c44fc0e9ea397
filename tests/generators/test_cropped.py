import pytest
import torch

from hyperdecode.generators.cropped import CroppedSynthesis
from hyperdecode.generators.mobilestylegan import MobileStyleGAN, _reach
from hyperdecode.generators.windows import Window


def cropped(generator, layers, crop):
    wanted = {name: Window.centre(generator._sides[name], crop) for name in layers}
    return CroppedSynthesis(generator, _reach(generator.layer_names, generator._sides, wanted), wanted)


def plain(generator, w, layers, crop):
    """Crops of whole maps, made with gradients."""
    with torch.enable_grad():
        found = generator.activations(w.clone().requires_grad_(), layers)
    sides = {name: Window.centre(generator._sides[name], crop) for name in layers}
    return {name: found[name].detach()[:, :, slice(*at), slice(*at)] for name, at in sides.items()}


@pytest.mark.parametrize("crop", [1, 3, 6, 16, 64])
def test_crops_are_those_of_whole_maps(tiny_generator, crop):
    w = tiny_generator.to_w(tiny_generator.sample(5, 0))
    for layers in [*((name,) for name in tiny_generator.layer_names), tiny_generator.layer_names]:
        found, expected = cropped(tiny_generator, layers, crop).activations(w), plain(tiny_generator, w, layers, crop)
        assert list(found) == list(layers)
        for name in layers:
            assert found[name].shape == expected[name].shape
            torch.testing.assert_close(
                found[name], expected[name], rtol=0, atol=1e-5 * float(expected[name].abs().max())
            )


def test_a_first_convolution_may_be_separable_too(make_tiny_tensors):
    tensors = make_tiny_tensors()
    weight = tensors["synthesis.conv0.weight"]
    tensors["synthesis.conv0.depthwise"] = weight[0][:, None].clone()
    tensors["synthesis.conv0.weight"] = weight[:, :, :1, :1].clone()
    generator = MobileStyleGAN(tensors)
    w, layers = generator.to_w(generator.sample(3, 0)), ("b4.conv", "b16.conv2")
    found, expected = cropped(generator, layers, 6).activations(w), plain(generator, w, layers, 6)
    for name in layers:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5 * float(expected[name].abs().max()))


def test_crops_of_the_real_network_are_those_of_whole_maps(face_generator):
    w, layers = face_generator.to_w(face_generator.sample(2, 0)), ("b8.conv2", "b64.conv1")
    found, expected = cropped(face_generator, layers, 16).activations(w), plain(face_generator, w, layers, 16)
    for name in layers:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5 * float(expected[name].abs().max()))
