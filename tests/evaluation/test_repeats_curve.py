import numpy as np
import pytest

from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import UserError
from hyperdecode.evaluation.ceiling import correlation_ceiling
from hyperdecode.evaluation.identification import identification_accuracy
from hyperdecode.evaluation.metrics import correlation_scores, cosine_scores
from hyperdecode.evaluation.repeats_curve import CURVE_COLUMNS, repeats_curve

N, REPEATS, WIDTH = 36, 14, 16


@pytest.fixture
def decoded():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((N, WIDTH))
    faces = [f"f{k}" for k in range(N) for _ in range(REPEATS)]
    values = np.repeat(true, REPEATS, axis=0) + 4 * rng.standard_normal((N * REPEATS, WIDTH))
    order = rng.permutation(len(faces))
    return values[order], [faces[k] for k in order], true, [f"f{k}" for k in range(N)]


def averages(decoded):
    values, faces, _, names = decoded
    return np.array([values[np.array(faces) == name].mean(0) for name in names])


def test_the_last_point_is_the_score_of_the_averages(decoded):
    mean = np.full(WIDTH, 0.1)
    table = repeats_curve(*decoded, mean)
    assert tuple(table.columns) == CURVE_COLUMNS and len(table) == 2 * REPEATS
    last = table[table.n_repeats == REPEATS].set_index("metric")["score"]
    p, t = averages(decoded), decoded[2]
    assert last["identification"] == pytest.approx(identification_accuracy(correlation_scores(p, t, mean)).mean())
    assert last["cosine"] == pytest.approx(np.diagonal(cosine_scores(p, t, mean)).mean())
    assert ((table.low <= table.score) & (table.score <= table.high)).all()


def test_the_first_point_is_the_mean_of_single_trials(decoded):
    table = repeats_curve(*decoded, np.zeros(WIDTH), metrics=["cosine"], n_draws=400)
    values, faces, true, names = decoded
    own = true[[names.index(face) for face in faces]]
    cosines = (values * own).sum(1) / np.linalg.norm(values, axis=1) / np.linalg.norm(own, axis=1)
    assert table.score[0] == pytest.approx(cosines.mean(), abs=4 * cosines.std() / (400 * N) ** 0.5)


def test_the_score_grows_as_reliability_says(decoded):
    """A decoder without misfit: cosine at n is the square root of the reliability of averages of n."""
    table = repeats_curve(*decoded, np.zeros(WIDTH), metrics=["cosine"])
    assert table.score.is_monotonic_increasing
    for n in (1, 4, 14):
        expected = (1 / (1 + 16 / n)) ** 0.5
        assert table.score[n - 1] == pytest.approx(expected, abs=0.05)
        assert correlation_ceiling(decoded[0], decoded[1], n).value == pytest.approx(expected, abs=0.05)


def test_it_is_seeded_and_goes_to_the_fewest_trials(decoded):
    values, faces, true, names = decoded
    keep = [k for k, face in enumerate(faces) if face != "f3" or k in np.flatnonzero(np.array(faces) == "f3")[:5]]
    few = (values[keep], [faces[k] for k in keep], true, names)
    table = repeats_curve(*few, np.zeros(WIDTH), seed=3)
    assert table.n_repeats.max() == 5
    assert table.equals(repeats_curve(*few, np.zeros(WIDTH), seed=3))
    assert not table.equals(repeats_curve(*few, np.zeros(WIDTH), seed=4))


def test_faces_shown_once(decoded):
    _, _, true, names = decoded
    table = repeats_curve(true + 1, names, true, names, np.zeros(WIDTH))
    assert table.n_repeats.tolist() == [1, 1]


def test_average_of_decoded_is_decoded_average():
    rng = np.random.default_rng(1)
    decoder = RidgeDecoder(alphas=[3.0], cv=5).fit(rng.standard_normal((40, 10)), rng.standard_normal((40, 3)))
    z = rng.standard_normal((6, 10))
    np.testing.assert_allclose(decoder.predict(z).mean(0), decoder.predict(z.mean(0, keepdims=True))[0], atol=1e-12)


def test_what_does_not_fit(decoded):
    values, faces, true, names = decoded
    with pytest.raises(UserError, match="no metric 'lsim'"):
        repeats_curve(values, faces, true, names, np.zeros(WIDTH), metrics=["lsim"])
    with pytest.raises(UserError, match="'other' is in one"):
        repeats_curve(values, ["other", *faces[1:]], true, names, np.zeros(WIDTH))
    with pytest.raises(UserError, match="one face a trial"):
        repeats_curve(values[1:], faces, true, names, np.zeros(WIDTH))
    with pytest.raises(UserError, match="at least one draw"):
        repeats_curve(values, faces, true, names, np.zeros(WIDTH), n_draws=0)
