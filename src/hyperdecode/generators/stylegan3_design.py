"""Sampling rates, sizes and filters of StyleGAN3's layers (Karras 2021, arXiv:2106.12423, section 3.2, appendix C)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.signal
import scipy.special
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.generators.stylegan_layers import setting

__all__ = ["Design", "LayerDesign", "lowpass"]


@dataclass(frozen=True)
class LayerDesign:
    """How one layer resamples.

    Attributes
    ----------
    in_size, out_size : int
        Sides of what it reads and makes, in pixels, margins included.
    up, down : int
        Sampling rate around the nonlinearity over those of what it reads and makes.
    up_filter, down_filter : ndarray of float32 or None
        (taps,), or (taps, taps) where radially symmetric; None filters nothing.
    padding : before, after
        Zeros around the map at the higher rate.
    """

    in_size: int
    out_size: int
    up: int
    down: int
    up_filter: NDArray[np.float32] | None
    down_filter: NDArray[np.float32] | None
    padding: tuple[int, int]


@dataclass(frozen=True)
class Design:
    """The numbers that NVIDIA's constructor takes, and what follows from them.

    Attributes
    ----------
    resolution : int
        Side of the picture in pixels.
    layers : int
        Convolutions before the one that makes colours.
    critical : int
        Of these, how many at the end are sampled critically.
    first_cutoff, first_stopband : float
        Of the first layer, in cycles a picture.
    last_stopband_rel : float
        Stopband of the last layer over its cutoff.
    margin : int
        Pixels around the picture at each rate.
    filter_size : int
        Taps over the resampling factor.
    oversampling : int
        Rate around the nonlinearity over the higher one of input and output.
    radial : bool
        Radially symmetric down-filters (config R).
    """

    resolution: int
    layers: int = 14
    critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin: int = 10
    filter_size: int = 6
    oversampling: int = 2
    radial: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], layers: int) -> Design:
        """Read and check the settings that came with a file; a `WeightFileError` for one out of range."""

        def number(key: str, default: float, least: float, most: float) -> float:
            return setting(settings, key, default, least, most)

        resolution = number("resolution", 0, 16, 4096)
        if resolution != int(resolution) or int(resolution) & (int(resolution) - 1):
            raise WeightFileError(f"setting resolution is {resolution}, expected a power of two")
        if not 4 <= layers <= 64:
            raise WeightFileError(f"StyleGAN3 with {layers} layers, expected 4 to 64")
        cutoff = number("first_cutoff", 2, 0.5, resolution / 4)
        return cls(
            resolution=int(resolution),
            layers=layers,
            critical=int(number("num_critical", 2, 1, layers - 1)),
            first_cutoff=cutoff,
            first_stopband=number("first_stopband", 2**2.1, 1.01 * cutoff, resolution),
            last_stopband_rel=number("last_stopband_rel", 2**0.3, 1.01, 4),
            margin=int(number("margin_size", 10, 0, 64)),
            filter_size=int(number("filter_size", 6, 1, 16)),
            oversampling=int(number("lrelu_upsampling", 2, 2, 4)),
            radial=bool(settings.get("use_radial_filters", False)),
        )

    def as_settings(self) -> dict[str, Any]:
        """All numbers, as JSON values."""
        return asdict(self)

    @property
    def cutoffs(self) -> NDArray[np.float64]:
        """Cutoff frequency of each layer, colours included: a geometric progression up to half the resolution."""
        return self._progression(self.first_cutoff, self.resolution / 2)

    @property
    def stopbands(self) -> NDArray[np.float64]:
        """Frequency of each layer that its filters suppress from there on."""
        return self._progression(self.first_stopband, self.resolution / 2 * self.last_stopband_rel)

    @property
    def rates(self) -> list[int]:
        """Sampling rate of each layer: twice the stopband to the next power of two, the resolution at most."""
        rates = np.exp2(np.ceil(np.log2(np.minimum(2 * self.stopbands, self.resolution))))
        return [int(rate) for rate in rates]

    @property
    def sizes(self) -> list[int]:
        """Side of what each layer makes; the last two without margins."""
        sizes = [rate + 2 * self.margin for rate in self.rates]
        return [*sizes[:-2], self.resolution, self.resolution]

    def layer(self, index: int, kernel: int) -> LayerDesign:
        """Design of layer `index` with convolutions of `kernel` px; the last, `layers`, makes the colours by 1 px."""
        before = max(index - 1, 0)
        rates, cutoffs, sizes = self.rates, self.cutoffs, self.sizes
        widths = 2 * (np.maximum(self.stopbands, np.array(rates) / 2) - cutoffs)
        colours, critical = index == self.layers, index >= self.layers - self.critical
        rate = max(rates[before], rates[index]) * (1 if colours else self.oversampling)
        up, down = rate // rates[before], rate // rates[index]
        kernel = 1 if colours else kernel
        up_taps = self.filter_size * up if up > 1 and not colours else 1
        down_taps = self.filter_size * down if down > 1 and not colours else 1
        # What the filters take away and the sizes ask for, shared so that samples stand for pixel centres.
        total = (sizes[index] - 1) * down + 1 - (sizes[before] + kernel - 1) * up + up_taps + down_taps - 2
        first = (total + up) // 2
        return LayerDesign(
            in_size=sizes[before],
            out_size=sizes[index],
            up=up,
            down=down,
            up_filter=lowpass(up_taps, cutoffs[before], widths[before], rate),
            down_filter=lowpass(down_taps, cutoffs[index], widths[index], rate, self.radial and not critical),
            padding=(first, total - first),
        )

    def _progression(self, first: float, last: float) -> NDArray[np.float64]:
        steps = np.minimum(np.arange(self.layers + 1) / (self.layers - self.critical), 1)
        return np.asarray(first * (last / first) ** steps)


def lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> NDArray[np.float32] | None:
    """Low-pass filter with a sum of 1 by a Kaiser window.

    Parameters
    ----------
    taps : int
        1 for none.
    cutoff, width : float
        Cutoff frequency and width of the transition band, in the unit of `rate`.
    rate : float
        Sampling rate.
    radial : bool
        The jinc ``J1(2 pi cutoff r) / (pi r)`` under a product of windows, instead of a separable sinc.

    Returns
    -------
    ndarray of float32, (taps,) or (taps, taps), or None
    """
    if taps == 1:
        return None
    if not radial:
        return np.asarray(scipy.signal.firwin(taps, cutoff, width=width, fs=rate), np.float32)
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    # An odd number of taps has one in the middle, where the jinc has its limit.
    r = np.maximum(np.hypot(x[:, None], x[None]), 1e-9)
    window = np.kaiser(taps, scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, width / (rate / 2))))
    square = scipy.special.j1(2 * np.pi * cutoff * r) / (np.pi * r) * np.outer(window, window)
    return np.asarray(square / square.sum(), np.float32)
