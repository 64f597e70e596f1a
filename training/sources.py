"""Where pictures and captions lie: a folder with a caption file beside each picture, or with a metadata.jsonl."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .pictures import OTHER_PICTURES, PICTURES

CAPTIONS = (".txt", ".caption")
METADATA = "metadata.jsonl"
_REPEATS = re.compile(r"([1-9]\d{0,2})_.")


@dataclass
class Listing:
    """What a folder holds, in the order of paths. Every file is in one of its lists; hidden ones are not looked at."""

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    captions: dict[Path, str] = field(default_factory=dict)
    """Per picture its caption in one line; "" or missing where the caption is a problem."""
    uncaptioned: list[Path] = field(default_factory=list)
    """Pictures without a caption of their own, where something stands in for it."""
    lone_captions: list[Path] = field(default_factory=list)
    """Caption files without a picture of their name: perhaps misspelt, perhaps a licence."""
    problems: list[tuple[Path, str]] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)
    """Files that have nothing to do with pictures."""


def list_folder(folder: Path, stand_in: str = "") -> Listing:
    """Finds all pictures in `folder` and below, and their captions; what is wrong goes into `problems`.

    `stand_in`, where given, is the caption of pictures without a caption file; a metadata.jsonl must name them all.
    """
    listing = Listing(folder)
    texts, metadata = [], folder / METADATA
    for path in sorted(_files(folder, listing)):
        ending = path.suffix.lower()
        if ending in PICTURES:
            listing.pictures.append(path)
        elif ending in CAPTIONS:
            texts.append(path)
        elif ending in OTHER_PICTURES:
            listing.problems.append((path, f"expected one of {', '.join(PICTURES)}; convert it"))
        elif path.name == METADATA and path != metadata:
            listing.problems.append((path, f"expected {METADATA} at the top of the data folder only"))
        elif path != metadata:
            listing.passed_over.append(path)
    if not listing.pictures:
        listing.problems.append((folder, f"no pictures ({', '.join(PICTURES)})"))
    stems = {picture.with_suffix("") for picture in listing.pictures}
    beside = [path for path in texts if path.with_suffix("") in stems]
    listing.lone_captions = [path for path in texts if path.with_suffix("") not in stems]
    if not metadata.is_file():
        _read_sidecars(listing, beside, stand_in)
    elif beside:
        found = f"both captions in {METADATA} and {len(beside)} caption file(s), first {beside[0].relative_to(folder)}"
        listing.problems.append((metadata, f"{found}; keep one of the two"))
    else:
        _read_metadata(listing, metadata)
    return listing


def _files(folder: Path, listing: Listing, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files in a folder and below, but for hidden ones; links are followed, unless they lead back up."""
    here = folder.resolve()
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        listing.problems.append((folder, f"cannot be opened ({error})"))
        return
    for path in entries:
        if not path.is_dir():
            yield path
        elif path.resolve() not in (*above, here):
            yield from _files(path, listing, (*above, here))


def folder_repeats(picture: Path, folder: Path) -> int:
    """The number before the underscore of the nearest folder (below `folder`) named like ``10_monet``; else 1.

    kohya's convention. One to three digits, so that a folder named after a year does not count.
    """
    for parent in picture.relative_to(folder).parents:
        if match := _REPEATS.match(parent.name):
            return int(match[1])
    return 1


def _read_sidecars(listing: Listing, texts: list[Path], stand_in: str) -> None:
    """A .txt or .caption of the picture's name."""
    beside: dict[Path, list[Path]] = {}
    for path in texts:
        beside.setdefault(path.with_suffix(""), []).append(path)
    owner: dict[Path, Path] = {}
    for picture in listing.pictures:
        stem = picture.with_suffix("")
        found = beside.get(stem, [])
        if stem in owner:
            problem = f"shares its name, and so its caption, with {owner[stem].name}; rename one of them"
        elif not found and stand_in:
            problem, listing.captions[picture] = "", stand_in
            listing.uncaptioned.append(picture)
        elif not found:
            problem = f"no caption; write {' or '.join(stem.name + ending for ending in CAPTIONS)}"
        elif len(found) > 1:
            problem = f"both {' and '.join(path.name for path in found)}; delete one"
        else:
            problem = _take(listing, picture, found[0])
        owner.setdefault(stem, picture)
        if problem:
            listing.problems.append((picture, problem))


def _take(listing: Listing, picture: Path, caption: Path) -> str:
    try:
        text = tidy(caption.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        return f"caption {caption.name} cannot be read as UTF-8 text ({error})"
    if not text:
        return f"caption {caption.name} is empty"
    listing.captions[picture] = text
    return ""


def _read_metadata(listing: Listing, metadata: Path) -> None:
    """The layout of Hugging Face's imagefolder: a JSON object per line, with file_name and text (or caption)."""
    known = {path.relative_to(listing.folder).as_posix(): path for path in listing.pictures}
    named: dict[str, int] = {}
    try:
        lines = metadata.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        listing.problems.append((metadata, f"cannot be read as UTF-8 text ({error})"))
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, text, problems = _row(line)
        if name and name not in known:
            problems.append(f"file_name: no picture {name!r} in the folder")
        elif name in named:
            problems.append(f"{name} is named in line {named[name]} already")
        elif name:
            named[name] = number
            listing.captions[known[name]] = text
        listing.problems += [(metadata, f"line {number}: {problem}") for problem in problems]
    listing.problems += [(path, f"no line in {METADATA}") for name, path in known.items() if name not in named]


def _row(line: str) -> tuple[str, str, list[str]]:
    """The picture and the caption that a line names, "" for what is missing, and what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return "", "", [f"not JSON ({error})"]
    if not isinstance(row, dict):
        return "", "", [f"expected an object, found {line.strip()[:40]!r}"]
    problems = []
    name, text = row.get("file_name"), row.get("text", row.get("caption"))
    if not isinstance(name, str) or not name:
        problems.append(f"file_name: expected the picture's path, found {name!r}")
        name = ""
    if "text" in row and "caption" in row and row["text"] != row["caption"]:
        problems.append("text and caption differ; keep one")
    elif not isinstance(text, str) or not tidy(text):
        problems.append(f"text (or caption): expected the caption of {name!r}, found {text!r}")
    path = PurePosixPath(name.replace("\\", "/")).as_posix() if name else ""
    return path, tidy(text) if isinstance(text, str) else "", problems


def tidy(text: str) -> str:
    """A caption in one line, without spaces around it."""
    return " ".join(text.split())
