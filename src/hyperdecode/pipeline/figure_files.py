"""The folder of a study's figures: what was written there, from what, and what is somebody else's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, sha256_bytes, sha256_file
from hyperdecode.study.derivatives import write_json
from hyperdecode.study.reading import read_regular

__all__ = ["FigureFiles", "figure_key"]

LEDGER = "figures.json"
LARGEST_LEDGER = 2**20


class FigureFiles:
    """Files of a folder, with a ledger of what this package left there.

    A file that the ledger does not know, or that is not as it was left (a label moved by hand, say), is not ours and
    is not replaced unasked.

    Parameters
    ----------
    folder : pathlib.Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known = self._read()

    def require_ours(self, names: Iterable[str]) -> None:
        """Refuse names whose files this package did not write, or not as they are now.

        Raises
        ------
        UserError
            Naming the first.
        """
        for name in names:
            path = self.folder / name
            if path.exists() and self._known.get(name, {}).get("sha256") != sha256_file(path):
                how = "was changed since it was written" if name in self._known else "was not written by this command"
                raise UserError(f"{path} {how}: move it elsewhere, or give --force to replace it")

    def is_fresh(self, name: str, key: str) -> bool:
        """Say whether a file stands there as it was written from that key."""
        known, path = self._known.get(name, {}), self.folder / name
        return known.get("key") == key and path.is_file() and known.get("sha256") == sha256_file(path)

    def write(self, name: str, data: bytes, key: str) -> Path:
        """Write a file, then its line in the ledger."""
        path = self.folder / name
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        self._known[name] = {"sha256": sha256_bytes(data), "key": key}
        write_json(self.folder / LEDGER, dict(sorted(self._known.items())))
        return path

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(read_regular(self.folder / LEDGER, LARGEST_LEDGER))
        except (OSError, ValueError, RecursionError):
            return {}
        lines = found.items() if isinstance(found, dict) else ()
        return {str(name): line for name, line in lines if isinstance(line, dict)}


def figure_key(settings: object, inputs: Iterable[Path], study: Path) -> str:
    """Hash all that a figure hangs on: settings, and the content of files that are there."""
    hashes = [[path.relative_to(study).as_posix(), sha256_file(path)] for path in inputs if path.is_file()]
    return hashlib.sha256(json.dumps([settings, hashes], sort_keys=True).encode()).hexdigest()
