import numpy as np
import pytest
from safetensors.numpy import save
from sklearn.decomposition import PCA

from hyperdecode.baselines.base import Baseline, best_possible, to_tensor
from hyperdecode.baselines.eigenfaces import Eigenfaces, fit_eigenfaces, read_eigenfaces
from hyperdecode.errors import LeakageError, UserError, WeightFileError

SIDE = 8


def pictures(n, side=2 * SIDE, seed=0, rank=None):
    """Smooth random pictures of a given rank (none: full)."""
    rng = np.random.default_rng(seed)
    if rank is None:
        return rng.integers(0, 256, (n, side, side, 3), np.uint8)
    basis = rng.standard_normal((rank, side, side, 3))
    values = 128 + 25 * np.tensordot(rng.uniform(-1, 1, (n, rank)) / rank**0.5, basis, 1)
    return values.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("n", [30, 250])  # fewer and more pictures than the 192 values of one
def test_equals_scikit_learn(n):
    faces = pictures(n)
    model = fit_eigenfaces(faces, ["train"] * n, 20, SIDE)
    x = to_tensor(faces, SIDE).flatten(1).double().numpy()
    pca = PCA(20, whiten=True, svd_solver="full").fit(x)
    np.testing.assert_allclose(model.mean, pca.mean_, atol=1e-6)
    signs = np.sign(np.sum(model.components * pca.components_, axis=1))
    np.testing.assert_allclose(model.components, signs[:, None] * pca.components_, atol=1e-4)
    np.testing.assert_allclose(model.spread**2 * x.shape[1], pca.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(model.encode(faces), signs * pca.transform(x), atol=1e-3)
    again = pca.inverse_transform(pca.transform(x)).clip(-1, 1)
    np.testing.assert_allclose(model.images(model.encode(faces)).flatten(1), again, atol=1e-4)
    assert (model.components[np.arange(20), np.abs(model.components).argmax(1)] > 0).all()


def test_latents_have_unit_variance_and_units_of_pictures():
    faces = pictures(40, rank=12)
    model = fit_eigenfaces(faces, None, 10, SIDE)
    assert isinstance(model, Baseline) and (model.latent_dim, model.side) == (10, SIDE)
    z = model.encode(faces)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(z.T), np.eye(10), atol=1e-3)
    moved = model.images(np.eye(10)[:1] * 0.5) - model.images(np.zeros((1, 10)))
    np.testing.assert_allclose(moved.square().mean() ** 0.5, 0.5 * model.latent_units[0], rtol=1e-4)


def test_new_faces_of_the_same_kind_come_back():
    faces = pictures(60, rank=6)
    model = fit_eigenfaces(faces[:50], ["train"] * 50, 6, SIDE)
    small = to_tensor(faces[50:], SIDE).permute(0, 2, 3, 1).numpy()
    made = best_possible(model, faces[50:]) / 127.5 - 1
    assert ((made - small) ** 2).mean() < 0.01 * small.var(), "components of the training faces miss the others"
    fewer = fit_eigenfaces(faces[:50], None, 2, SIDE)
    assert ((best_possible(fewer, faces[50:]) / 127.5 - 1 - small) ** 2).mean() > 0.1 * small.var()


def test_fewer_faces_than_components():
    model = fit_eigenfaces(pictures(9), ["train"] * 9, side=SIDE)
    assert model.latent_dim == 8, "nine faces have eight components about their mean"
    twice = np.concatenate([pictures(5), pictures(5)])
    assert fit_eigenfaces(twice, None, side=SIDE).latent_dim == 4
    np.testing.assert_allclose(best_possible(model, pictures(9)), _small(pictures(9)), atol=1)


def test_batches_give_what_the_whole_gives():
    faces = pictures(11)
    whole = fit_eigenfaces(faces, ["train"] * 11, 5, SIDE)
    parts = fit_eigenfaces((faces[k : k + 4] for k in range(0, 11, 4)), ["train"] * 11, 5, SIDE)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(array, parts.arrays()[name])


def test_a_test_face_is_refused_before_it_is_read():
    def unread():
        raise AssertionError("a picture was read")
        yield

    with pytest.raises(LeakageError, match="eigenfaces must never see test trials, got 1 among 3"):
        fit_eigenfaces(unread(), ["train", "test", "train"])
    with pytest.raises(UserError, match="4 rows came with 3 roles"):
        fit_eigenfaces(pictures(4), ["train"] * 3, side=SIDE)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(UserError, match="at least two"):
        fit_eigenfaces(pictures(1), None)
    with pytest.raises(UserError, match="all the same"):
        fit_eigenfaces(np.full((3, 8, 8, 3), 7, np.uint8), None)
    with pytest.raises(UserError, match="1 component or more"):
        fit_eigenfaces(pictures(3), None, 0)
    with pytest.raises(UserError, match="uint8 of shape"):
        fit_eigenfaces(np.zeros((3, 8, 8, 3)), None)
    model = fit_eigenfaces(pictures(5), None, 3, SIDE)
    with pytest.raises(UserError, match=r"eigenfaces takes latents \(n, 3\)"):
        model.images(np.zeros((2, 4)))


@pytest.mark.parametrize("harm", ["absent", "nan", "shape", "spread", "cut", "text"])
def test_damaged_files_are_refused(harm):
    model = fit_eigenfaces(pictures(6), None, 4, SIDE)
    again = read_eigenfaces(save(model.arrays()), "file")
    np.testing.assert_array_equal(again.encode(pictures(2)), model.encode(pictures(2)))
    arrays = {name: array.copy() for name, array in model.arrays().items()}
    if harm == "absent":
        del arrays["spread"]
    elif harm == "nan":
        arrays["mean"][0] = np.nan
    elif harm == "shape":
        arrays["mean"] = arrays["mean"][:-1]
    elif harm == "spread":
        arrays["spread"][1] = 0
    data = b"eigenfaces" if harm == "text" else save(arrays)
    with pytest.raises(WeightFileError, match="file: these are no eigenfaces"):
        read_eigenfaces(data[:-9] if harm == "cut" else data, "file")
    with pytest.raises(UserError, match="p = 3 side"):
        Eigenfaces(np.zeros(12), np.zeros((2, 11)), np.ones(2))


def _small(faces):
    values = (to_tensor(faces, SIDE) + 1) * 127.5
    return values.round().permute(0, 2, 3, 1).numpy()
