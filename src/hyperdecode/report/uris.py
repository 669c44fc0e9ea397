"""Pictures as data URIs, so that a report is one file."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["data_uri", "jpeg_uri"]


def jpeg_uri(picture: NDArray[np.uint8], size: int) -> str:
    """Return a picture (height, width, 3), scaled down to `size` pixels where it is larger."""
    image = Image.fromarray(picture)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88, optimize=True)
    return data_uri(stream.getvalue(), "jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """Return the content of a picture file of that kind."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
