"""What a user installs: the wheel has all that the source tree has, and works where there is nothing else.

The slow test (`make wheel`) makes an empty environment for each Python that it finds, one at a time, and removes it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13")
ROOM_BYTES = 12_000_000_000
"""Torch with its libraries for GPUs, which is what some Pythons get."""
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, f'build_{sys.argv[1]}')(sys.argv[2]))"


def built(kind, source, folder):
    """Build "sdist" or "wheel" of a source tree with the setuptools that is here, and return its path."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, folder], cwd=source, capture_output=True, text=True, check=True
    )
    return Path(folder) / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, made as an index would serve it: from the source distribution, from the files of the tree alone."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    archive = built("sdist", tree, folder)
    shutil.unpack_archive(archive, folder / "unpacked", filter="data")
    return built("wheel", folder / "unpacked" / archive.name.removesuffix(".tar.gz"), folder)


def test_the_wheel_has_every_file_of_the_package(wheel):
    home = ROOT / "src"
    tree = {path.relative_to(home).as_posix() for path in (home / "hyperdecode").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("hyperdecode/")}
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    assert packed == {name for name in tree if "__pycache__" not in name}
    assert {"hyperdecode/py.typed", "hyperdecode/report/templates/report.html.j2"} <= packed
    assert "Requires-Python: >=3.11" in metadata and "License-File: LICENSE" in metadata


def python(version):
    """A Python of this version that can make environments; None where there is none."""
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    kept = [path / "bin" / "python" for root in roots for path in sorted(root.glob(f"{version}.*"), reverse=True)]
    for one in [shutil.which(f"python{version}"), *kept]:
        asked = f"import ensurepip, sys; sys.exit('{version}' != '%d.%d' % sys.version_info[:2])"
        if one and subprocess.run([one, "-c", asked], capture_output=True, check=False).returncode == 0:
            return one
    return None


@pytest.fixture
def environment(request):
    """An empty environment of one version of Python, and a folder to work in; removed afterwards."""
    found = python(request.param)
    if found is None:
        pytest.skip(f"no Python {request.param} with ensurepip here")
    with tempfile.TemporaryDirectory(prefix="hyperdecode-wheel-") as folder:
        if shutil.disk_usage(folder).free < ROOM_BYTES:
            pytest.skip(f"less than {ROOM_BYTES / 1e9:.0f} GB free in {folder}")
        subprocess.run([found, "-m", "venv", f"{folder}/venv"], check=True)
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("environment", PYTHONS, indirect=True)
def test_the_wheel_works_in_an_empty_environment(environment, wheel):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def inside(*words):
        command = [environment / "venv" / "bin" / "python", *words]
        done = subprocess.run(command, cwd=environment, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    install = ("-m", "pip", "install", "--quiet", "--no-cache-dir", "--constraint", CONSTRAINTS)
    inside(*install, wheel)
    print(inside(ROOT / "tests" / "installed.py"))
    inside(*install, f"{wheel}[all]")
    inside("-m", "pip", "check")
    print(inside(ROOT / "tests" / "installed.py", "--extras"))
