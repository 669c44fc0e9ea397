"""Pictures as the participant sees them: the stimuli with the fixation target over them, and a contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hyperdecode.files import atomic_path, sha256_bytes
from hyperdecode.stimuli.sheet import Section, contact_sheet
from hyperdecode.stimuli.target import draw_target
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.stimulus_set import FIXATION, SHEET, SHOWN, UNREADABLE, StimulusSet, open_picture, read_picture

__all__ = ["write_contact_sheet", "write_shown"]

MARK = "hyperdecode"
VERSION = 1
"""Raise it when the same settings give other pictures than before."""
MAX_FACES = 300
MAX_TEST = 200


def write_shown(
    study: Path, config: StudyConfig, stimuli: StimulusSet, *, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write ``stimuli/shown/NAME.png`` for each stimulus, ``stimuli/fixation.png`` and the contact sheet.

    The target has the size that it has to the eye: the picture's side is `viewing.picture_deg` wide, so these copies
    have ``size / picture_deg`` pixels a degree. The stimuli themselves, which are hashed and decoded, stay clean.
    Each file says in itself which picture and settings it was drawn from; one that is up to date is kept, so a killed
    run goes on. Copies of pictures that are no stimulus any more are removed.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    stimuli : StimulusSet
        As read or made: its hashes were checked.
    progress : callable, optional
        Called with (pictures done, pictures in all) for each picture that is drawn.

    Returns
    -------
    int
        Files written now.

    Raises
    ------
    UserError
        When a picture is unreadable.
    """
    view, folder = config.viewing, study / "stimuli"
    size = int(stimuli.settings["size"])
    pixels_per_deg = size / view.picture_deg
    look = f"{VERSION} {pixels_per_deg!r} {view.target_deg!r} {view.background}"

    def draw(path: Path, picture: NDArray[np.uint8], mark: str) -> None:
        drawn = draw_target(picture, pixels_per_deg, view.target_deg, view.background)
        note = PngInfo()
        note.add_text(MARK, mark)
        with atomic_path(path) as temporary:
            Image.fromarray(drawn).save(temporary, format="PNG", compress_level=3, pnginfo=note)

    marks = {
        name: sha256_bytes(f"{look} {sha256}".encode())
        for name, sha256 in zip(stimuli.manifest["stim_file"], stimuli.manifest["sha256"], strict=True)
    }
    for stray in {path.name for path in (folder / SHOWN).glob("*.png")} - marks.keys():
        (folder / SHOWN / stray).unlink()
    todo = [name for name, mark in marks.items() if _mark_of(folder / SHOWN / name) != mark]
    for done, name in enumerate(todo, start=1):
        draw(folder / SHOWN / name, read_picture(folder / name), marks[name])
        if progress:
            progress(len(marks) - len(todo) + done, len(marks))
    plain = sha256_bytes(f"{look} {size}".encode())
    alone = _mark_of(folder / FIXATION) != plain
    if alone:
        draw(folder / FIXATION, np.full((size, size, 3), view.background, np.uint8), plain)
    return len(todo) + alone + write_contact_sheet(stimuli, config.stimuli.test_repeats)


def write_contact_sheet(stimuli: StimulusSet, test_repeats: int) -> bool:
    """Write ``stimuli/contact-sheet.jpg``: test faces, then training faces, the number of the file under each.

    At most 300 faces stand on it, the first ones of each role; the headings say which.

    Parameters
    ----------
    stimuli : StimulusSet
    test_repeats : int
        How often a test face is shown, for the heading.

    Returns
    -------
    bool
        Whether it was written now; one that is up to date is kept.
    """
    test, train = stimuli.names("test"), stimuli.names("train")
    shown_test = test[: max(MAX_TEST, MAX_FACES - len(train))]
    shown_train = train[: MAX_FACES - len(shown_test)]
    content = " ".join([str(VERSION), str(test_repeats), str(len(test)), *stimuli.manifest["sha256"]])
    mark, path = sha256_bytes(content.encode()), stimuli.folder / SHEET
    if _mark_of(path) == mark:
        return False
    often = "once" if test_repeats == 1 else f"{test_repeats} times"
    sheet = contact_sheet(
        [
            Section(
                f"{_which(len(names), len(every))} {role} faces, each shown {times}",
                (read_picture(stimuli.folder / name) for name in names),
                [Path(name).stem for name in names],
            )
            for role, times, names, every in (
                ("test", often, shown_test, test),
                ("training", "once", shown_train, train),
            )
        ]
    )
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=88, comment=mark)
    return True


def _which(n_shown: int, n: int) -> str:
    return f"{n}" if n_shown == n else f"The first {n_shown} of {n}"


def _mark_of(path: Path) -> str | None:
    """Read what a PNG or JPEG of ours says it was drawn from; None where it is absent or says nothing."""
    try:
        with open_picture(path, "PNG", "JPEG") as picture:
            found = picture.info.get(MARK, picture.info.get("comment"))
    except UNREADABLE:
        return None
    return found.decode("ascii", "replace") if isinstance(found, bytes) else found
