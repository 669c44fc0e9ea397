"""Attribute directions of a generator: faces labelled by classifiers, normals fitted, judged on held-out faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from hyperdecode.errors import UserError
from hyperdecode.features.eyeglasses import eyeglasses_scores
from hyperdecode.features.labels import FaceLabeller
from hyperdecode.files import atomic_path, sha256_file
from hyperdecode.generators.attributes import ATTRIBUTES, AttributeNormals, Boundary, extremes, fit_boundary
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.face_pool import CHUNK, SIDE, pool_chunks
from hyperdecode.stimuli.pictures import resize

__all__ = ["FittedAttributes", "LabelledPool", "fit_attributes", "label_pictures", "label_pool", "measure_flips"]

LABELLERS = "1"
"""Raised by hand whenever the classifiers would score a picture differently."""
TRAINING_SHARE = 0.8
CONFIDENT = (0.02, 0.05)
"""Shares of the held-out faces at each end whose labels count as confident; 2 % as InterFaceGAN."""
MAPPED_FACES = 200_000
MAPPED_FRACTION = 0.02
"""As InterFaceGAN: the extremes of many z teach the normal in z, here ranked by their w instead of their picture."""

Array = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LabelledPool:
    """Latents and labels of a pool, in the order of their seeds.

    Attributes
    ----------
    latents : dict of str to ndarray, (n, d)
        By space.
    labels : dict of str to ndarray, (n,)
        By attribute; scores of classifiers, higher is more.
    n_training : int
        The first faces, which may be fitted to; the rest is held out.
    """

    latents: Mapping[str, Array]
    labels: Mapping[str, Array]
    n_training: int


@dataclass(frozen=True)
class FittedAttributes:
    """Normals by space, and how well they do on faces that were not fitted to.

    Attributes
    ----------
    normals : dict of str to AttributeNormals
    accuracy : pandas.DataFrame
        One row an attribute and space: ``accuracy_2`` and ``accuracy_5`` on the 2 and 5 % of the held-out faces at
        each end, ``correlation`` of score and label over all ``n_held_out`` held-out faces.
    thresholds : dict of str to float
        Label from which a face counts as having the attribute: where the classifier itself decides, for age the
        median of the training faces.
    """

    normals: Mapping[str, AttributeNormals]
    accuracy: pd.DataFrame
    thresholds: Mapping[str, float]


def label_pictures(pictures: Tensor, labeller: FaceLabeller) -> dict[str, Array]:
    """Score each attribute of faces (n, 3, s, s) in -1..1 by its classifier: name -> (n,), higher is more."""
    found = labeller(pictures)
    glasses = eyeglasses_scores(pictures)
    return {"gender": found.female, "age": found.age, "eyeglasses": glasses, "smile": found.smile, "pose": found.yaw}


def label_pool(generator: Generator, faces: int, threads: int = 1, progress: Progress | None = None) -> LabelledPool:
    """Render a pool where it is not there yet and label it; both are kept in the cache, chunk by chunk.

    Parameters
    ----------
    generator : Generator
    faces : int
        Rounded up to whole chunks; a fifth of the chunks is held out.
    threads : int
        Threads of the classifiers.
    progress : callable, optional
        Called with (faces done, faces in all), each face twice: rendered, labelled.

    Raises
    ------
    UserError
        When fewer than five chunks are asked for, so that no faces can be held out.
    """
    n_chunks = -(-faces // CHUNK)
    if n_chunks < 5:
        raise UserError(f"{faces} faces are too few to fit attributes and hold some out: give at least {5 * CHUNK}")
    total = 2 * n_chunks * CHUNK
    chunks = pool_chunks(generator, faces, lambda done, _: progress(done, total) if progress else None)
    labeller: FaceLabeller | None = None
    parts = []
    for number, chunk in enumerate(chunks, start=1):
        path, key = chunk.with_name(chunk.name.replace("chunk", "labels")), f"{LABELLERS} {sha256_file(chunk)}"
        if not _has_key(path, key):
            labeller = labeller or FaceLabeller(threads)
            pictures = torch.from_numpy(load_file(chunk)["pictures"]).permute(0, 3, 1, 2) / 127.5 - 1
            with atomic_path(path) as temporary:
                save_file(label_pictures(pictures, labeller), temporary, metadata={"key": key})
        parts.append(load_file(path))
        if progress:
            progress(total // 2 + number * CHUNK, total)
    contents = [load_file(chunk) for chunk in chunks]
    spaces = [space for space in ("z", "w") if space in generator.spaces]
    return LabelledPool(
        {space: np.concatenate([content[space] for content in contents]) for space in spaces},
        {name: np.concatenate([part[name] for part in parts]) for name in ATTRIBUTES},
        int(TRAINING_SHARE * n_chunks) * CHUNK,
    )


def _has_key(path: Path, key: str) -> bool:
    try:
        with safe_open(path, framework="numpy") as labels:
            return bool((labels.metadata() or {}).get("key") == key)
    except (OSError, SafetensorError):
        return False


def fit_attributes(generator: Generator, pool: LabelledPool, fraction: float = 0.1, seed: int = 0) -> FittedAttributes:
    """Fit the normals of all attributes in each latent space (InterFaceGAN's recipe) and judge them.

    In w, or in z where there is no w, a linear SVM separates the training faces whose labels are extreme. With a w, the
    normal in z is learnt through the mapping network: many fresh z are ranked by the score of their w, which
    costs no pictures and so allows as many faces as InterFaceGAN had.

    Parameters
    ----------
    generator : Generator
    pool : LabelledPool
    fraction : float
        Share of the training faces taken from each end.
    seed : int
        Seed of the fresh z.

    Returns
    -------
    FittedAttributes
    """
    training = slice(0, pool.n_training)
    first = "w" if "w" in pool.latents else "z"
    fitted = {
        name: fit_boundary(pool.latents[first][training], pool.labels[name][training], fraction) for name in ATTRIBUTES
    }
    boundaries = {first: fitted}
    if first == "w":
        boundaries["z"] = _through_mapping(generator, fitted, seed)
    normals = {
        space: _normals(space, found, pool.latents[space][training]) for space, found in sorted(boundaries.items())
    }
    rows = [
        {"attribute": name, "space": space, **_judge(boundary, pool, name, space)}
        for space, found in boundaries.items()
        for name, boundary in found.items()
    ]
    thresholds = dict.fromkeys(ATTRIBUTES, 0.0) | {"age": float(np.median(pool.labels["age"][training]))}
    return FittedAttributes(normals, pd.DataFrame(rows), thresholds)


def _through_mapping(generator: Generator, in_w: Mapping[str, Boundary], seed: int) -> dict[str, Boundary]:
    z = torch.randn(MAPPED_FACES, generator.latent_dim, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        w = torch.cat([generator.to_w(some) for some in torch.split(z, 10_000)]).numpy(force=True)
    return {name: fit_boundary(z.numpy(), boundary.scores(w), MAPPED_FRACTION) for name, boundary in in_w.items()}


def _normals(space: str, found: Mapping[str, Boundary], latents: Array) -> AttributeNormals:
    scales = [float((latents @ boundary.normal).std()) if space == "w" else 1.0 for boundary in found.values()]
    return AttributeNormals(
        tuple(found),
        torch.from_numpy(np.stack([boundary.normal for boundary in found.values()])),
        torch.tensor([boundary.bias for boundary in found.values()]),
        torch.tensor(scales),
        space,
    )


def _judge(boundary: Boundary, pool: LabelledPool, name: str, space: str) -> dict[str, float]:
    latents, labels = pool.latents[space][pool.n_training :], pool.labels[name][pool.n_training :]
    scores = boundary.scores(latents)
    accuracy = {}
    for share in CONFIDENT:
        rows, positive = extremes(labels, share)
        accuracy[f"accuracy_{share * 100:.0f}"] = float(((scores[rows] > 0) == positive).mean())
    return {
        **accuracy,
        "correlation": float(np.corrcoef(scores, labels)[0, 1]),
        "n_held_out": len(labels),
    }


def measure_flips(
    generator: Generator,
    normals: AttributeNormals,
    thresholds: Mapping[str, float],
    latents: Tensor,
    amount: float = 3.0,
    keep: Sequence[str] = (),
    threads: int = 1,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Move held-out faces along each attribute towards the other label and count whose label flips.

    Parameters
    ----------
    generator : Generator
    normals : AttributeNormals
    thresholds : mapping
        See `FittedAttributes`.
    latents : Tensor, (n, d)
        Faces that nothing was fitted to, in the space of `normals`.
    amount : float
        Standard deviations of the score.
    keep : sequence of str
        Attributes whose scores are held while another is moved.
    threads : int
        Threads of the classifiers.
    progress : callable, optional
        Called with (faces done, faces in all).

    Returns
    -------
    pandas.DataFrame
        Share of the faces whose label (column) flips when they are moved along an attribute (row).
    """
    labeller = FaceLabeller(threads)
    side = min((s for s in generator.resolutions if s >= SIDE), default=generator.resolution)
    done, total = 0, len(latents) * (1 + len(normals.names))

    def labels(faces: Tensor) -> NDArray[np.bool_]:
        nonlocal done
        rows = []
        for face in faces:
            with torch.inference_mode():
                picture = resize(generator.images(face[None], space=normals.space, resolution=side), SIDE)
            found = label_pictures(picture.cpu(), labeller)
            rows.append([bool(found[name][0] > thresholds[name]) for name in normals.names])
            done += 1
            if progress:
                progress(done, total)
        return np.array(rows)

    before = labels(latents)
    shares = []
    for column, name in enumerate(normals.names):
        others = [other for other in keep if other != name]
        sign = torch.where(torch.from_numpy(before[:, column]), -1.0, 1.0)
        step = normals.move(torch.zeros_like(latents[:1]), name, amount, others)
        shares.append((labels(latents + sign[:, None] * step) != before).mean(0))
    return pd.DataFrame(shares, index=list(normals.names), columns=list(normals.names))
