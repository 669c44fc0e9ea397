"""From one subject's data, whatever they are, to masked trials: which steps, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from hyperdecode.errors import UserError
from hyperdecode.pipeline.masking import Masking
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.sources import AsIs, BoldSource, Fmriprep, KeptBold, Progress
from hyperdecode.pipeline.spatial import Raw
from hyperdecode.pipeline.trial_maps import EstimatedTrials, MappedTrials
from hyperdecode.pipeline.zmaps import FaceTrials, SingleTrials
from hyperdecode.study.bids import BoldRun
from hyperdecode.study.images import image_space
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["SubjectChain", "bold_source", "subject_chain"]

RAW_CONFOUNDS = ("motion", "scrub")


@dataclass(frozen=True)
class SubjectChain:
    """The steps of one subject up to masked trials x voxels.

    Attributes
    ----------
    label : str
    runs : tuple of BoldRun
        Empty where single-trial maps were made elsewhere.
    singles : SingleTrials or None
        The single-trial models, on top of their source; None where the maps were made elsewhere.
    masking : Masking
    """

    label: str
    runs: tuple[BoldRun, ...]
    singles: SingleTrials | None
    masking: Masking

    @property
    def words(self) -> str:
        """One sentence for the report: what was done to the BOLD."""
        if self.singles is None:
            return (
                f"One map a trial was made elsewhere ({self.masking.trials.inputs[0].parent.name}) and taken as it is."
            )
        return self.singles.source.words

    def steps(self) -> list[tuple[str, Step]]:
        """Return (kind, step) in their order."""
        made = [*self.singles.source.steps(), *self.singles.steps()] if self.singles else []
        return [*made, ("mask", self.masking.step())]


def subject_chain(
    layout: Layout,
    bold: BoldSettings,
    stimuli: StimulusSet,
    label: str,
    runs: Sequence[BoldRun],
    say: Progress | None = None,
) -> SubjectChain:
    """Return the steps of a subject of a study.

    Parameters
    ----------
    layout : Layout
    bold : BoldSettings
    stimuli : StimulusSet
    label : str
    runs : sequence of BoldRun
    say : callable, optional
        Told of progress inside long steps.

    Raises
    ------
    UserError
        When the data cannot be what `bold` says they are.
    """
    region_image = layout.study / bold.region_image if bold.region_image else None
    if bold.source == "estimates":
        elsewhere = EstimatedTrials(layout.study / bold.source_dir, label, bold)
        return SubjectChain(label, (), None, Masking(layout, bold, stimuli, label, elsewhere, region_image))
    source = bold_source(layout, bold, runs, say)
    masking = Masking(layout, bold, stimuli, label, MappedTrials(layout, source), region_image)
    return SubjectChain(label, tuple(runs), SingleTrials(layout, bold, source, FaceTrials(stimuli)), masking)


def bold_source(layout: Layout, bold: BoldSettings, runs: Sequence[BoldRun], say: Progress | None = None) -> BoldSource:
    """Return where the clean series of a subject's runs come from.

    With ``source = "auto"`` BOLD whose NIfTI header says MNI is taken as it is, any other as raw.

    Raises
    ------
    UserError
        When some runs say MNI and others do not, or the source is "estimates", which has no series.
    """
    kind = _by_header(runs) if bold.source == "auto" else bold.source
    source: BoldSource
    if kind == "raw":
        unknown = sorted(set(bold.confounds) - set(RAW_CONFOUNDS))
        if unknown:
            raise UserError(
                f"bold.confounds = {unknown[0]!r} needs fMRIPrep's output, raw BOLD has {' and '.join(RAW_CONFOUNDS)} "
                "(slow drift is bold.high_pass): leave it out"
            )
        source = Raw(layout, tuple(runs), bold, say)
    elif kind == "fmriprep":
        source = Fmriprep(tuple(runs), bold, layout.study / bold.source_dir)
    elif kind == "as-is":
        source = AsIs(tuple(runs), bold)
    else:
        raise UserError("single-trial maps made elsewhere have no BOLD series: give raw BOLD or fMRIPrep's output")
    return KeptBold(source, layout) if bold.keep_bold else source


def _by_header(runs: Sequence[BoldRun]) -> str:
    said: dict[bool, BoldRun] = {}
    for run in runs:
        # A file that cannot be read is for the step that works on it to refuse.
        with suppress(UserError):
            said.setdefault(image_space(run.bold) == "mni", run)
    if len(said) > 1:
        raise UserError(
            f"the header of {said[True].bold} says MNI space, that of {said[False].bold} does not: set bold.source to "
            "raw or as-is"
        )
    return "as-is" if True in said else "raw"
