import copyreg
import os
import pickle

import numpy as np
import pytest

from hyperdecode.weights.dnnlib import read_dnnlib

RNG = np.random.default_rng(0)
VARIABLES = {
    "4x4/Dense/weight": RNG.normal(size=(4, 32)).astype(np.float32),
    "4x4/Dense/bias": RNG.normal(size=2).astype(np.float32),
    "ToRGB_lod0/weight": RNG.normal(size=(1, 1, 2, 3)).astype(np.float32),
    "lod": np.float32(0),
}


READER, ODD_FILE = read_dnnlib, "odd.pkl"  # of the fixtures `read` and `refused`


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == np.shape(value)
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_karras_pggan(files, read, nothing_runs, protocol):
    other = files.network({"x": np.ones(2, np.float32)})
    triple = (other, other, files.network(VARIABLES, resolution=4, label_size=0, fused_scale=False, dtype="float32"))
    data = files.network_pickle(triple, protocol)
    assert b"the source was run" in data
    read(data)
    with nothing_runs():
        contents = read(data)
    assert contents.format == "dnnlib" and contents.source == "odd.pkl"
    same(contents.tensors, VARIABLES)
    assert contents.settings == {
        "resolution": 4, "label_size": 0, "fused_scale": False, "dtype": "float32", "build_func_name": "G_paper",
        "components": {},
    }  # fmt: skip


def test_as_the_older_numpy_wrote_it(files, read):
    data = files.network_pickle((None, None, files.network(VARIABLES)), 2)
    assert data.count(b"numpy._core.") >= 2
    same(read(data.replace(b"numpy._core.", b"numpy.core.")).tensors, VARIABLES)


def test_stylegan2_with_networks_within(files, read):
    class EasyDict(dict):
        pass

    cls = files.DnnlibNetwork
    mapping = files.network({"Dense0/weight": VARIABLES["4x4/Dense/weight"]}, cls, 4, {}, mapping_layers=1)
    synthesis = files.network({"noise0": np.ones((1, 1, 4, 4), np.float32)}, cls, 4, {})
    with files.standing_in(dnnlib__util__EasyDict=EasyDict):
        components = EasyDict(mapping=mapping, synthesis=synthesis)
        whole = files.network({"dlatent_avg": VARIABLES["4x4/Dense/bias"]}, cls, 4, components, truncation_psi=None)
        contents = read(files.network_pickle((whole, None, whole)))
    expected = {
        "dlatent_avg": VARIABLES["4x4/Dense/bias"],
        "mapping/Dense0/weight": VARIABLES["4x4/Dense/weight"],
        "synthesis/noise0": np.ones((1, 1, 4, 4), np.float32),
    }
    same(contents.tensors, expected)
    assert contents.settings["truncation_psi"] is None
    assert contents.settings["components"]["mapping"]["mapping_layers"] == 1


def test_one_network_alone(files, read):
    same(read(files.network_pickle(files.network(VARIABLES))).tensors, VARIABLES)


def test_programs(files, read, refused, tmp_path):
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    for where in ("static_kwargs", "variables", "build_module_src"):
        attacked = files.network(VARIABLES)
        attacked.state[where] = {"x": Attack()}
        refused(files.network_pickle((None, None, attacked)), "system")
    refused(files.network_pickle((Attack(), None, files.network(VARIABLES))), "system")

    class Tricky:
        def __reduce__(self):
            return copyreg._reconstructor, (object, object, None)

    refused(files.network_pickle((Tricky(), None, files.network(VARIABLES))), "_reconstructor'")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"version": 1}, "version '1'"),
        ({"version": None}, "version 'None'"),
        ({"variables": None}, "version '2', expected"),
        ({"variables": [("x",)]}, "no pair"),
        ({"variables": [(3, np.ones(2))]}, "no pair"),
        ({"variables": [("x", [1.0])]}, "variable 'x' is no NumPy array"),
        ({"variables": [("x", np.ones(2)), ("x", np.ones(2))]}, "twice"),
        ({"variables": [("x", np.array(["a"]))]}, "not of plain numbers"),
        ({"variables": [("x", np.array([np.nan], np.float32))]}, "variable 'x'"),
        ({"variables": [("x", np.array([1e300]))]}, "holds NaN or infinite"),
        ({"static_kwargs": 3}, "static_kwargs is no dictionary"),
        ({"components": [1]}, "components of a network is no dictionary"),
        ({"components": {"a": 1}}, "holds no network"),
    ],
)
def test_states_that_are_none(files, refused, edit, words):
    network = files.network(VARIABLES)
    network.state.update(edit)
    words = words.replace("variable 'x'", "'x'") if "nan" in str(edit) else words
    refused(files.network_pickle((None, None, network)), words)


@pytest.mark.parametrize("content", [(1, 2, 3), (1, 2), 3, {"G": 1}, np.ones(3)])
def test_other_contents(refused, content):
    refused(pickle.dumps(content, 4), "holds no network")


def test_networks_in_a_circle(files, refused):
    network = files.network(VARIABLES, files.DnnlibNetwork, 4)
    network.state["variables"] = []
    network.state["components"] = {"again": network, "more": network}
    refused(files.network_pickle(network), "without end")


def test_many_networks_that_share_one_array(files, refused):
    """Each name of the same bytes counts, so that a small file does not fill the memory."""
    big = np.zeros(100_000, np.float32)
    network = files.network({str(k): big for k in range(200)})
    refused(files.network_pickle(network), "many times larger than the file")
