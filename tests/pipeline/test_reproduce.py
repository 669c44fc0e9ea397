"""Files of the authors' layout with planted signal, and what is made of them."""

import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from scipy.stats import pearsonr
from scipy.stats import t as student
from skimage.metrics import structural_similarity

from hyperdecode.decoding.dense import DenseDecoder
from hyperdecode.errors import LeakageError, UserError, WeightFileError
from hyperdecode.files import sha256_file
from hyperdecode.pipeline import released as module
from hyperdecode.pipeline.released import read_released
from hyperdecode.pipeline.reproduce import Reproduction
from hyperdecode.pipeline.reproduce_table1 import readable
from hyperdecode.pipeline.reproduced import Settings
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.study.stimulus_set import read_picture, write_picture
from tests.weights import file_makers
from tests.weights.tiny_networks import pggan_genforce, pggan_mxnet, resnet50_keras

LATENT, SIDE, TRAIN, TEST, REPEATS = 16, 8, 160, 8, 14
BOUNDS = ("pggan_celebahq_age_boundary.npy", "pggan_celebahq_smile_boundary.npy")
QUICK = Settings(epochs=20, n_permutations=999, n_random=4)


def parts(seed, n_voxels, latents, planted=True, noise=1.0):
    """(X_train, T_train, X_test, T_test): voxels that read latents, test rows averages of 14 trials."""
    rng = np.random.default_rng(seed)
    train, test = latents
    weights = rng.normal(size=(LATENT, n_voxels)) * planted
    x = train @ weights + noise * rng.normal(size=(len(train), n_voxels))
    x_test = test @ weights + noise / REPEATS**0.5 * rng.normal(size=(len(test), n_voxels))
    return [part.astype(np.float32) for part in (x, train, x_test, test)]


def latents(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(n, LATENT)).astype(np.float32) for n in (TRAIN, TEST))


def write_data(path, content):
    """Write lists of rows, as the authors' pickles hold them."""
    path.write_bytes(pickle.dumps(tuple(list(part) for part in content), 4))


def write_release(folder, planted=True, seed=0):
    """Two subjects with 60 and 40 voxels; the second one's test faces stand in another order, one voxel is constant."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = latents(seed)
    write_data(folder / "data_1.dat", parts(seed + 1, 60, shown, planted))
    x, t, x_test, t_test = parts(seed + 2, 40, shown, planted)
    x[:, 7], x_test[:, 7] = 2.5, 9.0
    order = np.random.default_rng(5).permutation(TEST)
    write_data(folder / "data_2.dat", (x, t, x_test[order], t_test[order]))
    rng = np.random.default_rng(3)
    (folder / "generator.params").write_bytes(file_makers.mxnet_params(pggan_mxnet(rng, LATENT, 8)))
    (folder / "vggface.h5").write_bytes(file_makers.keras_file(resnet50_keras(rng)))
    bounds = folder / "bounds"
    bounds.mkdir(exist_ok=True)
    for name in ("age", "smile"):
        np.save(bounds / f"pggan_celebahq_{name}_boundary.npy", rng.normal(size=(1, LATENT)))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERDECODE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release") / "data")


@pytest.fixture(scope="module")
def made(release, tmp_path_factory):
    """A quick run with boundaries; tests read it and change nothing."""
    found = read_released(release, boundaries=release / "bounds")
    work = Reproduction(found, tmp_path_factory.mktemp("made") / "out", QUICK)
    work.run()
    return work


@pytest.fixture
def data(tmp_path):
    return write_release(tmp_path / "data")


def scores(work, subject, model):
    return work.scores(subject, model).set_index("metric")


def test_what_is_planted_is_decoded(made):
    for subject in ("1", "2"):
        row = scores(made, subject, "weighted-ridge").loc["identification"]
        assert row["decoder"] > 0.95 and row["p_value"] < 0.005
        assert row["decoder"] > row["best_blind_score"] + 0.3
    assert all("nothing" not in line for line in made.verdicts() if "weighted-ridge" in line)
    assert "What was seen was decoded from the responses of both subjects." in (made.out / "report.html").read_text()


@pytest.mark.filterwarnings("default::hyperdecode.errors.DataWarning")
def test_a_null_subject_says_so(tmp_path):
    found = read_released(write_release(tmp_path / "data", planted=False))
    work = Reproduction(found, tmp_path / "out", QUICK)
    work.run()
    assert len(work.verdicts()) == 4
    assert all("nothing was decoded" in line for line in work.verdicts())
    assert "Nothing was decoded." in (tmp_path / "out" / "report.html").read_text()


def test_table_1_by_the_papers_definitions(made, release):
    table = pd.read_csv(made.out / "table1.tsv", sep="\t").set_index(["method", "subject", "metric"])
    assert set(table.index.get_level_values("method")) == {"weighted-ridge", "dense-20-epochs"}
    for one in made.released.subjects:
        for label in ("weighted-ridge", "dense-20-epochs"):
            folder, subject = made.out / f"sub-{one.label}" / label, f"sub-{one.label}"
            kept = load_file(folder / "latents.safetensors")
            lsim = 1 / (1 + ((kept["predicted"] - kept["true"]).astype(float) ** 2).mean(1))
            row = table.loc[label, subject, "lsim"]
            assert row["mean"] == pytest.approx(lsim.mean(), rel=1e-5)
            assert row["se"] == pytest.approx(lsim.std(ddof=1) / TEST**0.5, rel=1e-4)
            pairs = zip(made.faces(one), sorted((folder / "faces").iterdir()), strict=True)
            pictures = [tuple(map(read_picture, pair)) for pair in pairs]
            ssim = np.mean([structural_similarity(a, b, channel_axis=2, data_range=255) for a, b in pictures])
            assert table.loc[label, subject, "ssim_hyper-code"]["mean"] == pytest.approx(ssim, abs=1e-5)
            network = made.released.network
            large = (np.stack(some).repeat(28, 1).repeat(28, 2) for some in zip(*pictures, strict=True))
            features = [network.features(torch.from_numpy(p).permute(0, 3, 1, 2) / 127.5 - 1) for p in large]
            fsim = 1 / (1 + (features[0] - features[1]).double().square().mean(1))
            assert table.loc[label, subject, "fsim"]["mean"] == pytest.approx(float(fsim.mean()), rel=1e-4)
    published = table["paper_hyper"].xs("weighted-ridge", level="method")
    assert published["sub-1", "lsim"] == 0.4521 and published["sub-2", "lsim"] == 0.4447
    assert published["sub-1", "fsim"] == 0.1745 and published["sub-2", "ssim_hyper-paper"] == 0.6035


def test_pictures_are_those_of_the_latents(made):
    generator = made.released.generator
    one = made.released.subjects[1]
    with torch.inference_mode():
        expected = ((generator.images(torch.from_numpy(one.data.t_test)).clamp(-1, 1) + 1) * 127.5).round()
    for path, picture in zip(made.faces(one), expected.permute(0, 2, 3, 1).numpy(), strict=True):
        assert np.abs(read_picture(path) - picture).max() <= 1
    assert made.side == SIDE


def test_decoded_faces_are_drawn_at_the_length_of_training_latents(made):
    """As a study draws them; the paper's decoder is drawn as it predicts."""
    generator = made.released.generator
    for one in made.released.subjects:
        for label in ("weighted-ridge", "dense-20-epochs"):
            folder = made.out / f"sub-{one.label}" / label
            kept = load_file(folder / "latents.safetensors")
            mean = one.data.t_train.mean(0)
            if label == "weighted-ridge":
                length = np.linalg.norm(one.data.t_train - mean, axis=1).mean()
                np.testing.assert_allclose(np.linalg.norm(kept["drawn"] - mean, axis=1), length, rtol=1e-4)
                a, b = kept["drawn"] - mean, kept["predicted"] - mean
                cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
                np.testing.assert_allclose(cosine, 1, atol=1e-5)
                assert not np.allclose(kept["drawn"], kept["predicted"], atol=1e-2)
            else:
                np.testing.assert_array_equal(kept["drawn"], kept["predicted"])
            with torch.inference_mode():
                expected = ((generator.images(torch.from_numpy(kept["drawn"])).clamp(-1, 1) + 1) * 127.5).round()
            for path, picture in zip(
                made.faces(one, made_by(label)), expected.permute(0, 2, 3, 1).numpy(), strict=True
            ):
                assert np.abs(read_picture(path) - picture).max() <= 1


def made_by(label):
    """Model of a label: that of a quick look ends in its epochs."""
    return "dense" if label.startswith("dense") else label


class WithW:
    """A generator with a w: z = 0 has no face, the mean w has."""

    name, latent_dim, resolution, resolutions, spaces, picture_space = "with-w", LATENT, 4, (4,), ("z", "w"), "w"
    fingerprint = "f" * 64

    def w_statistics(self):
        return torch.full((LATENT,), 0.5), torch.ones(LATENT)

    def to_w(self, z, truncation=1.0):
        return z / z.norm(dim=1, keepdim=True)

    def images(self, latents, *, space=None, resolution=None):
        return latents[:, :3, None, None].expand(-1, 3, resolution, resolution)


def test_latents_z_go_through_w_and_what_predicts_zero_has_the_average_face(made):
    work = replace(made, released=replace(made.released, generator=WithW()))
    z = np.random.default_rng(0).normal(size=(3, LATENT))
    w = z / np.linalg.norm(z, axis=1, keepdims=True)
    for scale in (1, 1e-3):
        expected = np.broadcast_to((w[:, None, None, :3] + 1) * 127.5, (3, 4, 4, 3))
        assert np.abs(work._pictures(scale * z) - expected).max() <= 1
    assert np.abs(work._average_face() - 1.5 * 127.5).max() <= 1


def test_the_decoder_is_in_its_file(made):
    for one in made.released.subjects:
        for label in ("weighted-ridge", "dense-20-epochs"):
            folder = made.out / f"sub-{one.label}" / label
            kept, decoder = load_file(folder / "latents.safetensors"), load_file(folder / "decoder.safetensors")
            predicted = one.data.x_test @ decoder["coef"].T + decoder["intercept"]
            np.testing.assert_allclose(predicted, kept["predicted"], atol=2e-4)
            assert decoder["kept_voxels"].sum() == decoder["coef"].shape[1] == {"1": 60, "2": 39}[one.label]


def test_the_papers_decoder_is_that_of_the_notebook(made):
    """Responses are not scaled, and what was fitted saw the training faces."""
    one = made.released.subjects[0]
    expected = DenseDecoder(n_epochs=20, standardize=False, seed=derived_seed(0, "decoder", "1"))
    expected.fit(one.data.x_train, one.data.t_train)
    found = load_file(made.out / "sub-1" / "dense-20-epochs" / "decoder.safetensors")
    np.testing.assert_array_equal(found["coef"], expected.coef_)


def test_test_faces_do_not_reach_the_decoders(made, data, tmp_path):
    rng = np.random.default_rng(9)
    x, t, x_test, t_test = parts(1, 60, latents())
    write_data(data / "data_1.dat", (x, t, rng.normal(size=x_test.shape), rng.normal(size=t_test.shape)))
    other = Reproduction(read_released(data), tmp_path / "out", QUICK)
    other.run()
    for label in ("weighted-ridge", "dense-20-epochs"):
        here, there = (load_file(work.out / "sub-1" / label / "decoder.safetensors") for work in (made, other))
        for name, value in here.items():
            np.testing.assert_array_equal(value, there[name])
    assert len(other.reports) == 2, "subjects with other test faces have reports of their own"
    assert all((other.out / name).is_file() for name in (*other.reports, *other.strips))


def test_subjects_are_brought_into_one_order(made):
    first, second = made.released.subjects
    np.testing.assert_array_equal(first.data.t_test, second.data.t_test)
    assert second.reordered and not first.reordered and made.reports == ["report.html"]
    assert "sub-2: test faces brought into the order of sub-1." in made.words
    assert "sub-2: voxels constant over the training faces, left out: 1." in made.words


def test_every_output_says_that_it_is_a_quick_look(made, release, tmp_path):
    note = "QUICK LOOK: 20 epochs instead of the paper's 1,500."
    assert pd.read_csv(made.out / "table1.tsv", sep="\t")["note"].str.startswith(note).all()
    assert json.loads((made.out / "record.json").read_text())["quick_look"] is True
    assert note.replace("'", "&#39;") in (made.out / "report.html").read_text()
    with safe_open(made.out / "sub-1" / "dense-20-epochs" / "decoder.safetensors", "np") as file:
        assert file.metadata()["note"].startswith(note)
    for name in ("scores.tsv", "faces.tsv", "attributes.tsv"):
        assert set(pd.read_csv(made.out / name, sep="\t")["model"]) == {"weighted-ridge", "dense-20-epochs"}
    full = Reproduction(made.released, tmp_path / "out", replace(QUICK, epochs=1500))
    assert full.settings.label("dense") == "dense" and not full.settings.is_quick and not full.settings.note
    assert Settings().label("dense") == "dense" and not Settings().is_quick


def test_record(made, release):
    record = json.loads((made.out / "record.json").read_text())
    names = ("data_1.dat", "data_2.dat", "generator.params", "vggface.h5", *BOUNDS)
    paths = [release / name if (release / name).is_file() else release / "bounds" / name for name in names]
    assert record["inputs_sha256"] == {path.name: sha256_file(path) for path in paths}
    assert record["settings"]["epochs"] == 20 and record["feature_network"] == "resnet50-vggface2"
    assert record["verdicts"] == made.verdicts()


def test_attributes(made, release):
    table = pd.read_csv(made.out / "attributes.tsv", sep="\t").set_index(["subject", "model", "attribute"])
    assert len(table) == 2 * 2 * 2
    kept = load_file(made.out / "sub-2" / "weighted-ridge" / "latents.safetensors")
    normal = np.load(release / "bounds" / "pggan_celebahq_smile_boundary.npy")[0]
    r, p = pearsonr(kept["true"] @ normal, kept["predicted"] @ normal)
    row = table.loc["sub-2", "weighted-ridge", "smile"]
    assert row["r"] == pytest.approx(r, rel=1e-4) and row["low"] < r < row["high"] and row["df"] == TEST - 2
    assert row["p_value"] <= row["q_value"] <= 1
    assert 2 * student.sf(row["t"], row["df"]) == pytest.approx(p, rel=1e-2) == row["p_value"]
    assert "smile" in (made.out / "report.html").read_text()


def test_the_report_claims_no_mask(made):
    html = (made.out / "report.html").read_text()
    assert "Voxel mask" not in html and "The authors chose the voxels before the release" in html
    assert html.index('id="table1"') < html.index('id="scores"')
    assert html.count('id="table1"') == 1 and "Voxel scaling, decoder and its penalty" in html
    assert "0.4521" in html and "VAE-GAN, fsim: 0.1416 / 0.1461" in html


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def test_a_second_run_does_nothing_and_a_lost_file_is_made_again(release, tmp_path, monkeypatch):
    found = read_released(release)
    work = Reproduction(found, tmp_path / "out", QUICK)

    def full(path, picture):
        if path.name == "face-0003.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_picture(path, picture)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("hyperdecode.pipeline.reproduce.write_picture", full)
        work.run()
    first = work.run()
    before = modified(work.out)
    pd.testing.assert_frame_equal(work.run(), first)
    assert modified(work.out) == before
    lost = work.out / "sub-2" / "weighted-ridge" / "faces" / "test-0003.png"
    content = lost.read_bytes()
    lost.unlink()
    work.run()
    assert lost.read_bytes() == content
    decoder = work.out / "sub-2" / "weighted-ridge" / "decoder.safetensors"
    assert modified(work.out)[decoder] == before[decoder]


def test_a_killed_training_goes_on_where_it_was(release, tmp_path):
    found, settings = read_released(release), replace(QUICK, epochs=120)
    whole = Reproduction(found, tmp_path / "whole", settings)
    whole.run()

    def kill(done, total, what):
        if what.startswith("decode_sub-1_dense") and "epoch 70 of 120" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Reproduction(found, tmp_path / "out", settings, tell=kill).run()
    assert not (tmp_path / "out" / "sub-1" / "dense-120-epochs" / "decoder.safetensors").exists()
    heard = []
    Reproduction(found, tmp_path / "out", settings, tell=lambda *said: heard.append(said[2])).run()
    trained = [line for line in heard if line.startswith("decode_sub-1_dense") and " of 120" in line]
    assert "epoch 60 of 120" in trained[0], "training began anew"
    for name in ("decoder.safetensors", "latents.safetensors"):
        files = [tmp_path / run / "sub-1" / "dense-120-epochs" / name for run in ("out", "whole")]
        gone_on, uninterrupted = map(load_file, files)
        for key, value in uninterrupted.items():
            np.testing.assert_array_equal(gone_on[key], value)
    assert not list((tmp_path / "out").rglob("checkpoint*"))


def test_nothing_is_overwritten_unless_told(release, tmp_path):
    found = read_released(release)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table1.tsv").write_text("mine")
    work = Reproduction(found, tmp_path / "out", QUICK)
    with pytest.raises(UserError, match=r"table1\.tsv exists without a record .* use --force"):
        work.run()
    assert (tmp_path / "out" / "table1.tsv").read_text() == "mine" and len(modified(tmp_path / "out")) == 1
    work.run(force=True)
    other = Reproduction(found, tmp_path / "out", replace(QUICK, epochs=30))
    before = modified(tmp_path / "out")
    with pytest.raises(UserError, match="made with other epochs, models: use --force"):
        other.run()
    assert modified(tmp_path / "out") == before
    assert set(other.run(force=True)["method"]) == {"weighted-ridge", "dense-30-epochs"}


def test_other_data_under_the_same_name_are_noticed(data, tmp_path):
    Reproduction(read_released(data), tmp_path / "out", QUICK).run()
    write_data(data / "data_1.dat", parts(77, 60, latents()))
    with pytest.raises(UserError, match="was made with other data: use --force"):
        Reproduction(read_released(data), tmp_path / "out", QUICK).run()


class Shrunk:
    """A network that is not the paper's: mean colour of the halves of a picture."""

    name, dim = "dlib", 6

    def features(self, pictures):
        return torch.cat([half.mean((2, 3)) for half in pictures.chunk(2, 2)], 1)


def test_without_the_papers_network_feature_similarity_is_not_compared(data, tmp_path, monkeypatch):
    (data / "vggface.h5").unlink()
    monkeypatch.setattr(module, "load_feature_network", lambda name: Shrunk())
    work = Reproduction(read_released(data), tmp_path / "out", QUICK)
    table = work.run()
    assert "fsim" not in set(table["metric"])
    assert table.loc[table["metric"] == "fsim_dlib", "paper_hyper"].isna().all()
    assert table.loc[table["metric"] == "lsim", "paper_hyper"].notna().all()
    assert "Feature similarity (dlib)" in set(readable(table)["Metric"])
    said = [line for line in work.words if "not comparable" in line]
    assert said and said[0].replace("'", "&#39;") in (work.out / "report.html").read_text()


def test_any_format_of_the_generator(data, tmp_path):
    (data / "generator.params").unlink()
    state = {name: torch.tensor(v) for name, v in pggan_genforce(np.random.default_rng(0), LATENT, 8).items()}
    (data / "pggan_celebahq1024.pth").write_bytes(file_makers.torch_file({"generator_smooth": state}))
    found = read_released(data)
    assert found.generator_source == "pggan_celebahq1024.pth" and found.generator.latent_dim == LATENT
    elsewhere = tmp_path / "elsewhere.bin"
    (data / "pggan_celebahq1024.pth").rename(elsewhere)
    assert read_released(data, generator=str(elsewhere)).generator.fingerprint == found.generator.fingerprint


def refused(words, data, kind=UserError, **options):
    with pytest.raises(kind) as error:
        read_released(data, **options)
    message = str(error.value)
    assert words in message and "\n" not in message and len(message) < 400, message


def test_missing_files(data, tmp_path):
    refused("no folder", tmp_path / "nowhere")
    (data / "data_2.dat").unlink()
    refused(
        "lacks data_2.dat (found: 'bounds', 'data_1.dat', 'generator.params', 'vggface.h5'); expected data_1.dat", data
    )
    (data / "data_1.dat").unlink()
    refused("lacks data_1.dat and data_2.dat", data)


def test_which_generator(data, tmp_path):
    content = (data / "generator.params").read_bytes()
    (data / "again.params").write_bytes(content)
    refused("holds 2 generators ('again.params', 'generator.params'): say with --generator", data)
    (data / "again.params").unlink()
    (data / "generator.params").write_bytes(content[:-9])
    refused("no usable parameters of a generator: generator.params", data, WeightFileError)
    (data / "generator.params").unlink()
    refused("holds no parameters of a generator", data)
    refused("no generator 'nobody': give a file", data, generator="nobody")
    refused("which is no generator", data, generator=str(data / "vggface.h5"))


def test_what_does_not_fit_the_generator(data, tmp_path):
    rng = np.random.default_rng(0)
    wide = tmp_path / "wide.params"
    wide.write_bytes(file_makers.mxnet_params(pggan_mxnet(rng, 24, 8)))
    refused("data_1.dat: latents of 16 dimensions, but wide.params takes 24", data, generator=str(wide))
    np.save(data / "bounds" / "pose_boundary.npy", np.ones(9))
    refused("pose_boundary.npy has 9 dimensions, the latents have 16", data, boundaries=data / "bounds")
    refused("no *_boundary.npy in", data, boundaries=tmp_path)
    refused("of pggan, not of", data, features=data / "generator.params")


def test_what_is_wrong_with_the_data(data):
    path, (x, t, x_test, t_test) = data / "data_1.dat", parts(1, LATENT, latents())

    def with_data(*content):
        write_data(path, content)
        return data

    wide = np.concatenate([x, x], 1), t, np.concatenate([x_test, x_test], 1), t_test
    refused("responses and latents look swapped", with_data(wide[1], wide[0], wide[3], wide[2]))
    bad = x.copy()
    bad[3, 4] = np.nan
    refused("holds NaN", with_data(bad, t, x_test, t_test), WeightFileError)
    refused("stands in training and in test", with_data(x, t, x_test, np.r_[t[:1], t_test[1:]]), LeakageError)
    refused("every voxel is constant", with_data(np.ones_like(x), t, x_test, t_test))
    refused("1 test faces, expected 4 or more", with_data(x, t, x_test[:1], t_test[:1]))
    refused("responses to 159 faces and latents of 160", with_data(x[1:], t, x_test, t_test), WeightFileError)


def test_a_pickle_with_a_program(data, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/canary",)

    (data / "data_2.dat").write_bytes(pickle.dumps([Attack()] * 4, 4))
    refused("system", data, WeightFileError)
    assert not (tmp_path / "canary").exists()


def test_settings(made, tmp_path):
    with pytest.raises(UserError, match="no decoder 'magic': choose among"):
        Settings(models=("magic",))
    with pytest.raises(UserError, match="cannot train for 0 epochs"):
        Settings(epochs=0)
    with pytest.raises(UserError, match=r"makes pictures of \(8,\) px, not 64"):
        Reproduction(made.released, tmp_path / "out", Settings(resolution=64)).run()
    assert Settings(models=("dense", "ridge")).all_models == ("dense", "ridge")
