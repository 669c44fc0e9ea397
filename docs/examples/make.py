"""Run the examples and write their pages: `make examples`.

    python docs/examples/make.py [NAME ...]

An example is a script in cells (`# %%` code, `# %% [markdown]` text): an editor
that knows notebooks opens it as one. Its page has the text, the code, what the code
printed, and the figures that it left open; the page's first line has the script's
hash, by which a test sees that the page is not older than the script.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

HERE = Path(__file__).resolve().parent
NAMES = ("arrays", "study", "localizer")
CELL = re.compile(r"^# %%(?: (\[markdown\]))?\n", re.MULTILINE)
DPI, QUALITY = 120, 80


class AbsentError(Exception):
    """What an example needs is not here; the message says what."""


def cells(script: str) -> Iterator[tuple[bool, str]]:
    """Give the cells of a script: whether one is text, and what is in it."""
    parts = CELL.split(script)
    for kind, body in zip(parts[1::2], parts[2::2], strict=True):
        text = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if kind else body
        yield bool(kind), text.strip("\n")


def fingerprint(script: str) -> str:
    """Return the SHA-256 of a script."""
    return hashlib.sha256(script.encode()).hexdigest()


def page(name: str, images: Path) -> str:
    """Run an example; return its page, and leave its figures in a folder.

    Raises
    ------
    AbsentError
        When the example says so: it ends with `SystemExit("reason")`.
    """
    from matplotlib import pyplot

    script, names = (
        (HERE / f"{name}.py").read_text(encoding="utf-8"),
        {"__name__": "__main__"},
    )
    parts = [
        f"<!-- `make examples` wrote this page: {name}.py {fingerprint(script)} -->"
    ]
    pyplot.close("all")
    shown = 0
    for is_text, body in cells(script):
        if is_text:
            parts.append(body)
            continue
        said = _run(body, names)
        parts.append(f"```python\n{body}\n```")
        if said:
            parts.append(f"```text\n{said}\n```")
        for number in pyplot.get_fignums():
            shown += 1
            parts.append(
                _kept(pyplot.figure(number), images / f"{name}-{shown}.jpg", name)
            )
        pyplot.close("all")
    parts.append(
        f"*The code of this page: [{name}.py]({name}.py); `make examples` runs it.*"
    )
    return "\n\n".join(parts) + "\n"


def _run(code: str, names: dict[str, Any]) -> str:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "cell", "exec"), names)
    except SystemExit as leaving:
        raise AbsentError(str(leaving)) from None
    return "\n".join(
        line.rstrip() for line in printed.getvalue().strip("\n").splitlines()
    )


def _kept(figure: Any, path: Path, name: str) -> str:
    figure.savefig(
        path,
        dpi=DPI,
        bbox_inches="tight",
        facecolor="white",
        pil_kwargs={"quality": QUALITY},
    )
    caption = figure.get_label() or name
    return f"![{caption}](images/{path.name})\n\n*{caption}*"


def main(names: list[str]) -> int:
    """Make pages; say which could not be made and why."""
    matplotlib.use("agg")
    (HERE / "images").mkdir(exist_ok=True)
    for name in names or NAMES:
        try:
            text = page(name, HERE / "images")
        except AbsentError as reason:
            print(f"{name}: left as it is: {reason}")
            continue
        (HERE / f"{name}.md").write_text(text, encoding="utf-8")
        print(f"{name}: docs/examples/{name}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
