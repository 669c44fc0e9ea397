"""Sets of training trials, and the points of a learning curve."""

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.training_curve import LEARNING_COLUMNS, curve_point, learning_table, nested_trials


def test_sets_are_nested_and_keep_the_trials_of_a_face_together():
    faces = [f"face-{k % 80}" for k in range(200)]
    parts = nested_trials(faces, (0.25, 0.5, 1.0), seed=3)
    named = [{faces[row] for row in part} for part in parts]
    assert [len(names) for names in named] == [20, 40, 80]
    assert named[0] < named[1] < named[2]
    for part, names in zip(parts, named, strict=True):
        assert part.tolist() == [row for row, face in enumerate(faces) if face in names]
    again = nested_trials(faces, (0.25, 0.5, 1.0), seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[0], nested_trials(faces, (0.25,), seed=4)[0])


def test_sets_too_small_to_fit_are_left_out():
    assert [len(part) for part in nested_trials([str(k) for k in range(60)])] == [30, 45, 60]
    with pytest.raises(UserError, match="20 training faces or more, got 12"):
        nested_trials([str(k) for k in range(12)])
    with pytest.raises(UserError, match="above 0 and up to 1"):
        nested_trials(["a"] * 30, (0.5, 1.5))


def test_points_tell_a_good_decoder_from_a_blind_one():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((24, 30))
    rows = []
    for n, noise in ((100, 30.0), (400, 1.0)):
        rows += curve_point(n, true + noise * rng.standard_normal(true.shape), true, np.zeros(30))
    table = learning_table(rows)
    assert tuple(table.columns) == LEARNING_COLUMNS
    assert table["metric"].tolist() == ["identification"] * 2 + ["cosine"] * 2
    assert table["n_trials"].tolist() == [100, 400] * 2
    blind, good = table.iloc[0], table.iloc[1]
    assert good["score"] > 0.95 and good["power"] > 0.99 and 0.3 < blind["score"] < 0.7 and blind["power"] < 0.5
    assert ((table.low <= table.score) & (table.score <= table.high)).all()
    assert table.loc[table.metric == "cosine", "power"].isna().all()


def test_few_faces_have_scores_but_no_power():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((5, 30))
    (found, _) = curve_point(50, true, true, np.zeros(30))
    assert found[2] == 1.0 and np.isnan(found[-1])
