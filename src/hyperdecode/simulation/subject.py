"""A simulated subject: voxels in MNI space that respond to what a face looks like, and BOLD with realistic noise."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.datasets import load_mni152_gm_template
from nilearn.glm.first_level import compute_regressor
from nilearn.image import resample_img
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hyperdecode.errors import UserError
from hyperdecode.simulation.features import FeatureBank

__all__ = ["SimulatedSubject", "simulate_run", "simulate_subject"]

BOX_MM = ((-66.0, 66.0), (-106.0, -26.0), (-34.0, 34.0))
GREY_MATTER = 0.3
BASELINE = 1000.0
MEAN_RESPONSE = 0.015
SELECTIVITY = 0.35
AR1 = 0.35
SHARED_NOISE = 0.7
SHARED_NOISE_MM = 8.0
DRIFT = 0.01
SLICE_TIME_REF = 0.5
TUNING_MM = 6.0


@dataclass(frozen=True)
class SimulatedSubject:
    """Voxels of a subject and how they respond.

    Attributes
    ----------
    affine : ndarray, (4, 4)
        Voxel to MNI mm.
    brain : ndarray of bool, (x, y, z)
        Grey matter of the volume; responses are of these voxels.
    responses : ndarray, (n_stimuli, n_brain_voxels)
        Amplitude of the response to each stimulus, fraction of the baseline.
    layer : ndarray of int, (n_brain_voxels,)
        Index into the bank's layers that each voxel reads: the planted truth.
    spread : float
        Standard deviation of the responses over stimuli, mean over voxels; noise is relative to it.
    """

    affine: NDArray[np.float64]
    brain: NDArray[np.bool_]
    responses: NDArray[np.float32]
    layer: NDArray[np.intp]
    spread: float


def simulate_subject(bank: FeatureBank, *, seed: int, voxel_size: float = 4.0) -> SimulatedSubject:
    """Grow a subject whose occipital and ventral temporal voxels read the features of the stimuli.

    The amplitude of voxel v for stimulus s is ``m_v (1 + k f_v(s))``: ``f_v`` is a weighted sum over channels of one
    layer of the bank under a Gaussian receptive field, standardised over stimuli; ``m_v`` is the mean response, which
    fades towards anterior; k is `SELECTIVITY`. Posterior voxels read the picture and late, fine layers, anterior
    ventral voxels the layers near the latent. Tuning varies smoothly over the cortex.

    Parameters
    ----------
    bank : FeatureBank
    seed : int
        Seed of this subject's tuning.
    voxel_size : float
        In mm.

    Returns
    -------
    SimulatedSubject
    """
    rng = np.random.default_rng(seed)
    affine, brain = _grey_matter(voxel_size)
    where = np.argwhere(brain)
    mm = nib.affines.apply_affine(affine, where)
    depth = np.clip((-28.0 - mm[:, 1]) / 72.0, 0, 1)  # 0 anterior, 1 occipital pole
    n_layers = len(bank.layers)
    layer = np.clip(np.rint(depth * n_layers - 0.5 + 0.6 * rng.standard_normal(len(mm))), 0, n_layers - 1).astype(
        np.intp
    )
    responses = np.empty((len(bank.values[0]), len(mm)), np.float32)
    for index, values in enumerate(bank.values):
        mine = np.flatnonzero(layer == index)
        weights = _smooth_tuning(rng, brain, where[mine], values.shape[1], voxel_size)
        centres = 0.5 + 0.22 * _smooth_tuning(rng, brain, where[mine], 2, voxel_size)
        responses[:, mine] = _read(values, weights, centres)
    responses -= responses.mean(0)
    responses /= np.maximum(responses.std(0), 1e-12)
    mean = (MEAN_RESPONSE * np.exp(-0.5 * ((mm[:, 1] + 75.0) / 30.0) ** 2) * rng.uniform(0.5, 1.5, len(mm))).astype(
        np.float32
    )
    responses = mean * (1 + SELECTIVITY * responses)
    return SimulatedSubject(affine, brain, responses, layer, float(SELECTIVITY * mean.mean()))


def simulate_run(
    subject: SimulatedSubject,
    events: pd.DataFrame,
    rows: NDArray[np.intp],
    *,
    t_r: float,
    n_volumes: int,
    noise: float,
    seed: int,
) -> nib.Nifti1Image:
    """Make the BOLD of one run.

    ``y = B (1 + X a + drift + e)``: X is the canonical SPM response to each trial, a the amplitudes, e AR(1) noise of
    which a part is shared by neighbouring voxels. A volume is taken in the middle of its repetition time.

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
    noise : float
        Standard deviation of e relative to ``subject.spread``.
    seed : int

    Returns
    -------
    nibabel.Nifti1Image
        int16, 4D.

    Raises
    ------
    UserError
        When events and rows differ in number.
    """
    if len(events) != len(rows):
        raise UserError(f"{len(events)} events came with {len(rows)} stimulus rows, give one row an event")
    rng = np.random.default_rng(seed)
    frames = (np.arange(n_volumes) + SLICE_TIME_REF) * t_r
    design = np.column_stack(
        [
            compute_regressor(np.array([[on], [length], [1.0]]), "spm", frames, oversampling=50)[0][:, 0]
            for on, length in zip(events["onset"], events["duration"], strict=True)
        ]
    ).astype(np.float32)
    signal = design @ subject.responses[rows]
    signal += _drift(rng, n_volumes, signal.shape[1])
    signal += noise * subject.spread * _noise(rng, n_volumes, subject)
    volume = np.zeros((*subject.brain.shape, n_volumes), np.float32)
    # A faint constant outside grey matter, as a head has one; it varies with the scanner's thermal noise.
    volume[...] = 0.3 * BASELINE + 2.0 * rng.standard_normal(volume.shape, np.float32)
    volume[subject.brain] = (BASELINE * (1 + signal)).T
    image = nib.Nifti1Image(np.clip(np.rint(volume), 0, 32767).astype(np.int16), subject.affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
    image.header.set_xyzt_units("mm", "sec")
    return image


def _grey_matter(voxel_size: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Affine and grey-matter mask of the posterior half of nilearn's MNI152 template."""
    low = np.array([lo for lo, _ in BOX_MM])
    shape = tuple(int((hi - lo) // voxel_size) + 1 for lo, hi in BOX_MM)
    affine = np.diag([voxel_size, voxel_size, voxel_size, 1.0])
    affine[:3, 3] = low
    template = resample_img(
        load_mni152_gm_template(resolution=2),
        affine,
        shape,
        interpolation="continuous",
        copy_header=True,
        force_resample=True,
    )
    return affine, np.asarray(template.dataobj) > GREY_MATTER


def _smooth_tuning(
    rng: np.random.Generator, brain: NDArray[np.bool_], where: NDArray[np.intp], n: int, voxel_size: float
) -> NDArray[np.float32]:
    """Draw `n` standard normal fields that are smooth over the volume, read at voxels: (n_voxels, n)."""
    fields = np.empty((len(where), n), np.float32)
    for k in range(n):
        field = gaussian_filter(rng.standard_normal(brain.shape), TUNING_MM / voxel_size / 2)
        fields[:, k] = field[tuple(where.T)] / field.std()
    return fields


def _read(
    values: NDArray[np.float32], weights: NDArray[np.float32], centres: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Weighted sum over channels under each voxel's receptive field: (n_stimuli, n_voxels)."""
    side = values.shape[-1]
    places = (np.arange(side) + 0.5) / side
    sd = 0.15
    rows = np.exp(-0.5 * ((places - centres[:, :1]) / sd) ** 2)
    columns = np.exp(-0.5 * ((places - centres[:, 1:]) / sd) ** 2)
    field = np.einsum("vi,vj->vij", rows, columns).astype(np.float32)
    field /= field.sum(axis=(1, 2), keepdims=True) + 1e-12
    filters = np.einsum("vc,vij->vcij", weights, field).reshape(len(weights), -1)
    return np.asarray(values.reshape(len(values), -1) @ filters.T, np.float32)


def _noise(rng: np.random.Generator, n_volumes: int, subject: SimulatedSubject) -> NDArray[np.float32]:
    """AR(1) noise of unit variance, part of it shared by neighbours: (n_volumes, n_voxels)."""
    own = rng.standard_normal((n_volumes, subject.responses.shape[1]), np.float32)
    sigma = SHARED_NOISE_MM / 2.355 / subject.affine[0, 0]
    field = gaussian_filter(
        rng.standard_normal((n_volumes, *subject.brain.shape), np.float32), (0, sigma, sigma, sigma)
    )
    shared = field[:, subject.brain] / field.std()
    innovations = np.sqrt(1 - SHARED_NOISE**2) * own + SHARED_NOISE * shared
    innovations[1:] *= np.sqrt(1 - AR1**2)
    for t in range(1, n_volumes):
        innovations[t] += AR1 * innovations[t - 1]
    return np.asarray(innovations, np.float32)


def _drift(rng: np.random.Generator, n_volumes: int, n_voxels: int) -> NDArray[np.float32]:
    """Half, one and one and a half slow cosine cycles a run, their amplitudes drawn for each voxel."""
    time = np.linspace(0, np.pi, n_volumes)
    basis = np.stack([np.cos(k * time) for k in (1, 2, 3)], axis=1)
    return np.asarray(basis @ (DRIFT / 2 * rng.standard_normal((3, n_voxels))), np.float32)
