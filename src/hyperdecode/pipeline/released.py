"""The HYPER authors' released files: found, read, and checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.features.base import FeatureNetwork
from hyperdecode.features.registry import load_feature_network
from hyperdecode.files import sha256_bytes, sha256_file
from hyperdecode.generators.attributes import AttributeNormals
from hyperdecode.generators.base import Generator
from hyperdecode.generators.registry import FAMILIES, build_generator, generator_names, load_generator
from hyperdecode.split import Split
from hyperdecode.weights.boundaries import boundary_name, read_boundary
from hyperdecode.weights.contents import Weights
from hyperdecode.weights.hyper_data import HyperData, read_hyper_data
from hyperdecode.weights.importing import convert, read_weights
from hyperdecode.weights.limits import shown

__all__ = ["PAPER_NETWORK", "Released", "ReleasedSubject", "data_name", "read_released"]

SUBJECTS = ("1", "2")
PAPER_NETWORK = "resnet50-vggface2"
WEIGHT_SUFFIXES = frozenset({".params", ".pkl", ".pth", ".pt", ".safetensors", ".xml", ".h5", ".hdf5"})
LISTED = 6
FEWEST_FACES = 4
"""As many as the interval of a correlation needs."""


def data_name(label: str) -> str:
    """Return the name of a subject's file in the authors' release."""
    return f"data_{label}.dat"


@dataclass(frozen=True)
class ReleasedSubject:
    """One subject of the release.

    Attributes
    ----------
    label : str
        ``"1"`` or ``"2"``, the paper's S1 and S2.
    path : pathlib.Path
        Its file.
    sha256 : str
        Of the file.
    data : HyperData
        Voxels without those that are constant over the training faces, test faces in the common order.
    kept : array of bool, (n_voxels_in_file,)
        Which of the file's voxels these are.
    reordered : bool
        Whether test faces were brought into the first subject's order.
    """

    label: str
    path: Path
    sha256: str
    data: HyperData
    kept: NDArray[np.bool_]
    reordered: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each training row, for steps that fit."""
        return ("train",) * len(self.data.x_train)


@dataclass(frozen=True)
class Released:
    """All that a reproduction starts from.

    Attributes
    ----------
    subjects : tuple of ReleasedSubject
    generator : Generator
    generator_source : str
        The file's name, or the name under which the generator is known here.
    network : FeatureNetwork
        Behind the feature similarity.
    attributes : AttributeNormals, optional
        The boundaries given.
    hashes : dict of str to str
        Every input file -> SHA-256.
    """

    subjects: tuple[ReleasedSubject, ...]
    generator: Generator
    generator_source: str
    network: FeatureNetwork
    attributes: AttributeNormals | None
    hashes: dict[str, str]

    @property
    def network_is_the_papers(self) -> bool:
        """Whether feature similarities may be compared with the paper's."""
        return self.network.name == PAPER_NETWORK

    @property
    def same_faces(self) -> bool:
        """Whether all subjects saw the same test faces."""
        first = self.subjects[0].data.t_test
        return all(np.array_equal(first, one.data.t_test) for one in self.subjects)


def read_released(
    folder: Path,
    generator: str | None = None,
    features: Path | None = None,
    boundaries: Path | None = None,
) -> Released:
    """Find and read the released files; no code in them is run.

    Parameters
    ----------
    folder : pathlib.Path
        Holds ``data_1.dat`` and ``data_2.dat``, and a file of the generator's parameters unless `generator` is given.
    generator : str, optional
        A file of a generator's parameters in any format of `hyperdecode.weights.importing`, or the name of a generator
        known here. Default: the one file of `folder` that holds such parameters.
    features : pathlib.Path, optional
        VGGFace2 weights of the ResNet50. Default: those in `folder`, else the network that ships (dlib's).
    boundaries : pathlib.Path, optional
        Folder of InterFaceGAN's ``*_boundary.npy``.

    Returns
    -------
    Released

    Raises
    ------
    UserError
        When a file is missing, subjects and generator do not fit together, or there are several generators to choose
        from.
    WeightFileError
        When a file is damaged or hostile.
    LeakageError
        When a test face was a training face.
    """
    paths = _data_files(folder)
    subjects = [_subject(label, path) for label, path in zip(SUBJECTS, paths, strict=True)]
    weights, unread = _weights_in(folder) if generator is None or features is None else ({}, [])
    network_file = features or next((p for p, w in weights.items() if w.family == PAPER_NETWORK), None)
    network, source, hashes = _generator(folder, generator, weights, unread)
    for subject in subjects:
        _refuse_other_width(subject, network)
    hashes |= {path.name: subject.sha256 for path, subject in zip(paths, subjects, strict=True)}
    if network_file is not None:
        hashes[network_file.name] = sha256_file(network_file)
    normals, boundary_hashes = _attributes(boundaries, network.latent_dim)
    return Released(
        tuple(_in_one_order(subjects)),
        network,
        source,
        _feature_network(network_file, weights),
        normals,
        hashes | boundary_hashes,
    )


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the one that holds {data_name('1')} and {data_name('2')}")
    paths = [folder / data_name(label) for label in SUBJECTS]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        there = ", ".join(shown(name) for name in names[:LISTED]) + (", ..." if len(names) > LISTED else "")
        raise UserError(
            f"{folder} lacks {' and '.join(missing)} (found: {there or 'nothing'}); expected "
            f"{data_name('1')}, {data_name('2')} and the generator's parameters (generator.params): download them "
            "from the authors' release"
        )
    return paths


def _subject(label: str, path: Path) -> ReleasedSubject:
    data = read_hyper_data(path)
    if min(len(data.t_test), len(data.t_train)) < FEWEST_FACES:
        raise UserError(
            f"{path.name}: {len(data.t_train)} training and {len(data.t_test)} test faces, expected {FEWEST_FACES} or "
            "more of each (the release has 1050 and 36)"
        )
    names = [sha256_bytes(row.tobytes()) for row in (*data.t_train, *data.t_test)]
    roles = ["train"] * len(data.t_train) + ["test"] * len(data.t_test)
    Split.of([f"{path.name}, face {name[:12]}" for name in names], roles)
    spread, size = np.ptp(data.x_train, axis=0), np.abs(data.x_train).max(0)
    kept = spread > 1e-6 * size
    if not kept.any():
        raise UserError(f"{path.name}: every voxel is constant over the training faces, expected responses (z-values)")
    data = replace(
        data, x_train=np.ascontiguousarray(data.x_train[:, kept]), x_test=np.ascontiguousarray(data.x_test[:, kept])
    )
    return ReleasedSubject(label, path, sha256_file(path), data, kept)


def _refuse_other_width(subject: ReleasedSubject, generator: Generator) -> None:
    found, voxels, wanted = subject.data.t_train.shape[1], len(subject.kept), generator.latent_dim
    if found == wanted:
        return
    if voxels == wanted:
        raise UserError(
            f"{subject.path.name}: responses and latents look swapped: the latents have {found} columns and the "
            f"responses {voxels}, as many as {generator.name} has latent dimensions; expected (X_train, T_train, "
            "X_test, T_test) with responses X and latents T"
        )
    raise UserError(
        f"{subject.path.name}: latents of {found} dimensions, but {generator.name} takes {wanted}: give the generator "
        "that made the faces (--generator)"
    )


def _in_one_order(subjects: Sequence[ReleasedSubject]) -> list[ReleasedSubject]:
    """Bring test faces into the first subject's order, where all saw the same ones."""
    first = [row.tobytes() for row in subjects[0].data.t_test]
    ordered = []
    for subject in subjects:
        places = {row.tobytes(): k for k, row in enumerate(subject.data.t_test)}
        order = [places.get(row, -1) for row in first]
        if len(places) != len(first) or sorted(order) != list(range(len(subject.data.t_test))):
            return list(subjects)
        if order != sorted(order):
            data = replace(subject.data, x_test=subject.data.x_test[order], t_test=subject.data.t_test[order])
            ordered.append(replace(subject, data=data, reordered=True))
        else:
            ordered.append(subject)
    return ordered


def _weights_in(folder: Path) -> tuple[dict[Path, Weights], list[WeightFileError]]:
    """Read those files of a folder that hold weights of a network known here; return also why others do not."""
    found, unread = {}, []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in WEIGHT_SUFFIXES:
            try:
                found[path] = convert(read_weights(path))
            except WeightFileError as error:
                unread.append(error)
    return found, unread


def _generator(
    folder: Path, chosen: str | None, weights: dict[Path, Weights], unread: Sequence[WeightFileError]
) -> tuple[Generator, str, dict[str, str]]:
    """Return the generator, what it was read from, and the hash of that file."""
    if chosen is not None:
        if not Path(chosen).is_file():
            if chosen in generator_names():
                return load_generator(chosen), chosen, {}
            raise UserError(
                f"no generator {shown(chosen)}: give a file of its parameters, or one of {', '.join(generator_names())}"
            )
        path = Path(chosen)
        return _built(convert(read_weights(path)), path)
    there = [path for path, found in weights.items() if found.family in FAMILIES]
    if len(there) == 1:
        return _built(weights[there[0]], there[0])
    if there:
        raise UserError(
            f"{folder} holds {len(there)} generators ({', '.join(shown(path.name) for path in there)}): "
            "say with --generator which one made the faces"
        )
    if len(unread) == 1:
        raise WeightFileError(f"{folder} holds no usable parameters of a generator: {unread[0]}")
    raise UserError(
        f"{folder} holds no parameters of a generator ({len(unread)} files looked like weights and are none); expected "
        "generator.params of the authors' release or another PGGAN file: put it there, or give --generator FILE"
    )


def _built(weights: Weights, path: Path) -> tuple[Generator, str, dict[str, str]]:
    if weights.family not in FAMILIES:
        raise UserError(f"{path.name} holds {weights.layout}, which is no generator: give the generator's parameters")
    return build_generator(weights, path.name), path.name, {path.name: sha256_file(path)}


def _feature_network(path: Path | None, weights: dict[Path, Weights]) -> FeatureNetwork:
    if path is None:
        return load_feature_network("dlib")
    return load_feature_network(PAPER_NETWORK, weights[path] if path in weights else convert(read_weights(path)))


def _attributes(folder: Path | None, latent_dim: int) -> tuple[AttributeNormals | None, dict[str, str]]:
    if folder is None:
        return None, {}
    files = sorted(folder.glob("*_boundary.npy")) if folder.is_dir() else []
    if not files:
        raise UserError(f"no *_boundary.npy in {folder}: give the folder of InterFaceGAN's boundaries in z")
    normals = {boundary_name(path): read_boundary(path) for path in files}
    for path, normal in zip(files, normals.values(), strict=True):
        if len(normal) != latent_dim:
            raise UserError(f"{path.name} has {len(normal)} dimensions, the latents have {latent_dim}: give others")
    vectors = torch.from_numpy(np.stack(list(normals.values())))
    found = AttributeNormals(tuple(normals), vectors, torch.zeros(len(vectors)), torch.ones(len(vectors)), "z")
    return found, {path.name: sha256_file(path) for path in files}
