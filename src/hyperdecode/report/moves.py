"""Test faces on their way from the decoded face: sheets of pictures that the report's sliders choose from."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from hyperdecode.errors import UserError

__all__ = ["FaceMoves", "move_sheet", "moved", "moves_view"]

COLUMNS = 5
QUALITY = 75
"""Of the WebP, which is as good as a JPEG of a fifth more bytes (benchmarks/moves.py)."""


@dataclass(frozen=True)
class FaceMoves:
    """Pictures of one subject's test faces, moved from the decoded face.

    The tiles of a sheet, row by row, `COLUMNS` a row: the faces of `between`, then for each attribute those of
    `amounts`.

    Attributes
    ----------
    label : str
        ``"sub-01"``.
    side : int
        Pixels of a tile's side.
    between : sequence of float
        Shares of the way from the decoded (0) to the true latent (1); these two are the first and the last.
    attributes : sequence of str
        Names.
    amounts : sequence of float
        Moves along an attribute, ascending, without 0; in standard deviations over the study's faces.
    decoded, true : ndarray of shape (n_faces, n_attributes)
        Scores of the decoded and of the shown face, in the same unit, from the generator's mean face.
    sheets : sequence of bytes, length n_faces
        A WebP a face (`move_sheet`).

    Raises
    ------
    UserError
        When the parts do not belong together.
    """

    label: str
    side: int
    between: Sequence[float]
    attributes: Sequence[str]
    amounts: Sequence[float]
    decoded: NDArray[np.float64]
    true: NDArray[np.float64]
    sheets: Sequence[bytes]

    def __post_init__(self) -> None:
        wanted = (len(self.sheets), len(self.attributes))
        if self.decoded.shape != wanted or self.true.shape != wanted:
            raise UserError(
                f"{self.label}: attribute scores of shapes {self.decoded.shape} and {self.true.shape} came with "
                f"{wanted[0]} sheets and {wanted[1]} attributes: give both of shape {wanted}"
            )
        if not self.between or self.between[0] != 0 or self.between[-1] != 1:
            raise UserError(f"{self.label}: the way from decoded to true goes from 0 to 1, got {self.between}")


def moved(line: ArrayLike, directions: ArrayLike, amounts: Sequence[float]) -> NDArray[np.float64]:
    r"""Return the latents behind the tiles of one face's sheet.

    Those of the line from the decoded to the true latent, then, for each direction :math:`d_k` and amount `a`,
    :math:`\hat w + a d_k`.

    Parameters
    ----------
    line : array-like of shape (n_between, n_latents)
        Its first row is the decoded latent.
    directions : array-like of shape (n_attributes, n_latents)
        Steps along which an attribute's score rises by 1.
    amounts : sequence of float
        How many of them.

    Returns
    -------
    ndarray of shape (n_between + n_attributes * n_amounts, n_latents)
    """
    way, steps = np.asarray(line, np.float64), np.asarray(directions, np.float64)
    along = way[0] + np.asarray(amounts, np.float64)[None, :, None] * steps[:, None]
    return np.concatenate([way, along.reshape(-1, way.shape[1])])


def move_sheet(pictures: NDArray[np.uint8]) -> bytes:
    """Lay the tiles of a face out, `COLUMNS` a row, as a WebP.

    Parameters
    ----------
    pictures : uint8 array of shape (n_tiles, side, side, 3)
    """
    n, side = pictures.shape[:2]
    rows = -(-n // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, side, side, 3), np.uint8)
    tiles[:n] = pictures
    sheet = tiles.reshape(rows, COLUMNS, side, side, 3).swapaxes(1, 2).reshape(rows * side, COLUMNS * side, 3)
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "WEBP", quality=QUALITY, method=4)
    return stream.getvalue()


def moves_view(moves: Sequence[FaceMoves], names: Sequence[str]) -> dict[str, object] | None:
    """Return what the page's script is handed; None where there is nothing to move.

    Parameters
    ----------
    moves : sequence of FaceMoves
        One a subject; all with the same attributes.
    names : sequence of str
        Test faces.

    Returns
    -------
    dict or None
        ``head``, small and read at once; ``sheets``, an (id, base64) a subject and face, which the page decodes when
        its face is looked at.
    """
    if not moves:
        return None
    first = moves[0]
    head = {
        "faces": list(names),
        "side": first.side,
        "columns": COLUMNS,
        "between": list(first.between),
        "attributes": list(first.attributes),
        "amounts": list(first.amounts),
        "subjects": [
            {"label": one.label, "decoded": _rounded(one.decoded), "true": _rounded(one.true)} for one in moves
        ],
    }
    sheets = [
        (f"sheet-{place}-{face}", base64.b64encode(sheet).decode("ascii"))
        for place, one in enumerate(moves)
        for face, sheet in enumerate(one.sheets)
    ]
    return {"head": head, "sheets": sheets}


def _rounded(scores: NDArray[np.float64]) -> list[list[float]]:
    return [[round(float(value), 3) for value in row] for row in scores]
