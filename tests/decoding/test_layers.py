from types import SimpleNamespace

import pytest

from hyperdecode.decoding.layers import MODEL_LAYERS, PAPER_LAYERS, layer_at_depth
from hyperdecode.errors import UserError


def named(names, resolution=1024):
    return SimpleNamespace(name="some-gan", layer_names=(*names, "image"), resolution=resolution)


def sides(top):
    return [8 * 2**n for n in range((top // 8).bit_length())]


MOBILE = named(["b4.conv", *(f"b{s}.conv{k}" for s in sides(512) for k in (1, 2))])
STYLEGAN2 = named(["b4.conv1", *(f"b{s}.conv{k}" for s in sides(1024) for k in (0, 1))])
WIDTHS = (36, 36, 36, 36, 52, 52, 84, 84, 148, 148, 276, 276, 532, 1044, 1044)
STYLEGAN3 = named([f"L{k}_{side}_{64 + k}" for k, side in enumerate(WIDTHS)])


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        (named(map(str, range(1, 19))), ["1", "4", "9", "14", "image"]),
        (MOBILE, ["b4.conv", "b8.conv2", "b64.conv1", "b256.conv2", "image"]),
        (STYLEGAN2, ["b4.conv1", "b8.conv1", "b64.conv0", "b256.conv1", "image"]),
        (STYLEGAN3, ["L0_36_64", "L0_36_64", "L4_52_68", "L11_276_75", "image"]),
    ],
)
def test_the_papers_layers_in_every_family(generator, expected):
    assert [layer_at_depth(generator, k) for k in MODEL_LAYERS] == expected
    assert MODEL_LAYERS[1:] == PAPER_LAYERS == (4, 9, 14, 19)


@pytest.mark.parametrize("generator", [MOBILE, STYLEGAN2, STYLEGAN3, named(map(str, range(1, 19)))])
def test_a_greater_depth_never_lies_further_up(generator):
    places = [generator.layer_names.index(layer_at_depth(generator, k)) for k in range(1, 20)]
    assert places == sorted(places) and places[0] == 0 and places[-1] == len(generator.layer_names) - 1


def test_where_there_is_no_map_of_1024_px_the_last_convolution_stands_for_it():
    assert [layer_at_depth(MOBILE, k) for k in (15, 16, 17, 18)] == ["b512.conv1", *["b512.conv2"] * 3]


def test_the_real_families(tiny_generator):
    assert [layer_at_depth(tiny_generator, k) for k in (1, 2, 3, 8, 9, 19)] == [
        "b4.conv", "b4.conv", "b8.conv1", "b32.conv2", "b32.conv2", "image"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("generator", "k", "words"),
    [
        (named(["b4.conv1", "b8.conv0", "b8.conv1"], 8), 5, "maps have 16 px: take a depth up to 4, or 19"),
        (MOBILE, 0, "depth 0"),
        (MOBILE, 20, "depth 20"),
        (named(["stem"]), 1, "'stem' of some-gan"),
    ],
)
def test_mistakes_are_one_line(generator, k, words):
    with pytest.raises(UserError, match=words) as mistake:
        layer_at_depth(generator, k)
    assert "\n" not in str(mistake.value)
