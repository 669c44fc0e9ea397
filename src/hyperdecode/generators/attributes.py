"""Attributes of a face as directions in latent space (InterFaceGAN, Shen et al. 2020): score, move, condition, fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.svm import LinearSVC
from torch import Tensor

from hyperdecode.errors import UserError

__all__ = ["ATTRIBUTES", "AttributeNormals", "Boundary", "conditional_normal", "extremes", "fit_boundary"]

ATTRIBUTES = ("gender", "age", "eyeglasses", "smile", "pose")
"""The paper's five. Positive: female, older, with glasses, smiling, turned to the right of the picture."""

SOFTNESS = 0.75
"""The SVM's C times the number of faces. A hard margin (large C) finds the direction that tells faces apart, along
which little varies; this soft one leans towards the difference of the two groups' means, along which faces change."""
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Boundary:
    """A hyperplane in latent space: ``latent . normal + bias = 0``.

    Attributes
    ----------
    normal : ndarray, (d,)
        Of length one, towards more of the attribute.
    bias : float
    """

    normal: Array
    bias: float

    def scores(self, latents: Array) -> Array:
        """Signed distance (n,) of each latent (n, d) from the hyperplane."""
        distance: Array = latents @ self.normal + np.float32(self.bias)
        return distance


@dataclass(frozen=True)
class AttributeNormals:
    """Unit normals of several attributes in one latent space of one generator.

    Attributes
    ----------
    names : tuple of str
    normals : Tensor, (k, d)
        Each of length one.
    biases : Tensor, (k,)
        A latent has the attribute where ``latent . normal + bias > 0``; zero where that is not known.
    scales : Tensor, (k,)
        Standard deviation of ``latent . normal`` over sampled faces: the unit in which faces are moved. One in z.
    space : str
        ``"z"`` or ``"w"``.
    """

    names: tuple[str, ...]
    normals: Tensor
    biases: Tensor
    scales: Tensor
    space: str

    def scores(self, latents: Tensor) -> Tensor:
        """Scores (n, k) of latents (n, d): ``latent . normal``, as the paper correlates them (bias left out).

        Raises
        ------
        UserError
            When the latents have another number of dimensions.
        """
        self._check(latents)
        return latents @ self.normals.to(latents).T

    def direction(self, name: str, keep: Sequence[str] = ()) -> Tensor:
        """Return the unit direction (d,) that raises attribute `name` and leaves the scores of `keep` as they are."""
        normal = self.normals[self._index(name)]
        return conditional_normal(normal, [self.normals[self._index(other)] for other in keep])

    def move(self, latents: Tensor, name: str, amount: float, keep: Sequence[str] = ()) -> Tensor:
        """Move faces along an attribute.

        ``latent + amount * scale * direction``: `amount` counts standard deviations of the attribute's score
        among sampled faces. With `keep` the direction is made orthogonal to the normals of these attributes.

        Parameters
        ----------
        latents : Tensor, (n, d) or (n, layers, d)
        name : str
            Among `names`.
        amount : float
            Positive for more of the attribute.
        keep : sequence of str
            Attributes whose scores must not change.

        Returns
        -------
        Tensor, of the shape of `latents`

        Raises
        ------
        UserError
            For an unknown attribute, or latents of another number of dimensions.
        """
        self._check(latents)
        scale = self.scales[self._index(name)]
        return latents + amount * (scale * self.direction(name, keep)).to(latents)

    def cosines(self) -> Tensor:
        """Cosines (k, k) between the normals."""
        return self.normals @ self.normals.T

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise UserError(f"no attribute {name!r} in {self.space}: choose among {', '.join(self.names)}")
        return self.names.index(name)

    def _check(self, latents: Tensor) -> None:
        if latents.shape[-1] != self.normals.shape[1]:
            raise UserError(
                f"these attributes are directions in {self.normals.shape[1]} dimensions of {self.space}, "
                f"the latents have {latents.shape[-1]}"
            )


def conditional_normal(normal: Tensor, others: Sequence[Tensor]) -> Tensor:
    r"""Make a direction orthogonal to others: moving along it leaves their scores unchanged.

    :math:`n_\perp = (I - Q Q^\top) n / \|(I - Q Q^\top) n\|`, `Q` an orthonormal basis of the span of `others`
    (InterFaceGAN, section 3.3, "conditional manipulation").

    Parameters
    ----------
    normal : Tensor, (d,)
    others : sequence of Tensor, (d,)

    Returns
    -------
    Tensor, (d,)
        Of length one.

    Raises
    ------
    UserError
        When `normal` lies in the span of `others`, so that nothing is left of it.
    """
    unit = normal.double() / normal.double().norm()
    rest = unit
    if others:
        basis, _ = torch.linalg.qr(torch.stack([other.double() for other in others], dim=1))
        rest = unit - basis @ (basis.T @ unit)
    if rest.norm() < 1e-6:
        raise UserError("the direction lies in the span of those that shall be kept: keep fewer attributes")
    conditional: Tensor = (rest / rest.norm()).to(normal)
    return conditional


def extremes(scores: NDArray[np.floating], fraction: float) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Rows of the lowest and highest scores, and which of them are the highest.

    Parameters
    ----------
    scores : ndarray, (n,)
    fraction : float
        Share of the faces at each end, over 0 and at most 0.5.

    Returns
    -------
    rows : ndarray of int, (2 m,)
        ``m = floor(fraction n)`` lowest, then m highest.
    labels : ndarray of bool, (2 m,)

    Raises
    ------
    UserError
        When a score is not finite, the fraction is out of range, or fewer than one face lies at each end.
    """
    if not np.isfinite(scores).all():
        raise UserError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite: leave them out")
    count = int(fraction * len(scores)) if 0 < fraction <= 0.5 else 0
    if not count:
        raise UserError(f"a fraction of {fraction} of {len(scores)} faces leaves none at each end, use up to 0.5")
    order = np.argsort(scores, kind="stable")
    return np.concatenate([order[:count], order[-count:]]), np.arange(2 * count) >= count


def fit_boundary(latents: Array, scores: NDArray[np.floating], fraction: float) -> Boundary:
    """Separate the faces that clearly lack an attribute from those that clearly have it, by a linear SVM.

    Parameters
    ----------
    latents : ndarray, (n, d)
        Of training faces.
    scores : ndarray, (n,)
        A classifier's score of each picture; higher is more.
    fraction : float
        Share of the faces taken from each end; those between teach nothing.

    Returns
    -------
    Boundary

    Raises
    ------
    UserError
        See `extremes`.
    """
    rows, labels = extremes(scores, fraction)
    centre, spread = latents.mean(0), latents.std()
    svm = LinearSVC(C=SOFTNESS / len(rows), max_iter=20_000, random_state=0)
    svm.fit((latents[rows] - centre) / spread, labels)
    length = np.linalg.norm(svm.coef_[0])
    normal = (svm.coef_[0] / length).astype(np.float32)
    return Boundary(normal, float(svm.intercept_[0] / length * spread - normal @ centre))
