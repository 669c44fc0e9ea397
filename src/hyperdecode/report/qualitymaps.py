"""Maps of the report that show how good the BOLD and the answers to test stimuli are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.report.figures import GREY, Figure, new_figure, png_bytes, quiet_axes
from hyperdecode.report.slices import draw_slices

__all__ = ["reliability_figure", "tsnr_figure"]

WIDTH, DPI = 9.0, 100
SKY, RUST = "#0072b2", "#d55e00"


def tsnr_figure(tsnr: ArrayLike, mean: ArrayLike, brain: ArrayLike, affine: ArrayLike) -> Figure:
    """Draw the temporal signal-to-noise ratio on slices of the mean functional.

    Parameters
    ----------
    tsnr, mean : array-like, shape (x, y, z)
        tSNR (mean over runs, say) and mean functional.
    brain : array-like of bool, shape (x, y, z)
        Where tSNR is drawn and summed up.
    affine : array-like, shape (4, 4)
        Voxel to mm.
    """
    values, inside = np.asarray(tsnr, dtype=np.float64), np.asarray(brain, dtype=bool)
    within = _finite_inside(values, inside, "tSNR")
    low, middle, high = np.percentile(within, [10, 50, 90])
    figure = new_figure(WIDTH, 3.6, DPI)
    top = float(np.percentile(within, 98))
    draw_slices(figure, values, mean, inside, affine, limits=(0, top), label="tSNR", beyond="max")
    size = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    caption = (
        "Temporal signal-to-noise ratio (mean of a voxel over its standard deviation in time), slices from below "
        f"upwards. Median in the brain {middle:.0f}, from {low:.0f} to {high:.0f} in the middle 80 % of voxels of "
        f"{' x '.join(f'{edge:.2g}' for edge in size)} mm. Good: even over the cortex, lower only near the ears and "
        "above the nose. Bad: dark bands or a dark half (a coil element, a spike), or a median below about 20, where "
        "single trials are mostly noise. Larger voxels and smoothing raise it."
    )
    return Figure("Temporal signal-to-noise ratio", png_bytes(figure), caption)


def reliability_figure(reliability: ArrayLike, mean: ArrayLike, mask: ArrayLike, affine: ArrayLike) -> Figure:
    """Draw the split-half reliability of the average answers to test stimuli, as a histogram and a map.

    Parameters
    ----------
    reliability, mean : array-like, shape (x, y, z)
        `hyperdecode.fmri.quality.split_half_of_test_repeats` in its places, and the mean functional.
    mask : array-like of bool, shape (x, y, z)
        The decoder's voxels.
    affine : array-like, shape (4, 4)
        Voxel to mm.
    """
    values, inside = np.asarray(reliability, dtype=np.float64), np.asarray(mask, dtype=bool)
    within = _finite_inside(values, inside, "reliability")
    figure = new_figure(WIDTH, 5.6, DPI)
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[2.1, 3.5]))
    axes = above.subplots()
    edges = np.linspace(-1, 1, 81)
    counts = np.histogram(within, edges)[0]
    mirrored = np.where(edges[:-1] >= 0, counts[::-1], counts)
    axes.stairs(counts, edges, fill=True, color=SKY, alpha=0.85, label="voxels of the mask")
    axes.stairs(mirrored, edges, fill=True, color=GREY, label="what noise alone gives (left half, mirrored)")
    middle = float(np.median(within))
    axes.axvline(middle, color=RUST, linewidth=1.5, label=f"median, {middle:.2f}")
    quiet_axes(axes, "Split-half reliability of the average over all repeats", "Voxels")
    axes.set_xlim(min(float(np.percentile(within, 0.1)), -0.2) - 0.05, 1)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    draw_slices(below, values, mean, inside, affine, limits=(0, 1), label="Reliability", beyond="min")
    excess = max(0.0, float((within > 0).mean() - (within < 0).mean()))
    caption = (
        "How well the average answer to each test face repeats between halves of its presentations (Spearman-Brown "
        f"corrected). Median over {within.size:,} voxels {middle:.2f}, best tenth above "
        f"{np.percentile(within, 90):.2f}; about {100 * excess:.0f} % of the voxels repeat more than noise would. "
        "Good: blue well right of the grey, in visual cortex. Bad: a histogram even about 0, where no decoder can do "
        "more than guess. Nothing is chosen by these values: they come from test trials."
    )
    return Figure("Do the answers to test faces repeat?", png_bytes(figure), caption)


def _finite_inside(values: NDArray[np.float64], inside: NDArray[np.bool_], what: str) -> NDArray[np.float64]:
    """Return the finite values inside, refusing to go on without any."""
    within = values[inside & np.isfinite(values)] if values.shape == inside.shape else np.zeros(0)
    if not within.size:
        raise UserError(f"a map of {what} needs finite values inside a mask of the same shape: check the mask")
    return within
