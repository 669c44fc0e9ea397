"""What a reproduction was told to do, where its files lie, and what must be said beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.decoding.models import MODELS
from hyperdecode.errors import UserError
from hyperdecode.pipeline.records import read_facts
from hyperdecode.pipeline.released import Released, ReleasedSubject
from hyperdecode.report.verdict import subject_verdict
from hyperdecode.study.stimulus_set import read_picture

__all__ = ["PAPER_EPOCHS", "PAPER_MODEL", "Reproduced", "Settings", "read_pictures"]

PAPER_MODEL, PAPER_EPOCHS = "dense", 1500
"""The notebook's decoder and its epochs."""


@dataclass(frozen=True)
class Settings:
    """What a reproduction does.

    Attributes
    ----------
    models : tuple of str
        Decoders beside the paper's; the verdict rests on the first.
    epochs : int, optional
        Instead of those of the decoders that are trained by gradient descent: a quick look, named so everywhere.
    resolution : int, optional
        Side of the pictures; default: the generator's full side.
    n_permutations, n_random : int
        Pairings drawn for a p-value; faces drawn for the paper's null.
    seed : int
    """

    models: tuple[str, ...] = ("weighted-ridge",)
    epochs: int | None = None
    resolution: int | None = None
    n_permutations: int = 10_000
    n_random: int = 36
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in MODELS:
                raise UserError(f"no decoder {name!r}: choose among {', '.join(MODELS)}")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"cannot train for {self.epochs} epochs: give 1 or more")

    @property
    def is_quick(self) -> bool:
        """Whether decoders are trained for other than their own number of epochs."""
        return self.epochs not in (None, PAPER_EPOCHS)

    @property
    def all_models(self) -> tuple[str, ...]:
        """Every decoder once, ours first."""
        return tuple(dict.fromkeys((*self.models, PAPER_MODEL)))

    def label(self, model: str) -> str:
        """Name of a decoder in every output; that of a quick look says its epochs."""
        trained = MODELS[model].paper or model.startswith(PAPER_MODEL)
        return f"{model}-{self.epochs}-epochs" if trained and self.is_quick else model

    @property
    def note(self) -> str:
        """Sentence on a quick look, empty for a full run."""
        if not self.is_quick:
            return ""
        return (
            f"QUICK LOOK: {self.epochs} epochs instead of the paper's {PAPER_EPOCHS:,}. The numbers of the trained "
            "decoder are not those of the paper's decoder."
        )


@dataclass(frozen=True)
class Reproduced:
    """Files of one reproduction.

    Attributes
    ----------
    released : Released
    out : pathlib.Path
        Folder of the results.
    settings : Settings
    """

    released: Released
    out: Path
    settings: Settings = Settings()

    @property
    def records(self) -> Path:
        """Folder of the steps' records."""
        return self.out / "records"

    @property
    def side(self) -> int:
        """Side of the pictures."""
        return self.settings.resolution or self.released.generator.resolution

    def folder(self, subject: str, model: str) -> Path:
        """Folder of one subject's decoder."""
        return self.out / f"sub-{subject}" / self.settings.label(model)

    def faces(self, subject: ReleasedSubject, model: str | None = None) -> tuple[Path, ...]:
        """Return the pictures of the test faces: as shown, or as a decoder decodes them."""
        where = self.out / f"sub-{subject.label}" / "shown" if model is None else self.folder(subject.label, model)
        names = [f"test-{k:04d}.png" for k in range(1, len(subject.data.t_test) + 1)]
        return tuple(where / name if model is None else where / "faces" / name for name in names)

    @property
    def groups(self) -> dict[str, tuple[ReleasedSubject, ...]]:
        """Subjects that saw the same test faces, by what is added to the names of their files."""
        if self.released.same_faces:
            return {"": self.released.subjects}
        return {f"_sub-{one.label}": (one,) for one in self.released.subjects}

    @property
    def reports(self) -> list[str]:
        """Names of the HTML reports: one, or one a subject where they saw other test faces."""
        return [f"report{suffix}.html" for suffix in self.groups]

    @property
    def strips(self) -> list[str]:
        """Names of the contact sheets, as `reports`."""
        return [f"faces{suffix}.jpg" for suffix in self.groups]

    def scores(self, subject: str, model: str) -> pd.DataFrame:
        """Return the scores of a decoder beside those of blind predictors."""
        return pd.read_csv(self.folder(subject, model) / "scores.tsv", sep="\t")

    def verdicts(self, models: Sequence[str] | None = None) -> list[str]:
        """Return what was decoded, a sentence a subject and decoder (default: every decoder)."""
        return [
            subject_verdict(f"sub-{one.label}, {self.settings.label(model)}", self.scores(one.label, model)).sentence
            for one in self.released.subjects
            for model in (self.settings.all_models if models is None else models)
        ]

    @property
    def words(self) -> list[str]:
        """What a reader of the numbers must know, a sentence each."""
        network = self.released.network.name
        said = [self.settings.note] if self.settings.note else []
        if not self.released.network_is_the_papers:
            said.append(
                f"Feature similarity is of another network ({network}) than the paper's (ResNet50 of VGGFace2): it is "
                "not comparable with the published numbers. Give the VGGFace2 weights with --features."
            )
        if self.side < self.released.generator.resolution:
            said.append(
                f"Pictures have {self.side} px instead of the generator's {self.released.generator.resolution}: "
                "their scores are not those of the full pictures."
            )
        said += [
            "Blind: the best predictor that never saw the brain. p pairing: of which face goes with which prediction. "
            "p random: against random latents, the paper's own null, which also rejects for predictors that never saw "
            "the brain.",
            "The authors chose the voxels before the release: which trials that choice saw cannot be checked here.",
            "Released test responses are averages already, so that the unshrinking of averages is left out.",
            "Scores of latents are of predictions as they are. The paper's decoder is drawn as it predicts; those "
            "of the others are first stretched to the length of training latents. Where the generator has a space w, "
            "decoded faces lie no further from its mean than the generator's own.",
        ]
        for one in self.released.subjects:
            if not one.kept.all():
                said.append(
                    f"sub-{one.label}: voxels constant over the training faces, left out: {int((~one.kept).sum())}."
                )
            if one.reordered:
                said.append(
                    f"sub-{one.label}: test faces brought into the order of sub-{self.released.subjects[0].label}."
                )
            for label in map(self.settings.label, self.settings.all_models):
                noted = read_facts(self.records, f"decode_sub-{one.label}_{label}").get("warnings", [])
                said += [f"sub-{one.label}, {label}: {text}" for text in noted]
        return said


def read_pictures(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Read pictures of one size, (n, side, side, 3)."""
    return np.stack([read_picture(path) for path in paths])
