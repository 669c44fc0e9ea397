"""BIDS names, and the index of a folder's files by which sidecars and events are found (inheritance).

The rule (BIDS 1.10, "The Inheritance Principle"): a file applies to a data file when it lies in the same folder or
above, has the same suffix, and none of its entities is absent from the data file's name. Of JSON files all are read,
from the root down, the nearest winning; of tables the nearest alone. Two that apply may not lie in one folder.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperdecode.errors import UserError
from hyperdecode.study.reading import load_json, one_line
from hyperdecode.weights.limits import shown

__all__ = ["FileIndex", "natural", "one_line", "parse_entities", "read_json", "same_run"]

NOT_RAW = ("derivatives", "sourcedata", "code", "stimuli")
NAME = re.compile(r"(?P<entities>(?:[a-z]+-[A-Za-z0-9+]+_)*)(?P<suffix>[A-Za-z0-9]+)(?P<extension>\.[A-Za-z0-9.]+)")
MAX_FILES = 1_000_000


def parse_entities(name: str) -> dict[str, str]:
    """Return the entities of a BIDS file name, with ``suffix`` and ``extension``; empty when it is none.

    Examples
    --------
    >>> parse_entities("sub-02_task-oneback_run-1_bold.nii.gz")["run"]
    '1'
    """
    found = _parts(name)
    return {} if found is None or not found[0] else found[0] | {"suffix": found[1], "extension": found[2]}


def _parts(name: str) -> tuple[dict[str, str], str, str] | None:
    found = NAME.fullmatch(name)
    if found is None:
        return None
    pairs = [part.split("-", 1) for part in found["entities"].split("_") if part]
    return {key: value for key, value in pairs}, found["suffix"], found["extension"]


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key under which ``run-2`` comes before ``run-10``."""
    parts = re.split(r"(\d+)", path.as_posix())
    # A superscript is a digit to `isdigit`, and no number.
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    UserError
        When the file is unreadable, too large, or holds anything else.
    """
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({one_line(error)}): mend or re-create it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content


class FileIndex:
    """The files of one data set by folder, suffix and extension.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the data set. Only its own files and its ``sub-*`` folders are looked at.

    Attributes
    ----------
    root : pathlib.Path
    files : list of pathlib.Path
        In natural order of their paths.

    Raises
    ------
    UserError
        When a name cannot be printed, or there are more files than a data set has (a link to another disk).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(_checked(_walk(root), root), key=natural)
        self._applicable: dict[tuple[Path, str, str], list[tuple[dict[str, str], Path]]] = defaultdict(list)
        self._json: dict[Path, dict[str, Any]] = {}
        for path in self.files:
            parts = _parts(path.name)
            if parts is not None:
                entities, suffix, extension = parts
                self._applicable[path.parent, suffix, extension].append((entities, path))

    def named(self, suffix: str, *extensions: str) -> list[Path]:
        """Return the files ``*_SUFFIX.EXTENSION``, whatever the rest of their names."""
        return [path for path in self.files if path.name.endswith(tuple(f"_{suffix}{end}" for end in extensions))]

    def in_folder(self, folder: Path, suffix: str, extension: str) -> list[tuple[dict[str, str], Path]]:
        """Return the files of one folder that have a suffix, with their entities."""
        return self._applicable.get((folder, suffix, extension), [])

    def applying(self, data: Path, suffix: str, extension: str, *, strict: bool = True) -> list[Path]:
        """Return the files that apply to a data file, from the root down.

        Parameters
        ----------
        data : pathlib.Path
            A file below the root.
        suffix, extension : str
            What is looked for: ``"bold"`` and ``".json"``, ``"events"`` and ``".tsv"``.
        strict : bool
            Refuse two in one folder. Otherwise the one with more entities counts: in derivatives the sidecar of the
            native series stands beside those of each space, and by its name would apply to all of them.

        Raises
        ------
        UserError
            When two apply that lie in one folder.
        """
        own = parse_entities(data.name).items()
        found: list[Path] = []
        for folder in reversed([p for p in data.parents if p == self.root or self.root in p.parents]):
            here = [p for theirs, p in self.in_folder(folder, suffix, extension) if theirs.items() <= own]
            if not strict:
                here = sorted(here, key=lambda path: path.name.count("-"))[-1:]
            if len(here) > 1:
                raise UserError(
                    f"{here[0]} and {here[1].name} both apply to {data.name}: BIDS allows one in a folder, merge them"
                )
            found += here
        return found

    def metadata(self, data: Path, suffix: str, *, strict: bool = True) -> dict[str, Any]:
        """Return the merged JSON sidecars of a data file; a key that is null counts as absent.

        Raises
        ------
        UserError
            When a sidecar is unreadable, or two apply that lie in one folder.
        """
        merged: dict[str, Any] = {}
        for path in self.applying(data, suffix, ".json", strict=strict):
            if path not in self._json:
                self._json[path] = read_json(path)
            merged |= self._json[path]
        return {key: value for key, value in merged.items() if value is not None}


def same_run(one: Mapping[str, str], other: Mapping[str, str], ignored: frozenset[str]) -> bool:
    """Whether two names speak of one run: all entities but the ignored ones agree, indices as numbers."""

    def what(entities: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in entities.items() if k not in ignored and k not in ("suffix", "extension")}
        return kept | {k: v.lstrip("0") or "0" for k, v in kept.items() if k == "run"}

    return what(one) == what(other)


def _checked(paths: Iterator[Path], root: Path) -> Iterator[Path]:
    for number, path in enumerate(paths):
        if number >= MAX_FILES:
            raise UserError(f"{root} holds more than {MAX_FILES} files, no data set has so many: look at its links")
        if not path.name.isprintable():
            raise UserError(f"{root} holds a file {shown(path.name)}, whose name cannot be printed: rename it")
        yield path


def _walk(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        here = Path(folder)
        # A link to a folder above would be walked round and round.
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        if here == root:
            below[:] = [b for b in below if b.startswith("sub-")]
        below[:] = [b for b in below if not b.startswith(".") and b not in NOT_RAW]
        yield from (here / name for name in names if not name.startswith("."))
