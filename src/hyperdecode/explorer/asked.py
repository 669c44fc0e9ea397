"""What the page may ask for: every parameter bounded, nothing else let in."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyperdecode.errors import UserError

__all__ = ["LARGEST_REQUEST", "REACH", "Asked", "read_asked"]

REACH = 4.0
"""Standard deviations that a slider reaches to either side; beyond, pictures are no faces any more."""
LARGEST_REQUEST = 4096
"""Bytes of a request's body; all sliders of the page take some 700."""
MOST = 32
"""Sliders of a kind."""

Amount = Annotated[float, Field(ge=-REACH, le=REACH, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Place = Annotated[int, Field(ge=0, lt=2**20)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class Asked(BaseModel):
    """One picture that the page asks for.

    Attributes
    ----------
    subject : str
        Label of the subject whose test face is shown; empty for a face drawn from `seed`.
    face : int
        Place of the test face.
    seed : int
        Seed of a random face; the first face of ``hyperdecode faces sample --seed``.
    share : float
        Way from the decoded (0) to the true latent (1) of a test face.
    truncation : float
        How far w may be from the average face's, as a share of where it is; 1 leaves it there.
    attributes : dict of str to float
        Standard deviations along attributes.
    keep : bool
        Whether a move along one attribute leaves the scores of all others as they are.
    directions : tuple of float
        Standard deviations along the principal directions, in their order.
    dimensions : tuple of (int, float)
        Latent dimension, counted from 0, and standard deviations along it.
    side : int
        Pixels of the picture's side, one of the generator's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    subject: Annotated[str, Field(max_length=64)] = ""
    face: Place = 0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    share: Share = 0.0
    truncation: Share = 1.0
    attributes: Annotated[dict[Name, Amount], Field(max_length=MOST)] = {}
    keep: bool = False
    directions: Annotated[tuple[Amount, ...], Field(max_length=MOST)] = ()
    dimensions: Annotated[tuple[tuple[Place, Amount], ...], Field(max_length=MOST)] = ()
    side: Annotated[int, Field(ge=1, le=8192)]


def read_asked(body: bytes) -> Asked:
    """Read a request's JSON.

    Raises
    ------
    UserError
        When it is no JSON, lacks `side`, has a field that is not known, or a value beyond its bounds.
    """
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise UserError(f"{where}: {first['msg']}") from None
