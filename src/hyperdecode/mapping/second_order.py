"""Searchlight-occlusion through a generator to second order: slopes at each face, curvature from some occlusions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.mapping.agreement import Agreement, layer_agreement
from hyperdecode.mapping.generator_occlusion import GeneratorOcclusion, occlude_through_generator
from hyperdecode.mapping.linear_occlusion import similarity_loss

__all__ = ["SecondOrder", "occlude_to_second_order", "second_order", "slopes"]

Array = NDArray[np.float64]
Exact = Callable[[GeneratorOcclusion, NDArray[np.intp]], Mapping[str, NDArray[Any]]]

BLOCK_CENTRES = 256
RIDGE = 1e-3
FLOOR = 1e-2
"""Of the mean square of the slopes in any direction, in units of its mean over directions."""


def slopes(problem: GeneratorOcclusion) -> dict[str, Array]:
    r"""Differentiate the squared distance of each prediction by its latent.

    .. math:: g_{ij} = \frac{2}{F v} J_i^\top (A(y_i) - a_j)

    with J the Jacobian of the activation A by the latents that pictures are made from, in standard deviations of w
    where there is a w: one product with it for each pair.

    Parameters
    ----------
    problem : GeneratorOcclusion

    Returns
    -------
    dict of str to array of float64
        For each layer (n_faces, n_faces, latent_dim), or (n_faces, 1, latent_dim) without `problem.pairs`.
    """
    crops, n = problem.crops, len(problem.latents)
    rows = np.indices((n, n)).reshape(2, -1) if problem.pairs else np.stack([np.arange(n)] * 2)
    found = {name: np.empty((rows.shape[1], problem.latents.shape[1])) for name in crops.layers}
    units = _units(problem)
    with torch.no_grad():
        at_faces = crops.picture_latents(torch.from_numpy(problem.latents)) / units
    # Everything between latents and activations is kept for the way back.
    size = max(1, problem.batch // 4)
    for at in range(0, rows.shape[1], size):
        part = slice(at, at + size)
        faces, against = rows[:, part]
        latents = at_faces[torch.from_numpy(faces)].requires_grad_()
        with torch.enable_grad():
            made = crops.maps(latents * units)
            for name in crops.layers:
                far = 2 * (problem.predicted[name][faces] - problem.true[name][against])
                cotangent = torch.from_numpy(far / _scale(problem, name)).to(made[name])
                (gradient,) = torch.autograd.grad(made[name], latents, cotangent, retain_graph=True)
                found[name][part] = gradient.numpy(force=True)
    return {name: values.reshape(n, -1, values.shape[1]) for name, values in found.items()}


def _scale(problem: GeneratorOcclusion, name: str) -> float:
    """Squared distance that counts as 1."""
    return len(problem.means[name]) * problem.variances[name]


def _units(problem: GeneratorOcclusion) -> torch.Tensor:
    generator, crops = problem.crops.generator, problem.crops
    spread = generator.w_statistics()[1] if "w" in generator.spaces else torch.ones(generator.latent_dim)
    return spread.to(crops.device, crops.dtype)


def _moves(problem: GeneratorOcclusion, centres: slice | NDArray[np.intp]) -> Array:
    """Return what occlusions do to latents that pictures are made from, exactly, (n_centres, n_faces, latent_dim)."""
    shifts, crops, units = problem.shifts.of(centres), problem.crops, _units(problem).double().numpy(force=True)
    if crops.space == "z" and "w" in crops.generator.spaces:
        with torch.no_grad():
            before = crops.picture_latents(torch.from_numpy(problem.latents))
            after = [crops.picture_latents(torch.from_numpy(problem.latents + shift)) - before for shift in shifts]
        return np.asarray(torch.stack(after).double().numpy(force=True) / units)
    spread = 1.0 if crops.scale is None else crops.scale[1].double().numpy(force=True)
    return np.asarray(shifts * (spread / units))


@dataclass(frozen=True)
class SecondOrder:
    """Losses to second order.

    Attributes
    ----------
    losses : dict of str to array
        As those of `hyperdecode.mapping.generator_occlusion.run_unit`, of all different neighbourhoods of the problem;
        where they were computed exactly, these.
    left_out : dict of str to array
        Of the neighbourhoods that were computed exactly: what is found when each of them alone is left out, as if it
        were any other. To be compared with the exact ones.
    """

    losses: Mapping[str, NDArray[Any]]
    left_out: Mapping[str, NDArray[Any]]


def second_order(
    problem: GeneratorOcclusion,
    sampled: NDArray[np.intp],
    exact: Mapping[str, NDArray[Any]],
    *,
    slope: Mapping[str, Array] | None = None,
    ridge: float = RIDGE,
) -> SecondOrder:
    r"""Find the losses of all neighbourhoods from those of some.

    With :math:`\delta` what an occlusion does to the latent of face i that its picture is made from (w, exactly, where
    z is decoded), the squared distance of its activation from that of face j grows by

    .. math:: \Delta_{ij}(\delta) \approx g_{ij}^\top \delta + \tfrac12 \delta^\top H_{ij} \delta .

    g comes from products with the Jacobian (`slopes`). H is the least matrix (weighed by `ridge` against the misfit)
    that explains what g leaves of the sampled occlusions s, in closed form:

    .. math:: \tfrac12 \delta^\top H_{ij} \delta = \sum_s \alpha_{ijs} (\delta^\top M \delta_s)^2 .

    M, the root of the mean of :math:`g_{ij} g_{ij}^\top` over all pairs of the layer, says what least means: little
    curvature where there is little slope.
    The second derivatives themselves are not taken: a network of leaky ReLUs bends at its kinks, which they do not see,
    and they would be needed for every pair. All H of a face share one decomposition.

    Parameters
    ----------
    problem : GeneratorOcclusion
    sampled : array of intp, shape (m,)
        Neighbourhoods (of the different ones) whose losses are known.
    exact : dict of str to array of shape (m, n_faces, n_faces), or (m, n_faces) without `problem.pairs`
        Those losses.
    slope : dict of str to array, optional
        Of `slopes`, where they are at hand.
    ridge : float
        In units of the mean of :math:`(\delta_s^\top M \delta_s)^2`.

    Returns
    -------
    SecondOrder

    Raises
    ------
    UserError
        When losses do not fit the sample, a neighbourhood is sampled twice, or fewer than two are.
    """
    n = len(problem.latents)
    shape = (len(sampled), n, n) if problem.pairs else (len(sampled), n)
    if len(sampled) < 2 or len(np.unique(sampled)) < len(sampled):
        raise UserError(f"curvature comes from two or more different occlusions, got {len(sampled)}: sample more")
    for name in problem.crops.layers:
        if name not in exact or exact[name].shape != shape:
            raise UserError(f"exact losses of layer {name} must have shape {shape}: give those of the sample")
    slope = slopes(problem) if slope is None else slope
    known = _moves(problem, sampled)
    metrics = {name: _half_metric(slope[name]) for name in problem.crops.layers}
    surfaces = {
        (name, face): _surface(
            known[:, face],
            slope[name][face],
            metrics[name],
            _grown(_distances(problem, name, face), exact[name][:, face].reshape(len(sampled), -1)),
            ridge,
        )
        for name in problem.crops.layers
        for face in range(n)
    }

    def losses(name: str, face: int, grown: Array) -> NDArray[Any]:
        values = similarity_loss(_distances(problem, name, face), grown, 1, 1.0)
        return values if problem.pairs else values[:, 0]

    left_out = {name: np.empty(shape, exact[name].dtype) for name in problem.crops.layers}
    found = {name: np.empty((len(problem.shifts), *shape[1:]), exact[name].dtype) for name in problem.crops.layers}
    for (name, face), surface in surfaces.items():
        left_out[name][:, face] = losses(name, face, surface.left_out)
    for at in range(0, len(problem.shifts), BLOCK_CENTRES):
        block = slice(at, at + BLOCK_CENTRES)
        moves = _moves(problem, block)
        for (name, face), surface in surfaces.items():
            found[name][block, face] = losses(name, face, surface.at(moves[:, face]))
    for name in problem.crops.layers:
        found[name][sampled] = exact[name]
    return SecondOrder(found, left_out)


def _distances(problem: GeneratorOcclusion, name: str, face: int) -> Array:
    """Squared distances of prediction `face` from those it is compared with, 1 for `_scale`."""
    compared = slice(None) if problem.pairs else slice(face, face + 1)
    return np.asarray(problem.distances[name][face, compared] / _scale(problem, name))


def _grown(squared: Array, losses: NDArray[Any]) -> Array:
    """How much squared distances have grown that lost so much similarity."""
    d, loss = np.sqrt(squared), losses.astype(np.float64)
    occluded = 1 / (1 / (1 + d) - loss) - 1
    # The difference of d alone would lose its digits.
    return np.asarray(loss * (1 + d) * (1 + occluded) * (d + occluded))


@dataclass(frozen=True)
class _Surface:
    """What the squared distances of one prediction grow by, to second order.

    Attributes
    ----------
    slope : array of shape (m, latent_dim)
    metric : array of shape (latent_dim, latent_dim)
        Half of M: ``M == metric @ metric.T``.
    known : array of shape (n_sampled, latent_dim)
        Moves times `metric`.
    weights : array of shape (n_sampled, m)
        Of the squared products with `known`.
    left_out : array of shape (n_sampled, m)
        What each known one is said to be when it alone is not known.
    """

    slope: Array
    metric: Array
    known: Array
    weights: Array
    left_out: Array

    def at(self, moves: Array) -> Array:
        """Return the growth (n, m) for moves (n, latent_dim)."""
        curved = np.square(moves @ self.metric @ self.known.T) @ self.weights
        return np.asarray(moves @ self.slope.T + curved)


def _half_metric(slope: Array) -> Array:
    """Fourth root of the mean of the slopes' outer products, with a floor where no pair has a slope."""
    rows = slope.reshape(-1, slope.shape[2])
    values, vectors = np.linalg.eigh(rows.T @ rows)
    mean = values.mean()
    return np.asarray(vectors * (np.maximum(values / mean, 0) + FLOOR) ** 0.25 if mean > 0 else vectors)


def _surface(moves: Array, slope: Array, metric: Array, grown: Array, ridge: float) -> _Surface:
    known = moves @ metric
    products = np.square(known @ known.T)
    size = float(np.diag(products).mean())
    if size == 0:
        return _Surface(slope, metric, known, np.zeros_like(grown), np.zeros_like(grown))
    inverse = np.linalg.inv(products + ridge * size * np.eye(len(known)))
    weights = inverse @ (grown - moves @ slope.T)
    return _Surface(slope, metric, known, weights, grown - weights / np.diag(inverse)[:, None])


def occlude_to_second_order(
    problems: Sequence[GeneratorOcclusion],
    *,
    others: Mapping[str, NDArray[Any]] | None = None,
    n_exact: int = 256,
    most: int = 2048,
    goal: float = 0.95,
    seed: int = 0,
    exact: Exact | None = None,
) -> tuple[dict[str, NDArray[Any]], Agreement]:
    """Return the losses of all centres to second order, and how far they agree with exact ones.

    A random sample of the neighbourhoods is computed exactly. Each of them is then found from the others and compared;
    as long as too few get the same layer the sample is doubled, up to `most` or half of all.

    Parameters
    ----------
    problems : sequence of GeneratorOcclusion
        Of the same neighbourhoods and faces, each with layers of its own.
    others : dict of str to array, optional
        Losses of further layers at all centres, known exactly, which take part in the choice of a centre's layer.
    n_exact, most : int
        Neighbourhoods that are computed exactly at first, and at most.
    goal : float
        Share of the sample that must get the same layer.
    seed : int
        Of the sample. A larger one begins with the smaller one.
    exact : callable, optional
        Given a problem and some of its (different) neighbourhoods, returns their exact losses. Default:
        `hyperdecode.mapping.generator_occlusion.occlude_through_generator` in this process.

    Returns
    -------
    losses : dict of str to array
        As `hyperdecode.mapping.generator_occlusion.occlude_through_generator` returns them, layers of `problems` alone.
    agreement : Agreement
        When it does not hold, the exact method is called for.

    Raises
    ------
    UserError
        When problems are of different neighbourhoods, layers come twice, or there are fewer than four neighbourhoods.
    """
    _require_same(problems)
    shifts = problems[0].shifts
    n, which = len(shifts), shifts.which
    most = min(most, n // 2)
    if min(n_exact, most) < 2:
        raise UserError(
            f"a sample of {min(n_exact, most)} of {n} neighbourhoods tells no curvature: occlude all exactly"
        )
    order = np.random.default_rng(seed).permutation(n)
    compute = exact or (lambda problem, centres: occlude_through_generator(problem.only(centres)))
    first_centres = np.unique(which, return_index=True)[1]
    known: list[dict[str, NDArray[Any]]] = [{} for _ in problems]
    slope = [slopes(problem) for problem in problems]
    done, size = 0, min(n_exact, most)
    while True:
        sampled, new = order[:size], order[done:size]
        for problem, kept in zip(problems, known, strict=True):
            for name, values in compute(problem, new).items():
                kept[name] = np.concatenate([kept[name], values]) if name in kept else values
        found = [
            second_order(problem, sampled, kept, slope=own)
            for problem, kept, own in zip(problems, known, slope, strict=True)
        ]
        apart = {name: values[first_centres[sampled]] for name, values in (others or {}).items()}
        agreement = layer_agreement(
            {name: values for kept in known for name, values in kept.items()} | apart,
            {name: values for one in found for name, values in one.left_out.items()} | apart,
            goal,
        )
        if agreement.holds or size == most:
            losses = {name: values[which] for one in found for name, values in one.losses.items()}
            return losses, agreement
        done, size = size, min(2 * size, most)


def _require_same(problems: Sequence[GeneratorOcclusion]) -> None:
    layers = [name for problem in problems for name in problem.crops.layers]
    if not layers or len(set(layers)) < len(layers):
        raise UserError(f"problems must have layers of their own, at least one, got {', '.join(layers) or 'none'}")
    first = problems[0]
    for problem in problems[1:]:
        same = np.array_equal(problem.shifts.neighbourhoods.members, first.shifts.neighbourhoods.members)
        if not same or len(problem.latents) != len(first.latents) or problem.pairs != first.pairs:
            raise UserError("problems are of different neighbourhoods or faces: make them from the same mask and faces")
