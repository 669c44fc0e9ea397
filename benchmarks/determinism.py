"""Make a study twice and compare every file: bit for bit, or, across thread counts, by how far files lie apart.

    python benchmarks/determinism.py                   # the quick demo twice, one thread each, side by side
    python benchmarks/determinism.py --study small     # all of its steps on fewer faces
    python benchmarks/determinism.py --threads 2       # twice with two threads, one after the other
    python benchmarks/determinism.py --threads 1 2     # one thread, then two: measured distances by kind of file
    python benchmarks/determinism.py --workers 1 2     # one process, then two workers, one thread each: bit for bit

The two runs have other folders, names of folders, hash seeds of Python, working directories and time zones (their days
differ), and the second starts later. Run records are compared without `TIMES`, everything else byte for byte. Exit code
1 when anything differs that should not, or a run takes longer than ``--limit`` seconds.

``--study tiny`` is a linear mix of latents and noise through a tiny generator, from the voxel mask on; seconds.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from hyperdecode.study.trial_store import open_store

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TIMES = frozenset({"process", "started", "ended", "seconds", "peak_memory_mb", "fit_seconds", "threads"})
"""Keys of a run record, at any depth, that say when, where and how long: no two runs agree on them."""
CACHES = ("__pycache__",)
LATER = 3.0
"""Seconds between the two starts: more than the resolution of any time in a file."""

SMALL: dict[str, Any] = {
    "name": "small study",
    "subjects": ["01"],
    "stimuli": {"n_train": 24, "n_test": 4, "test_repeats": 3, "render": 256},
    "schedule": {"n_runs": 2},
    "simulation": {"voxel_size": 5.0},
    "bold": {"n_voxels": 256},
    "decoding": {"posterior": 2},
    "evaluation": {"baselines": ["eigenfaces", "vaegan"], "n_permutations": 1000},
    "mapping": {"readout": "linear", "n_permutations": 200},
    "report": {"moves_px": 64},
}
"""What the small study changes of the quick preset: all steps of the quick demo in about a minute of one core."""

TOLERANCES = {
    "tensors": 1e-5,
    "images": 1e-5,
    "pictures": 2.0,
    "lossy pictures": 1.0,
    "tables": 1e-4,
    "numbers in text": 1e-4,
}
"""Largest distance that two thread counts may give, by kind of file: see `Distance`."""
LOSSY = ("JPEG", "WEBP")
ZERO = 1e-6
"""An array without a value above this share of its file's largest is the rounding of zeros, and measured by that."""


@dataclass(frozen=True)
class Distance:
    """How far two files lie apart.

    Attributes
    ----------
    kind : str
        ``tensors`` (safetensors, Zarr) and ``images`` (NIfTI, GIFTI): largest difference, as a share of the largest
        value of that array; ``pictures`` (PNG): largest difference in grey levels; ``lossy pictures`` (JPEG, WebP):
        root mean square of the differences in grey levels, for a pixel may turn a coefficient of its whole block;
        ``tables`` (TSV) and ``numbers in text`` (JSON, TOML, HTML): absolute, relative where a value is above 1.
    value : float
        Infinite where words, shapes or names differ.
    where : str
        Array, column or word with the largest distance.
    """

    kind: str
    value: float
    where: str = ""


# What is compared.


def files_of(study: Path) -> list[str]:
    """Return every file of a study, as seen from its folder."""
    return sorted(
        path.relative_to(study).as_posix()
        for path in study.rglob("*")
        if path.is_file() and not any(part in CACHES for part in path.parts)
    )


def is_record(name: str) -> bool:
    """Say whether a file is a run record."""
    return Path(name).parent.name == "records" and name.endswith(".toml")


def without_times(content: Any) -> Any:
    """Return a record less `TIMES`."""
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key not in TIMES}
    return [without_times(item) for item in content] if isinstance(content, list) else content


def essence(study: Path, name: str) -> str:
    """Return the hash of what must not differ in a file."""
    data = (study / name).read_bytes()
    if is_record(name):
        data = json.dumps(without_times(tomllib.loads(data.decode("utf-8")))).encode()
    return hashlib.sha256(data).hexdigest()


def differing(first: Path, second: Path) -> list[str]:
    """Return a line for each file that only one study has, or that differs."""
    one, other = files_of(first), files_of(second)
    lines = [f"{name}: only in the {'first' if name in one else 'second'}" for name in sorted({*one} ^ {*other})]
    for name in sorted({*one} & {*other}):
        if essence(first, name) != essence(second, name):
            lines.append(f"{name}: {_first_difference(first / name, second / name)}")
    return lines


def _first_difference(first: Path, second: Path) -> str:
    a, b = first.read_bytes(), second.read_bytes()
    at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if b"\0" in a[:1000]:
        return f"{len(a)} and {len(b)} bytes, first difference at byte {at}"
    return f"{a[max(0, at - 30) : at + 50]!r} and {b[max(0, at - 30) : at + 50]!r}"


# How far apart.


def distance(first: Path, second: Path) -> Distance:
    """Return how far two files lie apart that should hold the same."""
    suffix = first.suffix
    if suffix == ".safetensors":
        return _arrays("tensors", load_file(first), load_file(second))
    if first.name.endswith(".zarr.zip"):
        one, other = (open_store(path) for path in (first, second))
        return _arrays("tensors", {"z": one[:], "voxels": one.voxels}, {"z": other[:], "voxels": other.voxels})
    if first.name.endswith((".nii", ".nii.gz")):
        a, b = nib.load(first), nib.load(second)
        return _arrays(
            "images",
            {"values": np.asanyarray(a.dataobj), "affine": a.affine},
            {"values": np.asanyarray(b.dataobj), "affine": b.affine},
        )
    if suffix == ".gii":
        return _arrays(
            "images", *({str(k): a.data for k, a in enumerate(nib.load(p).darrays)} for p in (first, second))
        )
    if suffix in (".png", ".jpg", ".webp"):
        return _pictures(first.read_bytes(), second.read_bytes())
    if suffix == ".tsv":
        return _tables(*(_table(path) for path in (first, second)))
    if suffix == ".json":
        return _texts(*(json.loads(path.read_text("utf-8")) for path in (first, second)))
    if suffix == ".toml":
        return _texts(*(without_times(tomllib.loads(path.read_text("utf-8"))) for path in (first, second)))
    if suffix == ".html":
        return _reports(*(path.read_text("utf-8") for path in (first, second)))
    return Distance("bytes", 0.0 if first.read_bytes() == second.read_bytes() else math.inf)


def _farthest(kind: str, found: Iterator[tuple[str, float]]) -> Distance:
    where, value = max(found, key=lambda pair: pair[1], default=("", 0.0))
    return Distance(kind, value, where if value else "")


def _arrays(kind: str, first: dict[str, NDArray[Any]], second: dict[str, NDArray[Any]]) -> Distance:
    if {k: v.shape for k, v in first.items()} != {k: v.shape for k, v in second.items()}:
        return Distance(kind, math.inf, "names or shapes")
    largest = max((_largest(np.asarray(values, np.float64)) for values in first.values()), default=0.0)
    return _farthest(kind, ((name, _share(first[name], second[name], largest)) for name in first))


def _share(first: NDArray[Any], second: NDArray[Any], largest_of_all: float) -> float:
    """Largest difference as a share of the largest value; infinite where one is missing (NaN) in one alone."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return math.inf
    known = np.isfinite(a)
    apart = float(np.abs(a[known] - b[known]).max(initial=0.0))
    return apart and apart / (_largest(a) if _largest(a) > ZERO * largest_of_all else largest_of_all)


def _largest(values: NDArray[Any]) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _pictures(first: bytes, second: bytes) -> Distance:
    pictures = [Image.open(io.BytesIO(data)) for data in (first, second)]
    a, b = (np.asarray(picture.convert("RGB"), np.float64) for picture in pictures)
    if a.shape != b.shape:
        return Distance("pictures", math.inf)
    if pictures[0].format in LOSSY:
        return Distance("lossy pictures", float(np.sqrt(np.mean((a - b) ** 2))))
    return Distance("pictures", float(np.abs(a - b).max()))


def _number(first: float, second: float) -> float:
    if (math.isnan(first) and math.isnan(second)) or first == second:
        return 0.0
    apart = abs(first - second) / max(1.0, abs(first))
    return apart if math.isfinite(apart) else math.inf


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def _tables(first: pd.DataFrame, second: pd.DataFrame) -> Distance:
    if first.shape != second.shape or list(first) != list(second):
        return Distance("tables", math.inf, "rows or columns")
    return _farthest("tables", ((str(column), _column(first[column], second[column])) for column in first))


def _column(first: pd.Series[Any], second: pd.Series[Any]) -> float:
    if pd.api.types.is_numeric_dtype(first) and pd.api.types.is_numeric_dtype(second):
        return max((_number(float(a), float(b)) for a, b in zip(first, second, strict=True)), default=0.0)
    same = (first == second) | (first.isna() & second.isna())
    return 0.0 if bool(same.all()) else math.inf


HASH = re.compile(r"\b[0-9a-f]{64}\b")
URI = re.compile(
    r"(?:data:image/(?:png|jpeg);base64,|<script type=\"text/plain\" id=\"sheet-[\d-]+\">)([A-Za-z0-9+/=]+)"
)
"""A picture in a report: of the page, or a sheet that its script decodes."""
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def _texts(first: Any, second: Any) -> Distance:
    return _farthest("numbers in text", _apart("", first, second))


def _apart(name: str, first: Any, second: Any) -> Iterator[tuple[str, float]]:
    """Yield (place, distance) of all that a JSON or TOML holds; hashes, of files that differ, are passed over."""
    if isinstance(first, dict) and isinstance(second, dict):
        if list(first) != list(second):
            yield f"{name} (keys)", math.inf
            return
        for key in first:
            yield from _apart(f"{name}.{key}".strip("."), first[key], second[key])
    elif isinstance(first, list) and isinstance(second, list):
        if len(first) != len(second):
            yield f"{name} (length)", math.inf
            return
        for a, b in zip(first, second, strict=True):
            yield from _apart(name, a, b)
    elif isinstance(first, str) and isinstance(second, str):
        yield from _words(name, first, second)
    elif isinstance(first, int | float) and isinstance(second, int | float):
        yield name, _number(float(first), float(second))
    else:
        yield name, 0.0 if first == second else math.inf


def _words(name: str, first: str, second: str) -> Iterator[tuple[str, float]]:
    """Yield distances of the numbers in two texts whose other words are the same."""
    a, b = (HASH.sub("", text) for text in (first, second))
    if NUMBER.sub("", a) != NUMBER.sub("", b):
        yield f"{name} (words)", math.inf
        return
    for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True):
        yield name or f"{x} and {y}", _number(float(x), float(y))


def _reports(first: str, second: str) -> Distance:
    """Compare text and pictures of two reports; the text tells of the larger distance."""
    pictures = [[base64.b64decode(data) for data in URI.findall(text)] for text in (first, second)]
    if len(pictures[0]) != len(pictures[1]):
        return Distance("numbers in text", math.inf, "number of pictures")
    text = _farthest("numbers in text", _words("", *(URI.sub("", text) for text in (first, second))))
    seen = [_pictures(a, b) for a, b in zip(*pictures, strict=True)]
    return max(text, *seen, key=lambda found: found.value / TOLERANCES[found.kind])


# Two runs.


def surroundings(which: int) -> dict[str, str]:
    """Return the environment of the first or second run: hash seed and time zone, a day apart."""
    zone = ("Pacific/Pago_Pago", "Pacific/Kiritimati")[which]
    return os.environ | {"PYTHONHASHSEED": str(1 + which), "TZ": zone, "OMP_NUM_THREADS": "1"}


def place(folder: Path, which: int) -> Path:
    """Return where the first or second study lies: other depths, other names."""
    return folder / ("first" if which == 0 else "second/a longer/way") / ("study" if which == 0 else "another-name")


def make(kind: str, study: Path, threads: int, workers: int = 1) -> None:
    """Make a study, as the command line does: in this process, or by workers with `threads` each."""
    study.parent.mkdir(parents=True, exist_ok=True)
    if kind == "tiny":
        _make_tiny(study, threads, workers)
        return
    from hyperdecode.cli.main import app
    from hyperdecode.study.config import preset, write_config

    write_config(study, preset("quick", **(SMALL if kind == "small" else {})))
    spread = [] if workers == 1 else ["--workers", str(workers)]
    # What `demo --quick` does, and the copies of stimuli that are shown on a screen.
    commands = [["stimuli", str(study), *spread], ["simulate", str(study)], ["run", str(study), *spread]]
    for command in commands:
        app(["--threads", str(threads * workers), *command], prog_name="hyperdecode", standalone_mode=False)


def _make_tiny(study: Path, threads: int, workers: int) -> None:
    from hyperdecode.pipeline.cluster import Where
    from hyperdecode.pipeline.run import run_study
    from hyperdecode.study.stimulus_set import read_stimuli
    from hyperdecode.threads import set_threads
    from tests.conftest import build_tiny
    from tests.pipeline.estimated import estimated_study, settings

    set_threads(threads * workers)
    warnings.simplefilter("ignore")
    generator = build_tiny()
    estimated_study(study, generator)
    run_study(study, settings(), read_stimuli(study), generator, where=Where(workers))


class Making:
    """A study that is made in a process of its own."""

    def __init__(self, kind: str, folder: Path, which: int, threads: int, workers: int = 1) -> None:
        self.study = place(folder, which)
        self.log = folder / f"{which}.log"
        elsewhere = folder / f"from-{which}"
        elsewhere.mkdir(parents=True)
        command = [sys.executable, str(Path(__file__).resolve()), "--make", str(self.study)]
        command += ["--study", kind, "--threads", str(threads), "--workers", str(workers)]
        self.start = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=elsewhere, env=surroundings(which), stdout=log, stderr=log, start_new_session=True
            )

    def end(self, limit: float) -> float:
        """Wait, and return the seconds it took.

        Raises
        ------
        SystemExit
            When it failed, or was not done in time.
        """
        try:
            code = self.process.wait(max(0.0, limit - (time.monotonic() - self.start)))
        except subprocess.TimeoutExpired:
            raise SystemExit(f"not done in {limit:g} s; the end of its output:\n{self._said()}") from None
        if code:
            raise SystemExit(f"making {self.study} ended with code {code}:\n{self._said()}")
        return time.monotonic() - self.start

    def kill(self) -> None:
        """End it and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _said(self) -> str:
        return self.log.read_text(errors="replace").replace("\r", "\n")[-2000:]


def made_twice(
    kind: str, folder: Path, threads: Sequence[int], limit: float, workers: Sequence[int] = (1, 1)
) -> tuple[list[Path], list[float]]:
    """Make a study twice, side by side where no process has more than one thread; return the studies and seconds."""
    makings: list[Making] = []
    seconds = []
    try:
        makings.append(Making(kind, folder, 0, threads[0], workers[0]))
        if max(threads) > 1:
            seconds.append(makings[0].end(limit))
        else:
            time.sleep(LATER)
        makings.append(Making(kind, folder, 1, threads[1], workers[1]))
        seconds += [making.end(limit) for making in makings[len(seconds) :]]
    finally:
        for making in makings:
            making.kill()
    return [making.study for making in makings], seconds


def measured(first: Path, second: Path) -> dict[str, tuple[Distance, str, int, int]]:
    """Return, by kind of file, the largest distance and its file, how many files there are, and how many differ."""
    found: dict[str, tuple[Distance, str, int, int]] = {}
    for name in files_of(first):
        if not (second / name).is_file():
            continue
        here = distance(first / name, second / name)
        worst, where, n, n_apart = found.get(here.kind, (here, name, 0, 0))
        if here.value > worst.value:
            worst, where = here, name
        found[here.kind] = worst, where, n + 1, n_apart + (essence(first, name) != essence(second, name))
    return found


def main() -> None:
    """Compare two runs and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", choices=("tiny", "small", "quick"), default="quick")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of both runs, or of the first and second")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="processes of both runs, or of each")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for one run")
    parser.add_argument("--keep", type=Path, help="folder to leave both studies in")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        make(asked.study, asked.make, asked.threads[0], asked.workers[0])
        return
    with tempfile.TemporaryDirectory() as temporary:
        threads, workers = ((given[0], given[-1]) for given in (asked.threads, asked.workers))
        folder = asked.keep or Path(temporary)
        (first, second), seconds = made_twice(asked.study, folder.resolve(), threads, asked.limit, workers)
        took = " and ".join(f"{s:.0f} s" for s in seconds)
        lines = differing(first, second)
        said = {"study": asked.study, "files": len(files_of(first)), "seconds": [round(s) for s in seconds]}
        print(json.dumps(said) if asked.json else f"{asked.study} study: {said['files']} files; {took}", flush=True)
        if threads[0] == threads[1]:
            for line in lines:
                print(line)
            print(f"{len(lines)} files differ" if lines else "no file differs")
            sys.exit(bool(lines))
        apart = [line for line in lines if ": only in the " in line]
        for kind, (worst, name, n, n_apart) in sorted(measured(first, second).items()):
            most = TOLERANCES.get(kind, 0.0)
            row = {"kind": kind, "files": n, "differ": n_apart, "largest": worst.value, "allowed": most}
            row |= {"file": name, "where": worst.where} if worst.value else {}
            print(json.dumps(row), flush=True)
            if worst.value > most:
                apart.append(f"{name}: {worst.value:g} apart ({worst.where}), allowed are {most:g}")
        for line in apart:
            print(line)
        sys.exit(bool(apart))


if __name__ == "__main__":
    main()
