"""Predictions for released test faces judged: the paper's metrics, blind predictors, and both null hypotheses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hyperdecode.evaluation.metrics import lsim_scores
from hyperdecode.evaluation.pictures import ssim_scores
from hyperdecode.evaluation.random_null import random_latents_test
from hyperdecode.evaluation.summary import Evaluation, evaluate_features, evaluate_latents, evaluate_pictures
from hyperdecode.features.base import FeatureNetwork
from hyperdecode.pipeline.released import PAPER_NETWORK

__all__ = ["Faces", "Scorer", "fsim_name"]

FEATURE_SIDE, LARGEST_FULL = 224, 256
RANDOM_LATENTS = 1000
Latents = NDArray[Any]
Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Faces:
    """Pictures of one subject's test faces, uint8 (n, side, side, 3) each.

    Attributes
    ----------
    made, shown : ndarray
        Decoded faces and those shown, in one order.
    random : ndarray
        Faces of random latents.
    blind : mapping of str to ndarray
        Of blind predictors; one single picture stands for all faces.
    """

    made: Pictures
    shown: Pictures
    random: Pictures
    blind: Mapping[str, Pictures]


@dataclass(frozen=True)
class Scorer:
    """How predictions for released test faces are judged: the paper's metrics, blind predictors, both nulls.

    Attributes
    ----------
    network : FeatureNetwork
    n_permutations, seed : int
        Of the pairing test.
    """

    network: FeatureNetwork
    n_permutations: int
    seed: int

    @property
    def fsim(self) -> str:
        """Name of the feature similarity: that of another network than the paper's says which."""
        return fsim_name(self.network)

    def judged(self, predicted: Latents, true: Latents, training_mean: Latents, faces: Faces) -> Evaluation:
        """Return scores of latents (n, d) and of their pictures.

        The table has one column more than `hyperdecode.evaluation.summary.TABLE_COLUMNS`: ``p_random_latents``, of
        `hyperdecode.evaluation.random_null.random_latents_test`, NaN where it was not run.
        """
        n, seed = self.n_permutations, self.seed
        found = evaluate_latents(predicted, true, training_mean, n_permutations=n, seed=seed)
        found = found.joined(self._feature_similarity(faces))
        found = found.joined(evaluate_pictures(faces.made, faces.shown, faces.blind, n_permutations=n, seed=seed))
        nulls = self._of_random_latents(true, faces)
        p = [
            random_latents_test(nulls[metric], score, seed=seed) if metric in nulls else float("nan")
            for metric, score in zip(found.table["metric"], found.table["decoder"].astype(float), strict=True)
        ]
        return Evaluation(found.table.assign(p_random_latents=p), found.per_face)

    def features(self, pictures: Pictures) -> Latents:
        """Features of faces; for the paper's network at 224 px by nearest neighbours, as the authors' program does."""
        if self.network.name == PAPER_NETWORK or pictures.shape[1] < FEATURE_SIDE:
            size, nearest = (FEATURE_SIDE, FEATURE_SIDE), Image.Resampling.NEAREST
            pictures = np.stack([np.asarray(Image.fromarray(one).resize(size, nearest)) for one in pictures])
        with torch.inference_mode():
            tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
            return self.network.features(tensor).double().numpy()

    def _feature_similarity(self, faces: Faces) -> Evaluation:
        """``1 / (1 + mean squared error)`` of features, the authors' formula."""
        return evaluate_features(
            self.features(faces.made),
            self.features(faces.shown),
            {name: self.features(pictures) for name, pictures in faces.blind.items()},
            name=self.fsim,
            n_permutations=self.n_permutations,
            seed=self.seed,
        )

    def _of_random_latents(self, true: Latents, faces: Faces) -> dict[str, Latents]:
        """Scores (n_random, n_faces) of random latents and their pictures, by metric."""
        fresh = np.random.default_rng(self.seed).standard_normal((RANDOM_LATENTS, true.shape[1]))
        scores = {
            "lsim": lsim_scores(fresh, true),
            self.fsim: lsim_scores(self.features(faces.random), self.features(faces.shown)),
            "ssim_hyper-paper": ssim_scores(faces.random, faces.shown, "hyper-paper"),
        }
        if max(faces.shown.shape[1:3]) <= LARGEST_FULL:
            scores["ssim_hyper-code"] = ssim_scores(faces.random, faces.shown, "hyper-code")
        return scores


def fsim_name(network: FeatureNetwork) -> str:
    """``"fsim"`` of the paper's network, ``"fsim_dlib"`` of dlib's: numbers of two networks cannot be compared."""
    return "fsim" if network.name == PAPER_NETWORK else f"fsim_{network.name}"
