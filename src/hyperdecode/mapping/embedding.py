"""Activations of any size as coordinates that keep every distance, from their inner products alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["embedded"]


def embedded(products: ArrayLike) -> NDArray[np.float64]:
    r"""Return coordinates with the given inner products.

    .. math:: K = A A^\top = U S U^\top, \qquad E = U S^{1/2}, \qquad E E^\top = K,

    so that all lengths, distances and angles between the rows of E are those of the rows of A. What only asks for
    these, ridge from voxels to activations and the Euclidean similarity of its predictions, gives the same on E as on
    A, however many features A has. A rotation learns nothing: rows of test faces may be in K, the ridge sees those of
    training faces.

    Parameters
    ----------
    products : array of shape (n, n)
        K: inner products of the activations of n faces, less any one vector that is the same for all.

    Returns
    -------
    array of shape (n, rank)
        E, directions of largest variance first; rank is at most n.

    Raises
    ------
    UserError
        When K is not square, not symmetric, not finite, or all faces are the same.
    """
    k = np.asarray(products, np.float64)
    if k.ndim != 2 or k.shape[0] != k.shape[1] or not np.isfinite(k).all():
        raise UserError(f"inner products of n faces must be finite and of shape (n, n), got shape {k.shape}")
    if not np.allclose(k, k.T, rtol=0, atol=1e-9 * np.abs(k).max(initial=0)):
        raise UserError("inner products are not symmetric: give A @ A.T")
    values, vectors = np.linalg.eigh((k + k.T) / 2)
    kept = values > len(k) * np.finfo(np.float64).eps * values[-1]
    if not values[-1] > 0:
        raise UserError("activations do not differ between the faces: take a deeper layer")
    coordinates: NDArray[np.float64] = (vectors[:, kept] * np.sqrt(values[kept]))[:, ::-1]
    return np.ascontiguousarray(coordinates)
