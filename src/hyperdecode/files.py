"""Writing files so that a killed run, a full disk or bad input never leaves half an output behind."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperdecode.errors import UserError

__all__ = ["NO_LINKS", "OutputError", "atomic_path", "remove_leftovers", "sha256_bytes", "sha256_file", "write_text"]

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EISDIR, *FORBIDDEN)
"""What file systems say that cannot flush a folder, and do not need to."""
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
"""What file systems say that have no hard links."""
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122")
"""How libraries that raise errors of their own say that a disk is full; safetensors gives the number."""
BARELY = 2**16
"""Bytes free below which a writer that failed for no given reason is taken to have filled the disk."""


class OutputError(UserError, OSError):
    """A file that cannot be written: its disk is full, or its folder is closed.

    It is an `OSError` too, for those who can wait until there is room.
    """

    def __new__(cls, *args: object) -> OutputError:
        """Make it as an `OSError`: the other base would refuse, when it comes back from a worker."""
        return OSError.__new__(cls, *args)

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it when the block ends without an error.

    The temporary name keeps every suffix of the target (``.nii.gz``), because writers choose their format by it. File
    and folder are flushed to the disk, so that a name never stands for less than its whole content after a power cut.
    On an error the temporary file is removed and the old target, if any, is untouched.

    Parameters
    ----------
    path : path-like
        The final file. Its folder is created.
    replace : bool
        Whether a file of that name may be replaced, also one that came while the block was at work.

    Yields
    ------
    pathlib.Path
        Where to write.

    Raises
    ------
    OutputError
        When the disk is full, or the folder cannot be written to: which folder, and how much is free.
    FileExistsError
        When there is a file of that name and it may not be replaced.
    """
    target = Path(path)
    temporary: Path | None = None
    mine = True
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        suffixes = "".join(target.suffixes[-2:])
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=suffixes)
        os.close(handle)
        temporary = Path(name)
        mine = False
        yield temporary
        mine = True
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        if replace:
            temporary.replace(target)
        else:
            _name_first(temporary, target)
        _sync_folder(target.parent)
    except Exception as error:
        full = _is_full(error, target.parent)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OutputError):
            raise
        if full:
            raise OutputError(_full(target)) from error
        # What the block was refused may be a file that it reads.
        about = mine or (isinstance(error, OSError) and error.filename in (temporary, str(temporary)))
        if about and isinstance(error, OSError) and error.errno in FORBIDDEN:
            raise OutputError(
                f"cannot write {target.name}: {target.parent} is closed ({os.strerror(error.errno)}): make it "
                "writable, then give the same command again"
            ) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _name_first(temporary: Path, target: Path) -> None:
    """Give a file a name that nothing has; of many who try at once one succeeds."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        # Over NFS an answer may be lost and asked for again: then the name is ours already.
        if temporary.stat().st_nlink != 2:
            raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        temporary.replace(target)


def remove_leftovers(paths: Iterable[Path], older_than: float = 0.0) -> list[Path]:
    """Remove what `atomic_path` leaves beside its targets when it is killed, and return what was removed.

    Parameters
    ----------
    paths : iterable of pathlib.Path
        The targets; nobody else may be writing them now.
    older_than : float
        Seconds since the last change; younger files are left alone.
    """
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    removed = []
    for folder, targets in names.items():
        for found in folder.glob(".*") if folder.is_dir() else ():
            # A dot, the target's name, mkstemp's eight characters, suffixes.
            parts = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}(\.[^/]*)?", found.name)
            if parts is None or parts[1] not in targets or not found.is_file():
                continue
            with suppress(FileNotFoundError):
                if time.time() - found.stat().st_mtime >= older_than:
                    found.unlink()
                    removed.append(found)
    return removed


def _is_full(error: Exception, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    if any(words in str(error) for words in FULL_WORDS):
        return True
    if not isinstance(error, OSError | RuntimeError):
        return False
    try:
        return shutil.disk_usage(folder).free < BARELY
    except OSError:
        return False


def _full(target: Path) -> str:
    folder = next((one for one in target.parents if one.is_dir()), target.parent)
    try:
        free = f"{shutil.disk_usage(folder).free / 2**20:.1f} MB free"
    except OSError:
        free = "free space unknown"
    return (
        f"cannot write {target.name}: No space left on device, in {target.parent} ({free}): make room there, then give "
        "the same command again; what was finished is kept"
    )


def _sync_folder(folder: Path) -> None:
    """Flush a folder: only then does a rename survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8 by `atomic_path` and return the path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()
