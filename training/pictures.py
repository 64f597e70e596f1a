"""Picture files: decoded and looked at, and as pixels of one size."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from .buckets import Size

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OTHER_PICTURES = (".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".jfif", ".psd", ".svg")


class PictureError(Exception):
    """A file that cannot be trained on; the message says why and what to do."""


@dataclass(frozen=True)
class Look:
    """What is to be known of a picture before it is encoded."""

    size: Size
    """Width and height, upright."""
    sha256: str
    """Of the file."""
    pixels: str
    """SHA-256 of its upright RGB pixels and their size: equal for equal pictures in different files."""


def look(path: Path) -> Look:
    """Decodes a whole picture. Raises PictureError where it cannot be used."""
    try:
        data = path.read_bytes()
        picture = _upright(data)
    except OSError as error:
        raise PictureError(f"not a readable picture ({error})") from error
    seen = hashlib.sha256(f"{picture.size};".encode() + picture.tobytes()).hexdigest()
    return Look(picture.size, hashlib.sha256(data).hexdigest(), seen)


def load_pixels(data: bytes, size: Size, *, flip: bool = False) -> Tensor:
    """A picture file as [height, width, 3] in 0..1, perhaps mirrored left to right.

    It is turned as its EXIF says, on white where transparent, scaled (Lanczos) until it fills `size`, and cut to its
    centre. Raises PictureError.
    """
    from PIL import Image, ImageOps

    picture = ImageOps.fit(_upright(data), size, Image.Resampling.LANCZOS)
    if flip:
        picture = ImageOps.mirror(picture)
    return torch.from_numpy(numpy.asarray(picture).copy()).float() / 255


def _upright(data: bytes) -> Image:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as file:
            if file.format in ("PNG", "WEBP") and (frames := getattr(file, "n_frames", 1)) > 1:
                raise PictureError(f"an animation of {frames} frames; save one of them as a picture")
            file.load()
            picture = ImageOps.exif_transpose(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"not a readable picture ({error})") from error
    if picture.mode.startswith(("I", "F")):
        raise PictureError("16 bits or more per pixel; save it with 8 bits per channel")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")
