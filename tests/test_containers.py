"""The Dockerfile and the Apptainer recipe: one installation, only files that are there, no rights of root."""

import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
DOCKER, APPTAINER = ((ROOT / name).read_text() for name in ("Dockerfile", "apptainer.def"))


def copied():
    """What each takes of the source tree."""
    docker = [word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKER, re.MULTILINE) for word in line.split()]
    section = re.search(r"^%files\n((?: .*\n)+)", APPTAINER, re.MULTILINE)[1]
    return docker, [line.split()[0] for line in section.splitlines()]


def test_both_copy_what_is_needed_and_no_more():
    docker, apptainer = copied()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "constraints.txt", "src", project["readme"], *project["license-files"]}
    assert set(docker) == set(apptainer) == needed and all((ROOT / name).exists() for name in docker)
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(kept) == needed and (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_both_install_the_same_versions():
    for text in (DOCKER, APPTAINER):
        assert "python -m venv /opt/hyperdecode" in text and '/opt/hyperdecode/bin/pip install ".[all]"' in text
        assert "PIP_CONSTRAINT=/source/constraints.txt PIP_BUILD_CONSTRAINT=/source/constraints.txt" in text
        assert "https://download.pytorch.org/whl/cpu" in text
    bases = set(re.findall(r"^(?:FROM|From:) (\S+)", f"{DOCKER}\n{APPTAINER}", re.MULTILINE))
    (base,) = bases
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert re.match(r"python:(3\.\d+)-", base)[1] in SpecifierSet(wanted)


def test_the_program_has_no_rights_and_its_weights_a_place():
    last = DOCKER.rsplit("FROM", 1)[1]
    assert re.search(r"^USER [1-9]\d*$", last, re.MULTILINE) and "HYPERDECODE_CACHE=/weights" in last
    assert last.index("USER") < last.index("ENTRYPOINT") and re.search(r"^VOLUME /weights$", last, re.MULTILINE)
