r"""Whether layers are spread over regions otherwise than predictions of other faces would spread them.

Neighbouring voxels share most of their cubes, so voxels are no independent draws and must not be shuffled. What is
exchangeable under the null hypothesis is which face belongs to which prediction: the null is the layer of every voxel
when faces are paired anew, all voxels at once (`hyperdecode.mapping.map_inference`). Each map, observed or permuted,
gives a table of counts, regions x layers. All of them are standardised by the same means and spreads, those over
observed and permuted tables together: under the null the observed one is one of P + 1 equals, and p-values are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy

from hyperdecode.errors import UserError
from hyperdecode.mapping.regions import OTHER, OUTSIDE, RegionSet, layer_counts

__all__ = ["OrderTest", "RegionTest", "layer_tables", "order_test", "region_layer_test"]

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

ROUNDING = 1e-9
"""Statistics that differ by less, relative to the largest, are ties."""


@dataclass(frozen=True, eq=False)
class RegionTest:
    """Result of `region_layer_test`.

    Attributes
    ----------
    regions, layers : tuple of str
        Rows and columns.
    counts : ndarray of int64, shape (n_regions, n_layers)
        Voxels observed.
    null_mean, null_sd : ndarray of float64, shape (n_regions, n_layers)
        Of the counts, over permutations and the observed map together.
    z : ndarray of float64, shape (n_regions, n_layers)
        ``(counts - null_mean) / null_sd``; 0 where no map differs.
    p_cell : ndarray of float64, shape (n_regions, n_layers)
        Two-sided, of each cell alone.
    p_family : ndarray of float64, shape (n_regions, n_layers)
        Two-sided, of the largest ``|z|`` over all cells: the chance that any cell of a null map goes as far.
    deviation : float
        Sum of ``z ** 2`` over the cells.
    p_deviation : float
        Of `deviation`: whether the table as a whole differs from those of permuted pairings.
    association : float
        Likelihood ratio (G) of the counts against independence of region and layer.
    p_association : float
        Of `association`: whether regions differ in their layers by more than those of permuted pairings.
    n_permutations : int
    """

    regions: tuple[str, ...]
    layers: tuple[str, ...]
    counts: Counts
    null_mean: Array
    null_sd: Array
    z: Array
    p_cell: Array
    p_family: Array
    deviation: float
    p_deviation: float
    association: float
    p_association: float
    n_permutations: int

    def table(self) -> pd.DataFrame:
        """Return one row a region and layer: counts, null, z and p-values."""
        return pd.DataFrame(
            {
                "region": np.repeat(self.regions, len(self.layers)),
                "layer": np.tile(self.layers, len(self.regions)),
                "n_voxels": self.counts.ravel(),
                "null_mean": self.null_mean.ravel(),
                "null_sd": self.null_sd.ravel(),
                "z": self.z.ravel(),
                "p_cell": self.p_cell.ravel(),
                "p_family": self.p_family.ravel(),
            }
        )


@dataclass(frozen=True)
class OrderTest:
    """Result of `order_test`.

    Attributes
    ----------
    order : tuple of str
        The regions in the order tested.
    rho : float
        Rank correlation, over voxels, of the region's place in the order with the layer.
    p_value : float
        Two-sided.
    null_mean, null_sd : float
        Of rho, over permutations and the observed map together.
    n_voxels : int
        Voxels of the observed map that have a layer and lie in one of the regions.
    n_permutations : int
    """

    order: tuple[str, ...]
    rho: float
    p_value: float
    null_mean: float
    null_sd: float
    n_voxels: int
    n_permutations: int


def layer_tables(layers: ArrayLike, permuted: ArrayLike, regions: RegionSet, n_layers: int) -> Counts:
    """Count layers by region in the observed map and in each permuted one.

    Parameters
    ----------
    layers : array-like of int, shape (n_voxels,)
        Layer of each voxel, -1 for none.
    permuted : array-like of int, shape (n_permutations, n_voxels)
        The same under each permutation of the pairings, by the same rules (standardisation, threshold).
    regions : RegionSet
        Of the same voxels.
    n_layers : int

    Returns
    -------
    ndarray of int64, shape (1 + n_permutations, n_regions, n_layers)
        The observed table first.

    Raises
    ------
    UserError
        When shapes or layers do not fit, or there is no permutation.
    """
    null = np.asarray(permuted)
    if null.ndim != 2 or not null.shape[0]:
        raise UserError(
            f"permuted layers have shape (n_permutations, n_voxels) with at least one permutation, got {null.shape}"
        )
    return np.stack([layer_counts(one, regions, n_layers) for one in (np.asarray(layers), *null)])


def region_layer_test(
    layers: ArrayLike, permuted: ArrayLike, regions: RegionSet, layer_names: Sequence[str]
) -> RegionTest:
    r"""Test each region x layer, and the whole table, against permuted pairings.

    With the counts :math:`n_k` of the observed map (:math:`k = 0`) and of P permutations, per cell,

    .. math::
        z_k = \frac{n_k - \bar n}{s_n}, \qquad
        p = \frac{\#\{k : |z_k| \ge |z_0|\}}{P + 1}, \qquad
        p_\mathrm{family} = \frac{\#\{k : \max |z_k| \ge |z_0|\}}{P + 1},

    where mean and s run over all P + 1 and the maximum over all cells; k = 0 counts itself, so no p is below
    1 / (P + 1).

    Parameters
    ----------
    layers, permuted, regions
        As in `layer_tables`.
    layer_names : sequence of str
        The layers in the generator's order.

    Returns
    -------
    RegionTest

    Raises
    ------
    UserError
        As `layer_tables`.

    References
    ----------
    Nichols TE, Holmes AP (2002). Nonparametric permutation tests for functional neuroimaging. Hum. Brain Mapp.
    15:1-25 (the maximum). Phipson B, Smyth GK (2010). Stat. Appl. Genet. Mol. Biol. 9:39 (the observed map counts).
    """
    tables = layer_tables(layers, permuted, regions, len(layer_names))
    mean, sd = tables.mean(axis=0), tables.std(axis=0)
    z = np.divide(tables - mean, sd, out=np.zeros(tables.shape), where=sd > 0)
    size = np.abs(z).reshape(len(z), -1)
    deviation = (z**2).sum(axis=(1, 2))
    association = _likelihood_ratio(tables)
    shape = mean.shape
    return RegionTest(
        regions=regions.names,
        layers=tuple(layer_names),
        counts=tables[0],
        null_mean=mean,
        null_sd=sd,
        z=z[0],
        p_cell=np.array([_p(column) for column in size.T]).reshape(shape),
        p_family=np.array([_p(size.max(axis=1), own) for own in size[0]]).reshape(shape),
        deviation=float(deviation[0]),
        p_deviation=_p(deviation),
        association=float(association[0]),
        p_association=_p(association),
        n_permutations=len(tables) - 1,
    )


def order_test(
    layers: ArrayLike,
    permuted: ArrayLike,
    regions: RegionSet,
    n_layers: int,
    order: Sequence[str] | None = None,
) -> OrderTest:
    r"""Test whether the layer rises or falls along an order of regions.

    The statistic is Spearman's :math:`\rho` over voxels between place of the region and layer (ties take their mean
    rank); :math:`p = \#\{k : |\rho_k - \bar\rho| \ge |\rho_0 - \bar\rho|\} / (P + 1)` over the observed map and
    P permutations. A map in which all voxels have one layer has :math:`\rho = 0`.

    Parameters
    ----------
    layers, permuted, regions, n_layers
        As in `layer_tables`; layers in the generator's order.
    order : sequence of str, optional
        Regions, from first to last; voxels elsewhere take no part. Default: all of `regions` in their order, but those
        of other cortex and outside the atlas.

    Returns
    -------
    OrderTest

    Raises
    ------
    UserError
        As `layer_tables`, and for an order of fewer than two regions or of unknown or repeated ones.
    """
    chosen = tuple(order or (name for name in regions.names if name not in (OTHER, OUTSIDE)))
    unknown = [name for name in chosen if name not in regions.names]
    if unknown or len(chosen) < 2 or len(set(chosen)) != len(chosen):
        raise UserError(
            f"an order names two or more of the regions, each once, got {', '.join(chosen) or 'none'}"
            + (f": {', '.join(unknown)} is none of {', '.join(regions.names)}" if unknown else "")
        )
    rows = [regions.names.index(name) for name in chosen]
    tables = layer_tables(layers, permuted, regions, n_layers)[:, rows]
    rho = _rank_correlation(tables)
    return OrderTest(
        order=chosen,
        rho=float(rho[0]),
        p_value=_p(np.abs(rho - rho.mean())),
        null_mean=float(rho.mean()),
        null_sd=float(rho.std()),
        n_voxels=int(tables[0].sum()),
        n_permutations=len(tables) - 1,
    )


def _p(statistics: Array, own: float | None = None) -> float:
    """Return the share of all maps whose statistic is at least that of the observed one, which stands first."""
    observed = statistics[0] if own is None else own
    return float(np.mean(statistics >= observed - ROUNDING * np.abs(statistics).max()))


def _likelihood_ratio(tables: Counts) -> Array:
    r"""Return :math:`G = 2 \sum n \log (n / e)` of each table, e the product of its margins over its total."""
    rows, columns, total = tables.sum(axis=2), tables.sum(axis=1), tables.sum(axis=(1, 2))
    joint = xlogy(tables, tables).sum(axis=(1, 2)) + xlogy(total, total)
    return np.asarray(2 * (joint - xlogy(rows, rows).sum(axis=1) - xlogy(columns, columns).sum(axis=1)))


def _rank_correlation(tables: Counts) -> Array:
    """Return Spearman's correlation of row and column over the voxels counted in each table; 0 for constant ones."""
    rows, columns = tables.sum(axis=2), tables.sum(axis=1)
    along, across = _centred_ranks(rows), _centred_ranks(columns)
    product = np.einsum("kr,krl,kl->k", along, tables, across)
    spread = np.sqrt((rows * along**2).sum(axis=1) * (columns * across**2).sum(axis=1))
    return np.asarray(np.divide(product, spread, out=np.zeros(len(tables)), where=spread > 0))


def _centred_ranks(counts: Counts) -> Array:
    """Return the mean rank of each category less the mean of all ranks, (n_tables, n_categories)."""
    return np.asarray(np.cumsum(counts, axis=1) - counts / 2 - counts.sum(axis=1, keepdims=True) / 2)
