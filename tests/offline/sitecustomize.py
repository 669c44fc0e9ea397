"""Python imports this file at its start where the tests put its folder on PYTHONPATH."""

import blocker

blocker.install()
