"""Voxels centred and scaled over the training trials: kept whole where they fit, else made anew block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hyperdecode.decoding.blocks import Responses
from hyperdecode.errors import UserError

__all__ = ["Standardised"]

PRODUCT_COLUMNS = 1024
"""Voxels (or trials) whose products are summed in float32 before the sum goes on in float64. Blocks are this wide, or
some times it, so that sums do not depend on how many voxels fit memory."""
CHUNK = 4096
"""Width of the pieces in which stores on disk keep voxels: wider blocks are cut there."""

BLOCK_BYTES = 2**28
"""A block of voxels, at most: wider ones are no faster, and reading one may take some times its size."""

ROW_BYTES = 2**27
"""Trials that are worked on at once, in bytes of float64: more are no faster."""


class Moments(NamedTuple):
    """Weighted mean, and weighted sum of squared deviations from it, of some voxels, float64."""

    mean: Tensor
    squares: Tensor


class Standardised:
    """Centred voxels, divided by their standard deviations where asked for.

    Statistics and products of float32 data are summed in float64, over blocks whose own sums are float32.

    Parameters
    ----------
    responses : Responses
        Of the training trials.
    weights : Tensor of shape (n_trials,), or None
        Of the trials, with a mean of 1.
    scaled : bool
        Divide each voxel by its weighted standard deviation.
    budget : int
        Bytes that blocks may take.

    Attributes
    ----------
    mean, scale : Tensor, (n_voxels,), float64
        Of the voxels, once `kernel` or `gram` went over them.
    kept : Tensor or None
        The standardised voxels, where they fit.
    """

    def __init__(self, responses: Responses, weights: Tensor | None, scaled: bool, budget: int) -> None:
        self.responses = responses
        n_trials, self.n_voxels = responses.shape
        device = responses.kind.device
        self.weights = torch.ones(n_trials, dtype=torch.float64, device=device)
        self.weighted = weights is not None
        if weights is not None:
            self.weights = weights.to(self.weights)
        self.scaled = scaled
        self.budget = budget
        self.mean = torch.zeros(self.n_voxels, dtype=torch.float64, device=device)
        self.scale = torch.ones_like(self.mean)
        self.kept: Tensor | None = None
        copies = 5 if responses.on_disk else 2
        self.whole = copies * n_trials * self.n_voxels * responses.itemsize <= budget

    def kernel(self) -> Tensor:
        """Return inner products of the trials, (n_trials, n_trials), float64, not weighted; reads everything once."""
        size = len(self.weights)
        total = torch.zeros(size, size, dtype=torch.float64, device=self.mean.device)
        for _, z in self._learnt_blocks():
            _add_products(total, z.T)
        return total

    def learn(self, sample: slice) -> Tensor:
        """Learn mean and scale, and return some standardised voxels, (n_trials, n_sample); reads everything once.

        `sample` has a step and neither start nor stop.
        """
        found = [z[:, -block.start % sample.step :: sample.step].clone() for block, z in self._learnt_blocks()]
        return torch.cat(found, 1)

    def _learnt_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of voxels, standardised, once their mean and scale are learnt; refuse bad ones at the end."""
        constant = bad = 0
        for block in self._column_blocks():
            z = self.responses.columns(block.start, block.stop)
            moments = self._moments(z, self.weights)
            bad += int((~torch.isfinite(moments.mean)).sum()) and int((~torch.isfinite(z)).any(0).sum())
            constant += self._learn(block, moments)
            z = self._standardise(z, block)
            yield block, z
            self.kept = z if self.whole else None
        self._refuse(bad, constant)

    def weighed_kernel(self, roots: Tensor) -> Tensor:
        """Return inner products of the trials once each voxel is multiplied by its root, (n_voxels,); after `learn`."""
        total = torch.zeros(len(self.weights), len(self.weights), dtype=torch.float64, device=self.mean.device)
        for block, z in self.columns():
            _add_products(total, (z * roots[block].to(z)).T)
        return total

    def sums(self, which: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return weighted sums over some trials: products of voxels, voxels, products with `latents`; after `learn`."""
        total = torch.zeros(self.n_voxels, self.n_voxels, dtype=torch.float64, device=self.mean.device)
        plain, cross = torch.zeros_like(self.mean), torch.zeros(self.n_voxels, latents.shape[1]).to(total)
        for rows in torch.split(which, self.n_rows):
            z, weights = self.rows(rows), self.weights[rows]
            _add_products(total, z * weights.sqrt().to(z)[:, None] if self.weighted else z)
            plain += weights @ z.double()
            cross += z.T.double() @ (weights[:, None] * latents[rows])
        return total, plain, cross

    def gram(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return inner products of voxels with each other and with weighted latents, float64; reads everything twice.

        `latents` are weighted and centred, (n_trials, n_latents); so are the trials that are summed.
        """
        self._learn_by_rows()
        if self.whole:
            self.kept = self._standardise(self.responses.rows(slice(None)), slice(None))
        total = torch.zeros(self.n_voxels, self.n_voxels, dtype=torch.float64, device=self.mean.device)
        cross = torch.zeros(self.n_voxels, latents.shape[1], dtype=torch.float64, device=self.mean.device)
        for rows in self._row_blocks():
            z = self.rows(rows)
            z = z * self.weights[rows].sqrt().to(z)[:, None] if self.weighted else z
            _add_products(total, z)
            cross += z.T.double() @ latents[rows]
        return total, cross

    @property
    def n_rows(self) -> int:
        """Trials that are worked on at once, where trials are."""
        return max(1, min(self.budget // 4, ROW_BYTES) // (8 * self.n_voxels))

    def trials(self, which: Tensor) -> Tensor:
        """Return weighted, standardised trials, float64."""
        z = self.rows(which).double()
        return z * self.weights[which].sqrt()[:, None] if self.weighted else z

    def rows(self, which: Tensor) -> Tensor:
        """Return standardised trials, not weighted."""
        if self.kept is not None:
            return self.kept[which]
        return self._standardise(self.responses.rows(which), slice(None))

    def _row_blocks(self) -> Iterator[Tensor]:
        yield from torch.split(torch.arange(len(self.weights), device=self.mean.device), self.n_rows)

    def columns(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield standardised voxels block by block, all trials of each."""
        for block in self._column_blocks():
            if self.kept is None:
                yield block, self._standardise(self.responses.columns(block.start, block.stop), block)
            else:
                yield block, self.kept

    def _column_blocks(self) -> Iterator[slice]:
        a_voxel = len(self.weights) * self.responses.itemsize
        each = max(1, min(self.budget // 3, BLOCK_BYTES) // a_voxel)
        step = next((step for step in (CHUNK, PRODUCT_COLUMNS) if each >= step), 1)
        width = self.n_voxels if self.whole else min(each // step * step, self.n_voxels)
        for start in range(0, self.n_voxels, width):
            yield slice(start, min(start + width, self.n_voxels))

    def _moments(self, block: Tensor, weights: Tensor) -> Moments:
        if not self.weighted:
            mean = block.mean(0, dtype=torch.float64)
            return Moments(mean, (block - mean.to(block)).square_().sum(0, dtype=torch.float64))
        mean = weights @ block.double() / weights.sum()
        return Moments(mean, weights @ (block - mean.to(block)).square_().double())

    def _learn_by_rows(self) -> None:
        """Merge the moments of blocks of trials (Chan, Golub & LeVeque 1983, Am. Stat. 37:242)."""
        total, found = 0.0, Moments(torch.zeros_like(self.mean), torch.zeros_like(self.mean))
        finite = torch.ones_like(self.mean, dtype=torch.bool)
        for rows in self._row_blocks():
            block, weights = self.responses.rows(rows), self.weights[rows]
            moments, more = self._moments(block, weights), float(weights.sum())
            finite &= torch.isfinite(moments.mean) | torch.isfinite(block).all(0)
            away, share = moments.mean - found.mean, more / (total + more)
            found = Moments(found.mean + share * away, found.squares + moments.squares + total * share * away.square())
            total += more
        bad = int((~finite).sum())
        self._refuse(bad, self._learn(slice(None), found))

    def _learn(self, block: slice, moments: Moments) -> int:
        """Keep mean and scale of some voxels, and return how many of them carry nothing."""
        spread = (moments.squares / self.weights.sum()).sqrt()
        self.mean[block] = moments.mean
        if self.scaled:
            self.scale[block] = spread
        tiny = 1e-12 if self.responses.kind.dtype == torch.float64 else 1e-6
        return int((spread <= tiny * torch.hypot(moments.mean, spread)).sum())

    def _refuse(self, bad: int, constant: int) -> None:
        self.responses.refuse_bad(bad)
        if constant:
            raise UserError(
                f"{constant} of {self.n_voxels} voxels are constant over the training trials: drop them from the mask"
            )

    def _standardise(self, values: Tensor, block: slice) -> Tensor:
        z = values - self.mean[block].to(values)
        return z.div_(self.scale[block].to(values)) if self.scaled else z


def _add_products(total: Tensor, rows: Tensor) -> None:
    """Add ``rows.T @ rows``."""
    if rows.dtype == torch.float64:
        total.addmm_(rows.T, rows)
        return
    for part in torch.split(rows, PRODUCT_COLUMNS):
        total += part.T @ part
