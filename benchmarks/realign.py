"""Time `realign` against ANTs on one simulated run whose motion is known, and compare both with the truth.

    python benchmarks/realign.py [--json] [--threads N] [--volumes N] [--series N] [--repeats N] [--seed N]

The head is nilearn's grey and white matter at 1 mm with fluid, skull and scalp around it. Each volume is what voxels of
3 mm see of the moved head: the head is blurred by a Gaussian of 3 mm once, at 1 mm, and read at the places where the
volume's voxels lie on it. So no volume is made from another and nothing is interpolated on the grid that is realigned,
which would flatter a program that interpolates in the same way. Signal changes, too: blocks of activation (2 %), a slow
drift that varies over the head (1 %), a gain that varies by 0.5 %, autocorrelated physiological noise and Rician noise
(temporal signal-to-noise ratio about 70 in grey matter). Motion wanders, 1.5 mm root mean square.

ANTs is `ants.motion_correction` with its defaults (rigid, mutual information) to the first volume, on `--volumes`
volumes spread evenly over the run; its time is extrapolated to the whole run in proportion. Both get the same number of
threads. Ours is the least time of the repeats, compiled code loaded; ANTs runs once. Errors are told from the first
volume: the distance between where the true and the found matrix put a point, mean over the brain and the volumes, and
the angle between the two rotations. For us "same volumes" are those that ANTs did. A claim that is missed is printed as
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hyperdecode.fmri.realign import realign, rigid_matrix
from hyperdecode.threads import set_threads

Array = NDArray[np.float64]
Volume = NDArray[np.float32]

SHAPE, VOXEL_MM = (64, 64, 40), 3.0
CENTRE = np.array([0.0, -18.0, 12.0])
MOTION_MM, NOISE, PHYSIO, ACTIVATION, DRIFT, GAIN = 1.5, 10.0, 10.0, 0.02, 0.01, 0.005
GOALS = {"mm": 0.03, "deg": 0.03, "ms": 40.0, "ratio": 1 / 15}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Run:
    """A run and its truth."""

    volumes: NDArray[np.int16]
    affine: Array
    matrices: Array
    brain: Array


class Phantom:
    """The head at 1 mm, as a voxel of 3 mm sees it, and fields on it that change with time."""

    def __init__(self, rng: np.random.Generator) -> None:
        grey, white, brain = (
            load(resolution=1) for load in (load_mni152_gm_template, load_mni152_wm_template, load_mni152_brain_mask)
        )
        g, w, b = (np.asarray(image.dataobj, dtype=np.float32) for image in (grey, white, brain))
        away = ndimage.distance_transform_edt(b == 0)
        head = 1000 * g + 800 * w + 1400 * b * np.clip(1 - g - w, 0, 1)
        for nearest, farthest, value in ((0, 2.5, 840), (2.5, 7, 60), (7, 13, 250)):
            head += value * ((away > nearest) & (away <= farthest))
        sigma = VOXEL_MM / np.sqrt(8 * np.log(2))
        self.spline = ndimage.spline_filter(ndimage.gaussian_filter(head, sigma), output=np.float32)
        self.grey = ndimage.gaussian_filter(g, sigma)
        self.to_voxel = np.linalg.inv(grey.affine)
        self.active = self._field(rng, 20.0) > 1
        self.drift = self._field(rng, 50.0)

    def _field(self, rng: np.random.Generator, fwhm: float) -> Volume:
        """Smooth noise of variance 1 at 4 mm."""
        values = rng.standard_normal([n // 4 + 2 for n in self.grey.shape], dtype=np.float32)
        values = ndimage.gaussian_filter(values, fwhm / np.sqrt(8 * np.log(2)) / 4, mode="wrap")
        return np.asarray(values / values.std(), dtype=np.float32)

    def seen(self, points: Array) -> tuple[Volume, Volume, Volume, Volume]:
        """Intensity, share of grey matter, activation and drift at head points (n, 3) in mm."""
        at = self.to_voxel[:3, :3] @ points.T + self.to_voxel[:3, 3:]
        intensity = ndimage.map_coordinates(self.spline, at, order=3, prefilter=False, output=np.float32)
        grey = ndimage.map_coordinates(self.grey, at, order=1)
        active, drift = (
            ndimage.map_coordinates(f.astype(np.float32), at / 4, order=1, mode="nearest")
            for f in (self.active, self.drift)
        )
        return intensity, grey, active, drift


def wandering(n: int, rng: np.random.Generator) -> Array:
    """Six parameters a volume: a random walk and some jitter, 0 at the first; a radian weighs 50 mm."""
    size = np.array([1, 1, 1, 1 / 50, 1 / 50, 1 / 50])
    walk = np.cumsum(rng.standard_normal((n, 6)), axis=0)
    jitter = 4 * ndimage.gaussian_filter1d(rng.standard_normal((n, 6)), 1.0, axis=0)
    moved = (walk + jitter) * size
    return np.asarray(moved - moved[0])


def moved_to(matrix: Array, points: Array) -> Array:
    """Apply a matrix to points (n, 3)."""
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def simulated(n: int, seed: int) -> Run:
    """Make the run."""
    rng = np.random.default_rng(seed)
    phantom = Phantom(rng)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = CENTRE + np.array([0, 0, 5]) - VOXEL_MM * (np.array(SHAPE) - 1) / 2
    grid = moved_to(affine, np.indices(SHAPE).reshape(3, -1).T.astype(np.float64))
    brain = grid[phantom.seen(grid)[1] > 0.2]
    parameters = wandering(n, rng)
    for _ in range(5):  # rotations make it not quite linear
        moves = [moved_to(rigid_matrix(p, CENTRE), brain) - brain for p in parameters[1:]]
        parameters *= MOTION_MM / np.sqrt(np.mean([np.square(m).sum(axis=1).mean() for m in moves]))
    matrices = np.stack([rigid_matrix(p, CENTRE) for p in parameters])
    blocks = ndimage.gaussian_filter1d((np.arange(n) // 10 % 2).astype(np.float64), 1.5)
    time_course = np.linspace(-1, 1, n)
    volumes = np.empty((*SHAPE, n), np.int16, order="F")
    physio = np.zeros(len(grid))
    for k, matrix in enumerate(matrices):
        still, grey, active, drift = phantom.seen(moved_to(np.linalg.inv(matrix), grid))
        fresh = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 0.8).ravel()
        physio = 0.3 * physio + np.sqrt(1 - 0.3**2) * fresh / fresh.std()
        change = 1 + ACTIVATION * blocks[k] * grey * active + DRIFT * time_course[k] * drift
        signal = still * change * (1 + GAIN * np.sin(6 * time_course[k]))
        signal += PHYSIO * physio * np.clip(still / 1000, 0, 1.4)
        thermal = NOISE * rng.standard_normal((2, len(grid)))
        volumes[..., k] = np.rint(np.hypot(signal + thermal[0], thermal[1])).reshape(SHAPE)
    return Run(volumes, affine, matrices, brain)


def errors(found: Array, run: Run, which: NDArray[np.intp]) -> tuple[Array, Array]:
    """Distance in mm and angle in degrees from the truth, of each volume but the first, all told from the first."""
    ours, true = found @ np.linalg.inv(found[0]), run.matrices[which] @ np.linalg.inv(run.matrices[which[0]])
    return apart(ours, true, run.brain), np.degrees(
        Rotation.from_matrix(ours[1:, :3, :3] @ true[1:, :3, :3].swapaxes(1, 2)).magnitude()
    )


def apart(one: Array, other: Array, brain: Array) -> Array:
    """Mean distance over the brain between where two sets of matrices put it, without the first."""
    pairs = zip(one[1:], other[1:], strict=True)
    return np.array([np.linalg.norm(moved_to(a, brain) - moved_to(b, brain), axis=1).mean() for a, b in pairs])


def by_ants(run: Run, which: NDArray[np.intp]) -> Callable[[], Array]:
    """Set up ANTs; the call realigns and returns matrices."""
    import ants

    # ANTs takes a direction and an origin in LPS
    affine = LPS @ run.affine
    direction = affine[:3, :3] / VOXEL_MM
    image = ants.from_numpy(
        run.volumes[..., which].astype(np.float32),
        origin=(*affine[:3, 3].tolist(), 0.0),
        spacing=(VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0),
        direction=np.block([[direction, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]),
    )
    fixed = ants.slice_image(image, axis=3, idx=0)

    def work() -> Array:
        found = ants.motion_correction(image, fixed=ants.iMath(fixed, "Normalize"))
        matrices = []
        for files in found["motion_parameters"]:
            read = ants.read_transform(files[0])
            matrix, centre = np.eye(4), np.array(read.fixed_parameters)
            matrix[:3, :3] = np.array(read.parameters[:9]).reshape(3, 3)
            matrix[:3, 3] = centre + read.parameters[9:] - matrix[:3, :3] @ centre
            matrices.append(LPS @ matrix @ LPS)
        return np.stack(matrices)

    return work


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """Return the least wall time, the CPU time of that repeat, and the result."""
    best = (float("inf"), 0.0)
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), sum(os.times()[:2])
        result = work()
        best = min(best, (time.perf_counter() - wall, sum(os.times()[:2]) - cpu))
    return *best, result


def compared(run: Run, n_peer: int, repeats: int, threads: int) -> dict[str, Any]:
    """Time both and return the record."""
    n = len(run.matrices)
    which = np.unique(np.linspace(0, n - 1, min(n_peer, n)).astype(np.intp))
    realign(run.volumes[..., :6], run.affine, threads=threads)  # loads the compiled code
    ours_s, ours_cpu, motion = timed(lambda: realign(run.volumes, run.affine, threads=threads), repeats)
    peer_part, peer_cpu, peer = timed(by_ants(run, which), 1)
    peer_s = peer_part * n / which.size
    everything = np.arange(n)
    mm, deg = errors(motion.matrices, run, everything)
    same_mm, same_deg = errors(motion.matrices[which], run, which)
    peer_mm, peer_deg = errors(peer, run, which)
    ours_told, peer_told = (m @ np.linalg.inv(m[0]) for m in (motion.matrices[which], peer))
    ratio, ms = ours_s / peer_s, 1000 * ours_s / n
    return {
        "claim": f"realign {n} volumes of {'x'.join(map(str, SHAPE))} on {threads} threads",
        "peer": f"ANTs motion_correction, {which.size} volumes" + (f" extrapolated to {n}" if which.size < n else ""),
        "ours_s": round(ours_s, 3),
        "peer_s": round(peer_s, 3),
        "ratio": round(ratio, 5),
        "max_diff": float(apart(ours_told, peer_told, run.brain).max()),
        "goal": f"ratio <= 1/15, error below the peer's, <= {GOALS['mm']} mm, <= {GOALS['deg']} deg, "
        f"<= {GOALS['ms']:g} ms a volume",
        "met": bool(
            ratio <= GOALS["ratio"]
            and mm.mean() <= GOALS["mm"]
            and deg.mean() <= GOALS["deg"]
            and ms <= GOALS["ms"]
            and same_mm.mean() < peer_mm.mean()
            and same_deg.mean() < peer_deg.mean()
        ),
        "ms_a_volume": round(ms, 2),
        "ours_cpu_s": round(ours_cpu, 3),
        "peer_cpu_s": round(peer_cpu * n / which.size, 3),
        "error_mm": float(mm.mean()),
        "error_deg": float(deg.mean()),
        "error_mm_largest": float(mm.max()),
        "error_mm_same_volumes": float(same_mm.mean()),
        "error_deg_same_volumes": float(same_deg.mean()),
        "peer_error_mm": float(peer_mm.mean()),
        "peer_error_deg": float(peer_deg.mean()),
        "outliers": int(motion.outliers.sum()),
    }


def show(record: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{record['claim']}; peer: {record['peer']}")
    print(f"{'':12} {'wall s':>9} {'CPU s':>9} {'mm':>8} {'deg':>8}")
    rows = (("hyperdecode", "ours", "error_{}_same_volumes"), ("ANTs", "peer", "peer_error_{}"))
    for name, who, error in rows:
        mm, deg = record[error.format("mm")], record[error.format("deg")]
        print(f"{name:12} {record[f'{who}_s']:9.2f} {record[f'{who}_cpu_s']:9.2f} {mm:8.4f} {deg:8.4f}")
    print(
        f"all volumes: {record['error_mm']:.4f} mm (largest {record['error_mm_largest']:.4f}), "
        f"{record['error_deg']:.4f} deg, {record['ms_a_volume']:.1f} ms a volume; "
        f"{1 / record['ratio']:.1f} times faster than ANTs"
    )
    print(f"{'met   ' if record['met'] else 'MISSED'} {record['goal']}")


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line a claim")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--volumes", type=int, default=20, help="volumes that ANTs realigns")
    parser.add_argument("--series", type=int, default=200, help="volumes of the run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    threads = set_threads(given.threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)  # before ANTs is loaded
    record = compared(simulated(given.series, given.seed), given.volumes, given.repeats, threads)
    if given.json:
        print(json.dumps(record), flush=True)
    else:
        show(record)


if __name__ == "__main__":
    main()
