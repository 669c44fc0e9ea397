"""What a report shows: arrays and words, no paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.report.attributeplot import AttributePoints
from hyperdecode.report.certificate import Certificate
from hyperdecode.report.figures import Figure
from hyperdecode.report.mapsection import MapReport
from hyperdecode.report.moves import FaceMoves

__all__ = ["ModelReport", "Pictures", "ReportData", "SubjectReport"]

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class ModelReport:
    """Another decoder of the same trials, shown beside the one that the verdict rests on.

    Attributes
    ----------
    name : str
        As ``study.toml`` has it.
    words : str
        What it is.
    table : pandas.DataFrame
        Scores, as those of `SubjectReport`.
    per_face : pandas.DataFrame
        Scores of each test face.
    reconstructions : uint8 array of shape (n_faces, height, width, 3)
        Its faces.
    """

    name: str
    words: str
    table: pd.DataFrame
    per_face: pd.DataFrame
    reconstructions: Pictures


@dataclass(frozen=True)
class SubjectReport:
    """What the report says of one subject.

    Attributes
    ----------
    label : str
        ``"sub-01"``.
    table : pandas.DataFrame
        Scores, columns of `hyperdecode.evaluation.summary.TABLE_COLUMNS`.
    per_face : pandas.DataFrame
        Scores of each test face, one row a face in the order of the stimuli, one column a metric.
    reconstructions : uint8 array of shape (n_faces, height, width, 3)
        Decoded faces, in the order of the stimuli.
    n_voxels, n_training_trials, n_test_trials : int
        What the decoder was fitted and tested on.
    training_hash, test_hash : str
        SHA-256 of the lists of trials, so that a reader can check that they are disjoint and unchanged.
    mask_png : bytes, optional
        Picture of the voxel mask (`hyperdecode.report.maskfigure.mask_figure`).
    facts : mapping of str to str
        More rows for "what was fitted on what" (ridge penalty, cross-validation).
    notes : sequence of str
        Data quality: NaN voxels dropped, warnings.
    quality : sequence of Figure
        Motion, registration, tSNR, design, z, reliability.
    model : str
        Name of the decoder.
    beside : sequence of ModelReport
        Other decoders.
    draws : uint8 array of shape (n_faces, n_draws, height, width, 3), optional
        Faces drawn from the posterior of each test face.
    attributes : pandas.DataFrame, optional
        ``stim_file``, ``attribute``, ``decoded``, ``low``, ``high``, ``true``, ``inside``: a row a face and attribute,
        in standard deviations over the generator's faces; faces in the order of the stimuli.
    attribute_scores : pandas.DataFrame, optional
        Correlation of decoded with true attribute scores, as
        `hyperdecode.evaluation.attribute_scores.attribute_table` makes it; with a column ``ceiling``, that too is
        shown.
    baselines : mapping of str to uint8 array of shape (n_faces, height, width, 3)
        Method to its pictures of the same responses.
    attribute_points : AttributePoints, optional
        The scores behind these correlations, face by face.
    dimensions : pandas.DataFrame, optional
        The same of each latent dimension: ``dimension``, ``r``, ``p_value``, ``q_value``; told in a sentence.
    """

    label: str
    table: pd.DataFrame
    per_face: pd.DataFrame
    reconstructions: Pictures
    n_voxels: int
    n_training_trials: int
    n_test_trials: int
    training_hash: str = ""
    test_hash: str = ""
    mask_png: bytes | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    quality: Sequence[Figure] = ()
    model: str = "weighted-ridge"
    beside: Sequence[ModelReport] = ()
    draws: Pictures | None = None
    attributes: pd.DataFrame | None = None
    attribute_scores: pd.DataFrame | None = None
    attribute_points: AttributePoints | None = None
    dimensions: pd.DataFrame | None = None
    baselines: Mapping[str, Pictures] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportData:
    """All that a report shows; arrays and words, no paths.

    Attributes
    ----------
    title : str
        Name of the study.
    summary : mapping of str to str
        What was done, in plain words: heading -> sentence.
    stimuli : uint8 array of shape (n_faces, height, width, 3)
        Test stimuli.
    stimulus_names : sequence of str, length n_faces
        Their names.
    subjects : sequence of SubjectReport
        At least one.
    notes : sequence of str
        Data quality of the whole study.
    versions : mapping of str to str
        Package -> version.
    commands : sequence of str
        Commands that make this report again.
    seed : int, optional
        The seed of the run.
    figures : sequence of Figure
        Pictures of the experiment: its schedule, how far test faces are from training faces.
    table1 : str
        The paper's Table 1 for this study, in a section of its own before the scores: safe HTML
        (`markupsafe.Markup`) from `hyperdecode.report.table1.table1_html`. A plain string is escaped.
    comparisons : sequence of Figure
        Decoders, and methods, beside each other (the paper's Figures 5 and 7).
    strips : sequence of Figure
        Pages of faces from decoded to true with their attributes (the paper's Figure 6).
    moves : sequence of FaceMoves
        What the sliders show, one a subject.
    ceilings : sequence of Figure
        How far scores could rise: averaged repeats and noise ceilings.
    maps : sequence of MapReport
        Brain maps, one a subject.
    certificate : Certificate, optional
        What was fitted on which trials. One that shows test trials among them turns the verdict.
    fitted_words : str
        The sentence that says what was fitted; the usual one where it is empty.
    preset : str
        Which preset of metrics the evaluation followed, in a sentence that ends the verdict.
    methods : str
        Methods to paste into a paper (`hyperdecode.report.methods.methods_text`).

    Raises
    ------
    UserError
        When subjects and stimuli do not have the same faces.
    """

    title: str
    summary: Mapping[str, str]
    stimuli: Pictures
    stimulus_names: Sequence[str]
    subjects: Sequence[SubjectReport]
    notes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    seed: int | None = None
    figures: Sequence[Figure] = ()
    table1: str = ""
    comparisons: Sequence[Figure] = ()
    strips: Sequence[Figure] = ()
    moves: Sequence[FaceMoves] = ()
    ceilings: Sequence[Figure] = ()
    maps: Sequence[MapReport] = ()
    certificate: Certificate | None = None
    fitted_words: str = ""
    preset: str = ""
    methods: str = ""

    def __post_init__(self) -> None:
        if not self.subjects:
            raise UserError("a report needs at least one subject, got none")
        n = len(self.stimulus_names)
        _check_pictures("stimuli", self.stimuli, n)
        for moved in self.moves:
            if len(moved.sheets) != n:
                raise UserError(f"{moved.label}: moves of {len(moved.sheets)} faces came with {n} stimuli")
        for subject in self.subjects:
            _check_pictures(f"{subject.label}: reconstructions", subject.reconstructions, n)
            if len(subject.per_face) != n:
                raise UserError(f"{subject.label}: scores of {len(subject.per_face)} faces came with {n} stimuli")
            for other in subject.beside:
                _check_pictures(f"{subject.label}, {other.name}: reconstructions", other.reconstructions, n)
            for method, pictures in subject.baselines.items():
                _check_pictures(f"{subject.label}, {method}: pictures", pictures, n)
            if subject.draws is not None and len(subject.draws) != n:
                raise UserError(f"{subject.label}: draws of {len(subject.draws)} faces came with {n} stimuli")


def _check_pictures(what: str, pictures: Pictures, n: int) -> None:
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or len(pictures) != n:
        raise UserError(
            f"{what} must be uint8 of shape ({n}, height, width, 3), one picture for each stimulus name, "
            f"got {pictures.dtype} of shape {pictures.shape}"
        )
