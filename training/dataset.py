"""A folder of captioned pictures, looked at before anything else is done: all that is wrong with it is said at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import buckets
from .captions import orders, with_trigger
from .pictures import Look, look_at_all
from .settings import TrainingError, TrainSettings
from .sources import Listing, folder_repeats, list_folder


@dataclass(frozen=True)
class Picture:
    """A picture that can be trained on."""

    path: Path
    captions: tuple[str, ...]
    """With the trigger words: as written, then in other orders of its tags."""
    repeats: int
    """How often an epoch shows it."""
    size: buckets.Size
    """Width and height, upright."""
    bucket: buckets.Size
    """What it is scaled and cut to."""
    sha256: str
    """Of the file."""


@dataclass(frozen=True)
class Dataset:
    """All pictures of a folder and below, in the order of their paths."""

    folder: Path
    pictures: list[Picture]
    chunks: Counter[int]
    """How many of the captions need so many chunks of 75 tokens."""
    passed_over: list[Path]
    """Files in the folder that are neither pictures nor captions."""
    remarks: list[str] = field(default_factory=list)
    """What is no error, but may not be meant."""

    def __len__(self) -> int:
        return len(self.pictures)

    def __str__(self) -> str:
        """What was found, for the user to check: sizes, captions, repeats, files not used."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{len(self)} pictures in {self.folder}; the captions begin:"
        for picture in self.pictures[:3]:
            yield f"  {picture.path.name}: {picture.captions[0]}"
        sizes = Counter(picture.bucket for picture in self.pictures)
        cut, most = max((buckets.cut_off(picture.size, picture.bucket), picture.path.name) for picture in self.pictures)
        shares = ", ".join(f"{width} x {height}: {count}" for (width, height), count in sizes.most_common())
        yield f"sizes {shares}; cut off at most {cut:.0%} of a picture" + (f" ({most})" if cut >= 0.005 else "")
        if long := {chunks: count for chunks, count in sorted(self.chunks.items()) if chunks > 1}:
            lengths = ", ".join(f"{count} in {chunks} chunks" for chunks, count in long.items())
            yield f"captions longer than CLIP's 75 tokens, encoded as ComfyUI does: {lengths}"
        if (most_orders := max(len(picture.captions) for picture in self.pictures)) > 1:
            yield f"captions in up to {most_orders} orders of their tags"
        repeats = Counter(picture.repeats for picture in self.pictures)
        if set(repeats) != {1}:
            shown = ", ".join(f"{count} x {times}" for times, count in sorted(repeats.items()))
            yield f"an epoch shows (pictures x times): {shown}"
        if self.passed_over:
            endings = Counter(path.suffix or path.name for path in self.passed_over)
            yield "neither pictures nor captions, not used: " + ", ".join(f"{n} {name}" for name, n in endings.items())
        yield from self.remarks


def find_pictures(folder: Path, settings: TrainSettings, chunks: Callable[[str], int]) -> Dataset:
    """Every picture in `folder` and below, each fully decoded once; hidden files are not looked at.

    `chunks` says how many chunks of 75 tokens the text encoder needs for a caption. Raises TrainingError that lists all
    problems: pictures unreadable, too small or there twice; captions missing (where there are no trigger words to stand
    in), empty, double or too long; lines of metadata.jsonl that say nothing; pictures in formats that are not read.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder}: expected a folder of pictures and captions.")
    listing = list_folder(folder, settings.trigger)
    looks = _look_at_all(listing)
    captions = {path: with_trigger(text, settings.trigger) for path, text in listing.captions.items() if text}
    needed = {path: chunks(caption) for path, caption in captions.items()}
    problems = [
        *listing.problems,
        *_twice(listing, looks),
        *_too_small(looks, settings),
        *_too_long(captions, needed, settings.caption_chunks),
    ]
    remarks = list(_remarks(listing, looks))
    if problems:
        problems.sort(key=lambda problem: problem[0])
        lines = [f"{path.relative_to(folder)}: {problem}" for path, problem in problems]
        found = "\n".join(f"  {line}" for line in (*lines, *remarks))
        raise TrainingError(f"{folder} cannot be trained on, {len(problems)} problem(s):\n{found}")
    pictures = [_picture(path, looks[path], listing.captions[path], folder, settings) for path in listing.pictures]
    return Dataset(folder, pictures, Counter(needed.values()), listing.passed_over, remarks)


def _picture(path: Path, seen: Look, caption: str, folder: Path, settings: TrainSettings) -> Picture:
    variants = orders(caption, max(1, settings.caption_shuffle), settings.keep_tags, settings.trigger)
    return Picture(
        path=path,
        captions=tuple(with_trigger(variant, settings.trigger) for variant in variants),
        repeats=settings.repeats * (folder_repeats(path, folder) if settings.folder_repeats else 1),
        size=seen.size,
        bucket=buckets.choose(seen.size, settings.resolution, settings.buckets),
        sha256=seen.sha256,
    )


def _look_at_all(listing: Listing) -> dict[Path, Look]:
    """Decodes all pictures; those that cannot be used become problems."""
    looks: dict[Path, Look] = {}
    for path, result in zip(listing.pictures, look_at_all(listing.pictures), strict=True):
        if isinstance(result, Look):
            looks[path] = result
        else:
            listing.problems.append((path, str(result)))
    return looks


def _remarks(listing: Listing, looks: dict[Path, Look]) -> Iterator[str]:
    odd = [path for path, seen in looks.items() if seen.odd_profile]
    for paths, what in (
        (listing.uncaptioned, "without a caption, trained with the trigger words alone"),
        (listing.lone_captions, "caption files without a picture of their name, not used"),
        (odd, "with a colour profile that cannot be used, taken for sRGB"),
    ):
        if paths:
            names = ", ".join(str(path.relative_to(listing.folder)) for path in paths[:5])
            yield f"WARNING: {len(paths)} {what}: {names}{', ...' if len(paths) > 5 else ''}"


def _twice(listing: Listing, looks: dict[Path, Look]) -> Iterator[tuple[Path, str]]:
    first: dict[str, Path] = {}
    for path, seen in looks.items():
        earlier = first.setdefault(seen.pixels, path)
        if earlier != path:
            same = "the same file as" if looks[earlier].sha256 == seen.sha256 else "the same pixels as"
            yield path, f"{same} {earlier.relative_to(listing.folder)}; delete one (repeats show a picture more often)"


def _too_small(looks: dict[Path, Look], settings: TrainSettings) -> Iterator[tuple[Path, str]]:
    for path, seen in looks.items():
        bucket = buckets.choose(seen.size, settings.resolution, settings.buckets)
        if buckets.covers(seen.size, bucket):
            continue
        lower = buckets.largest_resolution(seen.size, settings.buckets)
        advice = f"leave it out, or lower the resolution to {lower}" if lower else "leave it out"
        found, wanted = (f"{width} x {height}" for width, height in (seen.size, bucket))
        yield path, f"{found} is smaller than {wanted}, its size at resolution {settings.resolution}; {advice}"


def _too_long(captions: dict[Path, str], needed: dict[Path, int], allowed: int) -> Iterator[tuple[Path, str]]:
    for path, count in needed.items():
        if count > allowed:
            yield (
                path,
                (
                    f"caption needs {count} chunks of CLIP's 75 tokens, more than caption_chunks allows ({allowed}); "
                    f"shorten it: {captions[path]!r}"
                ),
            )
