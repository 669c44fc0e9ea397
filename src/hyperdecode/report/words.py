"""Names of metrics and blind predictors for human readers, and scores as text."""

from __future__ import annotations

import math

from hyperdecode.evaluation.summary import PRIMARY_METRIC

__all__ = ["BLIND_WORDS", "FACE_METRICS", "METRICS", "metric_label", "score_text"]

METRICS: dict[str, tuple[str, str]] = {
    "identification": ("2-way identification", "how often a decoded latent is closer to its own face than to another"),
    "cosine": ("Cosine", "angle between decoded and true latent, seen from the training mean"),
    "r_squared": ("R²", "share of the squared distance from the training mean that is explained"),
    "lsim": ("Latent similarity", "1 / (1 + mean squared error) on the generator's own scale"),
    "lsim_raw": ("Latent similarity (raw)", "1 / (1 + mean squared error) of the latents as they are"),
    "ssim_hyper-paper": ("SSIM (paper)", "224 px, Gaussian filter, then structural similarity"),
    "ssim_hyper-code": ("SSIM (code)", "structural similarity of the full-size pictures in colour"),
    "pixcorr": ("Pixel correlation", "Pearson r over pixels at 224 px"),
}
"""Metric of `hyperdecode.evaluation.summary` -> (label, meaning)."""

FACE_METRICS: dict[str, str] = {"identification": "2-way", "cosine": "Cosine", "ssim_hyper-paper": "SSIM"}
"""Metrics that stand below each face, with labels short enough for a phone."""

BLIND_WORDS: dict[str, str] = {
    "mean": "training mean",
    "zero": "zero",
    "noise": "matched noise",
    "shuffled": "shuffled pairs",
}


def metric_label(metric: str) -> str:
    """Return a metric's name for readers; an unknown metric keeps its own."""
    return METRICS.get(metric, (metric, ""))[0]


def score_text(metric: str, value: float) -> str:
    """Write a score: per cent for identification, else three decimals; a dash for NaN."""
    if math.isnan(value):
        return "\N{EN DASH}"
    if metric == PRIMARY_METRIC:
        return f"{value:.1%}"
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "\N{MINUS SIGN}")
