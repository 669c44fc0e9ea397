"""Latents and pictures of what the page asks for."""

import json

import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError
from hyperdecode.explorer.asked import REACH, read_asked
from hyperdecode.explorer.scene import principal_directions
from hyperdecode.stimuli.pictures import to_uint8
from tests.explorer.scenes import normals, scene


def asked(**fields):
    return read_asked(json.dumps({"side": 64} | fields).encode())


def test_a_picture_is_the_generators_own(tiny_generator):
    there = scene(tiny_generator)
    w = tiny_generator.to_w(tiny_generator.sample(1, 3), 0.7)
    for side in (64, 16):
        picture, _ = there.picture(asked(seed=3, truncation=0.7, side=side))
        with torch.inference_mode():
            np.testing.assert_array_equal(picture, to_uint8(tiny_generator.images(w, resolution=side))[0])


def test_a_test_face_goes_from_decoded_to_true(tiny_generator):
    there = scene(tiny_generator)
    faces = there.subjects["sub-01"]
    for share, expected in (
        (0, faces.decoded[1]),
        (1, faces.true[1]),
        (0.25, 0.75 * faces.decoded[1] + 0.25 * faces.true[1]),
    ):
        found = there.latent(asked(subject="sub-01", face=1, share=share))
        torch.testing.assert_close(found, expected[None])


def test_moves_add_up_in_standard_deviations(tiny_generator):
    there = scene(tiny_generator)
    start = there.latent(asked(seed=2))
    found = there.latent(
        asked(seed=2, attributes={"smile": 1.5, "age": -1.0}, directions=[0.0, 2.0], dimensions=[[4, -2]])
    )
    direction = principal_directions(tiny_generator)[1]
    spread = tiny_generator.w_statistics()[1]
    moved = 1.5 * there.normals.normals[1] * 1.0 - there.normals.normals[0] * 0.5 + 2 * direction
    moved[4] -= 2 * spread[4]
    torch.testing.assert_close(found - start, moved[None], atol=1e-5, rtol=0)


def test_truncation_pulls_the_face_and_not_the_moves(tiny_generator):
    there = scene(tiny_generator)
    mean = tiny_generator.w_statistics()[0]
    moved = there.latent(asked(seed=2, truncation=0, attributes={"pose": 1}))
    torch.testing.assert_close(moved[0], mean + 2.0 * there.normals.normals[2], atol=1e-5, rtol=0)


def test_other_attributes_are_held(tiny_generator):
    there = scene(tiny_generator)
    before, after = (
        there.scores(there.latent(asked(seed=2, attributes={"smile": amount}, keep=True))) for amount in (0, 3)
    )
    assert after["smile"] > before["smile"] + 1
    for name in ("age", "pose"):
        assert after[name] == pytest.approx(before[name], abs=1e-4)
    loose = there.scores(there.latent(asked(seed=2, attributes={"smile": 3})))
    assert abs(loose["age"] - before["age"]) > 0.1, "without holding, the others move along"


def test_scores_count_from_the_mean_face(tiny_generator):
    there = scene(tiny_generator)
    assert there.scores(there.latent(asked(seed=2, truncation=0))) == pytest.approx(
        {"age": 0, "smile": 0, "pose": 0}, abs=1e-4
    )
    one = there.scores(there.latent(asked(seed=2, truncation=0, attributes={"age": 1})))
    assert one["age"] == pytest.approx(1, abs=1e-4)


def test_principal_directions_are_orthogonal_and_as_long_as_w_varies(tiny_generator):
    found = principal_directions(tiny_generator, 4).double()
    lengths = found.norm(dim=1)
    torch.testing.assert_close(found @ found.T, torch.diag(lengths**2), atol=1e-5, rtol=0)
    w = tiny_generator.to_w(tiny_generator.sample(4000, 99)).double()
    along = (w @ (found / lengths[:, None]).T).std(dim=0)
    torch.testing.assert_close(along, lengths, rtol=0.1, atol=0)
    assert (lengths.diff() <= 0).all()


def test_latents_in_z_are_made_drawable_then_truncated(tiny_generator):
    drawable = lambda z: tiny_generator.to_w(z)  # noqa: E731
    there = scene(tiny_generator, space="z", normals=normals(16, "z"), subjects={}, drawable=drawable)
    picture, _ = there.picture(asked(seed=4, truncation=0.5, dimensions=[[3, 1.5]]))
    z = tiny_generator.sample(1, 4)
    z[0, 3] += 1.5
    with torch.inference_mode():
        expected = to_uint8(tiny_generator.images(tiny_generator.to_w(z, 0.5)))[0]
    assert np.abs(picture.astype(int) - expected).max() <= 1
    assert there.description()["directions"] == 0


def test_what_the_page_is_told(tiny_generator):
    said = scene(tiny_generator).description()
    assert said["attributes"] == ["age", "smile", "pose"] and said["subjects"] == {"sub-01": ["a", "b"]}
    assert (said["previews"], said["resolution"], said["dimensions"], said["directions"]) == ([8, 16], 64, 16, 5)
    json.dumps(said)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"share": 1.01}, "share"),
        ({"truncation": -0.1}, "truncation"),
        ({"seed": 2**31}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"attributes": {"smile": REACH + 0.1}}, "attributes.smile"),
        ({"attributes": {"x" * 65: 0}}, "attributes"),
        ({"directions": [0.0] * 33}, "directions"),
        ({"dimensions": [[-1, 0.0]]}, "dimensions.0.0"),
        ({"side": 10**9}, "side"),
        ({"side": None}, "side"),
        ({"path": "/etc/passwd"}, "path"),
        ({"share": float("nan")}, "share"),
        ({"directions": [float("inf")]}, "directions.0"),
    ],
)
def test_values_beyond_their_bounds_are_refused(fields, words):
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        asked(**fields)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"share": 0.5}', b"\xff\xfe", b"[" * 4000])
def test_what_is_no_request_is_refused(body):
    with pytest.raises(UserError):
        read_asked(body)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"side": 48}, "no picture of 48 px: 8, 16, 64"),
        ({"subject": "sub-02"}, "no test face 0 of 'sub-02'"),
        ({"subject": "sub-01", "face": 2}, "no test face 2"),
        ({"attributes": {"hat": 1}}, "no attribute 'hat': choose among age, smile, pose"),
        ({"directions": [0.0] * 6}, "6 directions were moved along, there are 5"),
        ({"dimensions": [[16, 1.0]]}, "dimensions 0 to 15"),
    ],
)
def test_what_there_is_not_is_refused(tiny_generator, fields, words):
    with pytest.raises(UserError, match=words):
        scene(tiny_generator).picture(asked(**fields))
