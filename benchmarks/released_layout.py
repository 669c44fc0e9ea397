"""Files in the layout of the HYPER authors' release, of two simulated subjects: to try `hyperdecode reproduce`.

    python -m benchmarks.released_layout OUT [--train 1050] [--test 36] [--voxels 4096] [--ceiling 0.1]
    hyperdecode reproduce hyper2021 OUT --generator mobilestylegan-ffhq --resolution 128

A voxel reads one layer of the generator (8 or 16 px) under a Gaussian receptive field, with weights of its own for
each channel; none reads latents. Training rows are single trials, test rows averages of 14. Both subjects see the same
faces. The files are pickles of lists of rows, as the authors' notebook loads them; hyperdecode itself never loads a
pickle.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hyperdecode.generators.base import Generator
from hyperdecode.generators.registry import load_generator

LAYERS = ("b8.conv2", "b16.conv2")
REPEATS, FIELD, CHUNK, CALIBRATION = 14, 0.15, 50, 50
Array = NDArray[np.float64]


def main() -> None:
    """Write ``data_1.dat`` and ``data_2.dat``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in (("train", 1050), ("test", 36), ("voxels", 4096), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ceiling", type=float, default=0.1, help="share of a trial's variance that the face explains")
    parser.add_argument("--generator", default="mobilestylegan-ffhq")
    wanted = parser.parse_args()
    generator = load_generator(wanted.generator)
    z = generator.sample(wanted.train + wanted.test, wanted.seed).numpy()
    readers = [Readers(generator, wanted.voxels, wanted.seed + k) for k in (1, 2)]
    driven = respond(generator, torch.from_numpy(z), readers)
    wanted.out.mkdir(parents=True, exist_ok=True)
    for k, responses in enumerate(driven, 1):
        noisy = with_noise(responses, wanted.train, wanted.ceiling, np.random.default_rng([wanted.seed, k]))
        parts = (noisy[: wanted.train], z[: wanted.train], noisy[wanted.train :], z[wanted.train :])
        content = tuple(list(np.ascontiguousarray(part, np.float32)) for part in parts)
        (wanted.out / f"data_{k}.dat").write_bytes(pickle.dumps(content, 4))


class Readers:
    """Voxels of one subject: layer, receptive field and channel weights of each."""

    def __init__(self, generator: Generator, n_voxels: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        with torch.inference_mode():
            maps = generator.activations(generator.sample(CALIBRATION, seed), LAYERS, space="z")
        self.layer = rng.integers(len(LAYERS), size=n_voxels)
        self.fields: list[Array] = []
        self.channels: list[Array] = []
        for k, name in enumerate(LAYERS):
            _, channels, side, _ = maps[name].shape
            mine = int((self.layer == k).sum())
            places = (np.arange(side) + 0.5) / side
            centres = rng.uniform(0.2, 0.8, size=(2, mine, 1))
            rows, columns = np.exp(-((places - centres) ** 2) / (2 * FIELD**2))
            self.fields.append((rows[:, :, None] * columns[:, None, :]).reshape(mine, -1))
            spread = maps[name].double().std((0, 2, 3)).numpy()
            self.channels.append(rng.standard_normal((mine, channels)) / spread)

    def respond(self, maps: dict[str, torch.Tensor]) -> Array:
        """Noiseless responses (n, voxels) to the activations of n faces."""
        n = len(maps[LAYERS[0]])
        responses = np.empty((n, len(self.layer)))
        for k, name in enumerate(LAYERS):
            seen = maps[name].double().flatten(2).numpy()
            for face in range(n):
                responses[face, self.layer == k] = ((self.channels[k] @ seen[face]) * self.fields[k]).sum(1)
        return responses


def respond(generator: Generator, z: torch.Tensor, readers: list[Readers]) -> list[Array]:
    """Noiseless responses of each subject to all faces."""
    parts: list[list[Array]] = [[] for _ in readers]
    with torch.inference_mode():
        for rows in torch.split(z, CHUNK):
            maps = generator.activations(rows, LAYERS, space="z")
            for mine, reader in zip(parts, readers, strict=True):
                mine.append(reader.respond(maps))
    return [np.concatenate(mine) for mine in parts]


def with_noise(responses: Array, n_train: int, ceiling: float, rng: np.random.Generator) -> Array:
    """Standardise over training faces and add the noise of a trial, in test rows that of an average."""
    train = responses[:n_train]
    signal = np.sqrt(ceiling) * (responses - train.mean(0)) / train.std(0)
    noise = np.sqrt(1 - ceiling) * rng.standard_normal(responses.shape)
    noise[n_train:] /= np.sqrt(REPEATS)
    return signal + noise


if __name__ == "__main__":
    main()
