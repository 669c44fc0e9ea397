"""What the docs say to type works: Python blocks are run, commands are parsed by the program."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from hyperdecode.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETUP = r"(?:<!-- setup\n(?P<setup>.*?)-->\n\n)?"
PYTHON = re.compile(rf"{SETUP}```python\n(?P<code>.*?)```", re.DOTALL)
"""A block of Python, and what a reader has at hand when he comes to it, in a comment above it."""
SHELL = re.compile(r"```bash\n(.*?)```|^    (hyperdecode .*)$|`(hyperdecode [^`]*)`", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"\.\.\.|\[[A-Z]|\\\||[|<]")


def blocks():
    for page in PAGES:
        if page.parent.name == "examples":  # run whole, by tests/test_examples.py
            continue
        for number, found in enumerate(PYTHON.finditer(page.read_text(encoding="utf-8"))):
            yield pytest.param(found["setup"] or "", found["code"], id=f"{page.relative_to(ROOT)}-{number}")


def commands():
    for page in PAGES:
        for found in SHELL.finditer(page.read_text(encoding="utf-8")):
            for line in re.split(r"&&|\n", next(filter(None, found.groups())).replace("\\\n", " ")):
                words = re.match(r"(?:\S+=\S+ )*(?:\S*/)?(hyperdecode .*)", line.strip())
                if words and not PLACEHOLDER.search(words[1]):
                    yield page.relative_to(ROOT).as_posix(), words[1], found[3] is not None


@pytest.mark.parametrize(("setup", "code"), list(blocks()))
def test_a_block_of_python_runs(setup, code, request, tmp_path, monkeypatch):
    if "load_generator" in code:
        request.getfixturevalue("face_generator")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(setup, "setup", "exec"), names)
    exec(compile(code, "block", "exec"), names)


def test_commands_are_those_of_the_program():
    program, wrong, found = typer.main.get_command(app), [], list(commands())
    for page, line, named in found:
        said = mistake(program, shlex.split(line, comments=True)[1:])
        # In running text a command may be named without what it works on.
        if said and not (named and said.startswith("Missing")):
            wrong.append(f"{page}: {line}: {said}")
    assert len(found) > 60 and wrong == []


def mistake(command, words):
    """Parse words as the program does, and call nothing; return what is wrong with them."""
    if hasattr(command, "commands"):
        flags = {name for one in command.params for name in one.opts}
        while words and words[0] in flags:
            words = words[1 + (words[0] == "--threads") :]
        if not words:
            return ""
        return mistake(command.commands[words[0]], words[1:]) if words[0] in command.commands else f"no {words[0]}"
    try:
        command.make_context(command.name, list(words))
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return error.format_message()
    return ""
