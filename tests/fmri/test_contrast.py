from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.fmri.contrast import contrast_zmap, find_peaks, parse_contrast
from hyperdecode.fmri.design import frame_times, trial_regressors

KINDS = ["face", "house", "scene", "object"]


@pytest.mark.parametrize(
    ("text", "label", "weights"),
    [
        ("face > other", "faceOther", {"face": 1, "house": -1 / 3, "scene": -1 / 3, "object": -1 / 3}),
        ("scene + house > other", "sceneHouseOther", {"scene": 0.5, "house": 0.5, "face": -0.5, "object": -0.5}),
        ("face>house", "faceHouse", {"face": 1, "house": -1}),
        ("face > house + scene", "faceHouseScene", {"face": 1, "house": -0.5, "scene": -0.5}),
    ],
)
def test_grammar(text, label, weights):
    contrast = parse_contrast(text, KINDS * 2)
    assert contrast.label == label
    assert contrast.weights == pytest.approx(weights)
    assert sum(contrast.weights.values()) == pytest.approx(0)


def test_a_condition_may_be_called_other():
    assert parse_contrast("face > other", ["face", "other", "house"]).weights == {"face": 1, "other": -1}


def test_labels_hold_only_letters_and_digits():
    assert parse_contrast("up_left > down-2", ["up_left", "down-2"]).label == "upLeftDown2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("faces > other", "no condition 'faces' in the events, there are: face, house, object, scene"),
        ("face", "write one '>'"),
        ("face > house > scene", "write one '>'"),
        ("face > face", "once"),
        ("face + house + scene + object > other", "leave some"),
        (" > house", "no condition ''"),
    ],
)
def test_mistakes_are_named(text, words):
    with pytest.raises(UserError, match=words):
        parse_contrast(text, KINDS)


def test_the_planted_voxel_is_found():
    rng = np.random.default_rng(0)
    onsets = 8.0 * np.arange(20) + 4
    events = pd.DataFrame({"onset": onsets, "duration": 4.0, "trial_type": ["a b", "c"] * 10})
    a = trial_regressors(onsets[::2], np.full(10, 4.0), frame_times(90, 2.0, 0.5)).sum(axis=1)
    data = rng.normal(100, 1, (6, 6, 6, 90)).astype(np.float32)
    data[2, 3, 4] += 3 * a
    ones = nib.Nifti1Image(np.ones((6, 6, 6), np.uint8), np.eye(4))
    image = nib.Nifti1Image(data, np.eye(4))
    z = contrast_zmap(image, ones, events, 2.0, parse_contrast("a b > c", ["a b", "c"]), smoothing_fwhm=None)
    values = np.asarray(z.dataobj)
    assert np.unravel_index(values.argmax(), values.shape) == (2, 3, 4) and values.max() > 6


def test_peaks():
    z = np.zeros((20, 20, 20))
    z[5, 5, 5], z[5, 5, 6], z[5, 7, 5], z[15, 15, 15], z[1, 1, 1] = 8, 7, 5, 6, 2
    z[0, 0, 0] = np.nan
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = -10
    table = find_peaks(z, affine, threshold=3.0, min_distance=8)
    assert table[["x", "y", "z"]].to_numpy().tolist() == [[5, 5, 5], [35, 35, 35]]
    assert table["stat"].tolist() == [8, 6]
    assert find_peaks(np.zeros((4, 4, 4)), affine).empty
