import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError
from hyperdecode.mapping.agreement import layer_agreement
from hyperdecode.mapping.generator_occlusion import occlude_through_generator, occlusion_problem
from hyperdecode.mapping.latent_shifts import latent_shifts
from hyperdecode.mapping.layer_crops import LayerCrops, activation_variances
from hyperdecode.mapping.linear_occlusion import similarity_loss
from hyperdecode.mapping.neighbourhoods import Neighbourhoods
from hyperdecode.mapping.second_order import occlude_to_second_order, second_order, slopes

LAYERS = ("b8.conv1", "image")
N_FACES, LATENT = 3, 16


@pytest.fixture(scope="module")
def precise(tiny_generator):
    """The tiny generator in float64."""
    return copy.deepcopy(tiny_generator).double()


def one_by_one(n):
    """Neighbourhoods of one voxel each."""
    return Neighbourhoods(np.arange(n), np.arange(n, dtype=np.int32), np.arange(n + 1))


def make_problem(generator, size, n_voxels=40, rank=2, space="w", layers=LAYERS, seed=0, **settings):
    """Occlusions that move each latent by `size` or so, in `rank` directions."""
    rng = np.random.default_rng(seed)
    coef = rng.standard_normal((LATENT, rank)) @ rng.standard_normal((rank, n_voxels))
    scale = rng.standard_normal(LATENT), 0.5 + rng.random(LATENT)
    crops = LayerCrops(generator, layers, 6, space, scale)
    shifts = latent_shifts(size * coef, rng.standard_normal((N_FACES, n_voxels)), one_by_one(n_voxels))
    latents, true = rng.standard_normal((2, N_FACES, LATENT))
    variances = activation_variances(crops, rng.standard_normal((12, LATENT)))
    return occlusion_problem(crops, latents, true, shifts, variances, batch=8, **settings)


def moved(problem, shift):
    """Squared distances (layers: faces x faces), 1 for an average training face, of latents moved in w units."""
    spread = problem.crops.generator.w_statistics()[1].double().numpy() / problem.crops.scale[1].numpy()
    made = problem.crops.maps_of(problem.latents + shift * spread)
    found = {}
    for name, rows in made.items():
        away = (rows.numpy() - problem.means[name])[:, None] - problem.true[name]
        found[name] = np.square(away).sum(2) / (away.shape[2] * problem.variances[name])
    return found


@pytest.mark.parametrize("pairs", [True, False])
def test_slopes_are_those_of_small_steps(precise, pairs):
    problem = make_problem(precise, 0.1, pairs=pairs)
    found = slopes(problem)
    for dimension in (0, 7):
        step = 1e-5 * np.eye(LATENT)[dimension]
        up, down = moved(problem, step), moved(problem, -step)
        for name in LAYERS:
            expected = (up[name] - down[name]) / 2e-5
            expected = expected if pairs else np.diag(expected)[:, None]
            np.testing.assert_allclose(found[name][..., dimension], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("space", ["w", "z"])
def test_the_error_falls_with_the_cube_of_the_shift(precise, space):
    # A plane of shifts has three second derivatives: eight occlusions tell them.
    sampled, errors = np.arange(8), []
    for size in (1e-4, 2.5e-5):
        problem = make_problem(precise, size, space=space, pairs=False)
        exact = occlude_through_generator(problem)
        found = second_order(problem, sampled, {name: exact[name][sampled] for name in LAYERS}, ridge=1e-12).losses
        errors.append([np.abs(found[name] - exact[name]).max() for name in LAYERS])
    # 64 for a cube, 16 for a square.
    assert (np.array(errors[0]) > 32 * np.array(errors[1])).all()
    first = [np.abs(losses - exact[name]).max() for name, losses in first_order(problem).items()]
    assert (np.array(errors[1]) < 1e-3 * np.array(first)).all()


def first_order(problem):
    """Losses by the slopes alone."""
    spread = problem.crops.scale[1].numpy() / problem.crops.generator.w_statistics()[1].double().numpy()
    found, slope = {}, slopes(problem)
    for name in LAYERS:
        before = np.diag(problem.distances[name]) / (len(problem.means[name]) * problem.variances[name])
        if problem.crops.space == "z":
            w = [
                problem.crops.picture_latents(torch.from_numpy(problem.latents + s))
                for s in problem.shifts.of(slice(None))
            ]
            origin = problem.crops.picture_latents(torch.from_numpy(problem.latents))
            moves = np.stack([(one - origin).numpy() for one in w]) * spread / problem.crops.scale[1].numpy()
        else:
            moves = problem.shifts.of(slice(None)) * spread
        found[name] = similarity_loss(before, np.einsum("cik,ik->ci", moves, slope[name][:, 0]), 1, 1.0)
    return found


@pytest.mark.parametrize("pairs", [True, False])
def test_what_is_left_out_is_found_as_if_it_had_not_been_sampled(precise, pairs):
    problem = make_problem(precise, 0.1, rank=6, pairs=pairs)
    sampled = np.array([4, 30, 7, 21, 9, 12, 3, 38])
    exact = {name: losses[sampled] for name, losses in occlude_through_generator(problem).items()}
    whole = second_order(problem, sampled, exact, ridge=1e-12)
    for one in (0, 5):
        rest = np.delete(np.arange(len(sampled)), one)
        partly = second_order(problem, sampled[rest], {name: exact[name][rest] for name in LAYERS}, ridge=1e-12)
        for name in LAYERS:
            np.testing.assert_array_equal(whole.losses[name][sampled], exact[name])
            size = np.abs(exact[name]).max()
            assert np.abs(whole.left_out[name][one] - exact[name][one]).max() > 1e-4 * size
            np.testing.assert_allclose(
                whole.left_out[name][one], partly.losses[name][sampled[one]], rtol=0, atol=1e-5 * size
            )


def test_what_moves_nothing_loses_nothing(tiny_generator):
    problem = make_problem(tiny_generator, 0.1)
    still = replace(problem.shifts, deviations=problem.shifts.deviations.copy())
    still.deviations[1], still.deviations[:, 5] = 0, 0
    problem = replace(problem, shifts=still)
    sampled = np.arange(10, 30)
    exact = occlude_through_generator(problem.only(sampled))
    for losses in second_order(problem, sampled, exact).losses.values():
        assert (losses[:, 1] == 0).all() and (losses[5] == 0).all()
        assert (losses[:5, [0, 2]] != 0).all()


def test_losses_of_all_centres_come_with_their_agreement(tiny_generator):
    problem = make_problem(tiny_generator, 0.03, n_voxels=120, rank=3)
    asked = []

    def exact(problem, centres):
        asked.append(centres)
        return occlude_through_generator(problem.only(centres))

    losses, agreement = occlude_to_second_order([problem], n_exact=40, exact=exact)
    truth = occlude_through_generator(problem)
    assert agreement.holds and agreement.n_centres == 40 and len(asked) == 1
    told = layer_agreement(truth, losses)
    assert told.same_layer >= 0.95 and min(told.correlations.values()) > 0.99
    for name in LAYERS:
        assert losses[name].shape == truth[name].shape
        np.testing.assert_allclose(losses[name][asked[0]], truth[name][asked[0]], rtol=0, atol=1e-6)


def test_the_sample_grows_to_half_before_it_is_given_up(tiny_generator):
    problem = make_problem(tiny_generator, 2.0, n_voxels=50, rank=LATENT)
    asked = []

    def exact(problem, centres):
        asked.append(centres)
        return occlude_through_generator(problem.only(centres))

    _, agreement = occlude_to_second_order([problem], n_exact=6, goal=1.0, exact=exact)
    assert not agreement.holds and agreement.same_layer < 1
    assert [len(part) for part in asked] == [6, 6, 12, 1]
    assert len(np.unique(np.concatenate(asked))) == 25 == agreement.n_centres
    first, asked[:] = np.concatenate(asked), []
    _, agreement = occlude_to_second_order([problem], n_exact=6, most=10, goal=1.0, exact=exact)
    assert [len(part) for part in asked] == [6, 4] and agreement.n_centres == 10
    np.testing.assert_array_equal(np.concatenate(asked), first[:10])


def test_decoders_of_their_own_and_layers_known_otherwise_choose_together(tiny_generator):
    apart = [make_problem(tiny_generator, 0.1, n_voxels=60, layers=(name,), seed=k) for k, name in enumerate(LAYERS)]
    linear = np.random.default_rng(0).standard_normal((60, N_FACES, N_FACES)).astype(np.float32)
    losses, agreement = occlude_to_second_order(apart, others={"linear": linear}, n_exact=30)
    assert set(losses) == set(LAYERS)
    assert set(agreement.correlations) == {*LAYERS, "linear"}
    assert agreement.correlations["linear"] == pytest.approx(1)


def test_centres_that_share_a_neighbourhood_share_their_losses(tiny_generator):
    problem = make_problem(tiny_generator, 0.1)
    members = np.concatenate([np.arange(40), np.arange(10)]).astype(np.int32)
    twice = Neighbourhoods(np.arange(50), members, np.arange(51))
    shifts = latent_shifts(problem.shifts.weights.T, problem.shifts.deviations, twice)
    losses, _ = occlude_to_second_order([replace(problem, shifts=shifts)], n_exact=20)
    for values in losses.values():
        assert len(values) == 50
        np.testing.assert_array_equal(values[40:], values[:10])


def test_agreement_tells_what_it_says():
    exact = {"a": np.array([[0.0], [1], [2], [3]]), "b": np.array([[0.0], [0], [0], [9]])}
    other = {"a": np.array([[0.0], [1], [2], [3]]), "b": np.array([[0.0], [0], [9], [0]])}
    found = layer_agreement(exact, other, goal=0.6)
    # a: -1.34 -0.45 0.45 1.34; b: -0.58 -0.58 -0.58 1.73, and its last two changed about.
    assert found.same_layer == 0.5 and not found.holds and found.n_centres == 4
    assert found.correlations["a"] == pytest.approx(1)
    assert found.correlations["b"] == pytest.approx(-1 / 3)
    assert found.single_correlations == found.correlations
    assert found.largest_errors["a"] == 0
    assert found.largest_errors["b"] == pytest.approx(9 / np.std([0, 0, 0, 9]))
    assert layer_agreement(exact, exact).holds


def test_the_loss_of_a_face_is_with_its_own():
    rng = np.random.default_rng(0)
    pairs = {name: rng.standard_normal((9, 4, 4)) for name in "ab"}
    own = {name: np.diagonal(values, axis1=1, axis2=2) for name, values in pairs.items()}
    shuffled = {name: rng.standard_normal((9, 4, 4)) for name in "ab"}
    for name, values in shuffled.items():
        values[:, range(4), range(4)] = own[name]
    found = layer_agreement(pairs, shuffled)
    assert found.same_layer == 1 and max(found.largest_errors.values()) == 0
    for name in "ab":
        assert found.single_correlations[name] == pytest.approx(
            np.corrcoef(pairs[name].ravel(), shuffled[name].ravel())[0, 1]
        )
        assert found.single_correlations[name] < 0.6


def test_bad_input_is_refused_in_one_line(tiny_generator):
    problem = make_problem(tiny_generator, 0.1)
    exact = {name: np.zeros((3, N_FACES, N_FACES), np.float32) for name in LAYERS}
    flat = {"a": np.ones((4, 2)), "b": np.ones((4, 2))}
    wrong = {
        "two or more different occlusions, got 1": lambda: second_order(problem, np.array([3]), exact),
        "two or more different occlusions, got 3": lambda: second_order(problem, np.array([3, 3, 1]), exact),
        "must have shape \\(2, 3, 3\\)": lambda: second_order(problem, np.array([3, 1]), exact),
        "these are not": lambda: layer_agreement(flat, {"a": flat["a"]}),
        "loses the same everywhere": lambda: layer_agreement(flat, flat),
        "a sample of 1 of 40": lambda: occlude_to_second_order([problem], n_exact=1),
        "layers of their own, at least one, got none": lambda: occlude_to_second_order([]),
        "layers of their own": lambda: occlude_to_second_order([problem, problem]),
        "different neighbourhoods or faces": lambda: occlude_to_second_order(
            [problem, make_problem(tiny_generator, 0.1, n_voxels=41, layers=("b16.conv1",))]
        ),
    }
    for message, call in wrong.items():
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("space", ["w", "z"])
def test_a_gpu_finds_the_same(make_tiny, space):
    problems = [make_problem(generator, 0.03, space=space) for generator in (make_tiny(), make_tiny().cuda())]
    sampled = np.arange(12)
    exact = occlude_through_generator(problems[0].only(sampled))
    expected, found = (second_order(problem, sampled, exact).losses for problem in problems)
    for name in LAYERS:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-3 * np.abs(expected[name]).max())
