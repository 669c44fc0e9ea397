"""From the decoded to the true latent in steps: strips of faces with bars of their attributes (Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from hyperdecode.errors import UserError
from hyperdecode.report.figures import BLUE, ORANGE, Figure, jpeg_bytes
from hyperdecode.report.strips import GAP, INK, PAPER

__all__ = ["interpolated", "interpolation_pages", "mixed"]

Pictures = NDArray[np.uint8]

LINE = (200, 200, 200)
QUALITIES = (90, 84, 76, 66, 55)
BARS = 250
"""Pixels that the bars of a face take, beside their labels."""


def interpolated(predicted: ArrayLike, true: ArrayLike, n_steps: int = 7) -> NDArray[np.float64]:
    r"""Return latents on the straight line from each predicted to its true latent.

    :math:`w_k = (1 - t_k) \hat w + t_k w` with :math:`t_k = k / (n - 1)` for k = 0 ... n - 1.

    Parameters
    ----------
    predicted, true : array-like of shape (n_faces, n_latents)
        Decoded latents, and those of the stimuli.
    n_steps : int
        Latents a face, at least 2: the first is the predicted one, the last the true one, both exactly.

    Returns
    -------
    ndarray of float64, shape (n_faces, n_steps, n_latents)

    Raises
    ------
    UserError
        When shapes differ, a value is not finite, or `n_steps` is below 2.
    """
    p, t = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if p.ndim != 2 or p.shape != t.shape:
        raise UserError(f"interpolation needs one true latent a predicted one, got shapes {p.shape} and {t.shape}")
    if not (np.isfinite(p).all() and np.isfinite(t).all()):
        raise UserError("interpolation needs finite latents, got NaN or infinity: mend them first")
    if n_steps < 2:
        raise UserError(f"interpolation needs at least 2 steps, the predicted and the true latent, got {n_steps}")
    share = np.linspace(0.0, 1.0, n_steps)[None, :, None]
    line: NDArray[np.float64] = (1 - share) * p[:, None] + share * t[:, None]
    return line


def interpolation_pages(
    pictures: Pictures,
    scores: ArrayLike,
    attributes: Sequence[str],
    names: Sequence[str],
    *,
    label: str = "",
    size: int = 104,
    faces_a_page: int = 12,
    max_bytes: int = 1_500_000,
) -> list[Figure]:
    """Draw every face from decoded to true in a row, with a bar for each attribute and step beside it.

    Parameters
    ----------
    pictures : uint8 array of shape (n_faces, n_steps, height, width, 3)
        What the generator makes of `interpolated`: the first of a face is decoded, the last true.
    scores : array-like of shape (n_faces, n_steps, n_attributes)
        Attribute scores of the same latents, in standard deviations over the generator's faces.
    attributes : sequence of str, length n_attributes
        Names of the attributes; none draws no bars.
    names : sequence of str, length n_faces
        Names of the faces.
    label : str
        The subject.
    size : int
        Pixels of a face's side.
    faces_a_page : int
        Faces of one sheet.
    max_bytes : int
        All sheets together take no more: they are written with less quality before they would.

    Returns
    -------
    list of Figure
        One JPEG a page, in the order of the faces.

    Raises
    ------
    UserError
        When shapes do not fit, a score is not finite, or the pages do not fit in `max_bytes`.
    """
    values = np.asarray(scores, dtype=np.float64)
    _check(pictures, values, attributes, names)
    span = float(np.ceil(2 * np.abs(values).max(initial=1.0)) / 2)
    starts = range(0, len(pictures), max(1, faces_a_page))
    parts = [slice(start, start + max(1, faces_a_page)) for start in starts]
    sheets = [_page(pictures[part], values[part], attributes, names[part], size, span) for part in parts]
    for quality in QUALITIES:
        files = [jpeg_bytes(sheet, quality) for sheet in sheets]
        if sum(map(len, files)) <= max_bytes:
            break
    else:
        raise UserError(
            f"the strips of {len(pictures)} faces take {sum(map(len, files)):,} bytes, more than {max_bytes:,}: "
            "draw smaller faces or fewer steps"
        )
    who = f" of {label}" if label else ""
    titles = [
        f"From decoded to true{who}" + (f", page {page} of {len(files)}" if len(files) > 1 else "")
        for page in range(1, len(files) + 1)
    ]
    caption = (
        "Left the face decoded from the brain, right the face of the true latent, between them faces of latents on the "
        "straight line from one to the other: what would have to change. The steps between change evenly by "
        "construction. All test faces are shown."
    )
    if len(attributes):
        caption += (
            " Bars: scores of the same latents on each attribute, from decoded (orange, top) to true (blue, bottom), "
            f"from \N{MINUS SIGN}{span:g} to {span:g} standard deviations over the generator's faces; a bar to the "
            "right means more of it. How well the attributes agree is tested in the tables, not here."
        )
    return [
        Figure(title, file, caption, _alt(values[part], attributes, names[part]))
        for title, file, part in zip(titles, files, parts, strict=True)
    ]


class _Places(NamedTuple):
    """Where the parts of a page begin, in pixels."""

    faces: int
    words: int
    bars: int
    width: int
    top: int


def _page(
    pictures: Pictures,
    scores: NDArray[np.float64],
    attributes: Sequence[str],
    names: Sequence[str],
    size: int,
    span: float,
) -> Image.Image:
    font = ImageFont.load_default(13)
    steps, n_attributes = scores.shape[1:]
    row = max(size, n_attributes * (2 * steps + 4)) + GAP
    faces = 2 * GAP + max(round(font.getlength(_short(name))) for name in names)
    words = faces + steps * (size + GAP) + 2 * GAP
    bars = words + max((round(font.getlength(name)) for name in attributes), default=0) + GAP
    places = _Places(faces, words, bars, bars + BARS + 2 * GAP if n_attributes else words, 34)
    sheet = Image.new("RGB", (places.width, places.top + len(pictures) * row + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    _headings(pen, font, places, steps, size, span if n_attributes else None)
    for face, name in enumerate(names):
        y = places.top + face * row
        pen.text((faces - GAP, y + row // 2), _short(name), INK, font, "rm")
        for step in range(steps):
            picture = Image.fromarray(pictures[face, step]).resize((size, size), Image.Resampling.LANCZOS)
            sheet.paste(picture, (faces + step * (size + GAP), y + (row - GAP - size) // 2))
        if n_attributes:
            _bars(pen, font, places, y, row - GAP, scores[face], attributes, span)
    return sheet


def _headings(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    at: _Places,
    steps: int,
    size: int,
    span: float | None,
) -> None:
    for step in range(steps):
        text = {0: "decoded", steps - 1: "true"}.get(step, f"{step / (steps - 1):.0%}")
        colour = mixed(step / (steps - 1)) if step in (0, steps - 1) else INK
        pen.text((at.faces + step * (size + GAP) + size // 2, at.top // 2), text, colour, font, "mm")
    for value in () if span is None else (-span, 0.0, span):
        # The font has no minus sign, so that a hyphen stands for it.
        text = f"{value:+g} SD" if value else "0"
        anchor = "mm" if value == 0 else ("lm" if value < 0 else "rm")
        pen.text((at.bars + round((value / float(span or 1) + 1) / 2 * BARS), at.top // 2), text, INK, font, anchor)


def _bars(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    at: _Places,
    top: int,
    height: int,
    scores: NDArray[np.float64],
    attributes: Sequence[str],
    span: float,
) -> None:
    steps = len(scores)
    group = height / len(attributes)
    thick = max(1, int((group - 4) // steps))
    centre = at.bars + BARS // 2
    for place, name in enumerate(attributes):
        y = top + round(place * group + (group - thick * steps) / 2)
        pen.text((at.bars - GAP, y + thick * steps // 2), name, INK, font, "rm")
        for step in range(steps):
            end = centre + round(scores[step, place] / span * BARS / 2)
            here = y + step * thick
            pen.rectangle((min(centre, end), here, max(centre, end), here + thick - 1), mixed(step / (steps - 1)))
    pen.line((centre, top, centre, top + height), INK)
    pen.line((at.bars, top + height + GAP // 2, at.bars + BARS, top + height + GAP // 2), LINE)


def mixed(share: float) -> tuple[int, int, int]:
    """Return a colour between orange (0) and blue (1); grey in the middle, where the two would make mud."""
    ends = [np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) for colour in (ORANGE, BLUE)]
    grey = np.array([196, 196, 200])
    start, stop, t = (ends[0], grey, 2 * share) if share <= 0.5 else (grey, ends[1], 2 * share - 1)
    red, green, blue = (round(float(value)) for value in start + t * (stop - start))
    return red, green, blue


def _alt(scores: NDArray[np.float64], attributes: Sequence[str], names: Sequence[str]) -> str:
    between = ", ".join(
        f"{name} {np.abs(scores[:, -1, k] - scores[:, 0, k]).mean():.2f}" for k, name in enumerate(attributes)
    )
    faces = (
        f"{len(names)} faces, {_short(names[0])} to {_short(names[-1])}, each in {scores.shape[1]} steps from decoded "
        "to true"
    )
    if not len(attributes):
        return f"{faces}."
    return (
        f"{faces}, with bars of attribute scores. Mean distance from decoded to true in standard deviations: {between}."
    )


def _check(pictures: Pictures, scores: NDArray[np.float64], attributes: Sequence[str], names: Sequence[str]) -> None:
    if pictures.dtype != np.uint8 or pictures.ndim != 5 or pictures.shape[-1] != 3 or pictures.shape[1] < 2:
        raise UserError(
            "strips need uint8 pictures of shape (n_faces, n_steps, height, width, 3) and at least 2 steps, got "
            f"{pictures.dtype} of shape {pictures.shape}"
        )
    expected = (*pictures.shape[:2], len(attributes))
    if scores.shape != expected or len(names) != len(pictures) or not len(names):
        raise UserError(
            f"{len(pictures)} strips came with {len(names)} names and attribute scores of shape {scores.shape}: give "
            f"one name a face and scores of shape {expected}"
        )
    if not np.isfinite(scores).all():
        raise UserError("attribute scores of the strips must be finite, got NaN or infinity: mend them first")


def _short(name: str) -> str:
    return name.rsplit(".", 1)[0]
