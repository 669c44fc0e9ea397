"""What an installed hyperdecode must do with nothing but its own dependencies; run by tests/test_packaging.py.

python installed.py          # in the environment to look at, outside the source tree
"""

import importlib
import json
import subprocess
import sys
import sysconfig
import tempfile
from importlib import resources
from pathlib import Path

PROGRAM = Path(sysconfig.get_path("scripts")) / "hyperdecode"


def program(*words):
    """Run hyperdecode and return what it printed."""
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=True).stdout


def lies_in_its_environment():
    import hyperdecode

    home = Path(hyperdecode.__file__).resolve()
    assert Path(sys.prefix).resolve() in home.parents, f"imported from {home}"
    assert program("--version") == f"hyperdecode {hyperdecode.__version__}\n"


def doctor_finds_nothing_bad():
    found = {one["what"]: one for one in json.loads(program("doctor", "--json"))}
    assert found["packages"]["state"] == "good" and found["Python"]["found"].startswith(sys.version.split()[0])
    assert not [one for one in found.values() if one["state"] == "bad"]


def import_is_quick_and_light():
    code = (
        "import time; start = time.perf_counter(); import sys, hyperdecode; took = time.perf_counter() - start;"
        "assert not {'torch', 'numpy', 'nilearn'} & sys.modules.keys(), 'heavy'; print(took)"
    )
    took = min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))
    assert took < 0.5, f"import hyperdecode took {took:.2f} s"
    return f"import hyperdecode: {1000 * took:.1f} ms"


def a_study_begins():
    with tempfile.TemporaryDirectory() as folder:
        program("init", f"{folder}/study", "--preset", "quick")
        assert "study.toml" in {path.name for path in Path(folder, "study").iterdir()}
        done = subprocess.run([PROGRAM, "run", f"{folder}/study"], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "hyperdecode stimuli" in done.stderr, done.stderr


def shipped_weights_work():
    import numpy as np

    from hyperdecode.baselines.vaegan import load_vaegan
    from hyperdecode.features.eyeglasses import eyeglasses_scores
    from hyperdecode.generators.attribute_store import load_attributes

    assert (resources.files("hyperdecode") / "py.typed").is_file()
    assert {"age", "eyeglasses", "gender", "pose", "smile"} <= set(load_attributes("mobilestylegan-ffhq", "w").names)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    network = load_vaegan()
    faces = network.images(network.encode(pictures))
    assert faces.shape == (2, 3, 128, 128) and np.isfinite(eyeglasses_scores(faces)).all()


def faces_are_drawn():
    """The early exit at 128 px ships; the generator's own weights are fetched where the cache has none."""
    with tempfile.TemporaryDirectory() as folder:
        program("faces", "sample", folder, "--faces", "2", "--resolution", "128")
        assert len(list(Path(folder).glob("*.png"))) == 3


def bold_becomes_zmaps():
    import numpy as np

    from hyperdecode.fmri.singletrial import single_trial_zmaps

    rng = np.random.default_rng(0)
    maps = single_trial_zmaps(rng.normal(size=(120, 30)), np.arange(10, 150, 7.0), np.full(20, 1.5), t_r=1.5)
    assert maps.z.shape == (20, 30) and 0.5 < maps.z.std() < 2


def trials_become_latents():
    import numpy as np

    from hyperdecode.decoding.ridge import RidgeDecoder
    from hyperdecode.evaluation.summary import evaluate_latents
    from hyperdecode.split import Split

    rng = np.random.default_rng(0)
    stimuli = [*(f"train-{k}" for k in range(60)), *(f"test-{k % 8}" for k in range(16))]
    latents = rng.normal(size=(68, 16))[[*range(60), *(60 + k % 8 for k in range(16))]]
    responses = latents @ rng.normal(size=(16, 50)) + rng.normal(size=(76, 50))
    split = Split.of(stimuli, ["train"] * 60 + ["test"] * 16)
    decoder = RidgeDecoder().fit(split.training(responses), split.training(latents))
    predicted, true = decoder.predict(split.test_averages(responses)), split.test_averages(latents)
    table = evaluate_latents(predicted, true, split.training(latents).mean(0)).table.set_index("metric")
    assert table.loc["identification", "decoder"] > 0.9 and table.loc["identification", "p_value"] < 0.01


def optional_parts_are_there():
    found = {one["what"]: one["state"] for one in json.loads(program("doctor", "--json"))}
    extras = {name: state for name, state in found.items() if name.startswith("extra ")}
    assert len(extras) >= 6 and set(extras.values()) == {"good"}, extras
    for name in ("dask_jobqueue", "dipy.align.imwarp", "distributed", "dlib", "openvino", "pygame"):
        importlib.import_module(name)


if __name__ == "__main__":
    print(sys.version.split()[0], sys.executable)
    for check in (
        lies_in_its_environment,
        doctor_finds_nothing_bad,
        import_is_quick_and_light,
        a_study_begins,
        shipped_weights_work,
        faces_are_drawn,
        bold_becomes_zmaps,
        trials_become_latents,
        *([optional_parts_are_there] if "--extras" in sys.argv else []),
    ):
        print(check.__name__.replace("_", " "), check() or "", flush=True)
