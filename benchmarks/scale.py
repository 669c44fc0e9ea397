"""Time and memory of the steps that see every voxel, against the size of a study, and what that makes of a large one.

    python benchmarks/scale.py [--json] [--quick] [--largest] [--folder FOLDER]
    python benchmarks/scale.py --formats [--json] [--folder FOLDER]

Each point is a process of its own, on one thread, whose peak memory and processor time are measured; data are simulated
on the disk before it starts, in FOLDER (a temporary one by default; up to 10 GB, 17 GB with ``--largest``):

* mask: z-maps of runs of 100 trials, NIfTI -> the voxels, and trials x voxels of all of them in a store;
* decode: the default decoder on averages of three trials of each stimulus, 512 latents: fit, the fingerprint of what it
  was fitted to, latents of 36 test stimuli;
* glm: one run of BOLD -> a z-map a trial, with the quality figures of the run;
* realign, interpolate: one raw run of BOLD in which a head moves -> its motion, and its values at the brain.

Growth is told by exponents (log of time or memory against log of size, the other sizes fixed). Times of a study of 8
subjects x 30,000 trials x 200,000 voxels are extrapolated by the least squares of what each step is made of: a mask
goes over trials x voxels; a decoder reads trials x voxels and computes, by the operations that its equations take; a
GLM goes over volumes and trials x voxels and multiplies them. The peak memory of a decoder is what it plans to hold.

``--points FILE`` says what the lines of an earlier ``--json`` show.

``--formats`` compares what trials x voxels could be kept in: our store, Zarr's own program, HDF5 (h5py), safetensors.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LATENTS, REPEATS, N_TEST, TEST_REPEATS = 512, 3, 36, 3
BOUND_GB = 4.0
LIBRARIES = 530_000_000
"""Bytes that a decoder's process holds before there are data, as the smallest points show."""
TARGET = {"subjects": 8, "trials": 30_000, "voxels": 200_000, "volumes": 450, "trials_a_run": 75}

Point = dict[str, Any]

MASK: list[Point] = [
    {"part": "mask", "trials": trials, "voxels": voxels}
    for trials, voxels in ((200, 50_000), (200, 100_000), (200, 200_000), (400, 200_000), (800, 200_000))
]
DECODE: list[Point] = [
    {"part": "decode", "trials": trials, "voxels": voxels}
    for trials, voxels in (
        *((1500, 50_000), (1500, 100_000), (1500, 200_000)),
        *((750, 200_000), (6000, 12_500), (3000, 200_000), (12_000, 4096), (6000, 200_000)),
    )
]
GLM: list[Point] = [
    {"part": "glm", "trials": trials, "volumes": volumes, "voxels": voxels}
    for trials, volumes, voxels in (
        *((75, 150, 200_000), (75, 300, 200_000), (75, 600, 200_000), (150, 600, 200_000)),
        *((75, 300, 50_000), (75, 300, 100_000)),
    )
]
RAW: list[Point] = [
    {"part": part, "trials": 75, "volumes": volumes, "voxels": voxels}
    for part in ("realign", "interpolate")
    for volumes, voxels in ((150, 200_000), (300, 50_000), (300, 200_000), (600, 200_000))
]
LARGEST: list[Point] = [{"part": "decode", "trials": 10_000, "voxels": 200_000}]
QUICK: list[Point] = [
    *({"part": "mask", "trials": trials, "voxels": voxels} for trials, voxels in ((40, 500), (80, 500), (40, 1000))),
    *({"part": "decode", "trials": trials, "voxels": voxels} for trials, voxels in ((60, 500), (120, 500), (60, 1000))),
    *(
        {"part": part, "trials": 8, "volumes": t, "voxels": v}
        for part in ("glm", "realign", "interpolate")
        for t, v in ((40, 4000), (80, 4000), (40, 8000))
    ),
]


def grid_of(voxels: int) -> tuple[int, int, int]:
    """Return a grid that has that many voxels and some around them, as a brain does."""
    side = 1
    while side**3 < 4 * voxels:  # a brain fills a quarter of its box
        side += 1
    return side, side, side


def inside_of(voxels: int) -> Any:
    """Return which voxels of the grid are brain: those nearest to its centre."""
    import numpy as np

    grid = grid_of(voxels)
    away = sum((axis - (n - 1) / 2) ** 2 for axis, n in zip(np.indices(grid), grid, strict=True)).ravel()
    inside = np.zeros(away.size, dtype=bool)
    inside[np.argsort(away, kind="stable")[:voxels]] = True
    return inside.reshape(grid)


# What is measured, each in a process of its own


class Stimuli:
    """As much of a stimulus set as a step asks for."""

    def __init__(self, folder: Path, n_train: int) -> None:
        self.folder, self.n_train = folder, n_train

    def require(self, shown: list[str]) -> None:
        """Every name is known."""

    def roles(self, shown: list[str]) -> list[str]:
        """Say which stimuli are for tests: the last ones."""
        return ["train" if int(name[1:]) < self.n_train else "test" for name in shown]


class Source:
    """Runs whose z-maps are there."""

    space, in_mni = "", False

    def __init__(self, runs: list[Any]) -> None:
        self.runs = runs


def shown_in(trials: int) -> tuple[list[str], int]:
    """Return what each trial shows, and how many stimuli are for training; repeats lie far apart, as in a study."""
    n_train = (trials - N_TEST * TEST_REPEATS) // REPEATS if trials > 3 * N_TEST * TEST_REPEATS else trials // 6
    n_test = min(N_TEST, max(3, trials // 12))
    names = [f"s{k}" for k in range(n_train)] * REPEATS + [f"s{n_train + k}" for k in range(n_test)] * TEST_REPEATS
    return (names * 2)[:trials], n_train


def runs_of(folder: Path, n: int) -> list[Any]:
    """Return descriptions of runs."""
    from hyperdecode.study.bids import BoldRun

    return [
        BoldRun("01", None, "t", str(k), folder / f"r{k}_bold.nii.gz", folder / f"r{k}_events.tsv", {}, None, f"r{k}")
        for k in range(n)
    ]


def prepare_mask(folder: Path, point: Point) -> None:
    """Write z-maps, a run of 100 trials after the other."""
    import numpy as np
    import pandas as pd

    from hyperdecode.study.derivatives import write_image, write_table
    from hyperdecode.study.layout import Layout

    layout, inside, rng = Layout(folder), inside_of(point["voxels"]), np.random.default_rng(0)
    shown, _ = shown_in(point["trials"])
    size = min(100, point["trials"] // 2)
    runs = runs_of(folder, -(-point["trials"] // size))
    for k, run in enumerate(runs):
        names = shown[k * size : (k + 1) * size]
        volume = np.zeros((*inside.shape, len(names)), np.float32)
        volume[inside] = rng.standard_normal((point["voxels"], len(names)), np.float32)
        write_image(layout.zmap(run), volume, np.eye(4), space="scanner")
        write_table(layout.trials(run), pd.DataFrame({"run": run.stem, "stim_file": names}))
    write_image(layout.mean_functional(runs[0]), inside.astype(np.float32), np.eye(4), space="scanner")
    (folder / "manifest.tsv").write_text("")


def measure_mask(folder: Path, point: Point) -> None:
    """Choose all voxels that every run has."""
    from hyperdecode.pipeline.masking import Masking
    from hyperdecode.pipeline.trial_maps import MappedTrials
    from hyperdecode.study.layout import Layout
    from hyperdecode.study.settings import BoldSettings

    layout, (_, n_train) = Layout(folder), shown_in(point["trials"])
    size = min(100, point["trials"] // 2)
    source: Any = Source(runs_of(folder, -(-point["trials"] // size)))
    stimuli: Any = Stimuli(folder, n_train)
    bold = BoldSettings(voxels="all", space="native")
    Masking(layout, bold, stimuli, "01", MappedTrials(layout, source)).step().work()


def prepare_decode(folder: Path, point: Point) -> None:
    """Write a store whose voxels follow latents a little."""
    import numpy as np

    from hyperdecode.study.trial_store import write_store

    rng, (shown, _) = np.random.default_rng(0), shown_in(point["trials"])
    mix = rng.standard_normal((16, point["voxels"]), np.float32)
    latents = latents_of(shown)
    with write_store(folder / "z.zarr.zip", point["trials"], np.arange(point["voxels"])) as writer:
        for start in range(0, point["trials"], 64):
            told = (0.1 * latents[start : start + 64, :16]).astype(np.float32) @ mix
            writer.add(told + rng.standard_normal(told.shape, np.float32))


def latents_of(shown: list[str]) -> Any:
    """Return latents of stimuli, the same wherever they are shown."""
    import numpy as np

    number = [int(name[1:]) for name in shown]
    return np.random.default_rng(1).standard_normal((max(number) + 1, LATENTS))[number]


def measure_decode(folder: Path, point: Point) -> None:
    """Fit the default decoder, and decode the test stimuli."""
    import numpy as np

    from hyperdecode.decoding.models import Context
    from hyperdecode.decoding.views import fits_memory
    from hyperdecode.pipeline.decode import fit_decoder, n_averaged
    from hyperdecode.pipeline.trials import DecodingTrials
    from hyperdecode.split import Split
    from hyperdecode.study.config import StudyConfig
    from hyperdecode.study.fitted_decoder import training_fingerprint
    from hyperdecode.study.trial_store import open_store

    shown, n_train = shown_in(point["trials"])
    split = Split.of(shown, Stimuli(folder, n_train).roles(shown))
    store = open_store(folder / "z.zarr.zip")
    z = store[:] if fits_memory(store.shape) else store
    trials = DecodingTrials(z, latents_of(shown), split, store.voxels, tuple(split.test_stimuli), ("",) * len(shown))
    config = StudyConfig.model_validate({"decoding": {"repeats": "average"}})
    space: Any = type("Space", (), {"scale": (np.zeros(LATENTS), np.ones(LATENTS))})()
    fit = fit_decoder(trials, config, space, "weighted-ridge", Context(n_averaged=n_averaged(trials, config)))
    training_fingerprint(trials.training_stimuli, trials.training_z, trials.training_latents)
    found = trials.decoded_averages(lambda x: x @ fit.coef.T + fit.intercept)
    if not np.isfinite(found).all():
        raise ValueError("what was decoded is not finite")


def prepare_glm(folder: Path, point: Point) -> None:
    """Write one run of BOLD with its events."""
    import numpy as np
    import pandas as pd

    from hyperdecode.study.derivatives import write_image

    inside, rng, volumes = inside_of(point["voxels"]), np.random.default_rng(0), point["volumes"]
    values = np.zeros((*inside.shape, volumes), np.int16)
    values[inside] = 1000 + 20 * rng.standard_normal((point["voxels"], volumes), np.float32)
    write_image(folder / "r0_bold.nii.gz", values, np.eye(4), t_r=1.5)
    onsets = np.linspace(6, 1.5 * volumes - 20, point["trials"])
    events = pd.DataFrame({"onset": onsets, "duration": 1.5, "trial_type": "face", "stim_file": "s0"})
    events.to_csv(folder / "r0_events.tsv", sep="\t", index=False)


def measure_glm(folder: Path, point: Point) -> None:
    """Make the z-maps of the run."""
    import warnings

    from hyperdecode.errors import DataWarning
    from hyperdecode.pipeline.sources import AsIs
    from hyperdecode.pipeline.zmaps import EveryEvent, SingleTrials
    from hyperdecode.study.layout import Layout
    from hyperdecode.study.settings import BoldSettings

    bold = BoldSettings()
    singles = SingleTrials(Layout(folder), bold, AsIs(runs_of(folder, 1), bold), EveryEvent())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        singles.steps()[0][1].work()


def prepare_raw(folder: Path, point: Point) -> None:
    """Write a raw run of a head with structure that drifts by a voxel."""
    import numpy as np
    import pandas as pd
    from scipy import ndimage

    from hyperdecode.study.derivatives import write_image

    inside, rng, volumes = inside_of(point["voxels"]), np.random.default_rng(0), point["volumes"]
    texture = ndimage.gaussian_filter(rng.standard_normal(inside.shape).astype(np.float32), 2)
    head = np.where(inside, 1000 + 200 * texture / texture.std(), 20).astype(np.float32)
    values = np.empty((*inside.shape, volumes), np.int16)
    for k in range(volumes):
        moved = ndimage.shift(head, (k / volumes, 0, -0.5 * k / volumes), order=1, mode="nearest")
        values[..., k] = moved + 5 * rng.standard_normal(head.shape, np.float32)
    write_image(folder / "r0_bold.nii.gz", values, np.diag([2.0, 2.0, 2.0, 1.0]), t_r=1.5)
    onsets = np.linspace(6, 1.5 * volumes - 20, point["trials"])
    events = pd.DataFrame({"onset": onsets, "duration": 1.5, "trial_type": "face", "stim_file": "s0"})
    events.to_csv(folder / "r0_events.tsv", sep="\t", index=False)


def prepare_interpolate(folder: Path, point: Point) -> None:
    """Write a raw run and its motion."""
    prepare_raw(folder, point)
    for _, step in raw_source(folder).steps():
        step.work()


def raw_source(folder: Path) -> Any:
    """Return the source of a raw run that stays on its own grid."""
    from hyperdecode.pipeline.spatial import Raw
    from hyperdecode.study.layout import Layout
    from hyperdecode.study.settings import BoldSettings

    return Raw(Layout(folder), tuple(runs_of(folder, 1)), BoldSettings(space="native"))


def measure_realign(folder: Path, point: Point) -> None:
    """Find the motion of the run."""
    dict(raw_source(folder).steps())["realign"].work()


def measure_interpolate(folder: Path, point: Point) -> None:
    """Take the run's values at the brain of its reference."""
    source = raw_source(folder)
    source.clean(source.runs[0])


STEPS: dict[str, tuple[Callable[[Path, Point], None], Callable[[Path, Point], None]]] = {
    "mask": (prepare_mask, measure_mask),
    "decode": (prepare_decode, measure_decode),
    "glm": (prepare_glm, measure_glm),
    "realign": (prepare_raw, measure_realign),
    "interpolate": (prepare_interpolate, measure_interpolate),
}


def peak_bytes() -> int:
    """Return the most memory that this process has held; what its parent held does not count."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(what: str, folder: Path, point: Point) -> None:
    """Prepare a point, or measure it and say what it took, in this process."""
    prepare, measure = STEPS[point["part"]]
    if what == "prepare":
        prepare(folder, point)
        return
    from hyperdecode.threads import set_threads

    set_threads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    measure(folder, point)
    took = {"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak": peak_bytes()}
    print(json.dumps(took))


# The parent, which holds no data


def measured(point: Point, folder: Path) -> Point:
    """Prepare and measure one point, each in a fresh process."""
    here = Path(tempfile.mkdtemp(dir=folder, prefix="scale-"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        for what in ("prepare", "measure"):
            command = [sys.executable, __file__, "--child", what, "--folder", str(here), "--point", json.dumps(point)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{point}: {done.stderr.strip().splitlines()[-1:]}")
        return point | json.loads(done.stdout.strip().splitlines()[-1])
    finally:
        shutil.rmtree(here)


def slope(points: list[Point], size: str, of: str) -> float | None:
    """Return the exponent by which time or memory grows with one size, the others fixed; from the two largest."""
    others = [key for key in ("trials", "volumes", "voxels") if key != size]
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(point.get(key) for key in others), []).append(point)
    most = max(groups.values(), key=lambda group: (len(group), sum(p["voxels"] for p in group)))
    if len(most) < 2:
        return None
    import math

    low, high = sorted(most, key=lambda p: p[size])[-2:]
    return math.log(high[of] / low[of]) / math.log(high[size] / low[size])


def terms(point: Point) -> list[float]:
    """Return what the time of a step is made of."""
    trials, voxels = point["trials"], point["voxels"]
    if point["part"] == "mask":
        return [1.0, trials * voxels]
    if "volumes" in point:
        volumes = point["volumes"]
        return [1.0, volumes * voxels, trials * voxels, trials * volumes * voxels]
    n = trials / REPEATS
    if 2 * voxels <= n:
        return [0.0, 0.0, 0.0]  # another form of the equations
    # Six kernels in single precision, which counts half; six encoding models; five decompositions.
    work = 0.5 * 6 * 2 * n**2 * voxels + 6 * 4 * 0.8 * n * LATENTS * voxels + 5 * 9 * (0.8 * n) ** 3
    return [1.0, trials * voxels, work]


def fitted(points: list[Point], wanted: Point, of: str, parts: Callable[[Point], list[float]]) -> float:
    """Return time or memory of a larger point, by least squares with no term below zero, in relative errors."""
    import numpy as np
    from scipy.optimize import nnls

    design = np.array([parts(p) for p in points]) / np.array([p[of] for p in points])[:, None]
    scale = np.maximum(design.max(axis=0), 1e-300)
    weights = nnls(design / scale, np.ones(len(points)))[0] / scale
    return float(np.dot(weights, parts(wanted)))


def extrapolated(points: list[Point], wanted: Point) -> tuple[float, float]:
    """Return processor seconds and peak bytes of a larger point."""
    some = [p for p in points if any(terms(p))]
    seconds = fitted(some, wanted, "cpu_s", terms)
    if wanted["part"] == "decode":
        return seconds, planned(wanted)
    volumes = "volumes" in wanted
    return seconds, fitted(
        some, wanted, "peak", lambda p: [1.0, p["voxels"], *([p["volumes"] * p["voxels"]] if volumes else [])]
    )


def planned(wanted: Point) -> float:
    """Return what the decoder plans to hold, with what the libraries hold; a `UserError` where it is too much."""
    import numpy as np

    from hyperdecode.decoding.blocks import Responses
    from hyperdecode.decoding.weighted import WeightedRidgeDecoder, _dual_needs
    from hyperdecode.memory import working_memory

    n = wanted["trials"] // REPEATS
    decoder = WeightedRidgeDecoder(memory=working_memory())
    decoder._planned(Responses(Nothing((n, wanted["voxels"]), np.dtype(np.float32))), LATENTS)
    return _dual_needs(n, 4)[0] + 8 * 6 * n * LATENTS + LIBRARIES


class Nothing:
    """Responses of a shape, without any values."""

    ndim = 2

    def __init__(self, shape: tuple[int, int], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, key: Any) -> Any:
        raise NotImplementedError


def growth(points: list[Point]) -> Iterator[str]:
    """Say how each step grows."""
    for part in STEPS:
        mine = [p for p in points if p["part"] == part]
        for size in ("trials", "volumes", "voxels"):
            if len({p.get(size) for p in mine} - {None}) > 1:
                said = [slope(mine, size, of) for of in ("cpu_s", "peak")]
                if None not in said:
                    yield f"{part}: time ~ {size}^{said[0]:.2f}, peak memory ~ {size}^{said[1]:.2f}"


def large_study(points: list[Point]) -> list[dict[str, Any]]:
    """Return processor hours of each step of the large study, on one thread."""
    t, rows = TARGET, []
    runs = t["trials"] // t["trials_a_run"]
    run = {"trials": t["trials_a_run"], "volumes": t["volumes"], "voxels": t["voxels"]}
    wanted = {
        **{part: (run, runs) for part in ("realign", "interpolate", "glm")},
        "mask": ({"trials": t["trials"], "voxels": t["voxels"]}, 1),
        "decode": ({"trials": t["trials"], "voxels": t["voxels"]}, 1),
    }
    for part, (size, times) in wanted.items():
        mine = [p for p in points if p["part"] == part]
        if not mine:
            continue  # not among the points that were measured
        seconds, peak = extrapolated(mine, {"part": part, **size})
        hours = seconds * times / 3600
        rows.append(
            {
                "step": part,
                "hours_a_subject": round(hours, 2),
                "hours": round(hours * t["subjects"], 1),
                "peak_gb": round(peak / 1e9, 2),
            }
        )
    return rows


def claims(points: list[Point], large: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one line a claim, as the other benchmarks print them: the bound on memory, measured and extrapolated."""
    rows: list[dict[str, Any]] = []
    for part in STEPS:
        mine = [p for p in points if p["part"] == part]
        if not mine:
            continue
        worst = max(mine, key=lambda p: p["peak"])
        size = " x ".join(f"{worst[k]:,} {k}" for k in ("trials", "volumes", "voxels") if k in worst)
        rows.append(
            {
                "claim": f"{part}: peak memory, {size}",
                "peer": f"a bound of {BOUND_GB:g} GB",
                "ours_s": round(worst["cpu_s"], 2),
                "peer_s": None,
                "ratio": round(worst["peak"] / (BOUND_GB * 1e9), 3),
                "max_diff": None,
                "goal": "ratio <= 1",
                "met": worst["peak"] <= BOUND_GB * 1e9,
            }
        )
    for row in large:
        rows.append(
            {
                "claim": f"{row['step']}: peak memory of a subject of the large study, extrapolated",
                "peer": f"a bound of {BOUND_GB:g} GB",
                "ours_s": round(3600 * row["hours_a_subject"]),
                "peer_s": None,
                "ratio": round(row["peak_gb"] / BOUND_GB, 3),
                "max_diff": None,
                "goal": "ratio <= 1",
                "met": row["peak_gb"] <= BOUND_GB,
            }
        )
    return rows


# What trials x voxels could be kept in


def formats(folder: Path, n_trials: int, n_voxels: int) -> list[dict[str, Any]]:
    """Write run by run, and read voxels of all trials and trials of all voxels, in each format."""
    import h5py
    import numpy as np
    import zarr
    from safetensors import safe_open
    from safetensors.numpy import save_file

    from hyperdecode.study.trial_store import open_store, write_store

    rng = np.random.default_rng(0)
    runs = [rng.standard_normal((75, n_voxels), np.float32) for _ in range(n_trials // 75)]
    n, chunk = 75 * len(runs), (64, 4096)

    def ours(path: Path) -> Any:
        with write_store(path, n, np.arange(n_voxels)) as writer:
            for run in runs:
                writer.add(run)
        return open_store(path)

    def by_zarr(path: Path, zipped: bool) -> Any:
        place = zarr.storage.ZipStore(path, mode="w") if zipped else zarr.storage.LocalStore(path)
        z = zarr.create_array(place, shape=(n, n_voxels), chunks=chunk, dtype="f4", compressors=None)
        # A zip archive cannot change a chunk: runs have to be gathered into rows of chunks.
        step, everything = (64, np.concatenate(runs)) if zipped else (75, None)
        for start in range(0, n, step):
            z[start : start + step] = runs[start // 75] if everything is None else everything[start : start + step]
        place.close()
        place = zarr.storage.ZipStore(path, mode="r") if zipped else place
        return zarr.open_array(place, mode="r")

    def by_hdf5(path: Path, packed: bool) -> Any:
        with h5py.File(path, "w") as file:
            z = file.create_dataset("z", (n, n_voxels), "f4", chunks=chunk, compression="gzip" if packed else None)
            for k, run in enumerate(runs):
                z[75 * k : 75 * (k + 1)] = run
        return h5py.File(path, "r")["z"]

    def by_safetensors(path: Path) -> Any:
        save_file({"z": np.concatenate(runs)}, path)
        return safe_open(path, framework="np").get_slice("z")

    rows = []
    kinds: dict[str, Callable[[Path], Any]] = {
        "this package's store": ours,
        "zarr, one zip": lambda path: by_zarr(path, True),
        "zarr, a folder": lambda path: by_zarr(path, False),
        "HDF5": lambda path: by_hdf5(path, False),
        "HDF5, gzip": lambda path: by_hdf5(path, True),
        "safetensors (whole)": by_safetensors,
    }
    for name, write in kinds.items():
        path = folder / name.replace(" ", "-").replace(",", "").replace("'", "")
        took = {}
        start = time.process_time()
        z = write(path)
        took["write_s"] = time.process_time() - start
        start = time.process_time()
        for first in range(0, n_voxels, 4096):
            part = z[:, first : min(first + 4096, n_voxels)]
        took["voxels_s"] = time.process_time() - start
        start = time.process_time()
        for row in range(0, n, max(1, n // 40)):
            part = z[row : row + 1]
        took["trials_s"] = time.process_time() - start
        del z, part
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files) / (4 * n * n_voxels)
        times = {key: round(value, 3) for key, value in took.items()}
        rows.append({"format": name, "files": len(files), "size": round(size, 3)} | times)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return rows


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line a point, step of the large study, and claim")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--largest", action="store_true", help="also 10,000 trials x 200,000 voxels (8 GB)")
    parser.add_argument("--only", choices=[*STEPS], help="one step alone")
    parser.add_argument("--points", type=Path, nargs="*", help="JSON lines of earlier runs: say what they show")
    parser.add_argument("--formats", action="store_true", help="compare formats instead")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where data are written")
    parser.add_argument("--child", choices=["prepare", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.folder, json.loads(asked.point))
        return
    if asked.formats:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            for row in formats(Path(folder), *((150, 5000) if asked.quick else (3000, 60_000))):
                print(json.dumps(row) if asked.json else row, flush=True)
        return
    if asked.points:
        lines = [json.loads(line) for path in asked.points for line in path.read_text().splitlines()]
        conclude([line for line in lines if "part" in line], asked.json)
        return
    wanted = QUICK if asked.quick else [*MASK, *RAW, *GLM, *DECODE, *(LARGEST if asked.largest else [])]
    points = []
    for point in wanted:
        if asked.only in (None, point["part"]):
            points.append(measured(point, asked.folder))
            print(json.dumps(points[-1]) if asked.json else points[-1], flush=True)
    if asked.only:
        return
    conclude(points, asked.json)


def conclude(points: list[Point], as_json: bool) -> None:
    """Print growth, the large study, and claims."""
    if not as_json:
        print(*growth(points), sep="\n")
    large = large_study(points)
    for row in [*large, *claims(points, large)]:
        print(json.dumps(row) if as_json else row)


if __name__ == "__main__":
    main()
