"""What the paper printed in its Table 1: the paper's data, to stand beside ours and never to stand for it."""

from __future__ import annotations

import pandas as pd

__all__ = ["CITATION", "METHOD_WORDS", "PUBLISHED", "paper_metric", "published_table"]

CITATION = (
    "Dado, T., Güçlütürk, Y., Ambrogioni, L., Ras, G., Bosch, S., van Gerven, M. & Güçlü, U. (2022). Hyperrealistic "
    "neural decoding for reconstructing faces from fMRI activations via the GAN latent space. Scientific Reports 12, "
    "141. doi:10.1038/s41598-021-03938-w"
)

METHOD_WORDS: dict[str, str] = {"hyper": "HYPER", "vae-gan": "VAE-GAN", "eigenfaces": "Eigenfaces"}
"""Methods of the paper's Table 1, as they are named in tables and below pictures."""

PUBLISHED: tuple[tuple[str, str, float, float], ...] = (
    ("lsim", "hyper", 0.4521, 0.4447),
    ("fsim", "hyper", 0.1745, 0.1715),
    ("fsim", "vae-gan", 0.1416, 0.1461),
    ("fsim", "eigenfaces", 0.1319, 0.1261),
    ("ssim", "hyper", 0.6663, 0.6035),
    ("ssim", "vae-gan", 0.5598, 0.5832),
    ("ssim", "eigenfaces", 0.5877, 0.5616),
)
"""Metric, method, mean of the paper's subject S1, mean of S2 (`CITATION`, Table 1)."""


def published_table() -> pd.DataFrame:
    """Return the paper's Table 1, one row a number.

    Returns
    -------
    pandas.DataFrame
        Columns ``method``, ``subject`` (the paper's ``"S1"`` and ``"S2"``, who are not the subjects of any other
        study), ``metric`` (``"lsim"``, ``"fsim"``, ``"ssim"``), ``score``, ``source`` (`CITATION`). The paper gives
        latent similarity for its own decoder only.
    """
    rows = [
        (method, subject, metric, score, CITATION)
        for metric, method, *scores in PUBLISHED
        for subject, score in zip(("S1", "S2"), scores, strict=True)
    ]
    return pd.DataFrame(rows, columns=["method", "subject", "metric", "score", "source"])


def paper_metric(metric: str) -> str:
    """Return the paper's metric that one of ours is: ``"ssim"`` for ``"ssim_hyper-paper"``.

    What the paper does not have keeps its name: ``"lsim_raw"``, or feature similarity of another network
    (``"fsim_dlib"``), whose numbers cannot be compared.
    """
    return "ssim" if metric.startswith("ssim_hyper-") else metric
