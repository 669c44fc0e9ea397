"""``python -m hyperdecode``."""

from hyperdecode.cli import main

main()
