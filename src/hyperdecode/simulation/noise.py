"""Noise of simulated BOLD: autocorrelated, physiological, thermal, drifting; and how much a noise ceiling asks for."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.signal import lfilter
from threadpoolctl import threadpool_limits

from hyperdecode.errors import UserError
from hyperdecode.simulation.hrf import delayed_response, volume_times
from hyperdecode.simulation.motion import without_denormals

if TYPE_CHECKING:
    from hyperdecode.simulation.head import Head
    from hyperdecode.simulation.responses import SimulatedSubject

__all__ = ["WAVES", "NoiseSettings", "Smoother", "Wave", "noise_sd", "physio_share", "volume_generator", "wave_phase"]

FloatArray = NDArray[np.float64]
Volume = NDArray[np.float32]

HIGH_PASS = 0.01
"""Hz; the drift that the single-trial model takes out."""
MOST_PHYSIO = 0.7
"""Largest share of a voxel's noise that physiology may have."""
VESSEL_MM = 5.0
CSF_EXTRA = 0.5
"""How much larger the noise is in cerebrospinal fluid than elsewhere."""
LEAST_NOISE = 0.1
"""Share of the noise variance a ceiling asks for that a voxel keeps when its neighbours' responses use it all up."""


@dataclass(frozen=True)
class NoiseSettings:
    """What the noise of a voxel is made of.

    The first four are shares of its variance and sum to 1; drift comes on top, since every analysis takes it out.

    Attributes
    ----------
    shared, own : float
        First-order autoregressive noise that is smooth over space, and of the voxel alone.
    physio : float
        Heart beat and breathing, mean over grey matter; more where there is fluid or a vessel.
    thermal : float
        White noise of the scanner.
    ar1 : float
        Correlation of `shared` and `own` noise between neighbouring volumes.
    shared_mm : float
        FWHM of the kernel that makes `shared` smooth, in mm.
    drift : float
        Standard deviation of the slow drift over a run, as a fraction of the baseline.
    drift_mm : float
        FWHM of the kernel that makes drift and the phase of physiology smooth, in mm.
    """

    shared: float = 0.30
    own: float = 0.25
    physio: float = 0.10
    thermal: float = 0.35
    ar1: float = 0.35
    shared_mm: float = 8.0
    drift: float = 0.01
    drift_mm: float = 20.0

    def __post_init__(self) -> None:
        """Refuse shares that are no shares."""
        shares = (self.shared, self.own, self.physio, self.thermal)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"the shares of shared, own, physio and thermal noise must sum to 1, got {shares}")
        if not -1 < self.ar1 < 1 or min(self.shared_mm, self.drift, self.drift_mm) < 0:
            raise UserError(f"ar1 must lie between -1 and 1, shared_mm, drift and drift_mm be at least 0, got {self}")


@dataclass(frozen=True)
class Wave:
    """A physiological oscillation: its rate wanders about a mean as an Ornstein-Uhlenbeck process.

    Attributes
    ----------
    name : str
    rate, rate_sd : float
        Mean and standard deviation of the rate in Hz.
    harmonics : tuple of float
        Share of the physiological variance at once, twice ... the rate.
    """

    name: str
    rate: float
    rate_sd: float
    harmonics: tuple[float, ...]


WAVES = (Wave("cardiac", 1.1, 0.05, (0.4, 0.1)), Wave("respiratory", 0.3, 0.02, (0.5,)))
WANDER_SECONDS = 20.0
"""How long a rate remembers where it was."""
PHASE_STEP = 0.05


def wave_phase(wave: Wave, times: FloatArray, seed: int) -> FloatArray:
    """Draw the phase of a wave in radians, ``2 pi int (rate + u(t)) dt``, at given times, (n_volumes,)."""
    rng = np.random.default_rng(seed)
    fine = np.arange(0.0, times.max() + 2 * PHASE_STEP, PHASE_STEP)
    keep = np.exp(-PHASE_STEP / WANDER_SECONDS)
    pushes = rng.standard_normal(fine.size) * np.where(np.arange(fine.size) > 0, np.sqrt(1 - keep**2), 1.0)
    rate = wave.rate + wave.rate_sd * lfilter([1.0], [1.0, -keep], pushes)
    phase = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * PHASE_STEP)])
    return np.asarray(2 * np.pi * (rng.random() + np.interp(times, fine, phase)))


def physiology_correlation(lags: FloatArray) -> FloatArray:
    """Autocorrelation of the physiological noise at lags in seconds.

    ``sum_h s_h cos(2 pi h f t) exp(-(2 pi h sd T)^2 (t/T - 1 + exp(-t/T)))``: the phase of a wave is Gaussian about
    its mean.
    """
    total = np.zeros_like(lags)
    part = lags / WANDER_SECONDS
    for wave in WAVES:
        for harmonic, share in enumerate(wave.harmonics, start=1):
            wander = (2 * np.pi * harmonic * wave.rate_sd * WANDER_SECONDS) ** 2 * (part - 1 + np.exp(-part))
            total += share * np.cos(2 * np.pi * harmonic * wave.rate * lags) * np.exp(-wander)
    return total


class Smoother:
    """White noise made smooth by a Gaussian, its variance 1 at every voxel, edges included.

    One small matrix an axis, its rows of unit length: three matrix products are several times faster than filtering.

    Parameters
    ----------
    shape : tuple of int
        (x, y, z).
    fwhm : float
        Width of the kernel in mm.
    sizes : array-like, (3,)
        Size of a voxel in mm.
    """

    def __init__(self, shape: tuple[int, ...], fwhm: float, sizes: FloatArray) -> None:
        self.shape = shape
        self.kernels = [_kernel(n, fwhm / 2.3548 / size) for n, size in zip(shape, sizes, strict=True)]

    @classmethod
    def of(cls, head: Head, fwhm: float) -> Smoother:
        """Make one for the grid of a head."""
        return cls(head.epi.shape, fwhm, np.linalg.norm(head.affine[:3, :3], axis=0))

    def draw(self, rng: np.random.Generator) -> Volume:
        """Return a field of standard normal values, (x, y, z)."""
        along_x, along_y, along_z = self.kernels
        field = rng.standard_normal(self.shape, np.float32) @ along_z.T
        field = np.matmul(along_y, field)
        return np.asarray((along_x @ field.reshape(self.shape[0], -1)).reshape(self.shape))


def _kernel(n: int, sigma: float) -> NDArray[np.float32]:
    away = np.subtract.outer(np.arange(n), np.arange(n))
    kernel = np.exp(-0.5 * (away / max(sigma, 1e-3)) ** 2)
    return without_denormals(kernel / np.linalg.norm(kernel, axis=1, keepdims=True))


def volume_generator(seed: int, volume: int) -> np.random.Generator:
    """Random numbers of one volume: they do not depend on which volumes were made before."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, volume))))


def physio_share(head: Head, settings: NoiseSettings) -> Volume:
    """Share of each voxel's noise variance that is heart beat and breathing, (x, y, z).

    `NoiseSettings.physio` on average over grey matter, more near fluid and along a smooth, patchy map that stands for
    vessels, `MOST_PHYSIO` at most. The map belongs to the head: the same one always gets the same.
    """
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(head.epi).tobytes()))
    patches = Smoother.of(head, VESSEL_MM).draw(rng)
    weight = 0.6 + 2.0 * head.csf + np.maximum(patches - 1.0, 0.0)
    grey = np.where(head.brain, head.grey, 0.0)
    mean = float((weight * grey).sum() / grey.sum()) if grey.any() else 1.0
    return np.asarray(np.minimum(settings.physio * weight / mean, MOST_PHYSIO), np.float32)


def noise_sd(
    subject: SimulatedSubject,
    events: pd.DataFrame,
    *,
    t_r: float,
    n_volumes: int,
    settings: NoiseSettings | None = None,
) -> Volume:
    """Work out how noisy each voxel must be for the noise ceiling that the subject has there.

    The ceiling of a single trial's beta is ``c = s^2 / (s^2 + n^2)``, where ``s^2`` is the variance of the voxel's
    planted responses over stimuli and ``n^2`` all other variance of the beta. With ``w_i`` the weights by which the
    least-squares-separate model (canonical response, cosine drift up to 0.01 Hz) makes trial i's beta of the time
    course, ``x_j`` the response to trial j, V the correlation of the noise in time and sd its standard deviation,

        n^2 = s^2 mean_i sum_{j != i} (w_i' x_j)^2 + sd^2 mean_i w_i' V w_i,

    the first part being what the faces before and after leave in the beta. Solved for sd. V is a mixture, by the
    shares of the voxel's variance, of first-order autoregression, white noise and the autocorrelation of physiology.

    A voxel whose HRF is late is held to the same sd: an analysis with the canonical response finds a lower ceiling
    in it, since it sees only a part ``w_i' x_i < 1`` of the response. A voxel that is to have a higher ceiling than
    its neighbours in time allow keeps a tenth of the noise that the ceiling alone would ask for.

    Parameters
    ----------
    subject : SimulatedSubject
    events : pandas.DataFrame
        ``onset`` and ``duration`` of a run's trials in seconds.
    t_r : float
        Repetition time in seconds.
    n_volumes : int
    settings : NoiseSettings, optional

    Returns
    -------
    ndarray of float32, (x, y, z)
        Standard deviation of the noise (drift left out) as a fraction of the baseline. Voxels that do not respond
        have the median of those that do, and up to half as much again in fluid.

    Raises
    ------
    UserError
        When no voxel responds, or the ceilings asked for cannot be reached with this design even without noise.

    References
    ----------
    Allen EJ et al. (2022). Nature Neuroscience 25, 116-126 (noise ceiling). Mumford JA et al. (2012). NeuroImage
    59, 2636-2643 (least squares separate).
    """
    settings = settings or NoiseSettings()
    times = volume_times(n_volumes, t_r)
    with threadpool_limits(1):  # as in `simulate_run`
        weights, leaked = _estimator(events, times)
    lags = np.arange(n_volumes, dtype=np.float64) * t_r
    of_ar1, of_white, of_physio = (
        float(np.einsum("it,tu,iu->i", weights, toeplitz(correlation), weights, optimize=True).mean())
        for correlation in (
            settings.ar1 ** np.arange(n_volumes),
            np.eye(1, n_volumes)[0],
            physiology_correlation(lags),
        )
    )
    still = 1.0 - settings.physio
    of_rest = ((settings.shared + settings.own) * of_ar1 + settings.thermal * of_white) / still if still > 0 else 0.0
    physio = physio_share(subject.head, settings)
    gain = of_rest + physio * (of_physio - of_rest)  # variance of a beta for noise of variance 1

    signal = subject.responses.var(axis=0, dtype=np.float64)
    ceiling = subject.noise_ceiling.astype(np.float64)
    usable = (signal > 0) & (ceiling > 0)
    if not usable.any():
        raise UserError(
            "no voxel responds differently to different stimuli, so no noise ceiling can be met: add voxels"
        )
    reach = 1.0 / (1.0 + leaked)
    if np.median(ceiling[usable]) > reach:
        raise UserError(
            f"a noise ceiling of {np.median(ceiling[usable]):.2f} cannot be reached: the responses to neighbouring "
            f"trials alone hold it at {reach:.2f}, ask for less or leave more time between trials"
        )
    odds = (1.0 - ceiling[usable]) / ceiling[usable]
    wanted = signal[usable] * np.maximum(odds - leaked, LEAST_NOISE * odds)
    sd = np.sqrt(wanted / gain.ravel()[subject.voxels[usable]])
    volume = np.full(gain.size, np.median(sd)) * (1.0 + CSF_EXTRA * subject.head.csf.ravel())
    volume[subject.voxels[~usable]] = np.median(sd)
    volume[subject.voxels[usable]] = sd
    return np.asarray(volume.reshape(gain.shape), np.float32)


def _estimator(events: pd.DataFrame, times: FloatArray) -> tuple[FloatArray, float]:
    """Weights of least squares separate, (n_trials, n_volumes), and the variance that the other trials leave in a beta.

    The second is ``mean_i sum_{j != i} (w_i' x_j)^2``: 0 for trials far apart.
    """
    regressors = delayed_response(events["onset"], events["duration"], times, 0.0)
    n = times.size
    order = min(n - 1, int(np.floor(2 * n * HIGH_PASS * (times[1] - times[0]))))
    nuisance = np.cos(np.pi / n * (np.arange(n)[:, None] + 0.5) * np.arange(order + 1))
    basis = np.linalg.qr(nuisance)[0]
    own = regressors - basis @ (basis.T @ regressors)
    others = own.sum(axis=1, keepdims=True) - own
    a, b, c = (own**2).sum(axis=0), (own * others).sum(axis=0), (others**2).sum(axis=0)
    if own.shape[1] == 1:
        c[:] = 1.0
    seen = a * c - b**2 > 1e-8 * a * c
    if not seen.any():
        raise UserError("no trial's response can be told from the others' in this run: check onsets and its length")
    weights = ((c * own - b * others)[:, seen] / (a * c - b**2)[seen]).T
    leak = (weights @ regressors) ** 2
    return weights, float((leak.sum(axis=1) - leak[np.arange(len(leak)), np.flatnonzero(seen)]).mean())
