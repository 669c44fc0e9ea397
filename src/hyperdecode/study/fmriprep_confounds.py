"""Confounds of an fMRIPrep run, chosen by nilearn's names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from nilearn.interfaces.fmriprep import load_confounds
from numpy.typing import NDArray

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.study.bids_names import read_json
from hyperdecode.study.events import read_table
from hyperdecode.study.images import open_image
from hyperdecode.study.reading import one_line

if TYPE_CHECKING:
    from hyperdecode.study.fmriprep import FmriprepRun

__all__ = ["STRATEGIES", "Confounds", "load_fmriprep_confounds"]

STRATEGIES = (
    "motion", "high_pass", "wm_csf", "global_signal", "compcor", "ica_aroma", "scrub", "non_steady_state",
)  # fmt: skip
"""nilearn's names of groups of confounds. Its ``tedana`` reads tedana's own folder and is left out."""
DEFAULTS = {"fd_threshold": 0.5, "std_dvars_threshold": 1.5, "ica_aroma": "basic"}
"""nilearn 0.13's thresholds of scrubbing, so that the answer does not change with its version; the components of
ICA-AROMA as regressors, because the other way needs another series than ``desc-preproc``."""


@dataclass(frozen=True)
class Confounds:
    """Regressors of no interest of one run.

    Attributes
    ----------
    values : ndarray, (n_volumes, k)
        float64, finite. The last columns are the scrubbed volumes', 1 at one volume each: with them a model does not
        see those volumes, and needs no other treatment of them.
    names : tuple of str
        One a column; a scrubbed volume's is ``scrubbed_00012``.
    has_cosines : bool
        Whether fMRIPrep's high-pass basis is among them: then a model adds no drift of its own.
    scrubbed : ndarray of bool, (n_volumes,)
        Volumes not in a steady state and, with the strategy ``scrub``, those of motion or signal spikes.
    """

    values: NDArray[np.float64]
    names: tuple[str, ...]
    has_cosines: bool
    scrubbed: NDArray[np.bool_]


def load_fmriprep_confounds(run: FmriprepRun, strategy: Sequence[str], **options: Any) -> Confounds:
    """Read a run's confounds by `nilearn.interfaces.fmriprep.load_confounds`.

    Parameters
    ----------
    run : FmriprepRun
    strategy : sequence of str
        nilearn's names: ``motion``, ``high_pass``, ``wm_csf``, ``global_signal``, ``compcor``, ``ica_aroma``,
        ``scrub``. Volumes not in a steady state are scrubbed always; an empty strategy does that alone, and nothing
        where the run has no table.
    **options
        nilearn's: ``motion``, ``wm_csf``, ``global_signal`` (``"basic"``, ``"power2"``, ``"derivatives"``,
        ``"full"``), ``compcor``, ``n_compcor``, ``ica_aroma``, ``scrub``, ``fd_threshold`` (mm),
        ``std_dvars_threshold``, ``demean``.

    Returns
    -------
    Confounds

    Raises
    ------
    UserError
        When the table is missing, has another number of rows than the series volumes, holds NaN beyond its first row,
        or lacks what the strategy asks for; when nilearn knows no such strategy or option; when scrubbing leaves no
        volume.

    Warns
    -----
    DataWarning
        What nilearn warns of.
    """
    if isinstance(strategy, str):
        strategy = (strategy,)
    unknown = [name for name in strategy if name not in STRATEGIES]
    if unknown:
        raise UserError(f"unknown strategy of confounds {unknown[0]!r}: choose among {', '.join(STRATEGIES)}")
    n_volumes = int(open_image(run.bold).shape[3])
    if run.confounds is None and not strategy:
        return Confounds(np.empty((n_volumes, 0)), (), False, np.zeros(n_volumes, dtype=bool))
    if run.confounds is None:
        raise UserError(
            f"{run.bold.parent} has no confounds of {run.stem}: expected {run.stem}_desc-confounds_timeseries.tsv, "
            "copy it there or set bold.confounds = []"
        )
    n_rows = len(read_table(run.confounds, "copy it there"))
    if (sidecar := run.confounds.with_suffix(".json")).exists():
        read_json(sidecar)  # nilearn reads it unchecked
    if n_rows != n_volumes:
        raise UserError(f"{run.confounds} has {n_rows} rows, {run.bold.name} has {n_volumes} volumes: copy both anew")
    table, kept = _by_nilearn(run, tuple(strategy), {**DEFAULTS, **options})
    scrubbed = np.ones(n_volumes, dtype=bool)
    scrubbed[slice(None) if kept is None else kept] = False
    if scrubbed.all():
        raise UserError(f"{run.confounds}: scrubbing leaves no volume: raise bold.fd_threshold or leave the run out")
    chosen = np.empty((n_volumes, 0)) if table is None else table.to_numpy(dtype=np.float64)
    names = () if table is None else tuple(str(name) for name in table.columns)
    bad = np.argwhere(~np.isfinite(chosen))
    if bad.size:
        row, column = (int(i) for i in bad[0])
        raise UserError(f"{run.confounds}: {names[column]} has no number in row {row + 1}: run fMRIPrep again")
    volumes = np.flatnonzero(scrubbed)
    return Confounds(
        values=np.concatenate([chosen, np.eye(n_volumes)[:, volumes]], axis=1),
        names=(*names, *(f"scrubbed_{volume:05d}" for volume in volumes)),
        has_cosines=any(name.startswith("cosine") for name in names),
        scrubbed=scrubbed,
    )


def _by_nilearn(run: FmriprepRun, strategy: tuple[str, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """Return nilearn's table and the volumes that it keeps; None for an empty table and for all volumes."""
    # nilearn goes by the name alone, and knows only the compressed one.
    image = str(run.bold) if run.bold.name.endswith(".gz") else f"{run.bold}.gz"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            table, kept = load_confounds(image, strategy=strategy, **options)
        except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
            raise UserError(f"{run.confounds}: {one_line(error, 300)}") from error
    for warning in caught:
        text = " ".join(str(warning.message).split())
        # Said of what is meant here: an empty strategy, and steady states named on purpose.
        if issubclass(warning.category, UserWarning) and "strategy" not in text.lower():
            warnings.warn(f"{run.confounds}: {text[:300]}", DataWarning, stacklevel=4)
    return table, kept
