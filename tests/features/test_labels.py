import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.features import FaceLabeller, FaceLabels, label_faces
from hyperdecode.features.frames import FARTHEST, FRAME, TEMPLATE, to_bytes, to_frames

GOLDEN = json.loads((Path(__file__).parent / "golden" / "labels.json").read_text(encoding="utf-8"))

# What a person sees on golden/faces.png.
WOMAN = np.array([False, True, True, False, False, True, True])  # the last one is a baby
SMILING = np.array([True, False, True, True, False, False, True, False])
GREY_HAIRED, BABY = [0, 3], 7
LEFT, RIGHT = 3, 5


def same(a, b, atol):
    for field in fields(FaceLabels):
        np.testing.assert_allclose(getattr(a, field.name), getattr(b, field.name), atol=atol, err_msg=field.name)


def test_faces_are_labelled_as_a_person_sees_them(labels):
    assert ((labels.p_female > 0.5)[:7] == WOMAN).all()
    assert ((labels.p_smile > 0.5) == SMILING).all()
    assert (labels.age[GREY_HAIRED] > 50).all() and labels.age[BABY] < 8
    assert ((labels.age[[1, 2, 4, 5, 6]] > 15) & (labels.age[[1, 2, 4, 5, 6]] < 50)).all()
    assert np.argmin(labels.yaw) == LEFT and np.argmax(labels.yaw) == RIGHT
    assert labels.yaw[LEFT] < -0.1 and labels.yaw[RIGHT] > 0.2
    assert labels.found.all() and len(labels) == 8


def test_labels_are_those_of_the_classifiers_own_runtimes(plain_labeller, sheet):
    frames = [sheet.crop((k, 0, k + 128, 128)).resize((FRAME, FRAME), Image.Resampling.BILINEAR)
              for k in range(0, 1024, 128)]  # fmt: skip
    found = plain_labeller._score(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(found.landmarks * FRAME, GOLDEN["landmarks"])
    np.testing.assert_allclose(found.age, GOLDEN["age"], atol=0.01)
    female, male = np.array(GOLDEN["gender"]).T
    np.testing.assert_allclose(found.female, np.log(female / male), atol=0.01)
    emotion = np.array(GOLDEN["emotion"])
    happy = emotion[:, 3]
    # Pillow rounds the grey square to bytes, twice.
    np.testing.assert_allclose(found.smile, np.log(happy / (emotion.sum(1) - happy)), atol=0.2)


def test_a_mirrored_face_turns_the_other_way_and_nothing_else(labeller, labels, faces):
    mirrored = labeller(faces.flip(3))
    np.testing.assert_allclose(mirrored.yaw, -labels.yaw, atol=1e-6)
    for name in ("age", "female", "smile"):
        np.testing.assert_allclose(getattr(mirrored, name), getattr(labels, name), atol=2e-3)
    np.testing.assert_allclose(mirrored.landmarks[:, 4, 0], 1 - 1 / FRAME - labels.landmarks[:, 4, 0], atol=1e-6)
    np.testing.assert_allclose(mirrored.landmarks[:, :2, 1], labels.landmarks[:, 2:4, 1], atol=1e-6)


def test_scores_with_the_mirror_image_are_the_mean(labels, plain_labeller, faces):
    one, other = plain_labeller(faces), plain_labeller(faces.flip(3))
    assert np.abs(one.smile - other.smile).max() > 0.1
    for name in ("age", "female", "smile"):
        np.testing.assert_allclose(getattr(labels, name), (getattr(one, name) + getattr(other, name)) / 2, atol=2e-3)
    np.testing.assert_allclose(labels.yaw, (one.yaw - other.yaw) / 2, atol=1e-6)
    shift = np.abs(labels.landmarks - one.landmarks).max((1, 2))
    assert np.median(shift) < 3 / FRAME  # landmarks of the mirror image, mirrored back, lie on those of the face


def test_a_face_does_not_depend_on_its_batch(plain_labeller, faces, monkeypatch):
    whole = plain_labeller(faces)
    monkeypatch.setattr("hyperdecode.features.labels.BATCH", 3)
    same(plain_labeller(faces), whole, 1e-3)
    same(
        FaceLabels(*(getattr(whole, field.name)[2:3] for field in fields(FaceLabels))), plain_labeller(faces[2:3]), 1e-3
    )


def test_larger_pictures_of_the_same_face_score_the_same(plain_labeller, faces):
    larger = faces[:4].repeat_interleave(4, 2).repeat_interleave(4, 3)
    same(plain_labeller(larger), plain_labeller(faces[:4]), 1e-3)


def test_early_exits_and_the_full_picture_score_alike(labeller, face_generator):
    w = face_generator.to_w(face_generator.sample(6, 2026))
    scores = [labeller(face_generator.images(w, resolution=side)) for side in (128, 256, 1024)]
    for other in scores[1:]:
        for name in ("age", "female", "smile", "yaw"):
            assert np.corrcoef(getattr(scores[0], name), getattr(other, name))[0, 1] > 0.9, name


def test_frames():
    ramp = torch.linspace(-1, 1, 128).expand(1, 3, 128, 128)
    frames = to_frames(ramp)
    assert frames.shape == (1, 3, FRAME, FRAME) and frames.dtype == torch.uint8
    assert frames[0, 0, 7, 0] == 0 and frames[0, 0, 7, -1] == 255
    assert torch.equal(to_frames(torch.full((1, 3, 64, 64), 0.5)), torch.full((1, 3, FRAME, FRAME), 191).byte())
    assert torch.equal(to_bytes(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])), torch.tensor([0, 0, 128, 255, 255]).byte())


def test_what_is_no_face_gets_the_usual_landmarks(plain_labeller, faces, monkeypatch):
    """A picture on which the landmarks run away, as they may on noise."""
    landmarks = plain_labeller._landmarks
    dlib, predict = landmarks._dlib, landmarks._predict

    def run_away(frame, rectangle):
        points = predict(frame, rectangle).parts()
        points[0] = dlib.point(points[0].x + int(2 * FARTHEST * FRAME), points[0].y)
        return dlib.full_object_detection(rectangle, points)

    monkeypatch.setattr(landmarks, "_predict", run_away)
    lost = plain_labeller(faces[:2])
    assert not lost.found.any() and np.abs(lost.yaw).max() < 0.02
    np.testing.assert_allclose(lost.landmarks, np.stack([TEMPLATE] * 2), atol=0.6 / FRAME)


def test_blurred_and_empty_pictures_have_finite_labels(labeller, faces):
    blurred = torch.nn.functional.interpolate(
        torch.nn.functional.interpolate(faces[:2], (8, 8), mode="area"), (128, 128), mode="bilinear"
    )
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    found = labeller(torch.cat([blurred, noise, torch.zeros(1, 3, 128, 128)]))
    assert all(np.isfinite(getattr(found, field.name)).all() for field in fields(FaceLabels))
    assert len(labeller(torch.empty(0, 3, 128, 128))) == 0


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (torch.zeros(3, 128, 128), r"got shape \(3, 128, 128\)"),
        (torch.zeros(1, 1, 128, 128), r"got shape \(1, 1, 128, 128\)"),
        (torch.zeros(1, 3, 128, 130), "square pictures"),
        (torch.zeros(1, 3, 64, 64), "of 128 px or more"),
        (torch.zeros(1, 3, 128, 128, dtype=torch.uint8), "floats in -1..1, got torch.uint8"),
        (torch.full((1, 3, 128, 128), torch.nan), "NaN"),
    ],
)
def test_mistakes_are_named(labeller, pictures, words):
    with pytest.raises(UserError, match=words) as error:
        labeller(pictures)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["dlib", "openvino"])
def test_a_missing_package_is_named(labeller, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf'need {module}.*pip install "hyperdecode\[faces\]"') as error:
        FaceLabeller()
    assert "\n" not in str(error.value)


def test_one_call(labels, faces, labeller):
    same(label_faces(faces[:1]), FaceLabels(*(getattr(labels, field.name)[:1] for field in fields(FaceLabels))), 1e-3)
