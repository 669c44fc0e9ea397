"""Figures of the report that show how good the BOLD, the design and the z-maps are; maps are in `qualitymaps`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.report.figures import GREY, Figure, new_figure, png_bytes, quiet_axes

__all__ = [
    "carpet_figure",
    "design_figure",
    "motion_figure",
    "z_figure",
]

FloatArray = NDArray[np.float64]

WIDTH, DPI = 9.0, 100
SKY, RUST, GREEN, INK, MILD = "#0072b2", "#d55e00", "#009e73", "#333333", "#e8eaed"
"""Colours of Okabe and Ito, which people of any colour vision tell apart, and greys."""
MOST_VALUES = 2_000_000
CARPET_ROWS = 240


def motion_figure(
    parameters: Sequence[ArrayLike],
    displacement: Sequence[ArrayLike],
    t_r: float,
    *,
    threshold: float = 0.5,
    outliers: Sequence[ArrayLike] | None = None,
) -> Figure:
    """Draw the head motion of a subject's runs, one after the other.

    Parameters
    ----------
    parameters : sequence of array-like, each (n_volumes, 6)
        Translations (mm) and rotations (rad) of each run.
    displacement : sequence of array-like, each (n_volumes,)
        Framewise displacement in mm.
    t_r : float
        Repetition time in seconds.
    threshold : float
        Framewise displacement, in mm, above which a volume is marked.
    outliers : sequence of array-like of bool, each (n_volumes,), optional
        Volumes marked for another reason (a spike of the signal).

    Returns
    -------
    Figure

    Raises
    ------
    UserError
        When there is no run, or the parts of a run differ in length.
    """
    moved = [np.asarray(run, dtype=np.float64) for run in parameters]
    steps = [np.nan_to_num(np.asarray(run, dtype=np.float64)) for run in displacement]
    spikes = (
        [np.zeros(len(run), bool) for run in steps] if outliers is None else [np.asarray(o, bool) for o in outliers]
    )
    lengths = [len(run) for run in steps]
    if not lengths or any([len(run) for run in part] != lengths for part in (moved, spikes)):
        raise UserError(
            "a picture of the motion needs one row a volume and the same runs in every part: check the runs"
        )
    figure = new_figure(WIDTH, 5.6, DPI)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1, 1.1])
    minutes = np.arange(sum(lengths)) * t_r / 60
    ends = np.cumsum(lengths)
    everything, step, spike = np.vstack(moved), np.concatenate(steps), np.concatenate(spikes)
    for axes, columns, unit, names in (
        (panels[0], everything[:, :3], "Translation (mm)", ("x, left-right", "y, back-front", "z, down-up")),
        (
            panels[1],
            np.rad2deg(everything[:, 3:]),
            "Rotation (deg)",
            ("about x (nod)", "about y (tilt)", "about z (turn)"),
        ),
    ):
        for column, colour, name in zip(columns.T, (SKY, RUST, GREEN), names, strict=True):
            axes.plot(minutes, _gaps_between(column, ends), color=colour, linewidth=1, label=name)
        quiet_axes(axes, "", unit)
        _legend_above(axes, 3)
    marked = (step > threshold) | spike
    _draw_displacement(panels[2], minutes, step, ends, threshold, marked)
    _run_borders(panels, ends * t_r / 60, lengths, t_r)
    share = np.array([part.mean() for part in np.split(marked, ends[:-1])])
    return Figure("Head motion", png_bytes(figure), _motion_words(step, marked, share, threshold, everything))


def design_figure(blocks: Mapping[str, ArrayLike], t_r: float, trial_types: Sequence[str] | None = None) -> Figure:
    """Draw the design matrix of a run.

    Parameters
    ----------
    blocks : mapping of str to array-like, each (n_volumes, n_columns)
        Groups of columns by name, the trials' regressors first.
    t_r : float
        Repetition time in seconds.
    trial_types : sequence of str, optional
        Kind of each column of the first block: drawn in colour above it.
    """
    groups = {name: np.asarray(columns, dtype=np.float64) for name, columns in blocks.items()}
    groups = {name: columns for name, columns in groups.items() if columns.size}
    if not groups or len({len(columns) for columns in groups.values()}) != 1:
        raise UserError("a picture of a design needs groups of columns with one row a volume each: check the blocks")
    trials = next(iter(groups.values()))
    if trial_types is not None and len(trial_types) != trials.shape[1]:
        raise UserError(f"the design has {trials.shape[1]} trials and {len(trial_types)} trial types: give one a trial")
    figure = new_figure(WIDTH, 4.6, DPI)
    widths = [max(columns.shape[1], 3.0) ** 0.5 for columns in groups.values()]
    widths[0] = max(widths[0], 1.1 * sum(widths[1:]))
    grid = figure.add_gridspec(2, len(groups), width_ratios=widths, height_ratios=[0.03, 1], hspace=0.01)
    seconds = len(trials) * t_r
    first = None
    for column, (name, values) in enumerate(groups.items()):
        axes = figure.add_subplot(grid[1, column], sharey=first)
        scaled = values / np.maximum(np.abs(values).max(axis=0), 1e-12)
        # Columns are widened here, so that resampling mixes volumes alone and a spike stays a straight line.
        wide = np.repeat(scaled, -(-400 // scaled.shape[1]), axis=1)
        extent = (0.5, values.shape[1] + 0.5, seconds, 0)
        axes.imshow(wide, cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto", extent=extent)
        quiet_axes(axes, f"{name}\n({values.shape[1]})", "Seconds from the first volume" if first is None else "")
        axes.set_xticks(_trial_ticks(values.shape[1]) if column == 0 else [])
        axes.tick_params(labelleft=first is None)
        first = first or axes
    if trial_types is not None:
        _draw_types(figure.add_subplot(grid[0, 0], sharex=first), trial_types)
    return Figure("Design matrix", png_bytes(figure), _design_words(groups, trials))


def z_figure(training: ArrayLike, test: ArrayLike | None = None) -> Figure:
    """Draw the distribution of z over trials and voxels, of training and test trials, beside the normal curve.

    Parameters
    ----------
    training, test : array-like, shape (n_trials, n_voxels)
        z values at the voxels of the mask; up to about two million of either are counted.
    """
    kinds = {"training trials": (training, SKY), "test trials": (test, RUST)}
    samples = {name: (_sample(z), colour) for name, (z, colour) in kinds.items() if z is not None}
    if any(not values.size for values, _ in samples.values()):
        raise UserError("a distribution of z needs finite values of training (and test) trials: check the z-maps")
    reach = float(np.clip(max(np.percentile(np.abs(v), 99.999) for v, _ in samples.values()), 4, 15))
    edges = np.linspace(-reach, reach, 121)
    figure = new_figure(WIDTH, 3.3, DPI)
    panels = figure.subplots(1, 2)
    for axes, scale in zip(panels, ("linear", "log"), strict=True):
        for values, colour in samples.values():
            density = np.histogram(values, edges)[0] / (values.size * np.diff(edges))
            axes.stairs(density, edges, color=colour, linewidth=1.5, baseline=None)
        centre = (edges[1:] + edges[:-1]) / 2
        axes.plot(centre, np.exp(-(centre**2) / 2) / np.sqrt(2 * np.pi), color=INK, linestyle="--", linewidth=1)
        axes.set_yscale(scale)
        quiet_axes(axes, "z of a single trial and voxel", "Density" if scale == "linear" else "Density (log scale)")
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylim(1e-6, 1)
    names = [*samples, "standard normal"]
    panels[0].legend(panels[0].patches + panels[0].lines, names, frameon=False, fontsize=8, loc="upper left")
    words = "; ".join(
        f"{name}: mean {v.mean():.2f}, sd {v.std():.2f}, |z| > 3.1 in {100 * (np.abs(v) > 3.1).mean():.2g} %"
        for name, (v, _) in samples.items()
    )
    caption = (
        f"Single-trial z at the voxels of the mask. {words} (a standard normal: 0, 1 and 0.19 %). Good: smooth "
        "curves, training and test alike, somewhat right of the normal curve or wider, since these voxels respond. "
        "Bad: training and test of different width or place (not processed alike), a needle at 0, or long tails."
    )
    return Figure("Distribution of z", png_bytes(figure), caption)


def carpet_figure(
    series: ArrayLike, t_r: float, *, displacement: ArrayLike | None = None, dvars: ArrayLike | None = None
) -> Figure:
    """Draw a run as voxels by time, below its framewise displacement and standardised DVARS.

    Parameters
    ----------
    series : array-like, shape (n_volumes, n_voxels)
        BOLD at brain voxels; a couple of hundred of them, evenly taken, are drawn.
    t_r : float
        Repetition time in seconds.
    displacement, dvars : array-like, shape (n_volumes,), optional
        In mm; and as `hyperdecode.fmri.quality.dvars` gives it.
    """
    data = np.asarray(series)
    if data.ndim != 2 or min(data.shape) < 3:
        raise UserError(f"a carpet needs a series of volumes x voxels, got shape {data.shape}: mask the run first")
    drawn = data[:, np.unique(np.linspace(0, data.shape[1] - 1, CARPET_ROWS).astype(int))].astype(np.float64)
    drawn = _standardised(drawn[:, np.isfinite(drawn).all(axis=0)])
    traces = [(t, unit) for t, unit in ((displacement, "FD (mm)"), (dvars, "DVARS")) if t is not None]
    if any(len(np.asarray(trace)) != len(data) for trace, _ in traces):
        raise UserError(f"the run has {len(data)} volumes: displacement and DVARS need as many values")
    figure = new_figure(WIDTH, 2.8 + 0.9 * len(traces), DPI)
    panels = figure.subplots(len(traces) + 1, 1, sharex=True, squeeze=False, height_ratios=[0.9] * len(traces) + [2.4])
    seconds = np.arange(len(data)) * t_r
    for axes, (trace, unit), colour in zip(panels[:-1, 0], traces, (SKY, RUST), strict=False):
        axes.plot(seconds, np.asarray(trace, dtype=np.float64), color=colour, linewidth=1)
        quiet_axes(axes, "", unit)
    extent = (-t_r / 2, seconds[-1] + t_r / 2, drawn.shape[1], 0)
    # Few shades: a picture of noise does not compress.
    shades = np.round(np.clip(drawn.T, -2, 2) * 2) / 2
    panels[-1, 0].imshow(shades, cmap="gray", vmin=-2, vmax=2, aspect="auto", extent=extent, interpolation="nearest")
    quiet_axes(panels[-1, 0], "Seconds from the first volume", f"{drawn.shape[1]} of {data.shape[1]:,} voxels")
    panels[-1, 0].set_yticks([])
    caption = (
        "Brain voxels (rows) over time, each less its mean and straight line and in units of its own standard "
        "deviation (black -2, white 2). Good: an even grey texture. Bad: upright stripes through all rows, most of all "
        "under a peak of framewise displacement (FD) or DVARS (how much the image changes from volume to volume; 1 is "
        "usual, above 1.5 is worth a look): motion or a spike of the scanner."
    )
    return Figure("The run at a glance", png_bytes(figure), caption)


def _gaps_between(values: FloatArray, ends: NDArray[np.intp]) -> FloatArray:
    """Return `values` with the first of each later run blanked, so that no line joins two runs."""
    out = values.copy()
    out[ends[:-1]] = np.nan
    return out


def _draw_displacement(
    axes: Any,
    minutes: FloatArray,
    step: FloatArray,
    ends: NDArray[np.intp],
    threshold: float,
    marked: NDArray[np.bool_],
) -> None:
    axes.plot(minutes, _gaps_between(step, ends), color=INK, linewidth=0.9, label="framewise displacement")
    axes.axhline(threshold, color=RUST, linestyle="--", linewidth=1, label=f"threshold, {threshold:g} mm")
    top = float(np.clip(step.max() * 1.05, threshold * 1.5, threshold * 5))
    axes.scatter(
        minutes[marked], np.full(int(marked.sum()), top), marker="v", s=20, color=RUST, zorder=3, label="marked volume"
    )
    axes.set_ylim(0, top * 1.04)
    quiet_axes(axes, "Minutes of scanning, runs joined", "FD (mm)")
    _legend_above(axes, 3)


def _run_borders(panels: NDArray[Any], ends: FloatArray, lengths: list[int], t_r: float) -> None:
    every = int(np.ceil(len(ends) / 16))
    for number, (end, length) in enumerate(zip(ends, lengths, strict=True), start=1):
        for axes in panels:
            if number % 2 == 0:
                axes.axvspan(end - length * t_r / 60, end, color=MILD, linewidth=0, zorder=0)
        if (number - 1) % every == 0:
            middle = end - length * t_r / 120
            name = f"run {number}" if len(ends) <= 8 else str(number)
            panels[0].text(
                middle,
                0.98,
                name,
                ha="center",
                va="top",
                fontsize=8,
                color=INK,
                transform=panels[0].get_xaxis_transform(),
            )
    panels[0].set_xlim(0, ends[-1])
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, high + 0.16 * (high - low))  # room for the names of the runs


def _legend_above(axes: Any, columns: int) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.97), ncols=columns, frameon=False, fontsize=8, borderpad=0)


def _motion_words(
    step: FloatArray, marked: NDArray[np.bool_], share: FloatArray, threshold: float, parameters: FloatArray
) -> str:
    worst = int(np.argmax(share))
    typical = float(np.median(step))
    verdict = "little motion" if typical < 0.2 and marked.mean() < 0.05 else "motion worth a look"
    if typical >= 0.5 or marked.mean() > 0.2:
        verdict = "strong motion"
    where = f", run {worst + 1} has the largest share ({100 * share[worst]:.1f} %)"
    return (
        "Translations and rotations of each volume, and framewise displacement (FD, what the head moved since the "
        f"volume before). Median FD {typical:.2f} mm, largest {step.max():.1f} mm; {int(marked.sum())} of "
        f"{marked.size:,} volumes ({100 * marked.mean():.1f} %) exceed {threshold:g} mm or are spikes"
        f"{where if marked.any() and share.size > 1 else ''}; largest shift {np.abs(parameters[:, :3]).max():.1f} mm: "
        f"{verdict}. Good: slow, smooth lines and few marks. Bad: jumps, marks in more than a fifth of a run (leave "
        "such a run out), or motion that follows the trials."
    )


def _trial_ticks(n: int) -> list[int]:
    step = 50 if n > 60 else 10
    return sorted({1, n} | {k for k in range(step, n, step) if n - k > step / 2})


def _draw_types(axes: Any, trial_types: Sequence[str]) -> None:
    kinds = list(dict.fromkeys(trial_types))
    colours = {kind: (GREY, RUST, SKY, GREEN, INK)[min(k, 4)] for k, kind in enumerate(kinds)}
    axes.bar(np.arange(1, len(trial_types) + 1), 1, width=1, color=[colours[kind] for kind in trial_types], linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    handles = [Patch(color=colours[kind], label=kind) for kind in kinds]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, fontsize=8, borderpad=0
    )


def _design_words(groups: Mapping[str, FloatArray], trials: FloatArray) -> str:
    matrix = np.hstack(list(groups.values()))
    left = len(matrix) - int(np.linalg.matrix_rank(matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-12)))
    near = [float(np.corrcoef(trials[:, k], trials[:, k + 1])[0, 1]) for k in range(trials.shape[1] - 1)]
    next_to = f"Regressors of neighbouring trials correlate at {np.mean(near):.2f} on average. " if near else ""
    return (
        f"Each column explains a part of the run's signal over time (down): {trials.shape[1]} trials and "
        f"{matrix.shape[1] - trials.shape[1]} nuisance columns in {len(matrix)} volumes, {left} degrees of freedom "
        f"left with all in one model. Each column is scaled to its largest value (orange above 0, purple below). "
        f"{next_to}Good: one band a trial, stepping down evenly. Bad: empty columns, trials on top of each other, or "
        "neighbours that correlate above about 0.8, which only least squares separate (LSS) or a ridge tells apart."
    )


def _sample(z: ArrayLike) -> FloatArray:
    """Return the finite z of every trial at voxels evenly taken, about `MOST_VALUES` in all."""
    values = np.asarray(z)
    values = values.reshape(len(values), -1)
    flat = values[:, :: max(1, values.size // MOST_VALUES)].astype(np.float64).ravel()
    return np.asarray(flat[np.isfinite(flat)])


def _standardised(series: FloatArray) -> FloatArray:
    time = np.linspace(-1, 1, len(series))[:, None]
    series = series - series.mean(axis=0)
    series -= time * (time.T @ series) / (time**2).sum()
    return np.asarray(series / np.maximum(series.std(axis=0), 1e-12))
