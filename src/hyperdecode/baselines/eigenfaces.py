"""Eigenfaces as a baseline: principal components of training pictures (Turk & Pentland 1991; Cowen et al. 2014)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor

from hyperdecode.baselines.base import Pictures, as_latents, to_tensor
from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.split import require_training

__all__ = ["N_COMPONENTS", "SIDE", "Eigenfaces", "fit_eigenfaces", "read_eigenfaces"]

N_COMPONENTS, SIDE = 512, 64
"""Of the paper's eigenfaces."""

SMALLEST_SHARE = 1e-9
"""Variance of a component, as a share of the largest one's, below which it is rounding."""
MAX_SIDE = 1024

Array = NDArray[np.float32]


class Eigenfaces:
    r"""Mean picture and principal components, each with the spread of the training pictures along it.

    .. math::
        z_k = \frac{v_k^\top (x - m)}{s_k \sqrt{p}}, \qquad \hat x = m + \sqrt{p} \sum_k s_k z_k v_k,

    with x the p = 3 side^2 values of a picture in -1..1, m the mean of the training pictures, v_k the orthonormal
    components and s_k the standard deviation (n - 1) of the training pictures along them, divided by
    :math:`\sqrt{p}`: a latent of 1 moves the picture by s_k, root mean square over its values. The latents of the
    training pictures have mean 0 and variance 1 in every dimension.

    Parameters
    ----------
    mean : array of float32, (p,)
        Channels first, then rows, then columns.
    components : array of float32, (latent_dim, p)
        Orthonormal rows, by falling variance.
    spread : array of float32, (latent_dim,)
        s_k.

    Raises
    ------
    UserError
        When the arrays do not fit together, are not finite, or a spread is not positive.

    References
    ----------
    Turk & Pentland 1991, J. Cogn. Neurosci. 3:71. Cowen, Chun & Kuhl 2014, NeuroImage 94:12.
    """

    name = "eigenfaces"

    def __init__(self, mean: ArrayLike, components: ArrayLike, spread: ArrayLike) -> None:
        self.mean, self.components, self.spread = (np.asarray(a, np.float32) for a in (mean, components, spread))
        shapes = [array.shape for array in (self.mean, self.components, self.spread)]
        side = round((self.mean.size / 3) ** 0.5)
        if side < 1 or shapes != [(3 * side**2,), (len(self.spread), 3 * side**2), (len(self.spread),)]:
            raise UserError(
                f"eigenfaces are a mean (p,), components (k, p) and spreads (k,) with p = 3 side^2, got {shapes}"
            )
        if not all(np.isfinite(array).all() for array in (self.mean, self.components, self.spread)):
            raise UserError("eigenfaces hold NaN or infinite values: fit them anew")
        if not len(self.spread) or not (self.spread > 0).all():
            raise UserError("every eigenface needs a positive spread: leave out those without, and keep at least one")
        self.side, self.latent_dim = side, len(self.spread)

    @property
    def latent_units(self) -> NDArray[np.float64]:
        """How far a latent of 1 moves a picture, (latent_dim,): see `hyperdecode.baselines.base.Baseline`."""
        return self.spread.astype(np.float64)

    def encode(self, pictures: Pictures) -> NDArray[np.float32]:
        """Latents of pictures, brought to `side` px first.

        Parameters
        ----------
        pictures : uint8 array of shape (n, height, height, 3)

        Returns
        -------
        array of float32, (n, latent_dim)

        Raises
        ------
        UserError
            When `pictures` are no such array.
        """
        away = _rows(pictures, self.side) - self.mean
        latents: NDArray[np.float32] = away @ self.components.T / (self.spread * self.mean.size**0.5)
        return latents

    def images(self, latents: NDArray[np.floating] | Tensor) -> Tensor:
        """Pictures of latents.

        Parameters
        ----------
        latents : array or Tensor, (n, latent_dim)

        Returns
        -------
        Tensor, (n, 3, side, side)
            float32 in -1..1; what the components make beyond is clipped.

        Raises
        ------
        UserError
            When latents have another shape or are not finite.
        """
        z = as_latents(latents, self.latent_dim, "eigenfaces").numpy()
        values = self.mean + (z * (self.spread * self.mean.size**0.5)) @ self.components
        return torch.from_numpy(values).reshape(-1, 3, self.side, self.side).clamp(-1, 1)

    def arrays(self) -> dict[str, Array]:
        """Arrays by name, as `read_eigenfaces` takes them out of a safetensors file."""
        named = {"mean": self.mean, "components": self.components, "spread": self.spread}
        return {name: np.ascontiguousarray(array) for name, array in named.items()}


def fit_eigenfaces(
    pictures: Pictures | Iterable[Pictures],
    roles: Sequence[str] | None,
    n_components: int = N_COMPONENTS,
    side: int = SIDE,
) -> Eigenfaces:
    r"""Find the principal components of training pictures.

    With n pictures X (n, p) less their mean, the components are
    :math:`v_k = X^\top u_k / \sqrt{\lambda_k}` of the eigenvectors u_k and eigenvalues :math:`\lambda_k` of the
    n x n matrix :math:`X X^\top`, in float64; where pictures outnumber their values, of :math:`X^\top X`. Signs are
    such that the largest value of each component is positive.

    Parameters
    ----------
    pictures : uint8 array of shape (n, height, height, 3), or an iterable of such arrays
        Batches are brought to `side` px one by one.
    roles : sequence of str or None
        Role of each picture; one that is not ``"train"`` is refused. None: the caller vouches for the pictures.
    n_components : int
        At most so many. n pictures have n - 1 components at most: see `Eigenfaces.latent_dim` for how many there are.
    side : int
        Of the pictures that the components make.

    Returns
    -------
    Eigenfaces

    Raises
    ------
    LeakageError
        When a picture is not of a training stimulus.
    UserError
        When there are fewer than two different pictures, or a number is not positive.
    """
    if n_components < 1 or not 1 <= side <= MAX_SIDE:
        raise UserError(
            f"eigenfaces need 1 component or more and a side of 1 to {MAX_SIDE}, got {n_components}, {side}"
        )
    if roles is not None:
        require_training(roles, len(roles), "eigenfaces")  # before a single picture is read
    batches = [pictures] if isinstance(pictures, np.ndarray) else pictures
    parts = [_rows(batch, side) for batch in batches]
    n = sum(map(len, parts))
    require_training(roles, n, "eigenfaces")
    if n < 2:
        raise UserError(f"eigenfaces need at least two training pictures, got {n}")
    x = np.concatenate(parts).astype(np.float64)
    mean = x.mean(0)
    x -= mean
    variances, components = _components(x, n_components)
    if not len(variances):
        raise UserError(f"the {n} training pictures are all the same: eigenfaces need different ones")
    return Eigenfaces(mean, components, np.sqrt(variances / (n - 1) / x.shape[1]))


def read_eigenfaces(data: bytes, source: str) -> Eigenfaces:
    """Read eigenfaces from the bytes of a safetensors file.

    Raises
    ------
    WeightFileError
        When they are damaged, or of something else.
    """
    try:
        arrays = load(data)
        return Eigenfaces(arrays["mean"], arrays["components"], arrays["spread"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightFileError(f"{source}: these are no eigenfaces ({reason}), remove it and run again") from None


def _rows(pictures: Pictures, side: int) -> Array:
    """Pictures as rows of values in -1..1, (n, 3 side^2)."""
    return to_tensor(pictures, side).flatten(1).numpy()


def _components(x: NDArray[np.float64], n_components: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums of squares along the first principal components of centred rows, and these, (k, p)."""
    n, p = x.shape
    values, vectors = np.linalg.eigh(x @ x.T if n <= p else x.T @ x)
    values, vectors = values[::-1][:n_components], vectors[:, ::-1][:, :n_components]
    kept = values > SMALLEST_SHARE * max(values[0], 0.0)
    kept[n - 1 :] = False  # the mean took one
    values, vectors = values[kept], vectors[:, kept]
    components = (vectors.T @ x) / np.sqrt(values)[:, None] if n <= p else vectors.T
    places = np.abs(components).argmax(1)
    signs = np.sign(components[np.arange(len(components)), places])
    return values, components * signs[:, None]
