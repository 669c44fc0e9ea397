import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")
ROOT = Path(__file__).parents[1]


def test_a_folder_imports_only_what_stands_below_it():
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import hyperdecode", ("torch", "numpy", "nilearn", "matplotlib")),
        ("import hyperdecode.cli", ("torch", "nilearn", "matplotlib", "sklearn")),
        ("import hyperdecode.errors, hyperdecode.split, hyperdecode.fmri.singletrial", ("torch", "matplotlib")),
        ("import hyperdecode.weights.store", ("torch", "random_face", "openvino")),
    ],
)
def test_imports_stay_light(statement, absent):
    code = f"import sys; {statement}; print(*(name for name in {absent!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
