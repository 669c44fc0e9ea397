"""Names of metrics and blind predictors for human readers, and scores as text."""

from __future__ import annotations

import math

from hyperdecode.evaluation.summary import PRIMARY_METRIC

__all__ = ["BLIND_WORDS", "FACE_METRICS", "METRICS", "NO_SCORES", "metric_label", "score_text"]

METRICS: dict[str, tuple[str, str]] = {
    "identification": ("2-way identification", "how often a decoded latent is closer to its own face than to another"),
    "identification_matched": (
        "2-way identification, matched",
        "the same against the third of the other faces that are most like it in attributes",
    ),
    "identification_10": ("10-way identification", "how often it is closest to its own of 10 faces (chance 10%)"),
    "identification_36": ("36-way identification", "how often it is closest to its own of 36 faces (chance 2.8%)"),
    "identification_features": ("2-way identification, features", "by the distance of dlib's face features"),
    "identification_pixels": ("2-way identification, pixels", "by pixel correlation of the pictures"),
    "cosine": ("Cosine", "angle between decoded and true latent, seen from the training mean"),
    "cosine_white": ("Cosine (white)", "the same where every direction of the latents has equal spread"),
    "r_squared": ("R²", "share of the squared distance from the training mean that is explained"),
    "lsim": ("Latent similarity", "1 / (1 + mean squared error) on the generator's own scale"),
    "lsim_white": ("Latent similarity (white)", "the same where every direction of the latents has equal spread"),
    "lsim_raw": ("Latent similarity (raw)", "1 / (1 + mean squared error) of the latents as they are"),
    "norm_ratio": ("Norm ratio", "distance from the training mean, decoded over true: shrinkage, not a score"),
    "fsim": ("Feature similarity", "1 / (1 + mean squared error) of the paper's face network, ResNet50 of VGGFace2"),
    "fsim_dlib": ("Feature similarity (dlib)", "1 / (1 + mean squared error) of dlib's face features"),
    "ssim_hyper-paper": ("SSIM (paper)", "224 px, Gaussian filter, then structural similarity"),
    "ssim_hyper-code": ("SSIM (code)", "structural similarity of the full-size pictures in colour"),
    "ms_ssim": ("MS-SSIM", "structural similarity over five scales at 224 px"),
    "pixcorr": ("Pixel correlation", "Pearson r over pixels at 224 px"),
}
"""Metric of `hyperdecode.evaluation.summary` -> (label, meaning)."""

FACE_METRICS: dict[str, str] = {"identification": "2-way", "cosine": "Cosine", "ssim_hyper-paper": "SSIM"}
"""Metrics that stand below each face, with labels short enough for a phone."""

NO_SCORES = ("norm_ratio",)
"""Numbers of a face of which more is not better."""

BLIND_WORDS: dict[str, str] = {
    "mean": "training mean",
    "zero": "zero",
    "noise": "matched noise",
    "random": "random faces",
    "nearest": "typical training face",
    "average": "average picture",
    "shuffled": "shuffled pairs",
}


def metric_label(metric: str) -> str:
    """Return a metric's name for readers; an unknown metric keeps its own."""
    return METRICS.get(metric, (metric, ""))[0]


def score_text(metric: str, value: float) -> str:
    """Write a score: per cent for identification, else three decimals; a dash for NaN."""
    if math.isnan(value):
        return "\N{EN DASH}"
    if metric.startswith(PRIMARY_METRIC):
        return f"{value:.1%}"
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "\N{MINUS SIGN}")
