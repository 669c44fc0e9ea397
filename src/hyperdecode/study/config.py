"""`study.toml`: what a study is, validated."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hyperdecode.errors import UserError
from hyperdecode.files import write_text

__all__ = [
    "BoldSettings",
    "DecodingSettings",
    "EvaluationSettings",
    "SimulationSettings",
    "StimulusSettings",
    "StudyConfig",
    "TimingSettings",
    "preset",
    "read_config",
    "write_config",
]

CONFIG_NAME = "study.toml"
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
"""Value of a BIDS entity."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StimulusSettings(_Settings):
    """Faces: how many, from which latents, at which size.

    Attributes
    ----------
    n_train, n_test : int
        Training faces (each shown once) and test faces.
    test_repeats : int
        How often each test face is shown.
    truncation : float
        Latents w are pulled towards the mean w by this factor (1 = not at all).
    render : int
        Side in pixels at which the generator makes the picture (an early exit is faster).
    size : int
        Side in pixels of the stimulus, area-averaged from `render`.
    """

    n_train: Annotated[int, Field(ge=20, le=100_000)] = 1050
    n_test: Annotated[int, Field(ge=3, le=10_000)] = 36
    test_repeats: Annotated[int, Field(ge=1, le=1000)] = 14
    truncation: Annotated[float, Field(gt=0, le=1)] = 0.7
    render: Annotated[int, Field(ge=16, le=4096)] = 1024
    size: Annotated[int, Field(ge=16, le=1024)] = 224


class TimingSettings(_Settings):
    """Timing of the experiment, in seconds (paper: 1.5 s on, 3 s fixation, TR 1.5 s)."""

    t_r: Annotated[float, Field(gt=0.1, le=10)] = 1.5
    on: Annotated[float, Field(gt=0, le=60)] = 1.5
    off: Annotated[float, Field(ge=0, le=60)] = 3.0
    lead_in: Annotated[float, Field(ge=0, le=120)] = 6.0
    lead_out: Annotated[float, Field(ge=0, le=120)] = 15.0
    n_runs: Annotated[int, Field(ge=1, le=1000)] = 14


class SimulationSettings(_Settings):
    """Simulated subjects.

    Attributes
    ----------
    noise : float
        Standard deviation of the noise relative to the spread of a voxel's responses to different faces.
    voxel_size : float
        In mm.
    """

    noise: Annotated[float, Field(ge=0, le=1000)] = 3.0
    voxel_size: Annotated[float, Field(ge=1, le=8)] = 4.0


class BoldSettings(_Settings):
    """From BOLD to z-maps.

    Attributes
    ----------
    space : str
        Where the BOLD lies, ``"mni"`` or ``"native"``: it is used as it is, realigned (and normalised) beforehand.
    glm : str
        One model a trial (``"lss"``) or all trials in one model (``"lsa"``).
    high_pass : float
        Cut-off of the cosine drift in Hz.
    slice_time_ref : float
        Where in the repetition time a volume counts as taken, 0 (start) to 1: 0.5 for BOLD without slice-time
        correction, or corrected to the middle as fMRIPrep does.
    n_voxels : int
        Voxels of highest mean z over training trials that the decoder reads.
    """

    space: Literal["mni", "native"] = "mni"
    glm: Literal["lss", "lsa"] = "lss"
    high_pass: Annotated[float, Field(ge=0, le=0.1)] = 0.01
    slice_time_ref: Annotated[float, Field(ge=0, le=1)] = 0.5
    n_voxels: Annotated[int, Field(ge=2, le=1_000_000)] = 4096


class DecodingSettings(_Settings):
    """From z-maps to latents.

    Attributes
    ----------
    space : str
        The latent space that is decoded.
    n_folds : int
        Folds of the cross-validation that chooses the penalty.
    match_norm : bool
        Draw pictures from predictions stretched to the length of training latents (scores of latents are of
        the predictions as they are).
    """

    space: Literal["w", "z"] = "w"
    n_folds: Annotated[int, Field(ge=2, le=50)] = 5
    match_norm: bool = True


class EvaluationSettings(_Settings):
    """Inference."""

    n_permutations: Annotated[int, Field(ge=100, le=10_000_000)] = 10_000


def _unique(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) < len(labels):
        raise ValueError("a subject is named twice")
    return labels


class StudyConfig(_Settings):
    """Everything that defines a study."""

    name: str = "hyperdecode study"
    generator: str = "mobilestylegan-ffhq"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    subjects: Annotated[tuple[Label, ...], Field(min_length=1), AfterValidator(_unique)] = ("01", "02")
    task: Label = "faces"
    stimuli: StimulusSettings = StimulusSettings()
    timing: TimingSettings = TimingSettings()
    simulation: SimulationSettings = SimulationSettings()
    bold: BoldSettings = BoldSettings()
    decoding: DecodingSettings = DecodingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "quick": {
        "stimuli": {"n_train": 384, "n_test": 16, "test_repeats": 6, "render": 256},
        "timing": {"n_runs": 6},
        "bold": {"n_voxels": 2048},
    },
}


def preset(name: str, /, **changes: Any) -> StudyConfig:
    """Return a preset: ``"paper"`` (the published counts and timing) or ``"quick"`` (a third of them)."""
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}: choose among {', '.join(PRESETS)}")
    return StudyConfig.model_validate({**PRESETS[name], **changes})


def read_config(study: Path) -> StudyConfig:
    """Read and validate the `study.toml` of a study folder.

    Raises
    ------
    UserError
        When the folder or file is absent, is no TOML, or a key is unknown or out of range.
    """
    path = study / CONFIG_NAME
    if not study.is_dir():
        raise UserError(f"no study at {study}: make one with `hyperdecode init {study}` or `hyperdecode demo {study}`")
    if not path.is_file():
        raise UserError(f"{study} has no {CONFIG_NAME}, so it is no study: make one with `hyperdecode init {study}`")
    try:
        return StudyConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable as TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {key} = {first['input']!r}: {first['msg'].lower()}; change that line") from None


def write_config(study: Path, config: StudyConfig) -> Path:
    """Write `study.toml`."""
    return write_text(study / CONFIG_NAME, tomli_w.dumps(config.model_dump()))
