"""Picture files: decoded and looked at, and as pixels of one size."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
PIXELS_AT_ONCE = 2**26
"""Of the pictures that are looked at together: a decoded one takes about ten bytes a pixel."""
_ORIENTATION = 0x0112
_TURNS = (None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE",
          "ROTATE_90")  # fmt: skip
_SRGB = ("sRGB IEC61966", "sRGB built-in")


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
    odd_profile: bool = False
    """Whether it has a colour profile that is of no use, so that its colours are taken for sRGB's."""


class Room:
    """Room for so many pixels, which several threads share; a picture that is larger has it to itself."""

    def __init__(self, pixels: int) -> None:
        self._most, self._taken, self._changed = pixels, 0, threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Waits until there is room, and has it within the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= self._most)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


def look_at_all(paths: Sequence[Path]) -> list[Look | PictureError]:
    """What `look` says of each picture, or why it cannot be used; several at once, as far as there is room.

    Pillow decodes outside Python's lock.
    """
    room = Room(PIXELS_AT_ONCE)

    def attempt(path: Path) -> Look | PictureError:
        try:
            with room.taken(_area(path)):
                return look(path)
        except PictureError as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(attempt, paths))


def look(path: Path) -> Look:
    """Decodes a whole picture. Raises PictureError where it cannot be used."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(f"not a readable picture ({error})") from error
    picture, odd_profile = _upright(data)
    width, height = picture.size
    seen = hashlib.sha256(f"{picture.size};".encode())
    for top in range(0, height, 64):  # all rows at once would be the whole picture a second time
        seen.update(picture.crop((0, top, width, min(top + 64, height))).tobytes())
    return Look(picture.size, hashlib.sha256(data).hexdigest(), seen.hexdigest(), odd_profile)


def load_pixels(data: bytes, size: Size, *, flip: bool = False) -> Tensor:
    """A picture file as [height, width, 3] in 0..1, perhaps mirrored left to right.

    It is turned as its EXIF says, brought from its colour profile to sRGB, on white where transparent, scaled (Lanczos)
    until it fills `size`, and cut to its centre. Raises PictureError.
    """
    from PIL import Image, ImageOps

    picture = ImageOps.fit(_upright(data)[0], size, Image.Resampling.LANCZOS)
    if flip:
        picture = ImageOps.mirror(picture)
    return torch.from_numpy(numpy.asarray(picture).copy()).float() / 255


def _area(path: Path) -> int:
    """A picture's pixels as its header says, 0 where it has none that can be read: `look` then says so."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            return file.width * file.height
    except Exception:
        return 0


def _upright(data: bytes) -> tuple[Image, bool]:
    """A picture in RGB, and whether its colour profile is of no use."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as file:
            if file.format in ("PNG", "WEBP") and (frames := getattr(file, "n_frames", 1)) > 1:
                raise PictureError(f"an animation of {frames} frames; save one of them as a picture")
            file.load()
            if file.mode.startswith(("I", "F")):
                raise PictureError("16 bits or more per pixel; save it with 8 bits per channel")
            # ImageOps.exif_transpose would also write the other tags anew, which fails where one of them is damaged.
            orientation = file.getexif().get(_ORIENTATION)
            turn = _TURNS[orientation] if orientation in range(len(_TURNS)) else None
            return _in_srgb(file.transpose(Image.Transpose[turn]) if turn else file)
    except PictureError:
        raise
    except Exception as error:  # in a damaged file Pillow raises whatever it stumbles over
        raise PictureError(f"not a readable picture ({error or type(error).__name__})") from error


def _in_srgb(picture: Image) -> tuple[Image, bool]:
    """The picture in RGB, on white where transparent, and whether its colour profile is of no use."""
    from PIL import Image

    profile, alpha = picture.info.get("icc_profile"), None
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
    if picture.mode in ("1", "LA"):
        picture = picture.convert("L")
    elif picture.mode in ("P", "PA", "RGBA") or alpha:
        picture = picture.convert("RGB")
    converted = _by_profile(picture, profile) if profile else picture
    odd, picture = converted is None, converted or picture
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    if alpha:
        picture.putalpha(alpha)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture, odd


def _by_profile(picture: Image, profile: bytes) -> Image | None:
    """The picture's colours as the profile means them, in sRGB; None for a damaged profile or one of other modes."""
    from PIL import ImageCms

    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if picture.mode == "RGB" and ImageCms.getProfileDescription(own).startswith(_SRGB):
            return picture
        return ImageCms.profileToProfile(picture, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return None
