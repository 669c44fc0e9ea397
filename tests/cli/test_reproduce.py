"""``hyperdecode reproduce`` as its user meets it: what it prints, where it writes, one line for each mistake."""

import importlib
import json
import sys
import warnings

import pandas as pd
import pytest

from tests.pipeline.test_reproduce import write_release

# The program prints these warnings; as errors they would be tracebacks.
pytestmark = pytest.mark.filterwarnings("default::hyperdecode.errors.DataWarning")


@pytest.fixture
def program(monkeypatch, capsys, tmp_path):
    """Call the command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    main = importlib.import_module("hyperdecode.cli.main")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["hyperdecode", "reproduce", *map(str, words)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as leaving:
            main.main()
        out, err = capsys.readouterr()
        return leaving.value.code or 0, out, err

    return call


@pytest.fixture
def data(tmp_path):
    return write_release(tmp_path / "data")


def test_table_1_beside_the_printed_numbers(program, data, tmp_path):
    code, out, err = program("hyper2021", data, "--epochs", 5, "--permutations", 200, "--boundaries", data / "bounds")
    assert code == 0, err
    folder = tmp_path / "hyper2021-reproduced"
    table = pd.read_csv(folder / "table1.tsv", sep="\t")
    lines = out.splitlines()
    for row in table[table["metric"] == "lsim"].to_dict("records"):
        words = [
            row["subject"],
            row["method"],
            f"{row['mean']:.4f}",
            "±",
            f"{row['se']:.4f}",
            f"{row['paper_hyper']:.4f}",
        ]
        found = [line.split() for line in lines if line.split()[:3] == words[:3]]
        assert found and [*found[0][:5], found[0][-1]] == words, out
    assert "0.4521" in out and "0.4447" in out and "VAE-GAN, fsim: 0.1416 / 0.1461" in out
    assert "QUICK LOOK: 5 epochs instead of the paper's 1,500." in out and "dense-5-epochs" in out
    verdicts = json.loads((folder / "record.json").read_text())["verdicts"]
    assert len(verdicts) == 4 and all(verdict in lines for verdict in verdicts)
    assert f"report.html: {folder / 'report.html'}" in out and (folder / "attributes.tsv").is_file()

    before = (folder / "report.html").stat().st_mtime_ns
    code, _, _ = program("hyper2021", data, "--epochs", 5, "--permutations", 200, "--boundaries", data / "bounds")
    assert code == 0 and (folder / "report.html").stat().st_mtime_ns == before
    code, _, err = program("hyper2021", data, "--epochs", 6, "--permutations", 200)
    assert code == 2 and err.startswith("Error: ") and "use --force" in err and err.count("\n") == 1


def test_mistakes_are_one_line(program, data, tmp_path):
    (data / "data_2.dat").rename(tmp_path / "away.dat")
    for options, words in (
        ((), "which DATA_DIR? Give the folder with data_1.dat"),
        ((data,), "lacks data_2.dat (found: 'bounds', 'data_1.dat', 'generator.params', 'vggface.h5')"),
        ((tmp_path / "nowhere",), "no folder"),
        ((data, "--model", "magic"), "no decoder 'magic'"),
    ):
        code, out, err = program("hyper2021", *options)
        assert code == 2 and err.startswith("Error: ") and words in err and err.count("\n") == 1, err
        assert "Traceback" not in out + err
    (tmp_path / "away.dat").rename(data / "data_2.dat")
    (data / "data_1.dat").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    code, _, err = program("hyper2021", data)
    assert code == 2 and err.startswith("Error: data_1.dat: ") and err.count("\n") == 1
    assert not (tmp_path / "hyper2021-reproduced").exists()


def test_help_names_the_files(program):
    code, out, _ = program("--help")
    assert code == 0 and "hyper2021" in out and "data of Dado" in " ".join(out.split())
    code, out, _ = program("hyper2021", "--help")
    assert code == 0 and all(
        word in out for word in ("data_1.dat", "generator.params", "--boundaries", "weighted-ridge")
    )
    assert program()[0] == 2, "a bare call shows the studies and does nothing"
