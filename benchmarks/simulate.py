"""Time simulated BOLD, and the noise of it against BrainIAK's fmrisim.

    python benchmarks/simulate.py [--json] [--threads N] [--repeats N] [--quick] [--brainiak PATH]

The first claims are voxel-volumes a second of a whole head at 2 mm, lying still and moving, the goal being 3 million on
2 threads. The last, made when ``--brainiak`` names a checkout of BrainIAK (and statsmodels, which fmrisim imports, is
installed), is the noise that both can make: autoregressive and smooth over space, physiological, drifting and thermal,
for the same template and number of volumes, without responses and motion, equal threads, fmrisim's own fitting
turned off (it takes longer with it). Each time is the least of the repeats.

Both are asked for the same temporal signal-to-noise ratio (fmrisim's SFNR) and autocorrelation; what came out is
measured in the same way and printed beside what was asked for. ``max_diff`` is the larger relative deviation of ours;
for the first claims, that of the brain's mean intensity from its baseline.
A claim that is missed is printed as missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_limits

from hyperdecode.simulation import bold
from hyperdecode.simulation.bold import simulate_run
from hyperdecode.simulation.head import Head
from hyperdecode.simulation.motion import draw_motion
from hyperdecode.simulation.noise import NoiseSettings, noise_sd, physiology_correlation
from hyperdecode.simulation.responses import SimulatedSubject
from hyperdecode.threads import usable_cores

T_R = 1.5
GOAL = 3e6
N_TRIALS = 111
EVENTS = pd.DataFrame({"onset": 6.0 + 4.5 * np.arange(N_TRIALS), "duration": 1.5})
SFNR = 60.0
RHO = 0.5
TEMPORAL_SHARE = 0.5


def ellipsoid(shape: tuple[int, int, int], size: float) -> Head:
    """Return a head as large as its grid allows: scalp, skull, brain with patches of fluid."""
    rng = np.random.default_rng(0)
    middle = (np.array(shape) - 1) / 2
    radius = np.sqrt((((np.indices(shape).T - middle) / (0.46 * np.array(shape))) ** 2).sum(-1)).T
    brain = radius < 0.8
    texture = gaussian_filter(rng.standard_normal(shape, np.float32), 1.5)
    texture /= texture.std()
    csf = np.where(brain & (texture > 1.5), 1, 0).astype(np.float32)
    white = np.where(brain & (texture < -0.3), 1, 0).astype(np.float32)
    grey = np.where(brain, 1 - csf - white, 0).astype(np.float32)
    scalp = (radius >= 0.92) & (radius < 1)
    epi = gaussian_filter(1000 * grey + 800 * white + 1400 * csf + 250 * scalp, 0.5).astype(np.float32)
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = -size * middle
    mni = np.zeros((*shape, 3), np.float32)
    return Head(affine, brain, grey, white, csf, np.zeros(shape, np.int16), epi, mni, {}, lambda: None)


def person(head: Head, n_voxels: int) -> SimulatedSubject:
    """Return a subject whose grey matter responds at random, in 40 regions with a delay each."""
    rng = np.random.default_rng(1)
    grey = np.flatnonzero((head.grey > 0) & (head.epi > 600))
    voxels = np.sort(rng.choice(grey, min(n_voxels, grey.size), replace=False))
    n = voxels.size
    region = (1 + 40 * np.arange(n) // n).astype(np.int16)
    responses = (0.012 + 0.004 * rng.standard_normal((300, n), np.float32)).astype(np.float32)
    return SimulatedSubject(
        head=head,
        voxels=voxels,
        region=region,
        responses=responses,
        layers=("none",),
        mix=np.ones((1, n), np.float32),
        field_centre=np.full((n, 2), 0.5, np.float32),
        field_sd=np.full(n, 0.2, np.float32),
        noise_ceiling=np.full(n, 0.15, np.float32),
        hrf_delay=(np.linspace(-0.5, 1.5, 41)[region]).astype(np.float32),
    )


def least(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the least wall time in seconds, and what came of it."""
    best, found = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        found = work()
        best = min(best, time.perf_counter() - start)
    return best, found


def throughput(subject: SimulatedSubject, n_volumes: int, repeats: int, threads: int) -> list[dict[str, Any]]:
    """Make volumes of a whole head and throw them away, as a run that is written to disk does."""
    noise = noise_sd(subject, EVENTS, t_r=T_R, n_volumes=350)
    rows = np.arange(N_TRIALS)
    records = []
    for words, scale in (("lying still", 0.0), ("moving", 0.15)):
        motion = draw_motion(350, scale=scale, seed=0) if scale else None
        run = simulate_run(subject, EVENTS, rows, t_r=T_R, n_volumes=350, noise=noise, motion=motion, seed=0)

        def work(run: bold.SimulatedRun = run) -> tuple[int, NDArray[np.int16]]:
            done = 0
            for chunk in run.volumes():
                done += chunk.shape[-1]
                if done >= n_volumes:
                    break
            return done, chunk

        seconds, (done, chunk) = least(work, repeats)
        brain = subject.head.brain
        difference = float(abs(chunk[brain].mean() / subject.head.epi[brain].mean() - 1))
        rate = done * subject.head.epi.size / seconds
        shape = " x ".join(map(str, subject.head.epi.shape))
        records.append(
            {
                "claim": f"simulated BOLD, {shape} voxels, {len(subject.voxels)} of them responding, head {words}, "
                f"{threads} threads: {rate / 1e6:.2f} million voxel-volumes a second",
                "peer": "3 million voxel-volumes a second on 2 threads",
                "ours_s": round(seconds / done, 4),
                "peer_s": round(subject.head.epi.size / GOAL, 4),
                "ratio": round(GOAL / rate, 4),
                "max_diff": round(difference, 4),
                "goal": "ratio <= 1, max_diff <= 0.02",
                "met": bool(rate >= GOAL and difference <= 0.02),
            }
        )
    return records


def load_fmrisim(checkout: Path) -> ModuleType:
    """Import the one module of a checkout, without the package around it."""
    path = next(p for p in (checkout / "src", checkout) if (p / "brainiak/utils/fmrisim.py").is_file())
    spec = importlib.util.spec_from_file_location("fmrisim", path / "brainiak/utils/fmrisim.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def residual_maker(n: int) -> NDArray[np.float64]:
    """Return the matrix that takes drift up to 0.01 Hz out of n volumes."""
    waves = np.cos(np.pi / n * (np.arange(n)[:, None] + 0.5) * np.arange(1 + int(2 * n * 0.01 * T_R)))
    basis = np.linalg.qr(waves)[0]
    return np.asarray(np.eye(n) - basis @ basis.T)


def measured(series: NDArray[Any]) -> tuple[float, float]:
    """Mean over sd in time and lag-1 autocorrelation of all voxels, drift taken out; of (n_volumes, n_voxels)."""
    clean = residual_maker(len(series)) @ series
    spread = np.sqrt((clean**2).sum() / clean.size)
    return float(series.mean() / spread), float((clean[1:] * clean[:-1]).sum() / (clean**2).sum())


def expected(correlation: NDArray[np.float64], sfnr: float) -> tuple[float, float]:
    """Return what `measured` finds on average, exactly: taking drift out costs autocorrelation."""
    maker = residual_maker(len(correlation))
    clean = maker @ toeplitz(correlation) @ maker
    return sfnr / np.sqrt(np.trace(clean) / len(clean)), float(np.trace(clean, offset=1) / np.trace(clean))


def against_fmrisim(head: Head, n_volumes: int, repeats: int, fmrisim: ModuleType) -> dict[str, Any]:
    """Make the same kinds of noise for the same head with both."""
    # fmrisim adds thermal noise of TEMPORAL_SHARE of the variance that SFNR asks for on top of that variance.
    parts = 1 / (1 + TEMPORAL_SHARE)
    physio = 0.05
    settings = NoiseSettings(
        shared=(1 - physio) * parts,
        own=0.0,
        physio=physio * parts,
        thermal=1 - parts,
        ar1=RHO,
        shared_mm=8.0,
        drift=0.01,
    )
    quiet = person(head, 500)
    quiet.responses[:] = 0
    sd = np.full(head.epi.shape, np.sqrt(1 + TEMPORAL_SHARE) / SFNR, np.float32)
    events = EVENTS[EVENTS["onset"] < n_volumes * T_R - 10]

    def ours() -> NDArray[np.int16]:
        run = simulate_run(
            quiet,
            events,
            np.zeros(len(events), np.intp),
            t_r=T_R,
            n_volumes=n_volumes,
            noise=sd,
            motion=None,
            settings=settings,
            seed=0,
        )
        return np.concatenate(list(run.volumes()), axis=-1)

    top = float(head.epi.max())

    def theirs() -> NDArray[np.float64]:
        noise_dict = {
            "auto_reg_sigma": np.sqrt(1 - physio),
            "physiological_sigma": np.sqrt(physio),
            "drift_sigma": 10.0,
            "auto_reg_rho": [RHO],
            "ma_rho": [0.0],
            "sfnr": SFNR,
            "snr": SFNR,
            "max_activity": top,
            "voxel_size": np.linalg.norm(head.affine[:3, :3], axis=0).tolist(),
            "fwhm": 8.0,
            "matched": 0,
        }
        return np.asarray(
            fmrisim.generate_noise(
                dimensions=np.array(head.epi.shape),
                stimfunction_tr=np.zeros(n_volumes),
                tr_duration=T_R,
                template=head.epi / top,
                mask=head.brain.astype(np.float64),
                noise_dict=noise_dict,
                temporal_proportion=TEMPORAL_SHARE,
                iterations=[0, 0],
            )
        )

    ours_s, made = least(ours, repeats)
    peer_s, peer_made = least(theirs, 1)
    inner = head.brain & (head.epi > 600) & (head.csf == 0)
    lags = np.arange(n_volumes) * T_R
    correlation = (settings.shared * RHO ** np.arange(n_volumes)) + settings.physio * physiology_correlation(lags)
    correlation[0] = 1
    asked = expected(correlation, SFNR / np.sqrt(1 + TEMPORAL_SHARE))
    found = measured(made[inner].T.astype(np.float64))
    peer_found = measured(peer_made[inner].T)
    difference = max(abs(a - b) / b for a, b in zip(found, asked, strict=True))
    ratio = ours_s / peer_s
    shape = " x ".join(map(str, (*head.epi.shape, n_volumes)))
    words = "temporal SNR {:.1f} and lag-1 correlation {:.3f}".format
    return {
        "claim": f"noise of {shape}: asked for {words(*asked)}; ours {words(*found)}; fmrisim {words(*peer_found)}",
        "peer": "BrainIAK fmrisim.generate_noise",
        "ours_s": round(ours_s, 4),
        "peer_s": round(peer_s, 4),
        "ratio": round(ratio, 4),
        "max_diff": round(difference, 4),
        "goal": "ratio <= 0.5, max_diff <= 0.1",
        "met": bool(ratio <= 0.5 and difference <= 0.1),
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line a claim")
    parser.add_argument("--quick", action="store_true", help="a small head and few volumes")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--brainiak", type=Path, help="checkout of BrainIAK")
    options = parser.parse_args()
    shape, n_voxels, n_volumes = ((32, 36, 32), 1000, 16) if options.quick else ((86, 99, 86), 40000, 40)
    fmrisim_shape, fmrisim_volumes = ((24, 28, 24), 150) if options.quick else ((48, 56, 48), 200)
    bold.usable_cores = lambda: options.threads
    records = throughput(person(ellipsoid(shape, 2.0), n_voxels), n_volumes, options.repeats, options.threads)
    if options.brainiak:
        with threadpool_limits(options.threads):
            fmrisim = load_fmrisim(options.brainiak)
            records.append(against_fmrisim(ellipsoid(fmrisim_shape, 3.0), fmrisim_volumes, options.repeats, fmrisim))
    for record in records:
        if options.json:
            print(json.dumps(record))
        else:
            print(
                f"{'met   ' if record['met'] else 'MISSED'} {record['claim']}: {record['ours_s']:.3f} s against "
                f"{record['peer_s']:.3f} s of {record['peer']} (ratio {record['ratio']:.3f}, {record['goal']}, "
                f"largest deviation {record['max_diff']:.3f})"
            )


if __name__ == "__main__":
    main()
