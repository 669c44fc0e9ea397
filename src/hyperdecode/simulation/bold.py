"""BOLD of one run of a simulated subject, volume by volume."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hyperdecode.errors import UserError
from hyperdecode.simulation.hrf import delayed_response, volume_times
from hyperdecode.simulation.motion import Mover, rigid_matrices
from hyperdecode.simulation.noise import (
    HIGH_PASS,
    WAVES,
    NoiseSettings,
    Smoother,
    physio_share,
    volume_generator,
    wave_phase,
)
from hyperdecode.threads import default_threads

if TYPE_CHECKING:
    from hyperdecode.simulation.head import Head
    from hyperdecode.simulation.responses import SimulatedSubject

__all__ = ["SimulatedRun", "head_centre", "simulate_run"]

FloatArray = NDArray[np.float64]
Volume = NDArray[np.float32]

FAINT = 0.01
"""Share of the brightest voxels' intensity below which a voxel is background."""
RICIAN_BELOW = 8.0
"""In standard deviations of the thermal noise: below this a magnitude differs from its real part."""
MOST_DRIFT_WAVES = 6
CHUNK = 8
RUN_STREAM, VOLUME_STREAM = 0, 1


def head_centre(head: Head) -> FloatArray:
    """Return the middle of the brain in mm, about which the head turns, (3,)."""
    return np.asarray(head.affine[:3, :3] @ np.argwhere(head.brain).mean(axis=0) + head.affine[:3, 3])


def simulate_run(
    subject: SimulatedSubject,
    events: pd.DataFrame,
    rows: NDArray[np.intp],
    *,
    t_r: float,
    n_volumes: int,
    noise: Volume | None,
    motion: FloatArray | None,
    settings: NoiseSettings | None = None,
    seed: int,
    chunk: int = CHUNK,
) -> SimulatedRun:
    """Set up the BOLD of one run; `SimulatedRun.volumes` makes it.

    ``y = |M_t[B (1 + X a + d + p)] + B e + n|``: B is the mean EPI, X the response to each trial (the canonical one,
    as late as the voxel's), a the planted amplitudes, d slow drift, p heart beat and breathing, ``M_t`` the rigid
    motion of volume t by cubic splines, e autoregressive noise, n the complex thermal noise of the scanner, of which
    the magnitude is kept: Rician where there is no signal. e and n belong to the scanner's voxels, so that moving the
    head does not blur them and their variance is what it should be. A volume is taken in the middle of its
    repetition time.

    Parameters
    ----------
    subject : SimulatedSubject
    events : pandas.DataFrame
        ``onset`` and ``duration`` in seconds.
    rows : ndarray of int, (n_trials,)
        Row of ``subject.responses`` for each event.
    t_r : float
        Repetition time in seconds.
    n_volumes : int
    noise : ndarray of float32, (x, y, z), or None
        Standard deviation of all noise but drift, as a fraction of the baseline (`noise_sd`). None leaves out
        noise and drift.
    motion : ndarray, (n_volumes, 6), or None
        As `draw_motion` gives it, about `head_centre`; None for a head that lies still.
    settings : NoiseSettings, optional
    seed : int
        The same seed gives the same bytes, whatever `chunk` is.
    chunk : int
        Volumes that are handed out at a time.

    Returns
    -------
    SimulatedRun

    Raises
    ------
    UserError
        When events and rows differ in number, a row does not exist, or arrays do not fit the head or the run.
    """
    if len(events) != len(rows):
        raise UserError(f"{len(events)} events came with {len(rows)} stimulus rows, give one row an event")
    wanted = np.asarray(rows, dtype=np.intp)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(subject.responses)):
        raise UserError(
            f"stimulus rows {wanted.min()} to {wanted.max()} were asked for, the subject has responses to "
            f"{len(subject.responses)} stimuli: use the subject that was grown for these faces"
        )
    if noise is not None and noise.shape != subject.head.epi.shape:
        raise UserError(f"the noise has shape {noise.shape}, the head {subject.head.epi.shape}: use noise_sd of it")
    if motion is not None and motion.shape != (n_volumes, 6):
        raise UserError(f"motion has shape {motion.shape}, the run needs ({n_volumes}, 6): draw it for this run")
    if chunk < 1:
        raise UserError(f"chunk is a number of volumes, at least 1, got {chunk}")
    times = volume_times(n_volumes, t_r)
    moved = np.zeros((n_volumes, 6)) if motion is None else np.asarray(motion, np.float64)
    centre = head_centre(subject.head)
    matrices = rigid_matrices(moved, centre) if moved.any() else None
    inside = _inside(subject)
    with threadpool_limits(1):  # the number of threads decides how products are rounded, and BLAS has its own
        drawn = None if noise is None else _Noise(subject, noise, inside, times, settings or NoiseSettings(), seed)
        maker = _Maker(subject.head, _Signal(subject, events, wanted, times), drawn, inside, matrices)
    return SimulatedRun(subject.head.affine, subject.head.epi.shape, n_volumes, moved, centre, chunk, maker)


@dataclass(frozen=True)
class SimulatedRun:
    """One run: its volumes, made when they are asked for, and its truth.

    Attributes
    ----------
    affine : ndarray, (4, 4)
        Voxel to mm.
    shape : tuple of int
        (x, y, z).
    n_volumes : int
    motion : ndarray, (n_volumes, 6)
        Planted motion about `centre`: mm, mm, mm, rad, rad, rad.
    centre : ndarray, (3,)
        In mm.
    chunk : int
        Volumes in one piece.
    """

    affine: FloatArray
    shape: tuple[int, ...]
    n_volumes: int
    motion: FloatArray
    centre: FloatArray
    chunk: int
    _maker: _Maker = field(repr=False)

    @property
    def matrices(self) -> FloatArray:
        """Planted motion as matrices, head at rest to volume, mm to mm, (n_volumes, 4, 4)."""
        return rigid_matrices(self.motion, self.centre)

    @property
    def physiology(self) -> dict[str, FloatArray]:
        """Phase of heart beat and breathing at each volume in radians; empty for a run without noise."""
        return {} if self._maker.noise is None else self._maker.noise.phases

    def volumes(self) -> Iterator[NDArray[np.int16]]:
        """Make the volumes in their order.

        Yields
        ------
        ndarray of int16, (x, y, z, k)
            The next `chunk` volumes, fewer at the end; in Fortran order, as NIfTI stores them.
        """
        state: Volume | None = None
        with ThreadPoolExecutor(default_threads()) as pool:
            for first in range(0, self.n_volumes, self.chunk):
                at = range(first, min(first + self.chunk, self.n_volumes))
                with threadpool_limits(1):  # volumes side by side, each on one thread
                    made, state = self._make(pool, at, state)
                yield made

    def _make(
        self, pool: ThreadPoolExecutor, at: range, state: Volume | None
    ) -> tuple[NDArray[np.int16], Volume | None]:
        """Make some volumes and return them with the autoregressive noise of the last."""
        noise, states = self._maker.noise, [state] * len(at)
        if noise is not None:
            for k, innovation in enumerate(pool.map(noise.innovation, at)):
                states[k] = state = noise.follow(state, innovation)
        made = np.empty((*self.shape, len(at)), np.int16, order="F")
        for k, volume in enumerate(pool.map(self._maker.volume, at, states)):
            made[..., k] = volume
        return made, state


class _Signal:
    """Responses to the trials of a run at the voxels that respond."""

    def __init__(
        self, subject: SimulatedSubject, events: pd.DataFrame, rows: NDArray[np.intp], times: FloatArray
    ) -> None:
        delays, group = np.unique(subject.hrf_delay, return_inverse=True)
        order = np.argsort(group, kind="stable")
        self.voxels = subject.voxels[order]
        self.planted = subject.responses[rows][:, order]
        edges = np.searchsorted(group[order], np.arange(delays.size + 1))
        self.groups = [slice(a, b) for a, b in pairwise(edges)]
        onsets, durations = events["onset"], events["duration"]
        self.designs = [delayed_response(onsets, durations, times, d).astype(np.float32) for d in delays.tolist()]

    def at(self, volume: int) -> Volume:
        """Response of each of `voxels` at a volume, as a fraction of the baseline."""
        values = np.empty(self.voxels.size, np.float32)
        for design, group in zip(self.designs, self.groups, strict=True):
            active = np.flatnonzero(design[volume])
            values[group] = design[volume, active] @ self.planted[active, group]
        return values


class _Noise:
    """Noise and drift of one run; no state, so that volumes can be made side by side."""

    def __init__(
        self,
        subject: SimulatedSubject,
        sd: Volume,
        inside: NDArray[np.intp],
        times: FloatArray,
        settings: NoiseSettings,
        seed: int,
    ) -> None:
        head, self.settings, self.inside = subject.head, settings, inside
        self.stream = int(np.random.SeedSequence((seed, VOLUME_STREAM)).generate_state(1, np.uint64)[0])
        seeds = np.random.SeedSequence((seed, RUN_STREAM)).generate_state(len(WAVES) + 1, np.uint64).tolist()
        self.phases = {wave.name: wave_phase(wave, times, s) for wave, s in zip(WAVES, seeds[1:], strict=True)}
        self.smoother = Smoother.of(head, settings.shared_mm)

        physio = physio_share(head, settings).ravel()
        still = 1 - settings.physio
        rest = np.sqrt((1 - physio) / still) if still > 0 else np.zeros_like(physio)
        absolute = (sd * head.epi).ravel() * rest
        both = settings.shared + settings.own
        self.mixture = tuple(
            np.float32(np.sqrt(part / both)) if both else None for part in (settings.shared, settings.own)
        )
        self.autoregressive_sd = np.float32(np.sqrt(both)) * absolute[inside]
        # Outside the brain the scanner's noise is what it is in the voxels that respond.
        outside = ~head.brain.ravel()
        outside[subject.voxels] = False
        self.thermal_sd = np.where(outside, np.median(absolute[subject.voxels]), absolute).astype(np.float32)
        self.thermal_sd *= np.float32(np.sqrt(settings.thermal))
        self.faint = np.flatnonzero(head.epi.ravel() < RICIAN_BELOW * self.thermal_sd)

        drift = _drift_waves(times) if settings.drift else np.zeros((times.size, 0))
        self.coefficients = np.hstack([drift, _oscillations(self.phases)]).astype(np.float32)
        broad, rng = Smoother.of(head, settings.drift_mm), np.random.default_rng(seeds[0])
        self.maps = np.empty((self.coefficients.shape[1], inside.size), np.float32)
        for k in range(drift.shape[1]):
            self.maps[k] = np.float32(settings.drift) * broad.draw(rng).ravel()[inside]
        size = (sd.ravel() * np.sqrt(physio))[inside]
        for k in range(drift.shape[1], len(self.maps), 2):
            angle = np.float32(np.pi) * broad.draw(rng).ravel()[inside]
            self.maps[k], self.maps[k + 1] = size * np.cos(angle), size * np.sin(angle)

    def innovation(self, volume: int) -> Volume | None:
        """Draw what is new in the autoregressive noise at a volume: unit variance, (n_inside,)."""
        shared, own = self.mixture
        if shared is None or own is None:
            return None
        rng = volume_generator(self.stream, 2 * volume)
        values = shared * self.smoother.draw(rng).ravel()[self.inside]
        values += own * rng.standard_normal(self.inside.size, np.float32)
        return np.asarray(values)

    def follow(self, before: Volume | None, innovation: Volume | None) -> Volume | None:
        """Return the autoregressive noise that follows `before`."""
        if before is None or innovation is None:
            return innovation
        memory = self.settings.ar1
        return np.float32(memory) * before + np.float32(np.sqrt(1 - memory**2)) * innovation

    def slow(self, volume: int) -> Volume:
        """Drift and physiology at a volume, as a fraction of the baseline, (n_inside,)."""
        return np.asarray(self.coefficients[volume] @ self.maps)

    def add(self, flat: Volume, volume: int, state: Volume | None) -> None:
        """Add the noise that belongs to the scanner's voxels to a flat volume, and take the magnitude."""
        if state is not None:
            flat[self.inside] += self.autoregressive_sd * state
        rng = volume_generator(self.stream, 2 * volume + 1)
        flat += self.thermal_sd * rng.standard_normal(flat.size, np.float32)
        imaginary = self.thermal_sd[self.faint] * rng.standard_normal(self.faint.size, np.float32)
        flat[self.faint] = np.sqrt(flat[self.faint] ** 2 + imaginary**2)


def _drift_waves(times: FloatArray) -> FloatArray:
    """Cosines no faster than the high-pass filter of an analysis, amplitudes falling, variance 1 in all."""
    n = times.size
    count = np.arange(1, 1 + min(MOST_DRIFT_WAVES, int(np.floor(2 * n * HIGH_PASS * (times[1] - times[0])))))
    size = (1 / count) / np.linalg.norm(1 / count) if count.size else count
    return np.asarray(np.sqrt(2) * size * np.cos(np.pi / n * (np.arange(n)[:, None] + 0.5) * count))


def _oscillations(phases: dict[str, FloatArray]) -> FloatArray:
    """Cosine and sine of every harmonic; times a unit vector of their own, each pair's variance is its share."""
    columns = []
    for wave in WAVES:
        for harmonic, share in enumerate(wave.harmonics, start=1):
            phase = harmonic * phases[wave.name]
            columns += [np.sqrt(2 * share) * np.cos(phase), np.sqrt(2 * share) * np.sin(phase)]
    return np.column_stack(columns)


class _Maker:
    """What the volumes of a run are made of."""

    def __init__(
        self, head: Head, signal: _Signal, noise: _Noise | None, inside: NDArray[np.intp], matrices: FloatArray | None
    ) -> None:
        self.epi = np.ascontiguousarray(head.epi, np.float32)
        self.signal, self.noise, self.inside, self.matrices = signal, noise, inside, matrices
        self.mover = Mover(head.affine, head.epi.shape)

    def volume(self, volume: int, state: Volume | None) -> NDArray[np.int16]:
        """Make one volume, (x, y, z)."""
        change = np.zeros(self.epi.size, np.float32)
        if self.noise is not None:
            change[self.inside] = self.noise.slow(volume)
        change[self.signal.voxels] += self.signal.at(volume)
        change += 1
        flat = self.epi.ravel() * change
        if self.matrices is not None:
            flat = self.mover.move(flat.reshape(self.epi.shape), self.matrices[volume]).ravel()
        if self.noise is not None:
            self.noise.add(flat, volume, state)
        np.rint(flat, out=flat)
        return np.clip(flat, 0, 32767, out=flat).astype(np.int16).reshape(self.epi.shape)


def _inside(subject: SimulatedSubject) -> NDArray[np.intp]:
    """Flat indices of the head's voxels."""
    mask = subject.head.epi > FAINT * np.percentile(subject.head.epi, 99)
    mask.ravel()[subject.voxels] = True
    return np.flatnonzero(mask)
