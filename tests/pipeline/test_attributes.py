"""Attributes from pool to normals, on a tiny generator and labels whose truth is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hyperdecode.errors import UserError
from hyperdecode.generators.attributes import ATTRIBUTES
from hyperdecode.pipeline import attributes, face_pool

CHUNK = 20


class Labeller:
    """Four numbers of a picture that stand in for classifiers; counts its faces."""

    faces = 0

    def __init__(self, threads=1):
        pass

    def __call__(self, pictures):
        Labeller.faces += len(pictures)
        mean = pictures.mean((2, 3)).numpy()
        slope = (pictures[:, 0, :, 64:].mean((1, 2)) - pictures[:, 0, :, :64].mean((1, 2))).numpy()
        return SimpleNamespace(female=mean[:, 0], age=mean[:, 1], smile=mean[:, 2], yaw=slope)


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    for module in (face_pool, attributes):
        monkeypatch.setattr(module, "CHUNK", CHUNK)
    monkeypatch.setattr(attributes, "FaceLabeller", Labeller)
    monkeypatch.setattr(attributes, "MAPPED_FACES", 20_000)
    monkeypatch.setattr(Labeller, "faces", 0)
    return tmp_path


def test_the_pool_holds_seeded_faces_and_is_made_once(small, tiny_generator):
    paths = face_pool.pool_chunks(tiny_generator, 25)
    assert [path.name for path in paths] == ["chunk-0000.safetensors", "chunk-0001.safetensors"]
    second = load_file(paths[1])
    z = tiny_generator.sample(1, face_pool.FIRST_SEED + CHUNK + 3)
    assert np.array_equal(second["z"][3], z[0].numpy())
    assert np.allclose(second["w"][3], tiny_generator.to_w(z)[0].numpy(), atol=1e-6)
    shown = face_pool.to_uint8(face_pool.resize(tiny_generator.images(z, space="z"), face_pool.SIDE))[0]
    assert np.array_equal(second["pictures"][3], shown)
    before = [path.stat().st_mtime_ns for path in paths]
    assert face_pool.pool_chunks(tiny_generator, 25) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_damaged_chunks_and_those_of_other_weights_are_made_anew(small, tiny_generator, make_tiny):
    paths = face_pool.pool_chunks(tiny_generator, 2 * CHUNK)
    good = [load_file(path) for path in paths]
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    other = {name: value * 0 for name, value in good[1].items()}
    save_file(other, paths[1], metadata={"generator": make_tiny(5).fingerprint})
    face_pool.pool_chunks(tiny_generator, 2 * CHUNK)
    for path, before in zip(paths, good, strict=True):
        assert all(np.array_equal(value, before[name]) for name, value in load_file(path).items())


def test_held_out_faces_are_in_no_pool(tiny_generator):
    z = face_pool.held_out_latents(tiny_generator, 3, "z")
    assert torch.equal(z[2], tiny_generator.sample(1, face_pool.FIRST_HELD_OUT_SEED + 2)[0])
    assert torch.equal(face_pool.held_out_latents(tiny_generator, 3, "w"), tiny_generator.to_w(z, 0.7))
    assert face_pool.FIRST_HELD_OUT_SEED + 100_000 < face_pool.FIRST_SEED


def test_labels_are_kept_until_the_faces_change(small, tiny_generator):
    pool = attributes.label_pool(tiny_generator, 5 * CHUNK)
    assert Labeller.faces == 5 * CHUNK and pool.n_training == 4 * CHUNK
    again = attributes.label_pool(tiny_generator, 5 * CHUNK)
    assert Labeller.faces == 5 * CHUNK
    assert all(np.array_equal(pool.labels[name], again.labels[name]) for name in ATTRIBUTES)
    chunk = small / "face_pool" / tiny_generator.name / "chunk-0001.safetensors"
    content = load_file(chunk)
    content["pictures"] = content["pictures"] // 2
    save_file(content, chunk, metadata={"generator": tiny_generator.fingerprint})
    changed = attributes.label_pool(tiny_generator, 5 * CHUNK)
    assert Labeller.faces == 6 * CHUNK
    assert not np.array_equal(pool.labels["gender"][CHUNK : 2 * CHUNK], changed.labels["gender"][CHUNK : 2 * CHUNK])


def test_too_few_faces_to_hold_some_out_are_refused(small, tiny_generator):
    with pytest.raises(UserError, match=f"give at least {5 * CHUNK}"):
        attributes.label_pool(tiny_generator, 4 * CHUNK)


def planted_pool(generator, n=3000):
    """Labels that are linear in w but for noise, so that the normals are known."""
    z = generator.sample(n, 1)
    w = generator.to_w(z).numpy()
    planted = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 5)))[0].T.astype(np.float32)
    centred = (w - w.mean(0)) / w.std(0)
    noise = 0.3 * np.random.default_rng(1).standard_normal((n, 5))
    scores = centred @ planted.T + noise
    labels = {name: scores[:, k].astype(np.float32) for k, name in enumerate(ATTRIBUTES)}
    return attributes.LabelledPool({"z": z.numpy(), "w": w}, labels, 2 * n // 3)


def test_normals_tell_held_out_faces_apart_in_both_spaces(small, tiny_generator):
    found = attributes.fit_attributes(tiny_generator, planted_pool(tiny_generator))
    accuracy = found.accuracy.set_index(["space", "attribute"])
    assert (accuracy.loc["w", "accuracy_5"] > 0.95).all()
    assert (accuracy.loc["z", "accuracy_5"] > 0.8).all()
    assert (accuracy["n_held_out"] == 1000).all()
    assert found.normals["z"].scales.tolist() == [1.0] * 5
    assert torch.allclose(found.normals["w"].normals.norm(dim=1), torch.ones(5), atol=1e-5)


def test_held_out_faces_do_not_move_the_normals(small, tiny_generator):
    pool = planted_pool(tiny_generator)
    found = attributes.fit_attributes(tiny_generator, pool)
    other = {space: latents.copy() for space, latents in pool.latents.items()}
    labels = {name: values.copy() for name, values in pool.labels.items()}
    for values in other.values():
        values[pool.n_training :] *= 3
    for values in labels.values():
        values[pool.n_training :] = values[: pool.n_training - 1 : -1]
    changed = attributes.fit_attributes(tiny_generator, attributes.LabelledPool(other, labels, pool.n_training))
    for space in ("z", "w"):
        assert torch.equal(found.normals[space].normals, changed.normals[space].normals)
        assert torch.equal(found.normals[space].scales, changed.normals[space].scales)
    assert found.thresholds == changed.thresholds
    assert not np.allclose(found.accuracy["correlation"], changed.accuracy["correlation"])


def test_labels_of_nothing_are_at_chance_on_held_out_faces(small, tiny_generator):
    pool = planted_pool(tiny_generator)
    rng = np.random.default_rng(2)
    labels = {name: rng.permutation(values) for name, values in pool.labels.items()}
    found = attributes.fit_attributes(tiny_generator, attributes.LabelledPool(pool.latents, labels, pool.n_training))
    assert (found.accuracy["accuracy_5"] - 0.5).abs().max() < 0.25
    assert found.accuracy["correlation"].abs().max() < 0.12


def test_flips_count_the_labels_that_change(small, tiny_generator, monkeypatch):
    """With scores read from the latent itself, a move beyond the boundary flips and one that keeps it does not."""
    pool = planted_pool(tiny_generator)
    found = attributes.fit_attributes(tiny_generator, pool)
    normals = found.normals["w"]
    seen = []
    monkeypatch.setattr(tiny_generator, "images", lambda w, **_: seen.append(w) or torch.zeros(1, 3, 128, 128))

    def label(_pictures, _labeller):
        score = normals.scores(seen[-1])[0] + normals.biases
        return {name: score[k : k + 1].numpy() for k, name in enumerate(ATTRIBUTES)}

    monkeypatch.setattr(attributes, "label_pictures", label)
    thresholds = dict.fromkeys(ATTRIBUTES, 0.0)
    latents = face_pool.held_out_latents(tiny_generator, 10, "w")
    far = attributes.measure_flips(tiny_generator, normals, thresholds, latents, amount=20, keep=ATTRIBUTES)
    assert isinstance(far, pd.DataFrame) and list(far.index) == list(far.columns) == list(ATTRIBUTES)
    assert np.array_equal(np.diag(far), np.ones(5))
    assert far.to_numpy()[~np.eye(5, dtype=bool)].max() == 0
    near = attributes.measure_flips(tiny_generator, normals, thresholds, latents, amount=1e-6)
    assert near.to_numpy().max() == 0
