"""A folder of pictures with caption files becomes Samples. All that is wrong with it is said at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .settings import TrainingError, TrainSettings

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from .samples import Samples

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CAPTIONS = (".txt", ".caption")


@dataclass(frozen=True)
class Picture:
    """A picture that can be read, and its caption with the trigger words in it."""

    path: Path
    caption: str


def find_pictures(folder: Path, settings: TrainSettings, chunks: Callable[[str], int]) -> list[Picture]:
    """Every picture in `folder` and below, in the order of their paths, each fully decoded once.

    `chunks` says how many stretches of 75 tokens the text encoder needs for a caption. Hidden files are passed over.
    Raises TrainingError that lists all problems: unreadable or too small pictures, captions missing, empty, double or
    too long, caption files without a picture.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder}: expected a folder of pictures and captions.")
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    paths = [path for path in files if path.suffix.lower() in PICTURES]
    pictures, problems, known = [], _orphans(files, paths), set(files)
    for path in paths:
        caption, wrong = _caption(path, known, settings.trigger, chunks)
        wrong += _unusable(path, settings.resolution)
        problems += [(path, problem) for problem in wrong]
        pictures.append(Picture(path, caption))
    if not paths:
        problems.append((folder, f"no pictures ({', '.join(PICTURES)})"))
    if problems:
        lines = "\n".join(f"  {path.relative_to(folder)}: {problem}" for path, problem in problems)
        raise TrainingError(f"{folder} cannot be trained on, {len(problems)} problem(s):\n{lines}")
    return pictures


def with_trigger(caption: str, trigger: str) -> str:
    """The caption, with the trigger words at its end unless they are in it already (in whatever case)."""
    if not trigger or trigger.lower() in caption.lower():
        return caption
    return f"{caption}, {trigger}"


def load_pixels(path: Path, side: int) -> Tensor:
    """A picture as [side, side, 3] in 0..1: turned as its EXIF says, on white where transparent, scaled, centre cut."""
    import numpy
    import torch
    from PIL import Image, ImageOps

    picture = ImageOps.fit(_upright(path), (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(numpy.asarray(picture).copy()).float() / 255


def count_chunks(tokenizer: Any) -> Callable[[str], int]:
    """A counter for `find_pictures` from a ComfyUI tokenizer."""
    return lambda text: max(len(stretch) for stretch in tokenize(tokenizer, text).values())


def tokenize(tokenizer: Any, text: str) -> dict[str, Any]:
    """A caption's tokens, all of weight 1: "(word:1.3)" is a prompt's syntax, in a caption it is just brackets."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a ComfyUI CLIP has one
    return tokenizer.tokenize_with_weights(text, return_word_ids=False, disable_weights=True)


def encode(
    pictures: list[Picture], clip: Any, vae: Any, to_model_scale: Callable[[Tensor], Tensor], settings: TrainSettings,
    on_picture: Callable[[int], None] = lambda done: None,
) -> Samples:  # fmt: skip
    """Latents and contexts of all pictures through ComfyUI's VAE and CLIP, each distinct caption once.

    `to_model_scale` is the model's ``process_latent_in``. The latent is the mean of the VAE's posterior. Raises
    TrainingError that names the pictures whose latents are not finite.
    """
    import torch

    from .samples import Samples

    captions = list(dict.fromkeys(picture.caption for picture in pictures))
    with torch.no_grad():
        context = [clip.encode_from_tokens(tokenize(clip, text))[0].float().cpu() for text in [*captions, ""]]
        latents = []
        for done, picture in enumerate(pictures, start=1):
            pixels = load_pixels(picture.path, settings.resolution)[None]
            latents.append(to_model_scale(vae.encode(pixels))[0].float().cpu())
            on_picture(done)
    row = {caption: index for index, caption in enumerate(captions)}
    return Samples(
        latents=torch.stack(latents), context=torch.stack(context[:-1]), empty=context[-1],
        caption_of=[row[picture.caption] for picture in pictures],
        names=[str(picture.path) for picture in pictures], captions=[picture.caption for picture in pictures],
    )  # fmt: skip


def _caption(picture: Path, files: set[Path], trigger: str, chunks: Callable[[str], int]) -> tuple[str, list[str]]:
    """The caption of a picture, and what is wrong with it."""
    found = [path for ending in CAPTIONS if (path := picture.with_suffix(ending)) in files]
    if len(found) != 1:
        names = " and ".join(picture.with_suffix(ending).name for ending in CAPTIONS)
        return "", [f"both {names}; delete one" if found else f"no caption; write {names.replace(' and ', ' or ')}"]
    try:
        text = " ".join(found[0].read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        return "", [f"caption {found[0].name} cannot be read as UTF-8 text ({error})"]
    if not text:
        return "", [f"caption {found[0].name} is empty"]
    text = with_trigger(text, trigger)
    if chunks(text) > 1:
        return text, [f"caption with trigger words is longer than the 75 tokens of CLIP: {text!r}"]
    return text, []


def _unusable(path: Path, side: int) -> list[str]:
    from PIL import Image

    try:
        width, height = _upright(path).size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return [f"not a readable picture ({error})"]
    if min(width, height) < side:
        return [f"{width} x {height} is smaller than the resolution {side}; leave it out, or lower the resolution"]
    return []


def _orphans(files: list[Path], pictures: list[Path]) -> list[tuple[Path, str]]:
    stems = {path.with_suffix("") for path in pictures}
    captions = (path for path in files if path.suffix.lower() in CAPTIONS)
    return [(path, "caption without a picture of that name") for path in captions if path.with_suffix("") not in stems]


def _upright(path: Path) -> Image:
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        file.load()
        picture = ImageOps.exif_transpose(file)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")
