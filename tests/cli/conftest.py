"""The program, called as its user calls it."""

import sys
import warnings

import pytest

from hyperdecode.cli import main, shared


@pytest.fixture
def called(monkeypatch, capsys, tiny_generator):
    """Call the program in this process, with the tiny generator: (exit code, stdout, stderr)."""
    monkeypatch.setattr(shared, "study_generator", lambda *_: tiny_generator)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["hyperdecode", "--threads", "1", *map(str, words)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as leaving:
            main()
        out, err = capsys.readouterr()
        return leaving.value.code or 0, out, err

    return call
