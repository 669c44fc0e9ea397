"""What a study is judged by: sets of metrics with their test, by name."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from hyperdecode.errors import UserError

__all__ = ["FEATURE_METRICS", "PRESETS", "Null", "Preset", "preset_named", "preset_words"]

Null = Literal["pairing", "random latents"]

FEATURE_METRICS = ("fsim", "fsim_dlib", "identification_features")
"""``fsim`` needs the paper's network (ResNet50 of VGGFace2), the other two dlib's."""


@dataclass(frozen=True)
class Preset:
    """A set of metrics and what they are tested against.

    Attributes
    ----------
    name : str
        As ``study.toml`` has it.
    words : str
        What it does, for the report.
    latent_metrics, feature_metrics, picture_metrics : tuple of str
        Rows of the score table, in their order. A metric whose ingredients a study lacks (attributes, weights of a
        network, pictures of 112 px, 36 faces) is left out.
    null : {"pairing", "random latents"}
        What p-values are against: shuffled pairs of predictions and stimuli, or, as in the paper, fresh latents of the
        generator. 2-way identification of latents, on which the verdict rests, is always tested by its pairing.
    corrected : bool
        Whether q-values (Benjamini-Hochberg) are given: over the latent, the feature and the picture metrics.
    """

    name: str
    words: str
    latent_metrics: tuple[str, ...]
    feature_metrics: tuple[str, ...]
    picture_metrics: tuple[str, ...]
    null: Null = "pairing"
    corrected: bool = True


_PAPERS_NULL = (
    "Their p-values are the paper's: against random latents of the generator, not against shuffled pairs. A predictor "
    "that never saw the brain passes that test when its mean or length is right. 2-way identification, on which the "
    "verdict rests, is tested by its pairing all the same."
)

_STRICT = Preset(
    "strict",
    "Every metric beside every blind predictor, on raw, standardised and white latents, features and pixels; p-values "
    "from permuting the pairing of predictions and stimuli, q-values (Benjamini-Hochberg) over the latent, the feature "
    "and the picture metrics.",
    (
        "identification",
        "identification_matched",
        "identification_10",
        "identification_36",
        "cosine",
        "cosine_white",
        "r_squared",
        "lsim",
        "lsim_white",
        "lsim_raw",
        "norm_ratio",
    ),
    FEATURE_METRICS,
    ("ssim_hyper-paper", "ssim_hyper-code", "ms_ssim", "pixcorr", "identification_pixels"),
)

_PAPER = Preset(
    "hyper-paper",
    "Metrics of Dado et al. (2022) as their text has them: latent and feature similarity, and SSIM at 224 px after a "
    f"Gaussian filter. {_PAPERS_NULL}",
    ("identification", "lsim", "lsim_raw"),
    ("fsim", "fsim_dlib"),
    ("ssim_hyper-paper",),
    "random latents",
    corrected=False,
)

_CODE = Preset(
    "hyper-code",
    "Metrics of Dado et al. (2022) as their program computes them: latent and feature similarity, and SSIM "
    f"of the full-size pictures in colour. {_PAPERS_NULL}",
    ("identification", "lsim", "lsim_raw"),
    ("fsim", "fsim_dlib"),
    ("ssim_hyper-code",),
    "random latents",
    corrected=False,
)

PRESETS = MappingProxyType({preset.name: preset for preset in (_STRICT, _PAPER, _CODE)})


def preset_named(name: str) -> Preset:
    """Return a preset.

    Raises
    ------
    UserError
        For an unknown name.
    """
    if name not in PRESETS:
        raise UserError(f"no evaluation preset {name!r}: choose among {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_words(name: str) -> str:
    """Return what a preset does in words, with its name, for the report."""
    return f"Preset {name}. {preset_named(name).words}"
