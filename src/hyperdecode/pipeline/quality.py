"""The figures by which a subject's BOLD and z-maps are judged, from what the steps left on the disk."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times, nuisance_matrix, trial_regressors
from hyperdecode.fmri.quality import split_half_of_test_repeats
from hyperdecode.pipeline.sources import BoldSource, Fmriprep, KeptBold
from hyperdecode.pipeline.spatial import MOTION, Raw
from hyperdecode.pipeline.subjects import SubjectChain
from hyperdecode.pipeline.zmaps import SingleTrials
from hyperdecode.report.boldquality import design_figure, motion_figure, z_figure
from hyperdecode.report.figures import Figure
from hyperdecode.report.qualitymaps import reliability_figure, tsnr_figure
from hyperdecode.study.bids import BoldRun, read_events
from hyperdecode.study.trial_store import STEP, TrialStore, open_store

__all__ = ["quality_figures", "quality_inputs"]

SAMPLED = 16_000_000
"""Values of z that are read for their distribution."""
BLOCK_BYTES = 2**28


def quality_inputs(chain: SubjectChain) -> list[Path]:
    """Files that the figures are drawn from."""
    files = list(chain.masking.files.values())
    if chain.singles is None:
        return files
    for run in chain.runs:
        made = chain.singles.files(run)
        files += [made[key] for key in ("mean", "tsnr", "sidecar", "quality", "carpet")]
        table = _motion_table(chain.singles.source, run)
        files += [table] if table is not None else []
    raw = _raw(chain.singles.source)
    return [*files, raw.figure] if raw is not None and raw.in_mni else files


def quality_figures(chain: SubjectChain) -> list[Figure]:
    """Draw what can be drawn: motion, registration, tSNR, design, distribution of z, reliability of test repeats."""
    singles = chain.singles
    figures: list[Figure] = []
    if singles is not None:
        figures += _motion(singles)
        raw = _raw(singles.source)
        if raw is not None and raw.in_mni:
            figures.append(Figure("Registration", raw.figure.read_bytes(), raw.figure_caption))
        figures += [_tsnr(singles), _carpet(singles), _design(singles)]
    return [*figures, *_z_values(chain)]


def _raw(source: BoldSource) -> Raw | None:
    inner = source.source if isinstance(source, KeptBold) else source
    return inner if isinstance(inner, Raw) else None


def _motion_table(source: BoldSource, run: BoldRun) -> Path | None:
    inner = source.source if isinstance(source, KeptBold) else source
    if isinstance(inner, Raw):
        return inner.motion_file(run)
    return inner.found[run.stem].confounds if isinstance(inner, Fmriprep) else None


def _motion(singles: SingleTrials) -> list[Figure]:
    """Motion of all runs; nothing where no table has it."""
    files = [_motion_table(singles.source, run) for run in singles.source.runs]
    if any(file is None for file in files):
        return []
    tables = [pd.read_csv(file, sep="\t") for file in files if file is not None]
    wanted = [*MOTION, "framewise_displacement"]
    if any(not set(wanted) <= set(table.columns) for table in tables):
        return []
    spikes = [table.get("motion_outlier", pd.Series(0, table.index)).to_numpy() > 0 for table in tables]
    figure = motion_figure(
        [table[list(MOTION)].to_numpy(np.float64) for table in tables],
        [table["framewise_displacement"].fillna(0).to_numpy(np.float64) for table in tables],
        singles.model(singles.source.runs[0])["RepetitionTime"],
        threshold=singles.bold.fd_threshold,
        outliers=spikes,
    )
    return [figure]


def _tsnr(singles: SingleTrials) -> Figure:
    """Mean over the runs' maps."""
    maps, means = ([nib.load(singles.files(run)[key]) for run in singles.source.runs] for key in ("tsnr", "mean"))
    ratio = np.mean([np.nan_to_num(np.asarray(image.dataobj, np.float32)) for image in maps], axis=0)
    mean = np.nan_to_num(np.asarray(means[0].dataobj, np.float32))
    return tsnr_figure(ratio, mean, ratio > 0, maps[0].affine)


def _carpet(singles: SingleTrials) -> Figure:
    """Every voxel of the run with the largest jump of the signal."""
    worst = max(singles.source.runs, key=lambda run: _largest_jump(singles.files(run)["quality"]))
    caption = f"{worst.stem}, the run with the largest jump. {singles.model(worst)['Carpet']}"
    return Figure("The run at a glance", singles.files(worst)["carpet"].read_bytes(), caption)


def _largest_jump(quality: Path) -> float:
    return float(np.nanmax(pd.read_csv(quality, sep="\t")["std_dvars"], initial=0.0))


def _design(singles: SingleTrials) -> Figure:
    """Design matrix of the first run, with the canonical response."""
    run = singles.source.runs[0]
    model, events = singles.model(run), read_events(run.events)
    times = frame_times(model["Volumes"], model["RepetitionTime"], model["SliceTimeRef"])
    blocks: dict[str, NDArray[np.float64]] = {
        "trials": trial_regressors(events["onset"], events["duration"], times),
        "drift and constant": nuisance_matrix(times, model["HighPass"]),
        "confounds": singles.nuisance(run).to_numpy(np.float64),
    }
    return design_figure(blocks, model["RepetitionTime"], list(events["trial_type"]))


def _z_values(chain: SubjectChain) -> list[Figure]:
    files = chain.masking.files
    store, trials = open_store(files["z"]), pd.read_csv(files["trials"], sep="\t")
    test = trials["role"].to_numpy() == "test"
    figures = [z_figure(_sample(store, np.flatnonzero(~test)), _sample(store, np.flatnonzero(test)))]
    image = nib.load(files["mask"])
    if chain.singles is None:
        return figures
    try:
        reliability = _reliability(store, np.flatnonzero(test), list(trials["stim_file"][test]))
    except UserError:
        # A design without repeats has no reliability to show.
        return figures
    mean = np.nan_to_num(np.asarray(nib.load(chain.singles.files(chain.runs[0])["mean"]).dataobj, np.float32))
    volume = np.full(image.shape, np.nan)
    volume.ravel()[store.voxels] = reliability
    return [*figures, reliability_figure(volume, mean, np.asarray(image.dataobj) > 0, image.affine)]


def _sample(store: TrialStore, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return z of trials spread over the whole study, about as many numbers as a distribution needs."""
    n = max(1, SAMPLED // store.shape[1])
    return store[rows[:: max(1, -(-len(rows) // n))]]


def _reliability(store: TrialStore, rows: NDArray[np.intp], shown: list[str]) -> NDArray[np.float32]:
    width = max(STEP, BLOCK_BYTES // (4 * max(1, len(rows))) // STEP * STEP)
    blocks = range(0, store.shape[1], width)
    return np.concatenate([split_half_of_test_repeats(store[rows, k : k + width], shown) for k in blocks])
