import pickle

import numpy as np
import pytest
import torch

from hyperdecode.decoding.activation_targets import LayerCrop, TargetActivations
from hyperdecode.errors import UserError
from hyperdecode.generators import PGGAN
from hyperdecode.mapping.chunks import MemoryResults, collected, run_units
from hyperdecode.mapping.generator_occlusion import occlude_through_generator, occlusion_problem, run_unit
from hyperdecode.mapping.latent_shifts import latent_shifts
from hyperdecode.mapping.layer_crops import LayerCrops, activation_variances
from hyperdecode.mapping.linear_occlusion import similarity
from hyperdecode.mapping.neighbourhoods import Neighbourhoods

LAYERS = ("image", "b8.conv1", "b16.conv2")
N_FACES, N_VOXELS, LATENT = 3, 20, 16


def neighbourhoods():
    """Eleven centres: neighbours in a row, two centres that share a neighbourhood, one of a voxel that says nothing."""
    members = [np.arange(max(k - 2, 0), min(k + 3, 18)) for k in range(0, 18, 2)] + [np.arange(3), np.array([19])]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in members])])
    return Neighbourhoods(np.array([*range(0, 18, 2), 18, 19]), np.concatenate(members).astype(np.int32), starts)


class Study:
    """A decoder, responses and faces."""

    def __init__(self, generator, space="w", scale=True, crop=6, layers=LAYERS, seed=0):
        rng = np.random.default_rng(seed)
        self.coef, self.intercept = 0.2 * rng.standard_normal((LATENT, N_VOXELS)), rng.standard_normal(LATENT)
        self.fill = rng.standard_normal(N_VOXELS)
        self.responses = self.fill + rng.standard_normal((N_FACES, N_VOXELS))
        self.responses[:, 19] = self.fill[19]
        self.true = rng.standard_normal((N_FACES, LATENT))
        self.training = rng.standard_normal((12, LATENT))
        self.scale = (rng.standard_normal(LATENT), 0.5 + rng.random(LATENT)) if scale else None
        self.space, self.crop, self.layers, self.generator = space, crop, layers, generator
        self.crops = LayerCrops(generator, layers, crop, space, self.scale)
        self.variances = activation_variances(self.crops, self.training)

    @property
    def shifts(self):
        return latent_shifts(self.coef, self.responses - self.fill, neighbourhoods())

    def predict(self, responses):
        return responses @ self.coef.T + self.intercept

    def problem(self, **settings):
        latents = self.predict(self.responses)
        return occlusion_problem(self.crops, latents, self.true, self.shifts, self.variances, **settings)

    def activation(self, latent, layer):
        """What anyone would write: one latent, one layer, the whole map, then its centre."""
        made = latent if self.scale is None else latent * self.scale[1] + self.scale[0]
        w = torch.as_tensor(made)[None].float()
        whole = self.generator.activations(w, [layer], space=self.space)[layer][0].double().numpy()
        side = whole.shape[-1]
        crop = side if self.crop is None else min(self.crop, side)
        start = (side - crop) // 2
        return whole[:, start : start + crop, start : start + crop].ravel()

    def by_hand(self, layer):
        """Losses (centres, faces, faces), one prediction after the other."""
        true = np.stack([self.activation(latent, layer) for latent in self.true])
        losses = np.empty((len(neighbourhoods()), N_FACES, N_FACES))
        for centre in range(len(losses)):
            occluded = self.responses.copy()
            occluded[:, neighbourhoods().of(centre)] = self.fill[neighbourhoods().of(centre)]
            for face in range(N_FACES):
                both = [
                    similarity(np.square(true - made).sum(1), true.shape[1], self.variances[layer])
                    for made in (
                        self.activation(self.predict(rows[face]), layer) for rows in (self.responses, occluded)
                    )
                ]
                losses[centre, face] = both[0] - both[1]
        return losses


@pytest.mark.parametrize(
    "settings",
    [{}, {"space": "z"}, {"crop": None}, {"scale": False}, {"space": "z", "scale": False, "crop": 3}],
    ids=lambda settings: "-".join(f"{key}={value}" for key, value in settings.items()) or "default",
)
def test_losses_are_those_of_one_prediction_after_the_other(tiny_generator, settings):
    study = Study(tiny_generator, **settings)
    losses = occlude_through_generator(study.problem(batch=4))
    own = occlude_through_generator(study.problem(batch=4, pairs=False))
    assert list(losses) == list(LAYERS)
    for layer in LAYERS:
        expected = study.by_hand(layer)
        assert np.abs(expected[:-1]).min(axis=(1, 2)).max() > 1e-3
        assert losses[layer].dtype == np.float32
        np.testing.assert_allclose(losses[layer], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_allclose(
            own[layer], np.diagonal(expected, axis1=1, axis2=2), rtol=0, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize("pairs", [True, False])
def test_losses_do_not_depend_on_units_or_their_order(tiny_generator, pairs):
    problem = Study(tiny_generator).problem(batch=4, pairs=pairs)
    expected = occlude_through_generator(problem)
    for centres, faces in [(4, 1), (8, 2), (1, 3), (100, 1)]:
        units, results = problem.units(centres, faces), MemoryResults()
        order = np.random.default_rng(centres).permutation(len(units))
        sent = pickle.loads(pickle.dumps(problem))
        run_units(lambda unit, sent=sent: run_unit(sent, unit), [units[k] for k in order], results)
        found = problem.of_centres(collected(results, units))
        for layer in LAYERS:
            np.testing.assert_array_equal(found[layer], expected[layer])


def test_problems_made_of_the_same_crops_do_not_meet(tiny_generator):
    study = Study(tiny_generator)
    first = study.problem(batch=4)
    expected = occlude_through_generator(first)
    assert study.problem(batch=2).crops.batch == 2 and first.crops.batch == 4
    for layer, losses in occlude_through_generator(first).items():
        np.testing.assert_array_equal(losses, expected[layer])


def test_some_centres_alone_lose_what_they_lose_among_all(tiny_generator):
    problem = Study(tiny_generator).problem(batch=2)
    every, some = occlude_through_generator(problem), occlude_through_generator(problem.only(np.array([5, 1, 9])))
    for layer in LAYERS:
        kept = collected_by_neighbourhood(problem, every[layer])[[5, 1, 9]]
        np.testing.assert_allclose(some[layer], kept, rtol=0, atol=1e-5 * np.abs(kept).max())


def collected_by_neighbourhood(problem, losses):
    return losses[[list(problem.shifts.which).index(k) for k in range(len(problem.shifts))]]


def test_what_moves_nothing_is_not_computed(tiny_generator, monkeypatch):
    study = Study(tiny_generator)
    study.responses[0, :6] = study.fill[:6]
    problem = study.problem(batch=1)
    rows = []
    plain = problem.crops.maps
    monkeypatch.setattr(problem.crops, "maps", lambda latents: rows.append(len(latents)) or plain(latents))
    losses = occlude_through_generator(problem)
    # 10 different neighbourhoods of 11; that of voxel 19 moves no face, and three of the first face's move nothing.
    assert problem.shifts.which.tolist() == [*range(9), 0, 9]
    assert sum(rows) == 9 * N_FACES - 2
    for layer in LAYERS:
        assert (losses[layer][10] == 0).all()
        assert (losses[layer][:2, 0] == 0).all()
        np.testing.assert_array_equal(losses[layer][9], losses[layer][0])


def test_one_pass_serves_all_layers(tiny_generator):
    study = Study(tiny_generator)
    together = occlude_through_generator(study.problem(batch=4))
    for layer in LAYERS:
        alone = occlude_through_generator(Study(tiny_generator, layers=(layer,)).problem(batch=4))
        np.testing.assert_allclose(alone[layer], together[layer], rtol=0, atol=1e-5 * np.abs(alone[layer]).max())
    assert study.crops.layer == "image"


def test_truncated_z_and_a_generator_without_w(tiny_generator, make_tiny_pggan_tensors):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, LATENT))
    truncated = LayerCrops(tiny_generator, ["b8.conv1"], 4, "z", truncation=0.5)
    w = tiny_generator.to_w(torch.from_numpy(z).float(), 0.5).double().numpy()
    plain = LayerCrops(tiny_generator, ["b8.conv1"], 4)
    np.testing.assert_allclose(truncated.maps_of(z)["b8.conv1"], plain.maps_of(w)["b8.conv1"], atol=1e-5)
    pggan = PGGAN(make_tiny_pggan_tensors())
    study = Study(pggan, space="z", layers=("3", "5"), crop=6)
    losses = occlude_through_generator(study.problem(batch=4))
    for layer in study.layers:
        expected = study.by_hand(layer)
        np.testing.assert_allclose(losses[layer], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_variance_is_that_of_the_training_activations(tiny_generator):
    study = Study(tiny_generator)
    training = np.concatenate([study.training, study.training[:5]])
    found = activation_variances(study.crops, training)
    for layer in LAYERS:
        crop = LayerCrop(tiny_generator, layer, 6, scale=study.scale)
        targets = TargetActivations(crop, torch.from_numpy(training))
        assert found[layer] == pytest.approx(targets.variance, rel=1e-5)


def test_shifts_are_what_occlusion_does_to_the_prediction(tiny_generator):
    study = Study(tiny_generator)
    shifts = study.shifts.of(slice(None))[study.shifts.which]
    for centre in range(len(neighbourhoods())):
        occluded = study.responses.copy()
        occluded[:, neighbourhoods().of(centre)] = study.fill[neighbourhoods().of(centre)]
        np.testing.assert_allclose(
            shifts[centre], study.predict(occluded) - study.predict(study.responses), rtol=0, atol=1e-12
        )


def test_too_little_memory_halves_the_batch(tiny_generator, monkeypatch):
    problem = Study(tiny_generator).problem(batch=4)
    expected = occlude_through_generator(problem)
    plain = tiny_generator.activations

    def small(latents, *rest, **named):
        if len(latents) > 2:
            raise torch.cuda.OutOfMemoryError
        return plain(latents, *rest, **named)

    monkeypatch.setattr(tiny_generator, "activations", small)
    with pytest.warns(UserWarning, match="halved the batch to 2"):
        found = occlude_through_generator(problem)
    for layer in LAYERS:
        np.testing.assert_allclose(found[layer], expected[layer], rtol=0, atol=1e-5 * np.abs(expected[layer]).max())


def test_bad_input_is_refused_in_one_line(tiny_generator):
    study = Study(tiny_generator)
    latents, x = study.predict(study.responses), study.responses - study.fill
    hollow = x.copy()
    hollow[0, 0] = np.nan

    def problem(decoded=latents, true=study.true, shifts=study.shifts, variances=study.variances, **settings):
        return occlusion_problem(study.crops, decoded, true, shifts, variances, **settings)

    wrong = {
        "a sequence of different names": lambda: LayerCrops(tiny_generator, ["image", "image"], 4),
        "at least one, got \\[\\]": lambda: LayerCrops(tiny_generator, [], 4),
        "has no layer 'b9'": lambda: LayerCrops(tiny_generator, ["image", "b9"], 4),
        "of the same voxels, got shapes": lambda: latent_shifts(study.coef, x[:, :-1], neighbourhoods()),
        "neighbourhoods name voxel 19": lambda: latent_shifts(study.coef[:, :-1], x[:, :-1], neighbourhoods()),
        "NaN or infinite": lambda: latent_shifts(study.coef, hollow, neighbourhoods()),
        "of the same faces, got shapes": lambda: problem(true=study.true[:2]),
        "shifts are of 3 faces": lambda: problem(decoded=latents[:2], true=study.true[:2]),
        "latents of another generator": lambda: problem(decoded=latents[:, :4], true=study.true[:, :4]),
        "layer b16.conv2 needs its variance": lambda: problem(variances={"image": 1.0, "b8.conv1": 1.0}),
        "a batch holds 1 or more": lambda: problem(batch=0),
        "does not differ between the training faces": lambda: activation_variances(study.crops, study.training[[0, 0]]),
    }
    for message, call in wrong.items():
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("pairs", [True, False])
def test_a_gpu_finds_the_same(make_tiny, pairs):
    expected = occlude_through_generator(Study(make_tiny()).problem(pairs=pairs))
    problem = Study(make_tiny().cuda()).problem(pairs=pairs)
    assert problem.batch == 256
    for layer, losses in occlude_through_generator(problem).items():
        np.testing.assert_allclose(losses, expected[layer], rtol=0, atol=1e-3 * np.abs(expected[layer]).max())
