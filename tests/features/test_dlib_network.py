import copy
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from hyperdecode.errors import UserError
from hyperdecode.features import FeatureNetwork, load_feature_network
from hyperdecode.features.dlib_network import CHIP, CHIP_SIDE, _padded_sum, chips
from hyperdecode.features.frames import FRAME, TEMPLATE
from hyperdecode.features.sources import FACE_RECOGNITION
from hyperdecode.weights.packages import member_path

N = 16


@pytest.fixture(scope="module")
def features(dlib_network, faces):
    return dlib_network.features(faces)


@pytest.fixture(scope="module")
def persons(face_generator):
    """Latents w of different persons, and of as many others to mix in."""
    w = face_generator.to_w(face_generator.sample(2 * N, 1234), truncation=0.7)
    return w[:N], w[N:]


@pytest.fixture(scope="module")
def known(face_generator, dlib_network, plain_labeller, persons):
    """Features of the persons' pictures, and distances between different persons in the same pose."""
    pictures = face_generator.images(persons[0], resolution=128)
    features = dlib_network.features(pictures)
    yaw = torch.from_numpy(plain_labeller(pictures).yaw)
    alike = ((yaw[:, None] - yaw).abs() < 0.08).triu(1)
    assert alike.sum() > 50
    return pictures, features, torch.cdist(features, features)[alike].numpy()


def separation(distances, different):
    return roc_auc_score(np.r_[np.ones(len(distances)), np.zeros(len(different))], -np.r_[distances, different])


@pytest.mark.parametrize("change", ["a third of another face", "early exit of 256 px", "noise", "mirror", "light"])
def test_a_person_stays_nearer_than_another_one(face_generator, dlib_network, persons, known, change):
    """Same: one face, changed. Different: other faces in the same pose."""
    w, others = persons
    pictures, features, different = known
    if change == "a third of another face":
        changed = face_generator.images(w + 0.33 * (others - w), resolution=128)
    elif change == "early exit of 256 px":
        changed = face_generator.images(w, resolution=256)
    elif change == "noise":
        changed = pictures + 0.15 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    else:
        changed = pictures.flip(3) if change == "mirror" else 0.75 * pictures + 0.2
    same = (dlib_network.features(changed) - features).norm(dim=1).numpy()
    assert separation(same, different) >= 0.95
    assert (same > 0.02).all()  # changed indeed


def test_the_more_of_another_face_the_farther(face_generator, dlib_network, persons, known):
    w, others = persons[0][:4], persons[1][:4]
    distances = [(dlib_network.features(face_generator.images(w + part * (others - w), resolution=128)) - known[1][:4])
                 .norm(dim=1).mean() for part in (0.15, 0.5, 1.0)]  # fmt: skip
    assert 0.05 < distances[0] < distances[1] < distances[2]


def test_the_square_is_the_one_of_dlibs_alignment():
    """What dlib itself cuts out around the mean landmarks of generated faces."""
    dlib = pytest.importorskip("dlib")
    unit = 100_000
    points = [dlib.point(*(round(float(v) * unit) for v in point)) for point in TEMPLATE]
    detection = dlib.full_object_detection(dlib.rectangle(0, 0, unit, unit), points)
    details = dlib.get_face_chip_details(detection, CHIP_SIDE, 0.25)
    rectangle = details.rect
    np.testing.assert_allclose(
        [v / unit for v in (rectangle.left(), rectangle.top(), rectangle.width())], CHIP, atol=6e-4
    )
    assert abs(details.angle) < 1e-3


def test_features_are_near_those_of_dlibs_own_alignment(dlib_network, plain_labeller, faces, features):
    """With a fixed square in place of each face's own landmarks: within dlib's 0.6 for one person."""
    landmarks = plain_labeller._landmarks
    frames = torch.nn.functional.interpolate(faces, (FRAME, FRAME), mode="bilinear")
    frames = ((frames + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    aligned = [landmarks.chip(frame, landmarks.detect(frame)[0], CHIP_SIDE, 0.25) for frame in frames]
    theirs = dlib_network(torch.from_numpy(np.stack(aligned)).permute(0, 3, 1, 2))
    away = torch.cdist(features, theirs)
    assert (away.diag() < 0.6).all() and (away.argmin(1) == torch.arange(len(faces))).all()


def test_chips():
    left, top, side = (round(fraction * FRAME) for fraction in CHIP)
    pictures = torch.zeros(1, 3, FRAME, FRAME)
    pictures[:, :, top : top + side, left : left + side] = 1
    torch.testing.assert_close(chips(pictures), torch.full((1, 3, CHIP_SIDE, CHIP_SIDE), 255.0))
    down, across = torch.meshgrid(torch.linspace(-1, 1, FRAME), torch.linspace(-1, 1, FRAME), indexing="ij")
    ramp = torch.stack([across, down, -across])[None]
    made = chips(ramp) / 127.5 - 1
    middle = [2 * (start + (side - 1) / 2) / (FRAME - 1) - 1 for start in (left, top)]
    found = made[0, :, CHIP_SIDE // 2 - 1 : CHIP_SIDE // 2 + 1, CHIP_SIDE // 2 - 1 : CHIP_SIDE // 2 + 1].mean((1, 2))
    torch.testing.assert_close(found, torch.tensor([middle[0], middle[1], -middle[0]]), atol=0.01, rtol=0)
    for factor in (2, 4):
        larger = ramp.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        torch.testing.assert_close(chips(larger), chips(ramp), atol=0.01, rtol=0)


def test_faces_do_not_depend_on_their_batch(dlib_network, faces, features, monkeypatch):
    monkeypatch.setattr("hyperdecode.features.dlib_network.BATCH", 3)
    torch.testing.assert_close(dlib_network.features(faces), features, atol=1e-4, rtol=0)
    assert dlib_network.features(faces[:0]).shape == (0, 128)


def test_it_is_a_feature_network(dlib_network, features):
    assert isinstance(dlib_network, FeatureNetwork) and dlib_network.name == "dlib"
    assert features.shape == (8, dlib_network.dim) == (8, 128) and features.dtype == torch.float32


def test_mistakes_are_named(dlib_network):
    with pytest.raises(UserError, match=r"of 64 px or more, got shape \(1, 3, 32, 32\)"):
        dlib_network.features(torch.zeros(1, 3, 32, 32))


def test_dlib_is_not_needed(dlib_network, features, faces, monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    torch.testing.assert_close(load_feature_network("dlib").features(faces[:1]), features[:1], atol=1e-5, rtol=0)


def test_features_are_those_of_dlib(dlib_network, faces):
    """Its own network on the same chips."""
    dlib = pytest.importorskip("dlib")
    theirs = dlib.face_recognition_model_v1(str(member_path(FACE_RECOGNITION, "dlib")))
    bytes_ = chips(faces[:4]).round().byte()
    expected = theirs.compute_face_descriptor(list(bytes_.permute(0, 2, 3, 1).contiguous().numpy()))
    np.testing.assert_allclose(dlib_network(bytes_).numpy(), np.array(expected), atol=1e-5)


def test_gradients_are_those_of_finite_differences(dlib_network, faces):
    network = copy.deepcopy(dlib_network).double()
    face = faces[:1].double() * 0.9
    direction = torch.randn(face.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weighting = torch.randn(128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def along(step):
        return (network.features(face + step * direction) * weighting).sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(along(step), step)
    torch.testing.assert_close(slope, (along(1e-8) - along(-1e-8)) / 2e-8, rtol=1e-5, atol=0)


def test_terms_of_different_shape_are_padded_behind():
    a, b = torch.ones(1, 2, 3, 2), torch.full((1, 1, 2, 3), 10.0)
    total = _padded_sum(a, b)
    assert total.shape == (1, 2, 3, 3)
    assert total[0, 0].tolist() == [[11, 11, 10], [11, 11, 10], [1, 1, 0]]
    assert total[0, 1].tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 0]]
