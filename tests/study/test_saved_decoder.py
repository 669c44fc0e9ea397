"""A decoder on disk: the same predictions back, and one line for every file that is not what it says it is."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import sha256_file
from hyperdecode.study.saved_decoder import (
    FittedDecoder,
    plain_settings,
    read_decoder,
    training_fingerprint,
    voxels_fingerprint,
    write_decoder,
)

SHAPE = (4, 5, 6)
AFFINE = np.array([[-3.0, 0, 0, 40], [0, 3, 0, -50.5], [0, 0, 3, -0.0], [0, 0, 0, 1]])
VOXELS = np.sort(np.random.default_rng(7).permutation(math.prod(SHAPE))[:30]).astype(np.int64)


@pytest.fixture(scope="module")
def trials():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((50, 16))
    responses = latents @ rng.standard_normal((16, 30)) + rng.standard_normal((50, 30))
    return responses.astype(np.float32), latents.astype(np.float32)


@pytest.fixture(scope="module")
def ridge(trials):
    return RidgeDecoder(alphas=np.logspace(0, 3, 4)).fit(*trials)


@pytest.fixture(scope="module")
def fitted(trials, ridge, tiny_generator):
    return FittedDecoder(
        model="ridge",
        coef=ridge.coef_.astype(np.float32),
        intercept=ridge.intercept_.astype(np.float32),
        latent_space="w",
        latent_mean=trials[1].mean(axis=0),
        training_norm=3.7,
        generator=tiny_generator.name,
        generator_fingerprint=tiny_generator.fingerprint,
        truncation=0.7,
        voxels=VOXELS,
        shape=SHAPE,
        affine=AFFINE,
        space="mni",
        training_fingerprint=training_fingerprint([f"t{i}" for i in range(50)], *trials),
        n_training_trials=50,
        settings=ridge.get_params(),
        extra={"x_mean_": ridge.x_mean_, "alpha_": np.asarray(ridge.alpha_), "shape_": np.arange(6).reshape(2, 3)},
    )


@pytest.fixture
def stem(tmp_path, fitted):
    write_decoder(tmp_path / "sub-01_desc-ridge_decoder", fitted)
    return tmp_path / "sub-01_desc-ridge_decoder"


def json_of(stem):
    return stem.with_name(stem.name + ".json")


def arrays_of(stem):
    return stem.with_name(stem.name + ".safetensors")


def edit_json(stem, **changes):
    content = json.loads(json_of(stem).read_text()) | changes
    json_of(stem).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def edit_arrays(stem, **changes):
    """Change arrays and give the JSON the hash of the changed file: damage that a hash does not show."""
    content = load_file(arrays_of(stem)) | changes
    save_file({key: np.ascontiguousarray(value) for key, value in content.items() if value is not ...}, arrays_of(stem))
    edit_json(stem, arrays_sha256=sha256_file(arrays_of(stem)))


def refused(stem):
    with pytest.raises(WeightFileError) as caught:
        read_decoder(stem)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_comes_back_as_it_was(stem, fitted, ridge, trials):
    again = read_decoder(stem)
    for name in ("coef", "intercept", "latent_mean", "voxels", "affine"):
        assert np.array_equal(getattr(again, name), getattr(fitted, name))
        assert getattr(again, name).dtype == getattr(fitted, name).dtype
    assert again.extra.keys() == fitted.extra.keys()
    for name, value in fitted.extra.items():
        assert np.array_equal(again.extra[name], value) and again.extra[name].shape == value.shape
    plain = ("model", "latent_space", "training_norm", "generator", "generator_fingerprint", "truncation", "shape",
             "space", "training_fingerprint", "n_training_trials", "package_version")  # fmt: skip
    for name in plain:
        assert getattr(again, name) == getattr(fitted, name)
    assert again.settings == plain_settings(ridge.get_params())
    assert again.settings["alphas"] == [1.0, 10.0, 100.0, 1000.0]
    assert again.voxels_fingerprint == fitted.voxels_fingerprint
    assert np.array_equal(again.predict(trials[0]), fitted.predict(trials[0]))


def test_names_with_dots_and_either_file_name(tmp_path, fitted):
    written = write_decoder(tmp_path / "sub-01.v2_decoder", fitted)
    assert [path.name for path in written] == ["sub-01.v2_decoder.safetensors", "sub-01.v2_decoder.json"]
    for path in written:
        assert read_decoder(path).model == "ridge"


def test_predicts_as_the_estimator_does(fitted, ridge, trials):
    x = trials[0].astype(np.float64)
    exact = replace(fitted, coef=ridge.coef_, intercept=ridge.intercept_)
    assert np.allclose(exact.predict(x), ridge.predict(x), atol=1e-12, rtol=0)
    assert np.allclose(fitted.predict(trials[0]), ridge.predict(x), atol=1e-4, rtol=0)
    assert fitted.predict(trials[0]).dtype == np.float32
    given = torch.from_numpy(trials[0])
    assert torch.equal(fitted.predict(given), torch.from_numpy(fitted.predict(trials[0])))


def test_stretched_has_the_length_of_training_latents(fitted, trials):
    away = fitted.stretched(fitted.predict(trials[0])) - fitted.latent_mean
    assert np.allclose(np.linalg.norm(away, axis=1), 3.7)


def test_predict_refuses_other_responses(fitted, trials):
    with pytest.raises(UserError, match="fitted on 30 voxels and got 29"):
        fitted.predict(trials[0][:, 1:])
    with pytest.raises(UserError, match="1 of 30 columns hold NaN"):
        fitted.predict(np.where(np.arange(30) == 3, np.nan, trials[0]))


def test_require_voxels(fitted):
    fitted.require_voxels(VOXELS, SHAPE, AFFINE)
    mask = np.zeros(SHAPE, bool)
    mask.ravel()[VOXELS] = True
    fitted.require_voxels(mask, SHAPE, AFFINE + 1e-5)
    elsewhere = VOXELS.copy()
    elsewhere[3] = np.setdiff1d(np.arange(math.prod(SHAPE)), VOXELS)[0]
    with pytest.raises(UserError, match="1 of 30 voxels that the decoder was not fitted on"):
        fitted.require_voxels(elsewhere, SHAPE, AFFINE)
    with pytest.raises(UserError, match="in another order"):
        fitted.require_voxels(np.roll(VOXELS, 1), SHAPE, AFFINE)
    with pytest.raises(UserError, match="29 voxels, the decoder was fitted on 30"):
        fitted.require_voxels(VOXELS[1:], SHAPE, AFFINE)
    with pytest.raises(UserError, match="in another order"):
        # A mask counted in Fortran order, as NIfTI files lie on the disk.
        fitted.require_voxels(
            VOXELS[np.argsort(np.arange(120).reshape(SHAPE, order="F").ravel()[VOXELS])], SHAPE, AFFINE
        )
    with pytest.raises(UserError, match=r"grid 4 x 6 x 5 with affine .* fitted on 4 x 5 x 6"):
        fitted.require_voxels(VOXELS, (4, 6, 5), AFFINE)
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    with pytest.raises(UserError, match=r"\[-3 0 0 41\].*\[-3 0 0 40\]"):
        fitted.require_voxels(VOXELS, SHAPE, shifted)


def test_require_mask(fitted, tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask.ravel()[VOXELS] = 1
    fitted.require_mask(nib.Nifti1Image(mask, AFFINE), tmp_path / "mask.nii.gz")
    mask[:] = np.roll(mask, 1, axis=0)
    with pytest.raises(UserError, match=r"mask\.nii\.gz: the data have \d+ of 30 voxels that the decoder was not"):
        fitted.require_mask(nib.Nifti1Image(mask, AFFINE), tmp_path / "mask.nii.gz")


def test_require_generator(fitted, tiny_generator, make_tiny):
    fitted.require_generator(tiny_generator)
    with pytest.raises(UserError, match="its latents mean other faces"):
        fitted.require_generator(make_tiny(1))
    wide = replace(fitted, coef=fitted.coef[:8], intercept=fitted.intercept[:8], latent_mean=fitted.latent_mean[:8])
    with pytest.raises(UserError, match="8 dimensions of w, mobilestylegan-ffhq has 16"):
        wide.require_generator(tiny_generator)


def test_fingerprints_tell_what_differs(trials):
    x, y = trials
    names = [f"t{i}" for i in range(50)]
    base = training_fingerprint(names, x, y)
    assert base == training_fingerprint(list(names), x.copy(), np.asfortranarray(y))
    others = [
        training_fingerprint(names[::-1], x, y),
        training_fingerprint(names, np.nextafter(x, 1), y),
        training_fingerprint(names, x, -y),
        training_fingerprint(names, x[:, ::-1], y),
        training_fingerprint(names, x.astype(np.float64), y),
        training_fingerprint(names, y, x),
    ]
    assert len({base, *others}) == 7
    with pytest.raises(UserError, match="give one a row"):
        training_fingerprint(names[1:], x, y)
    own = voxels_fingerprint(VOXELS, SHAPE, AFFINE)
    assert own == voxels_fingerprint(VOXELS, SHAPE, AFFINE.astype(np.float32) + 0.0)
    assert len({own, voxels_fingerprint(VOXELS[::-1], SHAPE, AFFINE), voxels_fingerprint(VOXELS, (4, 6, 5), AFFINE),
                voxels_fingerprint(VOXELS, SHAPE, AFFINE * 1.001)}) == 4  # fmt: skip


def test_settings_without_a_word_in_json_stay_readable(stem, fitted):
    given = {"alphas": np.array([1.5]), "progress": print, "wide": np.zeros(5000), "inf": math.inf, "n": np.int64(3)}
    write_decoder(stem, replace(fitted, settings=given))
    assert read_decoder(stem).settings == {
        "alphas": [1.5],
        "progress": "builtin_function_or_method",
        "wide": "float64 array of shape (5000,)",
        "inf": "inf",
        "n": 3,
    }


def test_a_pair_that_does_not_belong_together(stem, fitted, tmp_path):
    write_decoder(tmp_path / "other", replace(fitted, coef=fitted.coef * 2))
    arrays_of(tmp_path / "other").replace(arrays_of(stem))
    assert "is not the file that sub-01_desc-ridge_decoder.json was written with" in refused(stem)


def test_missing_files(stem):
    json_of(stem).unlink()
    with pytest.raises(UserError, match=r"cannot read .*decoder\.json"):
        read_decoder(stem)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"surprise": 1}, "surprise Extra inputs"),
        ({"training_norm": ...}, "training_norm Field required"),
        ({"format": 2}, "format Input should be 1"),
        ({"latent_space": "w+"}, "latent_space"),
        ({"training_norm": 1e999}, "training_norm"),
        ({"training_norm": -1.0}, "the norm of training latents must be positive"),
        ({"training_norm": "3"}, "training_norm"),
        ({"truncation": 11}, "truncation must lie"),
        ({"n_training_trials": 0}, "0 training trials"),
        ({"n_training_trials": 1.5}, "n_training_trials"),
        ({"shape": [4, 5]}, "shape"),
        ({"shape": [4, 5, 10**30]}, "shape"),
        ({"shape": [4, 5, -6]}, "no grid can have the shape"),
        ({"shape": [2**30, 2**30, 1]}, "no grid can have the shape"),
        ({"shape": [2, 2, 2]}, "lies outside the grid"),
        ({"shape": [5, 4, 6]}, "names other voxels"),
        ({"affine": [[0, 0, 0, 0]] * 4}, "maps no grid to space"),
        ({"affine": [[1, 2], [3, 4]]}, "affine"),
        ({"affine": [[1e300, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, "beyond a kilometre"),
        ({"voxels_fingerprint": "0" * 64}, "names other voxels"),
        ({"arrays_sha256": "../../etc/passwd"}, "arrays_sha256"),
        ({"generator_fingerprint": "x"}, "generator_fingerprint"),
        ({"generator": ""}, "generator"),
        ({"model": "r" * 500}, "model"),
        ({"settings": [1]}, "settings"),
        ({"settings": {"alpha": 1e999}}, "settings"),
    ],
)
def test_a_description_that_cannot_be(stem, changes, expected):
    edit_json(stem, **changes)
    assert expected in refused(stem)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b"null", b"\xff\xfe", b"[" * 100_000, b'{"settings":' * 5000, b"9" * 10_000, b" " * 2**23],
    ids=["empty", "list", "cut", "null", "latin", "deep", "deeper", "long", "large"],
)
def test_a_description_that_is_none(stem, text):
    json_of(stem).write_bytes(text)
    refused(stem)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"coef_": ...}, "no array coef_"),
        ({"voxels": ...}, "no array voxels"),
        ({"coef_": np.zeros((16, 29), np.float32)}, "need voxels of shape (29,)"),
        ({"coef_": np.zeros(16, np.float32)}, "latents x voxels"),
        ({"coef_": np.zeros((0, 30), np.float32)}, "latents x voxels"),
        ({"coef_": np.full((16, 30), np.nan, np.float32)}, "'coef' holds NaN"),
        ({"coef_": np.zeros((16, 30), np.int32)}, "'coef' must be float32 or float64"),
        ({"coef_": np.zeros((16, 30), np.float16)}, "'coef' must be float32 or float64"),
        ({"intercept_": np.zeros(15, np.float32)}, "need intercept of shape (16,)"),
        ({"latent_mean": np.full(16, np.inf)}, "'latent_mean' holds NaN"),
        ({"voxels": VOXELS.astype(np.int32)}, "must be int64"),
        ({"voxels": VOXELS - 1000}, "lies outside the grid"),
        ({"voxels": VOXELS + 1000}, "lies outside the grid"),
        ({"voxels": np.full(30, 5)}, "stands twice"),
        ({"voxels": VOXELS[::-1]}, "names other voxels"),
        ({"x_mean_": np.full(30, np.nan)}, "'x_mean_' holds NaN"),
        ({"n" * 300: np.zeros(3)}, "may not be called"),
    ],
)
def test_arrays_that_cannot_be(stem, changes, expected):
    edit_arrays(stem, **changes)
    assert expected in refused(stem)


def test_damaged_arrays(stem):
    data = arrays_of(stem).read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(150):
        harmed = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        for place in rng.integers(0, min(len(harmed), 600), 3):
            harmed[place] ^= int(rng.integers(1, 256))
        arrays_of(stem).write_bytes(harmed)
        assert "was written with" in refused(stem)
        # With the hash of the harmed file, its content alone has to show it, or fits: then it is a decoder.
        edit_json(stem, arrays_sha256=sha256_file(arrays_of(stem)))
        try:
            assert read_decoder(stem).coef.shape == (16, 30)
        except WeightFileError as error:
            assert "\n" not in str(error)
        json_of(stem).write_text(json.dumps(json.loads(json_of(stem).read_text()) | {"arrays_sha256": "0" * 64}))


def test_what_could_not_be_read_again_is_not_written(tmp_path, fitted):
    with pytest.raises(UserError, match="generator_fingerprint"):
        write_decoder(tmp_path / "d", replace(fitted, generator_fingerprint="none"))
    with pytest.raises(UserError, match="would have"):
        write_decoder(tmp_path / "d", replace(fitted, settings={"text": "x" * 2**23}))
    with pytest.raises(UserError, match="holds NaN"):
        replace(fitted, coef=np.full((16, 30), np.nan))
    assert not list(tmp_path.iterdir())
