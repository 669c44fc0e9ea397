"""``python -m hyperdecode.cli``."""

from hyperdecode.cli.main import main

main()
