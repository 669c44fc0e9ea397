import json
import os
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import sha256_file
from hyperdecode.generators import registry
from hyperdecode.generators.registry import FAMILIES, build_generator, generator_names, load_generator
from hyperdecode.weights.contents import WeightContents, Weights
from hyperdecode.weights.imported import (
    check_weights,
    imported_names,
    imported_path,
    imported_summary,
    load_imported,
    name_for,
    names_in_cache,
)  # fmt: skip
from hyperdecode.weights.importing import convert, import_weights, read_weights, recognise
from hyperdecode.weights.store import SOURCES, tensors_digest

LAYOUTS = [
    "PGGAN, TensorFlow", "PGGAN, genforce", "PGGAN, InterFaceGAN", "PGGAN, ptrblck", "PGGAN, MXNet",
    "StyleGAN2, NVIDIA", "StyleGAN2, TensorFlow", "StyleGAN2, rosinality", "StyleGAN3, NVIDIA", "ResNet50, Keras",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def pggan(network_files, tmp_path):
    """A PGGAN file to import."""
    name, data, *_ = network_files["PGGAN, TensorFlow"]
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == np.float32 and found[name].shape == np.shape(value)
        np.testing.assert_array_equal(found[name], value)


def test_every_layout_is_tried(network_files):
    assert list(network_files) == LAYOUTS
    assert {family for *_, family in network_files.values()} | {"mobilestylegan"} == {*FAMILIES, "resnet50-vggface2"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_file_to_generator(network_files, tmp_path, nothing_runs, layout):
    filename, data, form, tensors, settings, family = network_files[layout]
    path = tmp_path / "download.bin"  # its name does not tell what it is
    path.write_bytes(data)
    with nothing_runs():
        assert recognise(path) == form
        contents = read_weights(path)
    assert contents.format == form
    same(contents.tensors, tensors)
    assert settings.items() <= contents.settings.items()

    expected = convert(WeightContents(form, tensors, filename, settings))
    imported = import_weights(path, "mine")
    assert imported.weights.family == expected.family == family and imported.weights.layout == expected.layout
    same(imported.weights.tensors, expected.tensors)
    assert imported.parameters == sum(value.size for value in expected.tensors.values())

    kept = load_imported("mine")
    same(kept.tensors, expected.tensors)
    assert all(value.flags.writeable for value in kept.tensors.values())
    assert (kept.family, kept.layout, kept.licence) == (family, expected.layout, expected.licence)
    assert kept.settings == json.loads(json.dumps(expected.settings))
    said = imported_summary("mine")
    assert said["origin"] == "download.bin" and said["origin_sha256"] == sha256_file(path)

    if family in FAMILIES:
        assert "mine" in generator_names()
        generator, other = load_generator("mine"), build_generator(expected, "mine")
        z = generator.sample(2, seed=1)
        pictures = generator.images(z, space="z")
        assert pictures.shape == (2, 3, generator.resolution, generator.resolution) and pictures.std() > 0
        torch.testing.assert_close(pictures, other.images(z, space="z"), rtol=0, atol=0)
        assert generator.fingerprint == other.fingerprint
    else:
        assert "mine" not in generator_names()
        with pytest.raises(WeightFileError, match="no generator"):
            load_generator("mine")


def test_mobilestylegan_from_its_openvino_files(mobilestylegan_ir, tiny_generator, tmp_path):
    for part, ir in zip(("Mapping", "Synthesis"), mobilestylegan_ir, strict=True):
        (tmp_path / f"{part}Network.xml").write_bytes(ir.xml)
        (tmp_path / f"{part}Network.bin").write_bytes(ir.bin)
    for name in ("MappingNetwork.xml", "SynthesisNetwork.xml"):
        assert recognise(tmp_path / name) == "openvino-ir"
        import_weights(tmp_path / name, "mine", force=True)
        generator = load_generator("mine")
        assert generator.resolutions == (64,)
        z = generator.sample(2, seed=1)
        expected = tiny_generator.images(tiny_generator.to_w(z))
        torch.testing.assert_close(generator.images(generator.to_w(z)), expected, rtol=1e-4, atol=1e-4)
    (tmp_path / "other.xml").write_bytes(mobilestylegan_ir[0].xml)
    with pytest.raises(WeightFileError, match=r"other\.xml: an OpenVINO network, expected MappingNetwork\.xml"):
        import_weights(tmp_path / "other.xml")
    (tmp_path / "SynthesisNetwork.bin").unlink()
    with pytest.raises(UserError, match=r"SynthesisNetwork\.bin"):
        import_weights(tmp_path / "MappingNetwork.xml", force=True)


def test_early_exits_belong_to_the_weights_they_were_trained_for(make_tiny_tensors, monkeypatch):
    asked = []
    monkeypatch.setattr(registry, "early_exits", lambda name: asked.append(name) or {})
    weights = Weights("mobilestylegan", "", {key: value.numpy() for key, value in make_tiny_tensors().items()})
    build_generator(weights, "mine")
    assert not asked
    name = "mobilestylegan-ffhq"
    pinned = replace(SOURCES[name], tensors_sha256=tensors_digest(weights.tensors))
    monkeypatch.setattr(registry, "SOURCES", {name: pinned})
    build_generator(weights, "mine")
    assert asked == [name]


def test_mobilestylegan_from_an_archive(mobilestylegan_ir, tmp_path):
    path = tmp_path / "wheel"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, ir in zip(("Mapping", "Synthesis"), mobilestylegan_ir, strict=True):
            archive.writestr(f"random_face/data/{part}Network.xml", ir.xml)
            archive.writestr(f"random_face/data/{part}Network.bin", ir.bin)
    assert import_weights(path).weights.family == "mobilestylegan"


def test_safetensors_that_say_what_they_are(pggan, tmp_path, cache):
    first = import_weights(pggan, "first")
    again = import_weights(first.path, "again")
    same(again.weights.tensors, first.weights.tensors)
    assert again.format == "safetensors" and again.weights.layout == first.weights.layout
    half = {name: value.astype(np.float16) for name, value in first.weights.tensors.items()}
    save_file(half, tmp_path / "half.safetensors", metadata={"family": "pggan", "licence": "CC0"})
    found = import_weights(tmp_path / "half.safetensors")
    assert found.name == "half" and found.weights.licence == "CC0"
    same(found.weights.tensors, {name: value.astype(np.float32) for name, value in half.items()})


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "of no network known here"),
        ({"licence": "x"}, "of no network known here"),
        ({"family": "pggan", "settings": "[1]"}, "does not say which network"),
        ({"family": "pggan", "settings": "{"}, "does not say which network"),
        ({"family": "pggan", "settings": "[" * 100_000}, "does not say which network"),
    ],
)
def test_safetensors_that_do_not(tmp_path, metadata, words):
    save_file({"x": np.ones(2, np.float32)}, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(WeightFileError, match=words):
        import_weights(tmp_path / "a.safetensors")


def test_a_readable_file_of_no_network_known(files, tmp_path, cache):
    path = tmp_path / "other.pth"
    path.write_bytes(files.torch_file({f"layer.{k}": torch.ones(2) for k in range(5)}))
    with pytest.raises(WeightFileError) as error:
        import_weights(path)
    message = str(error.value)
    assert message.startswith("other.pth: 5 tensors ('layer.0', 'layer.1', 'layer.2', ...) of no network known here")
    assert "\n" not in message and "PGGAN" in message and not cache.exists()


@pytest.mark.parametrize(
    "data",
    [b"GIF89a...", b"import os\n", b"\0" * 100, b"\x1f\x8b\x08", b"<html>", b"x", b"\xff" * 20],
)
def test_formats_that_are_not_known(tmp_path, data):
    (tmp_path / "odd").write_bytes(data)
    with pytest.raises(WeightFileError, match=r"^odd: its first bytes .* no format known here; expected") as error:
        import_weights(tmp_path / "odd")
    assert "\n" not in str(error.value)


def test_study_data_is_no_weights(files, tmp_path):
    name, data = files.small_files()["hyper data"]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightFileError, match="responses and latents of a study, not weights"):
        import_weights(tmp_path / name)


def test_a_program_is_refused_by_its_name(files, tmp_path, cache, nothing_runs):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/canary",)

    contents = {
        name: data for name, data in files.small_files(Attack()).values() if not name.startswith(("e", "f", "h"))
    }
    contents |= {f"bare{protocol}.pkl": pickle.dumps(Attack(), protocol) for protocol in range(6)}
    assert len(contents) == 11
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with nothing_runs(), pytest.raises(WeightFileError, match=rf"^{name}: .*'(posix|nt)\.system'") as error:
            import_weights(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "canary").exists() and not cache.exists()


# The cache


def test_names(pggan, tmp_path):
    for name in ("", "A", "a b", "../x", ".x", "x/", "x.", "a" * 65, "ä", "x\n", "mobilestylegan-ffhq"):
        with pytest.raises(UserError, match="name") as error:
            import_weights(pggan, name)
        assert "\n" not in str(error.value)
    assert import_weights(pggan, "a.b_c-9").path == imported_path("a.b_c-9")
    made = {
        "Karras2018iclr CelebA-HQ.pkl": "karras2018iclr-celeba-hq", "Ä.pkl": "imported", "x" * 99: "x" * 64,
        "a..pkl": "a", "--b.tar.gz": "b.tar",
    }  # fmt: skip
    for name, expected in made.items():
        assert name_for(tmp_path / name) == expected


def test_nothing_is_overwritten_unless_told(pggan):
    first = import_weights(pggan, "mine")
    before, expected = first.path.read_bytes(), first.weights.tensors
    with pytest.raises(UserError, match="mine are in the cache already: give --force"):
        import_weights(pggan, "mine")
    assert first.path.read_bytes() == before
    first.path.write_bytes(b"other")
    assert import_weights(pggan, "mine", force=True).path == first.path
    same(load_imported("mine").tensors, expected)


def test_what_inspection_refuses_is_not_kept(pggan, cache):
    def inspect(weights, name):
        assert weights.family == "pggan" and name == "karras2018"
        raise WeightFileError("no")

    with pytest.raises(WeightFileError, match="no"):
        import_weights(pggan, inspect=inspect)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written(pggan, cache, monkeypatch):
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="set HYPERDECODE_CACHE"):
        import_weights(pggan)


def test_damaged_weights_in_the_cache(pggan, cache):
    imported = import_weights(pggan, "mine")
    check_weights("mine")
    whole = imported.path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    tensors, said = load_file(imported.path), imported_summary("mine")
    other = dict(tensors)
    other["conv.1.bias"] = other["conv.1.bias"] + 1
    save_file(other, cache / "edited.safetensors", metadata=said)
    harms = {
        "cut": whole[:-1], "flipped": whole[:header] + bytes([whole[header] ^ 1]) + whole[header + 1 :], "empty": b"",
        "text": b"not a weight file", "no header": whole[:8],
    }  # fmt: skip
    for name, data in harms.items():
        (cache / f"{name.replace(' ', '-')}.safetensors").write_bytes(data)
    assert imported_names() == ("cut", "edited", "empty", "flipped", "mine", "no-header", "text") == names_in_cache()
    for name in imported_names():
        if name != "mine":
            for work in (check_weights, load_generator):
                with pytest.raises(WeightFileError, match=f"{name}") as error:
                    work(name)
                assert "\n" not in str(error.value)
    check_weights("mine")


def test_names_that_are_not_there():
    assert names_in_cache() == imported_names() == ()
    with pytest.raises(
        UserError, match=r"no generator 'x': choose among mobilestylegan-ffhq, or .* weights import FILE"
    ):
        load_generator("x")
    with pytest.raises(UserError, match="no weights imported as x"):
        check_weights("x")
    with pytest.raises(UserError, match="not in the cache: run `hyperdecode weights fetch"):
        check_weights("mobilestylegan-ffhq")


def test_strange_files_in_the_cache_are_no_names(cache):
    cache.mkdir(parents=True)
    for name in ("Big.safetensors", ".hidden.safetensors", "mobilestylegan-ffhq.safetensors", "a.txt"):
        (cache / name).write_bytes(b"x")
    assert imported_names() == () and generator_names() == ("mobilestylegan-ffhq",)
