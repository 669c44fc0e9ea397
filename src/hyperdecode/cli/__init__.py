"""The command line: words and flags to function calls, progress, exit codes."""

from hyperdecode.cli.main import app, main

__all__ = ["app", "main"]
