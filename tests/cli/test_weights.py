import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from hyperdecode.cli import main
from hyperdecode.weights import store


def beside_the_weights(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "weights" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def networks():
    return beside_the_weights("tiny_networks").network_files(beside_the_weights("file_makers"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def run(cache, monkeypatch, capsys):
    """Return a function that runs ``hyperdecode weights ...`` and gives exit code, output, and error output."""

    def work(*words):
        monkeypatch.setattr(sys, "argv", ["hyperdecode", "--threads", "1", "weights", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            main()
        said = capsys.readouterr()
        return leaving.value.code or 0, said.out, said.err

    return work


@pytest.fixture
def put(tmp_path, networks):
    """Return a function that writes one of the tiny networks' files."""

    def work(layout):
        name, data, *_ = networks[layout]
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return work


@pytest.mark.parametrize(
    ("layout", "name", "form", "network", "pictures", "parameters", "licence"),
    [
        (
            "PGGAN, TensorFlow",
            "karras2018",
            "dnnlib",
            "PGGAN, TensorFlow network (Karras)",
            8,
            260 + 3 * 148 + 2 * 15,
            "CC BY-NC 4.0",
        ),
        ("PGGAN, MXNet", "generator", "mxnet", "PGGAN, MXNet .params (HYPER)", 8, 260 + 3 * 148 + 15, "CC BY-NC 4.0"),
        (
            "StyleGAN2, NVIDIA",
            "ffhq",
            "nvidia-torch",
            "StyleGAN2, NVIDIA PyTorch pickle",
            8,
            44 + 64 + 185 + 2 * 233 + 2 * 35,
            "non-commercial",
        ),
        (
            "StyleGAN3, NVIDIA",
            "stylegan3-t-ffhq",
            "nvidia-torch",
            "StyleGAN3-T, NVIDIA pickle",
            32,
            44 + 57 + 6 * 169 + 35,
            "non-commercial",
        ),
    ],
)
def test_import_says_what_it_found(run, put, cache, layout, name, form, network, pictures, parameters, licence):
    code, out, err = run("import", put(layout))
    assert (code, err) == (0, "")
    lines = {line[:12].strip(): line[12:] for line in out.splitlines()}
    assert list(lines) == ["Format", "Network", "Pictures", "Parameters", "Licence", "Kept as", "Next"]
    assert lines["Format"] == f"{form} (nothing in it was run)" and lines["Network"] == network
    assert lines["Pictures"] == f"{pictures} x {pictures} px, latents of 4"
    assert lines["Parameters"] == f"{parameters:,}"
    assert licence in lines["Licence"]
    assert lines["Kept as"].startswith(f"{name}: {cache / name}.safetensors (")
    assert lines["Next"] == f"hyperdecode faces sample OUT --generator {name}"


def test_import_of_a_network_that_makes_no_pictures(run, put, cache):
    code, out, _ = run("import", put("ResNet50, Keras"), "--name", "faces")
    assert code == 0 and "Network     ResNet50 (VGGFace2)" in out and "Pictures" not in out and "Next" not in out
    assert (cache / "faces.safetensors").exists()


def refused(run, *words):
    code, out, err = run(*words)
    assert code == 2 and err.startswith("Error: ") and err.count("\n") == 1
    return out, err


def test_list_and_check(run, put, cache):
    assert run("check") == (0, "no weights in the cache\n", "")
    run("import", put("PGGAN, TensorFlow"))
    run("import", put("StyleGAN2, rosinality"), "--name", "rosinality")
    code, out, _ = run("list")
    rows = [line.split("\t") for line in out.splitlines()]
    fetched = ["mobilestylegan-ffhq", "face-models", "atlas"]
    assert code == 0 and [row[0] for row in rows] == [*fetched, "karras2018", "rosinality"]
    assert rows[0][1:3] == ["not fetched", "37.6 MB"] and "GPL-3.0" in rows[2][3]
    assert rows[3][1] == "imported, PGGAN, TensorFlow network (Karras)" and "CC BY-NC" in rows[3][3]
    size = (cache / "karras2018.safetensors").stat().st_size
    assert rows[3][2] == f"{size / 1e3:.1f} kB"
    found = {one["name"]: one for one in json.loads(run("list", "--json")[1])}
    assert list(found) == [row[0] for row in rows] and found["karras2018"]["bytes"] == size
    assert found["atlas"]["state"] == "not fetched" and found["karras2018"]["state"] == rows[3][1]
    assert run("check") == (0, "karras2018\tas it was kept\nrosinality\tas it was kept\n", "")
    assert run("check", "rosinality") == (0, "rosinality\tas it was kept\n", "")


def test_check_of_damaged_weights(run, put, cache):
    for name in ("a", "b", "c"):
        run("import", put("PGGAN, TensorFlow"), "--name", name)
    data = bytearray((cache / "a.safetensors").read_bytes())
    data[-1] ^= 1
    (cache / "a.safetensors").write_bytes(data)
    (cache / "c.safetensors").write_bytes(b"short")
    out, err = refused(run, "check")
    assert (
        out == "b\tas it was kept\n"
        and "a.safetensors is damaged" in err
        and "c.safetensors" in err
        and "--force" in err
    )
    assert refused(run, "check", "a")[0] == ""
    assert run("check", "b")[0] == 0
    assert "c\tdamaged\t0.0 kB\t-\n" in run("list")[1]


def test_check_of_names_that_are_not_there(run):
    assert "no weights imported as nothing" in refused(run, "check", "nothing")[1]
    assert "hyperdecode weights fetch mobilestylegan-ffhq" in refused(run, "check", "mobilestylegan-ffhq")[1]


def test_check_of_fetched_weights(run, cache, monkeypatch):
    cache.mkdir(parents=True)
    (cache / "mobilestylegan-ffhq.safetensors").write_bytes(b"x")
    monkeypatch.setattr(store, "fetch", lambda *_: pytest.fail("fetched"))
    assert "is damaged" in refused(run, "check")[1]


def test_import_refuses(run, put, tmp_path, cache):
    path = put("PGGAN, TensorFlow")
    run("import", path)
    assert "give --force to replace them" in refused(run, "import", path)[1]
    assert run("import", path, "--force")[0] == 0
    assert "is the name of a built-in generator" in refused(run, "import", path, "--name", "mobilestylegan-ffhq")[1]
    assert "cannot name a generator" in refused(run, "import", path, "--name", "../x")[1]
    assert "absent.pkl" in refused(run, "import", tmp_path / "absent.pkl")[1]
    assert "is no regular file" in refused(run, "import", tmp_path)[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert "karras2018.pkl: not readable as a pickle" in refused(run, "import", path, "--name", "x")[1]
    assert [found.name for found in cache.iterdir()] == ["karras2018.safetensors"]


def test_shapes_that_do_not_fit_are_not_kept(run, tmp_path, cache):
    """Each tensor for itself has a possible shape, so only the network itself can tell."""
    files, tiny = beside_the_weights("file_makers"), beside_the_weights("tiny_networks")
    for layout, name, harm in (
        ("StyleGAN2, rosinality", "style.1.weight", lambda value: value[:, :3]),
        ("StyleGAN2, rosinality", "conv1.activate.bias", lambda value: value[:2]),
        ("PGGAN, genforce", "layer3.bias", lambda value: value[:2]),
    ):
        *_, tensors, _, _ = tiny.network_files(files)[layout]
        key = next(key for key in tensors if key.endswith(name))
        state = {k: torch.tensor(harm(value) if k == key else value) for k, value in tensors.items()}
        (tmp_path / "odd.pt").write_bytes(files.torch_file(state))
        _, err = refused(run, "import", tmp_path / "odd.pt")
        assert "Traceback" not in err and not cache.exists(), layout
