"""Faces for a journal: stimuli, reconstructions and what lies between (Figure 4), methods beside each other (7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.report.publication.style import (
    INCH,
    ONE_COLUMN,
    SMALLEST,
    TWO_COLUMNS,
    Plate,
    new_canvas,
    place_picture,
    styled,
)

__all__ = ["ChosenFaces", "choose_faces", "methods_plate", "score_words", "short_names", "ways_plate"]

Pictures = NDArray[np.uint8]

HEAD, FOOT, GAP = 3.6, 3.4, 0.7
"""Millimetres: names above, scores below, between two faces."""
LABEL_SIZE = 7.0
"""Points of the labels of rows."""
LETTER = 0.62 / 72 * INCH
"""Millimetres that a letter takes, a point of its size."""
FEW = 4
"""Faces that one column has room for."""


@dataclass(frozen=True)
class ChosenFaces:
    """The test faces that a figure shows, from the best decoded one to the worst.

    Attributes
    ----------
    places : sequence of int
        Of the faces among all test faces.
    names : sequence of str, length n
    scores : sequence of float, length n
    metric : str
        What they are ordered by, for readers.
    n_all : int
        Test faces there are.
    """

    places: Sequence[int]
    names: Sequence[str]
    scores: Sequence[float]
    metric: str
    n_all: int

    @property
    def words(self) -> str:
        """Say which faces these are, so that nobody takes them for picked ones."""
        n = len(self.places)
        which = f"All {n} test faces" if n == self.n_all else f"{n} of the {self.n_all} test faces"
        evenly = "" if n == self.n_all else ", at even distances in the order of their scores"
        return f"{which}{evenly}, from the best decoded one (left or top) to the worst, by their {self.metric}"


def choose_faces(names: Sequence[str], scores: NDArray[np.float64], n: int, metric: str) -> ChosenFaces:
    """Choose `n` faces at even distances from the best score to the worst, both among them.

    Parameters
    ----------
    names : sequence of str
        Of all test faces.
    scores : ndarray of float, one a face
    n : int
        At least 2, where there are so many.
    metric : str
        For readers.
    """
    if n < 2:
        raise UserError(f"a figure of faces shows at least 2, the best and the worst, got {n}")
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    places = order[np.unique(np.round(np.linspace(0, len(order) - 1, min(n, len(order)))).astype(int))]
    return ChosenFaces(
        [int(k) for k in places], [names[k] for k in places], [float(scores[k]) for k in places], metric, len(names)
    )


def ways_plate(ways: Pictures, chosen: ChosenFaces, label: str) -> Plate:
    """Draw Figure 4: the face that was shown, what was decoded, and faces on the way between the two.

    Parameters
    ----------
    ways : uint8 array of shape (n_faces, n_steps, side, side, 3)
        From decoded (first) to true (last).
    chosen : ChosenFaces
    label : str
        The subject.
    """
    steps = ways.shape[1]
    middle = [f"{step / (steps - 1):.0%}" for step in range(steps)]
    names = ["decoded", *middle[1:-1], "shown"]
    canvas = _grid([(names[k], ways[:, k]) for k in reversed(range(steps))], chosen)
    caption = (
        f"Reconstructions of {label}. Top row: faces that were shown. Bottom row: faces decoded from the responses. "
        f"Between them, without the brain: faces of latents on the straight line from the decoded (0%) to the true "
        f"latent (100%), which show what would have to change. {chosen.words}. All faces are generated."
    )
    return Plate(canvas, caption)


def methods_plate(
    shown: Pictures,
    decoded: Mapping[str, Pictures],
    best_possible: Mapping[str, Pictures],
    chosen: ChosenFaces,
    label: str,
) -> Plate:
    """Draw Figure 7: what methods make of the responses beside what each could make of the face itself.

    Parameters
    ----------
    shown : uint8 array of shape (n_faces, side, side, 3)
        Of the chosen faces, as all others.
    decoded, best_possible : mapping of str to such arrays
        Method to its pictures; each has a size of its own.
    chosen : ChosenFaces
    label : str
        The subject.
    """
    rows = [("shown", shown), *((name, pictures) for name, pictures in decoded.items())]
    rows += [(f"{name},\nno brain", pictures) for name, pictures in best_possible.items()]
    without = ", ".join(best_possible)
    caption = (
        f"Methods beside each other, {label}. Top row: faces that were shown. Then what each method makes of the same "
        f"responses: {', '.join(decoded)}. "
        + (
            f"Last rows, without the brain: what {without} make of the shown face's own code, the best that they could "
            "do; what is lost from there to the face from the brain is what decoding lost. "
            if without
            else ""
        )
        + f"{chosen.words}."
    )
    return Plate(_grid(rows, chosen), caption)


def _grid(rows: Sequence[tuple[str, Pictures]], chosen: ChosenFaces) -> Canvas:
    """Lay faces out in columns, with labels of rows on the left, names above and scores below."""
    n = len(chosen.names)
    width = ONE_COLUMN if n <= FEW else TWO_COLUMNS
    left = 2.0 + LABEL_SIZE * LETTER * max(len(line) for label, _ in rows for line in label.split("\n"))
    side = (width - left - (n - 1) * GAP) / n
    height = HEAD + len(rows) * (side + GAP) - GAP + FOOT
    with styled():
        canvas = new_canvas(width, height)
        for row, (label, pictures) in enumerate(rows):
            top = HEAD + row * (side + GAP)
            canvas.text(
                0, 1 - (top + side / 2) / height, label, ha="left", va="center", fontsize=LABEL_SIZE, linespacing=1.1
            )
            for column in range(n):
                place_picture(canvas, pictures[column], left + column * (side + GAP), top, side)
        names = short_names(chosen.names, int(side / (SMALLEST * LETTER)))
        for column, (name, score) in enumerate(zip(names, chosen.scores, strict=True)):
            x = (left + column * (side + GAP) + side / 2) / width
            canvas.text(x, 1 - (HEAD - 1.0) / height, name, ha="center", va="bottom", fontsize=SMALLEST)
            canvas.text(x, 0.4 / height, score_words(score), ha="center", va="bottom", fontsize=SMALLEST)
    return canvas


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Return names of at most so many letters, without what all begin with where they are longer."""
    if max(map(len, names)) <= most:
        return list(names)
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    # A number that only begins alike stays whole.
    shared = len("".join(letters[0] for letters in same).rstrip("0123456789"))
    ends = [name[shared:] or name for name in names]
    return [end if len(end) <= most else f"\N{HORIZONTAL ELLIPSIS}{end[-max(most - 1, 1) :]}" for end in ends]


def score_words(score: float) -> str:
    """Write a face's score."""
    return "\N{EN DASH}" if np.isnan(score) else f"{score:.2f}".replace("-", "\N{MINUS SIGN}")
