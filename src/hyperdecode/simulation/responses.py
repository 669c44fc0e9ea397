"""What the voxels of a simulated subject respond to: a planted mix of generator layers under a receptive field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_limits

from hyperdecode.errors import UserError
from hyperdecode.simulation.features import FeatureBank
from hyperdecode.simulation.head import Head
from hyperdecode.simulation.regions import lookup
from hyperdecode.weights.atlas import N_CORTICAL

__all__ = ["SimulatedSubject", "grow_subject", "truth_volumes"]

FloatArray = NDArray[np.float32]

MEAN_RESPONSE = 0.04
"""Amplitude of V1's response to a face, as a share of the baseline: 1.5 s of picture peak at about 1 %."""
SELECTIVITY = 0.35
"""Spread of a voxel's responses over faces, as a share of its mean response."""
TUNING_MM = 6.0
"""Smoothness (FWHM) over the cortex of what voxels are tuned to."""
PLACE_MM = 14.0
"""Smoothness (FWHM) over the cortex of the receptive fields' places."""
LAYER_WIDTH, LAYER_JITTER = 0.11, 0.05
"""Width of the mix of layers around a region's depth, and scatter of the depth over its voxels."""
LEAST_WEIGHT = 0.1
"""A layer of less weight than this share of the largest is left out."""
CEILING_SCATTER = 0.6
"""Scatter of the noise ceiling over voxels, on the logit scale."""
DELAY_S, DELAY_SPREAD, DELAY_RANGE = 0.3, 0.5, (-0.5, 1.5)
BLOCK = 1500
"""Voxels whose responses are made at a time; bounds the memory at about 12 kB a voxel and layer."""


@dataclass(frozen=True)
class SimulatedSubject:
    """Voxels of a subject and how they respond: the truth that a decoder is tested against.

    Attributes
    ----------
    head : Head
    voxels : ndarray of intp, (n_voxels,)
        The voxels that respond: ascending flat indices (C order) into the grid of the head.
    region : ndarray of int16, (n_voxels,)
        HCP-MMP1 label.
    responses : ndarray of float32, (n_stimuli, n_voxels)
        Amplitude of the response to each stimulus, as a fraction of the baseline.
    layers : tuple of str
        Layers of the bank, from the one next to the latent to the picture.
    mix : ndarray of float32, (n_layers, n_voxels)
        Weight of each layer; squares sum to 1.
    field_centre : ndarray of float32, (n_voxels, 2)
        Receptive field: row and column, 0 to 1 over the picture.
    field_sd : ndarray of float32, (n_voxels,)
        Its standard deviation, as a share of the picture's side.
    noise_ceiling : ndarray of float32, (n_voxels,)
        Share of the variance of a single trial's beta that the face is to explain, ``s^2 / (s^2 + n^2)`` with the
        variances s^2 over faces and n^2 over repeats of one face (Allen et al. 2022).
    hrf_delay : ndarray of float32, (n_voxels,)
        Seconds by which the response peaks later than SPM's canonical one; one value a region.
    """

    head: Head
    voxels: NDArray[np.intp]
    region: NDArray[np.int16]
    responses: FloatArray
    layers: tuple[str, ...]
    mix: FloatArray
    field_centre: FloatArray
    field_sd: FloatArray
    noise_ceiling: FloatArray
    hrf_delay: FloatArray


def grow_subject(bank: FeatureBank, head: Head, *, seed: int, noise_ceiling: float = 0.1) -> SimulatedSubject:
    r"""Tune the voxels of a head to the features of the stimuli.

    The amplitude of voxel v for stimulus s is

    .. math:: a_v(s) = m_v (1 + k f_v(s)), \qquad f_v(s) \propto \sum_l q_{lv} \, g_{lv}(s),

    where g_lv is a weighted sum over the channels of layer l under the voxel's Gaussian receptive field, and f_v and
    g_lv have mean 0 and variance 1 over stimuli. The mix q follows a Gaussian over layers around the depth of the
    voxel's region: early visual voxels read the picture and late, fine layers, face-selective ones the layers next to
    the latent. m_v is the region's mean response times a factor of 0.5 to 1.5, k is `SELECTIVITY`. Tuning and places
    vary smoothly over the cortex, and the hemispheres see opposite halves of the picture, early ones nothing else.

    Parameters
    ----------
    bank : FeatureBank
    head : Head
        Its regions respond.
    seed : int
        Seed of this subject's tuning.
    noise_ceiling : float
        Median over the voxels of the ceiling that noise is to be given; 1 means no noise.

    Returns
    -------
    SimulatedSubject

    Raises
    ------
    UserError
        When the ceiling is out of range, or no voxel of the head lies in a region that responds.
    """
    if not 0 < noise_ceiling <= 1:
        raise UserError(f"noise_ceiling is a share of variance above 0 and at most 1, got {noise_ceiling}")
    rng = np.random.default_rng(seed)
    voxels = np.flatnonzero(np.isin(head.regions, list(head.table)))
    if not len(voxels):
        raise UserError("no voxel of this head lies in a region that responds: use smaller voxels, or more coverage")
    region = head.regions.ravel()[voxels]
    cortex = _Cortex(head, voxels)
    centre, spread = _fields(rng, cortex, head, region)
    mix = _mix(rng, len(bank.layers), lookup(region, head.table, "depth"))
    total = np.zeros((len(bank.values[0]), len(voxels)), np.float32)
    # A product of matrices rounds by the number of threads, and BOLD is stored in whole numbers.
    with threadpool_limits(1):
        for weights, values in zip(mix, bank.values, strict=True):
            mine = np.flatnonzero(weights)
            tuning = cortex.smooth(rng, values.shape[1], TUNING_MM)[mine]
            for block in np.array_split(mine, max(1, -(-len(mine) // BLOCK))):
                here = np.searchsorted(mine, block)
                total[:, block] += weights[block] * _standard(_read(values, tuning[here], centre[block], spread[block]))
    mean = MEAN_RESPONSE * lookup(region, head.table, "response") * rng.uniform(0.5, 1.5, len(voxels))
    return SimulatedSubject(
        head=head,
        voxels=voxels,
        region=region,
        responses=mean.astype(np.float32) * (1 + SELECTIVITY * _standard(total)),
        layers=bank.layers,
        mix=mix,
        field_centre=centre,
        field_sd=spread,
        noise_ceiling=_ceilings(rng, noise_ceiling, len(voxels)),
        hrf_delay=_delays(rng, region),
    )


def truth_volumes(subject: SimulatedSubject) -> dict[str, NDArray[np.generic]]:
    """Put what was planted back where it is in the head.

    Returns
    -------
    dict of str to ndarray
        By the ends of BIDS names: ``region_dseg`` (int16), ``layer_dseg`` (int16, the layer of the largest weight,
        counted from 1), ``mix_map`` (4D, one volume a layer), ``fieldcentre_map`` (4D), ``fieldsd_map``,
        ``noiseceiling_map``, ``hrfdelay_map``, ``meanresponse_map``; 0 where nothing responds.
    """
    shape = subject.head.brain.shape

    def volume(values: NDArray[np.generic], kind: type = np.float32) -> NDArray[np.generic]:
        flat = np.zeros((subject.head.brain.size, *values.shape[1:]), kind)
        flat[subject.voxels] = values
        return flat.reshape(*shape, *values.shape[1:])

    return {
        "region_dseg": volume(subject.region, np.int16),
        "layer_dseg": volume(subject.mix.argmax(axis=0) + 1, np.int16),
        "mix_map": volume(subject.mix.T),
        "fieldcentre_map": volume(subject.field_centre),
        "fieldsd_map": volume(subject.field_sd),
        "noiseceiling_map": volume(subject.noise_ceiling),
        "hrfdelay_map": volume(subject.hrf_delay),
        "meanresponse_map": volume(subject.responses.mean(axis=0)),
    }


class _Cortex:
    """Smooth random fields over the part of a head that responds."""

    def __init__(self, head: Head, voxels: NDArray[np.intp]) -> None:
        where = np.stack(np.unravel_index(voxels, head.brain.shape))
        self._size = head.affine[0, 0]
        # A border of the widest smoothing, so that fields are as strong at the edge as within.
        border = int(np.ceil(PLACE_MM / self._size))
        self._at = tuple(where - where.min(axis=1, keepdims=True) + border)
        self._shape = tuple(np.ptp(where, axis=1) + 1 + 2 * border)

    def smooth(self, rng: np.random.Generator, n: int, fwhm: float) -> FloatArray:
        """Draw `n` fields of unit variance, smooth over `fwhm` mm, at the voxels: (n_voxels, n)."""
        fields = np.empty((len(self._at[0]), n), np.float32)
        for k in range(n):
            noise = rng.standard_normal(self._shape, np.float32)
            field = gaussian_filter(noise, fwhm / 2.355 / self._size, mode="wrap")
            fields[:, k] = field[self._at] / field.std()
        return fields


def _fields(
    rng: np.random.Generator, cortex: _Cortex, head: Head, region: NDArray[np.int16]
) -> tuple[FloatArray, FloatArray]:
    """Centre (row, column) and size of each voxel's receptive field."""
    row, column, beside = 0.22 * cortex.smooth(rng, 3, PLACE_MM).T
    # The left hemisphere sees what is right of fixation. Two fields are added: one alone, folded over, would pile up
    # places on the middle line.
    lateral = lookup(region, head.table, "lateral")
    side = np.where(region <= N_CORTICAL // 2, 1, -1)
    column = (1 - lateral) * column + lateral * side * np.abs(beside)
    centre = np.clip(0.5 + np.stack([row, column], axis=1), 0, 1).astype(np.float32)
    return centre, lookup(region, head.table, "field")


def _mix(rng: np.random.Generator, n_layers: int, depth: FloatArray) -> FloatArray:
    """Weights (n_layers, n_voxels) of a Gaussian over layers around each voxel's depth; squares sum to 1."""
    places = np.linspace(0, 1, n_layers)[:, None]
    own = np.clip(depth + LAYER_JITTER * rng.standard_normal(len(depth)), 0, 1)
    weights = np.exp(-0.5 * ((places - own) / LAYER_WIDTH) ** 2)
    weights[weights < LEAST_WEIGHT * weights.max(axis=0)] = 0
    return np.asarray(weights / np.linalg.norm(weights, axis=0), np.float32)


def _read(values: FloatArray, weights: FloatArray, centre: FloatArray, spread: FloatArray) -> FloatArray:
    """Weighted sum over channels under each voxel's receptive field: (n_stimuli, n_voxels)."""
    side = values.shape[-1]
    places = (np.arange(side, dtype=np.float32) + 0.5) / side
    # A field narrower than a cell of the grid still sees that cell.
    width = np.maximum(spread, 0.5 / side)[:, None]
    rows, columns = (np.exp(-0.5 * ((places - centre[:, k : k + 1]) / width) ** 2) for k in range(2))
    field = rows[:, :, None] * columns[:, None, :]
    field /= field.sum(axis=(1, 2), keepdims=True)
    filters = (weights[:, :, None, None] * field[:, None]).reshape(len(weights), -1)
    return np.asarray(values.reshape(len(values), -1) @ filters.T, np.float32)


def _standard(values: FloatArray) -> FloatArray:
    """Columns of mean 0 and variance 1."""
    centred = values - values.mean(axis=0)
    return np.asarray(centred / np.maximum(centred.std(axis=0), 1e-12), np.float32)


def _ceilings(rng: np.random.Generator, median: float, n: int) -> FloatArray:
    if median == 1:
        return np.ones(n, np.float32)
    logit = np.log(median / (1 - median)) + CEILING_SCATTER * rng.standard_normal(n)
    return np.asarray(np.minimum(1 / (1 + np.exp(-logit)), max(0.9, median)), np.float32)


def _delays(rng: np.random.Generator, region: NDArray[np.int16]) -> FloatArray:
    labels, of = np.unique(region, return_inverse=True)
    drawn = DELAY_S + DELAY_SPREAD * rng.standard_normal(len(labels))
    return np.asarray(np.clip(drawn, *DELAY_RANGE)[of], np.float32)
