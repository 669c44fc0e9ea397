"""No network but this computer's own: installed in every test's process and in the Python processes it starts.

The interpreter's audit tells of each connection before it is made, whoever asks for it. One that leads off this
computer is refused, and noted in a file, so that code which swallows the error is found too. Imports nothing of the
project: it runs as `sitecustomize`, before any of it.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NOTES = "HYPERDECODE_TEST_NETWORK_NOTES"
"""Environment variable: the file where refused connections are noted. Without it nothing is refused."""
OWN_NAMES = ("", "localhost", "ip6-localhost")


class NetworkRefusedError(RuntimeError):
    """A connection that no test may make. No `OSError`: programs expect those, and go on."""


def leads_off(host: object) -> bool:
    """Whether a host is another computer."""
    if host is None:
        return False
    name = (host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)).split("%")[0].lower()
    if name in OWN_NAMES:
        return False
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return True
    return not (address.is_loopback or address.is_unspecified)


def _asked(event: str, args: tuple[object, ...]) -> object | None:
    """Return the other computer that an event of the audit asks for; None where it asks for none."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        return args[0] if leads_off(args[0]) else None
    if event == "socket.gethostbyaddr":
        return args[0] if leads_off(args[0]) else None
    if event not in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        return None
    here, to = args[0], args[1]
    if not isinstance(to, tuple) or getattr(here, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return None  # a socket of this computer's file system, or a message on a connection that was allowed
    # A datagram socket that is connected sends nothing: programs learn by it which address this computer has.
    silent = event == "socket.connect" and getattr(here, "type", None) == socket.SOCK_DGRAM
    return to[0] if leads_off(to[0]) and not silent else None


def _hook(event: str, args: tuple[object, ...]) -> None:
    if not event.startswith("socket.") or NOTES not in os.environ:
        return
    host = _asked(event, args)
    if host is None:
        return
    said = f"{event} {host!r:.200} by {' '.join(sys.argv)!r:.200}"
    with open(os.environ[NOTES], "a", encoding="utf-8") as notes:
        notes.write(said + "\n")
    raise NetworkRefusedError(f"a test may not use the network: {said}")


def install() -> None:
    """Watch this process from now on; once is enough, and it cannot be undone."""
    if not getattr(sys, "_network_watched", False):
        sys.addaudithook(_hook)
        sys._network_watched = True  # type: ignore[attr-defined]


@contextmanager
def network_allowed() -> Iterator[None]:
    """Let the block, and processes that it starts, use the network."""
    before = os.environ.pop(NOTES, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[NOTES] = before
