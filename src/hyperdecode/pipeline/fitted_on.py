"""Facts for the record of a step: on which trials it fitted something."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hyperdecode.errors import UserError
from hyperdecode.files import sha256_bytes

__all__ = ["FITTED_ON", "USES", "fitted_on", "trials_sha256"]

FITTED_ON = "fitted_on"
"""Key of the list of facts in a record."""

USES = ("fit", "scatter")
"""Fitted to the trials, or told only how far repeats of a face scatter, never which face it was."""


def trials_sha256(rows: Iterable[int], stimuli: Sequence[str]) -> str:
    """Return the SHA-256 of a list of trials: the row of each in the subject's table of trials, and its face.

    Parameters
    ----------
    rows : iterable of int
        Rows of the trials in ``trials.tsv``, counted from 0.
    stimuli : sequence of str
        Face of every trial of that table.

    Raises
    ------
    UserError
        When a row lies outside the table.
    """
    chosen = sorted({int(row) for row in rows})
    if chosen and not (chosen[0] >= 0 and chosen[-1] < len(stimuli)):
        raise UserError(f"row {chosen[-1]} lies outside the table of {len(stimuli)} trials: give rows of that table")
    return sha256_bytes("".join(f"{row}\t{stimuli[row]}\n" for row in chosen).encode())


def fitted_on(
    what: str, rows: Iterable[int], stimuli: Sequence[str], *, uses: str = "fit", note: str = ""
) -> dict[str, Any]:
    """Return the fact that `what` was fitted on these trials; a step's record holds a list of such.

    Parameters
    ----------
    what : str
        ``"voxel mask"``, say.
    rows, stimuli
        As for `trials_sha256`: the very rows that were handed to what was fitted.
    uses : {"fit", "scatter"}
        See `USES`.
    note : str
        More that a reader shall know.

    Raises
    ------
    UserError
        When there is no row, or `uses` is unknown.
    """
    chosen = sorted({int(row) for row in rows})
    if not chosen or uses not in USES:
        raise UserError(
            f"{what}: got {len(chosen)} trials and the use {uses!r}: give at least one, and {' or '.join(USES)}"
        )
    fact = {"what": what, "uses": uses, "n_trials": len(chosen), "trials_sha256": trials_sha256(chosen, stimuli)}
    return fact | ({"note": note} if note else {})
