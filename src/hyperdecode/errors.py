"""What the package raises when its user, not its author, can mend the matter."""

from __future__ import annotations

__all__ = ["DataWarning", "HyperdecodeError", "LeakageError", "UserError", "WeightFileError"]


class HyperdecodeError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(HyperdecodeError, ValueError):
    """Input that cannot be used as it is.

    The message is one line: what came in, what was expected, what to do next. The command line prints
    it without a traceback and exits with code 2.
    """


class WeightFileError(UserError):
    """A weight file that is damaged, hostile, or not what its pinned hash says."""


class LeakageError(UserError):
    """A test trial was about to be used in something that is fitted."""


class DataWarning(UserWarning):
    """Data that can be used, but not exactly as it claims to be."""
