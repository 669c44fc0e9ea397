"""The stimuli on disk: pictures, their latents, and a manifest that binds one to the other."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, sha256_bytes, sha256_file, write_text
from hyperdecode.generators.base import Generator, picture_latents
from hyperdecode.split import ROLES
from hyperdecode.stimuli.pictures import stimulus_pictures
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.reading import is_plain_name, load_json, load_table, one_line, read_regular, said
from hyperdecode.study.settings import StimulusSettings
from hyperdecode.weights.limits import shown

__all__ = [
    "FIXATION",
    "SHEET",
    "SHOWN",
    "UNREADABLE",
    "StimulusSet",
    "check_stimuli",
    "make_stimuli",
    "open_picture",
    "read_picture",
    "read_stimuli",
    "write_picture",
]

FOLDER = "stimuli"
MANIFEST = "manifest.tsv"
SETTINGS = "manifest.json"
LATENTS = "latents.safetensors"
SHOWN, FIXATION, SHEET = "shown", "fixation.png", "contact-sheet.jpg"
"""What `study.shown` draws from the stimuli, which are clean and alone are hashed and decoded."""
SINCE = {"crop": 1.0}
"""Settings that older stimuli do not name, and what they were made with."""
COLUMNS = ("stim_file", "role", "latent", "sha256", "latent_sha256")
MAX_PIXELS = 4096 * 4096
MAX_PICTURE_BYTES, MAX_LATENTS_BYTES = 2**28, 2**31
UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for pictures that are damaged or made to do harm."""
PART = 8
"""Pictures drawn at a time."""
TOLERANCE = 2
"""Grey levels by which a picture made again may differ (rounding of float32 on another machine)."""


@dataclass(frozen=True)
class StimulusSet:
    """Stimuli of a study as their manifest describes them.

    Attributes
    ----------
    folder : pathlib.Path
        ``STUDY/stimuli``.
    manifest : pandas.DataFrame
        One row a stimulus: ``stim_file``, ``role``, ``latent`` (row of `z` and `w`), ``sha256``, ``latent_sha256``.
    z, w : Tensor, (n, latent_dim)
        Latents; `w`, truncated as the settings say, is what the pictures were made from: z again where the
        generator has no w.
    settings : dict
        Generator, its fingerprint, truncation, sizes, seed, hash of the latents file.
    """

    folder: Path
    manifest: pd.DataFrame
    z: Tensor
    w: Tensor
    settings: dict[str, Any]

    def names(self, role: str) -> list[str]:
        """File names of the stimuli of one role, in manifest order."""
        return list(self.manifest.loc[self.manifest["role"] == role, "stim_file"])

    def require(self, names: list[str]) -> None:
        """Refuse names that are no stimulus of the manifest."""
        self._rows(names)

    def latents(self, names: list[str], space: str) -> Tensor:
        """Latents of the named stimuli in ``"z"`` or ``"w"``, (len(names), latent_dim)."""
        rows = self._rows(names)["latent"].to_numpy(copy=True)
        return {"z": self.z, "w": self.w}[space][torch.as_tensor(rows)]

    def roles(self, names: list[str]) -> list[str]:
        """Role (``"train"`` or ``"test"``) of each named stimulus."""
        return [str(role) for role in self._rows(names)["role"]]

    def pictures(self, names: list[str]) -> NDArray[np.uint8]:
        """Pictures of the named stimuli, (n, size, size, 3)."""
        return np.stack([read_picture(self.folder / name) for name in names])

    def _rows(self, names: list[str]) -> pd.DataFrame:
        rows = self.manifest.set_index("stim_file")
        missing = [name for name in names if name not in rows.index]
        if missing:
            raise UserError(
                f"{shown(missing[0])} is no stimulus of {self.folder / MANIFEST}: name its stimuli in stim_file"
            )
        return rows.loc[names]


def make_stimuli(
    study: Path,
    config: StudyConfig,
    generator: Generator,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    side_by_side: Callable[[Callable[[range], int], Sequence[range]], Iterable[tuple[range, int]]] | None = None,
) -> StimulusSet:
    """Sample latents, make the faces, write them with their manifest.

    A killed run goes on: pictures that exist are kept when they are the ones that the settings give, since
    latents come from the seed; the manifest is written last.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    generator : Generator
    force : bool
        Replace stimuli that other settings made.
    progress : callable, optional
        Called with (pictures done, pictures in all).
    side_by_side : callable, optional
        Given what draws a range of the missing pictures and all ranges, yields each as it is drawn, in any order (a
        cluster that shares the folder, say). Default: one after the other in this process.

    Returns
    -------
    StimulusSet

    Raises
    ------
    UserError
        When the folder holds stimuli of other settings and `force` is not given.
    """
    folder = study / FOLDER
    wanted = config.stimuli
    n = wanted.n_train + wanted.n_test
    settings: dict[str, Any] = {
        "generator": generator.name,
        "fingerprint": generator.fingerprint,
        "picture_fingerprint": generator.picture_fingerprint(wanted.render),
        "seed": config.seed,
        # How often a face is shown does not change how it looks.
        **wanted.model_dump(exclude={"test_repeats"}),
    }
    if _prepared(folder, settings, force):
        return read_stimuli(study)
    z = generator.sample(n, config.seed)
    with torch.inference_mode():
        w = picture_latents(generator, z, wanted.truncation)
    roles = ["test"] * wanted.n_test + ["train"] * wanted.n_train
    names = [f"test-{i + 1:04d}.png" for i in range(wanted.n_test)]
    names += [f"train-{i + 1:04d}.png" for i in range(wanted.n_train)]
    todo = [i for i, name in enumerate(names) if not (folder / name).exists()]
    # Sizes that cannot be made are refused before there is a folder.
    stimulus_pictures(generator, w[:0], render=wanted.render, size=wanted.size, crop=wanted.crop)
    draw = partial(_draw, generator, w[todo], wanted, [folder / names[i] for i in todo])
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
    n_done = n - len(todo)
    parts = [range(start, min(start + PART, len(todo))) for start in range(0, len(todo), PART)]
    for _, drawn in (side_by_side or _in_order)(draw, parts):
        n_done += drawn
        if progress:
            progress(n_done, n)
    with atomic_path(folder / LATENTS) as temporary:
        save_file({"z": z.contiguous(), "w": w.clone().contiguous()}, temporary)
    manifest = pd.DataFrame(
        {
            "stim_file": names,
            "role": roles,
            "latent": np.arange(n),
            "sha256": [sha256_file(folder / name) for name in names],
            "latent_sha256": [_latent_hash(z[i], w[i]) for i in range(n)],
        }
    )
    settings["latents_sha256"] = sha256_file(folder / LATENTS)
    write_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
    with atomic_path(folder / MANIFEST) as temporary:
        manifest.to_csv(temporary, sep="\t", index=False)
    return StimulusSet(folder, manifest, z, w, settings)


def _draw(generator: Generator, w: Tensor, wanted: StimulusSettings, paths: Sequence[Path], part: range) -> int:
    """Make some of the pictures of latents w and write them; return how many."""
    rows = slice(part.start, part.stop)
    made = stimulus_pictures(generator, w[rows], render=wanted.render, size=wanted.size, crop=wanted.crop)
    for path, picture in zip(paths[rows], made, strict=True):
        write_picture(path, picture)
    return len(part)


def _in_order(draw: Callable[[range], int], parts: Sequence[range]) -> Iterator[tuple[range, int]]:
    for part in parts:
        yield part, draw(part)


def read_stimuli(study: Path) -> StimulusSet:
    """Read the manifest and latents of a study and check that pictures and latents are the ones it names.

    Raises
    ------
    UserError
        When a file is absent, or a picture or latent was changed since the manifest was written.
    """
    folder = study / FOLDER
    try:
        settings = load_json(folder / SETTINGS)
        manifest = load_table(folder / MANIFEST)
        data = read_regular(folder / LATENTS, MAX_LATENTS_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} has no readable manifest and latents ({one_line(error)}): run `hyperdecode stimuli {study}`"
        ) from None
    _require_manifest(folder, settings, manifest)
    again = f"restore it from your copy, or make all stimuli anew with `hyperdecode stimuli {study} --force`"
    if sha256_bytes(data) != settings.get("latents_sha256"):
        raise UserError(f"{folder / LATENTS} was changed since the manifest was written: {again}")
    z, w = _latents(data, folder / LATENTS, again)
    if int(manifest["latent"].max()) >= len(z):
        raise UserError(
            f"{folder / MANIFEST} and {LATENTS} do not belong together (a latent beyond the last of {len(z)}): {again}"
        )
    for name, latent, sha256, latent_sha256 in zip(
        *(manifest[column] for column in ("stim_file", "latent", "sha256", "latent_sha256")), strict=True
    ):
        if _latent_hash(z[latent], w[latent]) != latent_sha256:
            raise UserError(f"{folder / MANIFEST} binds {name} to another latent than it was made from: {again}")
        path = folder / name
        # Links are how git-annex keeps files: into the study they may lead, not out of it.
        inside = path.resolve().is_relative_to(folder.parent.resolve())
        if not inside or not path.is_file() or sha256_file(path) != sha256:
            raise UserError(f"{path} is absent or was changed since the manifest was written: {again}")
    return StimulusSet(folder, manifest, z, w, settings)


def _latents(data: bytes, path: Path, again: str) -> tuple[Tensor, Tensor]:
    try:
        found = load(data)
        z, w = found["z"], found["w"]
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds no latents z and w ({one_line(error)}): {again}") from None
    for latents in (z, w):
        if latents.ndim != 2 or len(latents) != len(z) or latents.dtype not in (torch.float32, torch.float64):
            raise UserError(f"{path} holds no two matrices of numbers, z and w, of as many rows: {again}")
        if not bool(latents.isfinite().all()):
            raise UserError(f"{path} holds NaN or infinite values: {again}")
    return z, w


def check_stimuli(stimuli: StimulusSet, generator: Generator, *, n: int = 8, seed: int = 0) -> int:
    """Make pictures again from their latents and compare them with the files.

    Parameters
    ----------
    stimuli : StimulusSet
        As read by `read_stimuli`.
    generator : Generator
    n : int
        How many, drawn at random.
    seed : int
        Seed of the draw.

    Returns
    -------
    int
        The largest difference in grey levels (0-255), at most `TOLERANCE`.

    Raises
    ------
    UserError
        When the generator is another one, or a picture differs by more than rounding.
    """
    settings = stimuli.settings
    found = generator.picture_fingerprint(settings["render"])
    if found != settings.get("picture_fingerprint"):
        raise UserError(
            f"the stimuli were made by {settings['generator']} {str(settings.get('picture_fingerprint'))[:12]}, "
            f"this is {generator.name} {found[:12]}: use that version, or make the stimuli anew"
        )
    rows = np.random.default_rng(seed).permutation(len(stimuli.manifest))[:n]
    names = list(stimuli.manifest["stim_file"].iloc[rows])
    w = stimuli.latents(names, "w")
    crop = settings.get("crop", SINCE["crop"])
    again = stimulus_pictures(generator, w, render=settings["render"], size=settings["size"], crop=crop)
    worst = 0
    for name, picture, seen in zip(names, again, stimuli.pictures(names), strict=True):
        difference = int(np.abs(picture.astype(int) - seen.astype(int)).max())
        if difference > TOLERANCE:
            raise UserError(
                f"{name} differs by {difference} grey levels from what its latent gives: make the stimuli anew"
            )
        worst = max(worst, difference)
    return worst


def _prepared(folder: Path, settings: dict[str, Any], force: bool) -> bool:
    """Whether these very stimuli are complete already; refuse others, or delete them when forced."""
    if force:
        drawn = (*(folder / SHOWN).glob("*.png"), folder / FIXATION, folder / SHEET)
        for file in (*folder.glob("*.png"), *drawn, folder / MANIFEST, folder / LATENTS):
            file.unlink(missing_ok=True)
        return False
    if not (folder / SETTINGS).exists():
        if any(folder.glob("*.png")):
            raise UserError(f"{folder} holds pictures and no {SETTINGS} that says how they were made: move them away")
        return False
    try:
        content = load_json(folder / SETTINGS)
    except (OSError, ValueError):
        content = None
    found = content if isinstance(content, dict) else {}
    found = SINCE | found
    differing = [key for key, value in settings.items() if found.get(key) != value]
    if differing:
        raise UserError(
            f"{folder} holds stimuli made with {differing[0]} = {said(found.get(differing[0]))}, "
            f"not {settings[differing[0]]!r}: give --force to replace them, or use another folder"
        )
    return (folder / MANIFEST).exists()


def _require_manifest(folder: Path, settings: Any, manifest: pd.DataFrame) -> None:
    """Refuse a manifest that lacks a column, names a file twice or outside the folder, or gives an unknown role."""
    if not isinstance(settings, dict):
        raise UserError(f"{folder / SETTINGS} must hold a JSON object: restore it from your copy")
    problem = None
    missing = [column for column in COLUMNS if column not in manifest.columns]
    if missing:
        problem = f"lacks the column {missing[0]!r}"
    elif not manifest["role"].isin(ROLES).all():
        problem = f"has a role other than {' and '.join(ROLES)}"
    elif not manifest["stim_file"].is_unique:
        problem = f"names {shown(manifest['stim_file'][manifest['stim_file'].duplicated()].iloc[0])} twice"
    elif not manifest["stim_file"].map(is_plain_name).all():
        problem = "names a file outside its folder"
    elif not pd.api.types.is_integer_dtype(manifest["latent"]) or (manifest["latent"] < 0).any():
        problem = "has a latent that is not a row number"
    if problem:
        raise UserError(f"{folder / MANIFEST} {problem}: restore it from your copy")


def _latent_hash(z: Tensor, w: Tensor) -> str:
    return sha256_bytes(z.contiguous().numpy().tobytes() + w.contiguous().numpy().tobytes())


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a PNG of bounded size as 8-bit RGB, (h, w, 3)."""
    try:
        with open_picture(path, "PNG") as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(f"{path} claims {picture.width} x {picture.height} px, more than any stimulus")
            return np.asarray(picture.convert("RGB"))
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path} is not a readable PNG ({one_line(error)}): make or copy it again") from None


@contextmanager
def open_picture(path: Path, *formats: str) -> Iterator[Image.Image]:
    """Open a regular file of bounded size as a picture of the formats named; raises one of `UNREADABLE`."""
    with warnings.catch_warnings():
        # Of large pictures and odd chunks: what is too large is refused.
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(read_regular(path, MAX_PICTURE_BYTES)), formats=formats) as picture:
            yield picture


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture (h, w, 3) as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=3)
