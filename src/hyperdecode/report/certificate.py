"""The leakage certificate: what was fitted on which trials, near-duplicates, and what anyone overrode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hyperdecode.errors import UserError

__all__ = ["CANNOT_SHOW", "Certificate", "FittedOn", "NearDuplicate", "certificate_html"]

CANNOT_SHOW = (
    "It cannot show what was done outside these steps: a preprocessing that saw all trials, or people who chose a "
    "metric, a decoder or what to report after they had seen test scores."
)
ROLE_WORDS = {
    "train": "none",
    "test": "touched test trials",
    "scatter": "how their repeats scatter, never which face",
    "outside": "no trial of the study",
    "unknown": "not recorded",
}
WITHOUT_TRIALS = ("outside", "unknown")
RED = "color:#c62828;color:light-dark(#b3261e,#ff8a80)"
"""The second colour is for browsers that know dark pages; older ones keep the first."""


@dataclass(frozen=True)
class FittedOn:
    """One thing that was fitted, and the trials that it was fitted on.

    Attributes
    ----------
    what : str
        ``"voxel mask"``, say.
    step : str
        The step that fitted it, as records name it.
    role : {"train", "test", "scatter", "outside", "unknown"}
        ``"train"``: training trials only. ``"test"``: at least one test trial among them. ``"scatter"``: how repeats of
        a test face scatter, never which face they were of. ``"outside"``: no trial of the study. ``"unknown"``: nothing
        that is on record says so.
    n_trials : int
        How many trials; 0 for ``"outside"`` and ``"unknown"``.
    trials_sha256 : str
        SHA-256 of their list, 64 hexadecimal digits; empty for ``"outside"`` and ``"unknown"``.
    subject : str
        Whose trials.
    note : str
        What was taken from test trials, where any were used; why nothing is known.

    Raises
    ------
    UserError
        When the role is unknown, the number not positive, or the hash no SHA-256.
    """

    what: str
    step: str
    role: str
    n_trials: int = 0
    trials_sha256: str = ""
    subject: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLE_WORDS:
            raise UserError(f"{self.what}: unknown role {self.role!r} of trials, roles are {', '.join(ROLE_WORDS)}")
        if self.role in WITHOUT_TRIALS:
            if self.n_trials or self.trials_sha256:
                raise UserError(f"{self.what}: {self.n_trials} trials came with the role {self.role!r}: leave them out")
            return
        if self.n_trials < 1:
            raise UserError(f"{self.what}: fitted on {self.n_trials} trials, expected at least 1: give their number")
        if not re.fullmatch("[0-9a-f]{64}", self.trials_sha256):
            raise UserError(f"{self.what}: {self.trials_sha256[:70]!r} is no SHA-256, expected 64 hexadecimal digits")


@dataclass(frozen=True)
class NearDuplicate:
    """A test face that is nearer to a training face than such faces are.

    Attributes
    ----------
    test, train : str
        Names of the faces.
    space : str
        Where they are near: ``"latents"`` or ``"pictures"``.
    distance : float
        1 is the distance of two random training faces.
    """

    test: str
    train: str
    space: str
    distance: float


@dataclass(frozen=True)
class Certificate:
    """What is known about leakage in a study.

    Attributes
    ----------
    records : tuple of FittedOn
        Everything that was fitted.
    duplicates : tuple of NearDuplicate or None
        Near-duplicates between test and training faces; None when nobody looked.
    overrides : tuple of str
        Every check that somebody switched off, in words.
    test_sha256 : tuple of str
        SHA-256 of the lists of test trials: a record on such a list touched them, whatever its role says.
    """

    records: tuple[FittedOn, ...]
    duplicates: tuple[NearDuplicate, ...] | None = None
    overrides: tuple[str, ...] = ()
    test_sha256: tuple[str, ...] = ()

    def touched(self, record: FittedOn) -> bool:
        """Say whether a record touched test trials, by its role or by its list of trials."""
        return record.role == "test" or (record.role == "train" and record.trials_sha256 in self.test_sha256)

    @property
    def leaked(self) -> bool:
        """Whether anything on record was fitted on test trials."""
        return any(map(self.touched, self.records))

    @property
    def clean(self) -> bool:
        """Whether all fits are on record and kept to training trials, faces were compared and differ, no override."""
        known = bool(self.records) and all(record.role != "unknown" for record in self.records)
        return known and not self.leaked and self.duplicates == () and not self.overrides

    @property
    def sentence(self) -> str:
        """What the certificate shows, in a sentence or two, from its records and nothing else."""
        text = f"{self._fits()}, {self._faces()}, and {self._checks()}."
        if self._count("scatter"):
            text += " How repeats of test faces scatter, never which face it was, was used where the table says so."
        return text

    def _fits(self) -> str:
        fits = [record for record in self.records if record.role in ("train", "test")]
        touched, unknown = sum(map(self.touched, self.records)), self._count("unknown")
        if touched:
            text = f"{touched} of {len(fits)} fits on record touched test trials"
        elif not fits:
            text = "There is no record of trials that anything was fitted on, so that nothing is shown about leakage"
        elif len(fits) == 1:
            text = "The one fit on record was made on training trials only"
        else:
            text = f"All {len(fits)} fits on record were made on training trials only"
        if unknown:
            text += f" ({unknown} {'is' if unknown == 1 else 'are'} not recorded)"
        return text

    def _faces(self) -> str:
        if self.duplicates is None:
            return "nobody looked for near-duplicates between test and training faces"
        count = len({pair.test for pair in self.duplicates})
        if count:
            return f"{count} test face{'s are' if count > 1 else ' is'} nearly the same as a training face"
        return "no test face is nearly the same as a training face"

    def _checks(self) -> str:
        count = len(self.overrides)
        return f"{count} check{'s were' if count > 1 else ' was'} overridden" if count else "no check was overridden"

    def _count(self, role: str) -> int:
        return sum(record.role == role for record in self.records)


def certificate_html(certificate: Certificate) -> Markup:
    """Write the certificate for the report.

    Parameters
    ----------
    certificate : Certificate
        What is known.

    Returns
    -------
    markupsafe.Markup
        What it shows and cannot show, a table of fits, near-duplicates and overrides. All names are escaped; what
        touched test trials is red and says so in words.
    """
    parts = [
        Markup(
            '<section class="verdict{}" aria-label="Leakage certificate"><p{}>{}</p><p class="detail">{}</p></section>'
        ).format(
            "" if certificate.clean else " no",
            Markup(' style="{}"').format(RED) if certificate.leaked else "",
            certificate.sentence,
            CANNOT_SHOW,
        )
    ]
    if certificate.records:
        parts.append(_records(certificate))
    parts.append(_duplicates(certificate.duplicates))
    parts.append(_overrides(certificate.overrides))
    return Markup("\n").join(parts)


def _records(certificate: Certificate) -> Markup:
    rows = [_row(record, certificate.touched(record)) for record in certificate.records]
    left = Markup(' style="text-align:left"')
    heads = ("What was fitted", "Subject", "Step", "Trials", "Of them test trials", "SHA-256 of their list")
    head = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(left if name != "Trials" else "", name) for name in heads
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="What was fitted on which trials">'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(head, Markup("\n").join(rows))


def _row(record: FittedOn, touched: bool) -> Markup:
    words = ROLE_WORDS["test" if touched else record.role] + (f": {record.note}" if touched and record.note else "")
    style = Markup(' style="{};font-weight:600"').format(RED) if touched else Markup("")
    note = "" if touched or not record.note else Markup("<small>{}</small>").format(record.note)
    dash = "\N{EN DASH}"
    return Markup(
        '<tr{}><th scope="row">{}{}</th><td style="text-align:left">{}</td><td style="text-align:left">{}</td>'
        '<td>{}</td><td style="text-align:left;white-space:normal;min-width:9rem">{}</td>'
        '<td class="hash" style="text-align:left" title="{}">{}</td></tr>'
    ).format(
        style,
        record.what,
        note,
        record.subject,
        record.step,
        f"{record.n_trials:,}" if record.n_trials else dash,
        words,
        record.trials_sha256,
        record.trials_sha256[:16] + "\N{HORIZONTAL ELLIPSIS}" if record.trials_sha256 else dash,
    )


def _duplicates(pairs: Sequence[NearDuplicate] | None) -> Markup:
    if not pairs:
        return Markup("")
    lines = [
        Markup(
            '<li style="{}">{} is nearly the training face {} ({}, distance {:.2f}): decoding it may be '
            "recognition.</li>"
        ).format(RED, pair.test, pair.train, pair.space, pair.distance)
        for pair in pairs
    ]
    return Markup("<h4>Near-duplicates</h4><ul>{}</ul>").format(Markup("").join(lines))


def _overrides(overrides: Sequence[str]) -> Markup:
    if not overrides:
        return Markup("")
    lines = [Markup('<li style="{}">Overridden: {}</li>').format(RED, text) for text in overrides]
    return Markup("<h4>Overridden checks</h4><ul>{}</ul>").format(Markup("").join(lines))
