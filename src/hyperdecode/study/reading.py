"""Files from outside: read whole, of a bounded size, and only where they are files.

A named pipe never ends and ``/dev/zero`` fills the memory, and a folder of data may hold a link to either. What fails
here is a `ValueError` or an `OSError`, whose text on one line each reader puts into a message of its own.
"""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["is_plain_name", "load_json", "load_table", "one_line", "printable", "read_regular", "said"]

MAX_JSON_BYTES = 64 * 2**20
MAX_TABLE_BYTES = 256 * 2**20
MAX_NAME_BYTES = 255


def printable(text: str, length: int) -> str:
    """Return a text on one line without characters that command a terminal, cut to `length`."""
    plain = "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text[: 8 * length]
    )
    return " ".join(plain.split())[:length]


def one_line(error: BaseException, length: int = 120) -> str:
    """Return what an error says on one line, cut to `length`."""
    return printable(str(error), length) or type(error).__name__


def said(value: object, length: int = 200) -> str:
    """Show a value out of a file as Python writes it, cut to `length`."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes out no whole number of more than 4,300 digits
        return "a value too long to show"
    return text if len(text) <= length else f"{text[:length]}..."


def is_plain_name(name: object) -> bool:
    """Whether a name out of a table is that of a file: no folder, nothing that leads out of one, printable."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and 0 < len(name.encode()) <= MAX_NAME_BYTES
        and name != ".."
        and Path(name).name == name
    )


def read_regular(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises
    ------
    OSError
        When it is not there or cannot be read.
    ValueError
        When it is no regular file, or larger.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("no regular file")
    if status.st_size > limit:
        raise ValueError(f"{status.st_size} bytes, expected at most {limit}")
    with path.open("rb") as stream:
        data = stream.read(status.st_size + 1)
    if len(data) > status.st_size:
        raise ValueError("it grows while it is read")
    return data


def load_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Read JSON in UTF-8.

    Raises
    ------
    OSError, ValueError
        As `read_regular`, and when the content is no JSON or nested beyond reason.
    """
    try:
        return json.loads(read_regular(path, limit).decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def load_table(path: Path, limit: int = MAX_TABLE_BYTES, **options: Any) -> pd.DataFrame:
    """Read a tab-separated table with a header by `pandas.read_csv`.

    Raises
    ------
    OSError, ValueError
        As `read_regular`, and when the content is no table.
    """
    data = read_regular(path, limit)
    try:
        table: pd.DataFrame = pd.read_csv(io.BytesIO(data), sep="\t", **options)
    except (OverflowError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(one_line(error)) from error
    return table
