"""What trainers write into a LoRA file's header: trigger words and base model. Pure; the header is not trusted."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

PHRASE_KEYS = ("modelspec.trigger_phrase", "ss_trigger_words", "ss_trigger_word", "trigger_words", "trigger_phrase")

# Values of ss_base_model_version (sd-scripts), modelspec.architecture (Stability's model spec) and what they mean.
BASE_KEYS = ("ss_base_model_version", "modelspec.architecture")
BASE_PATTERNS = (
    (r"sdxl|stable-diffusion-xl", "sdxl"),
    (r"sd_?v?2|stable-diffusion-v2", "sd2"),
    (r"sd_?v?1|stable-diffusion-v1", "sd1"),
)


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The words that the file's maker says call its style, best source first; empty where none is recorded.

    Sources, the first that says anything wins: an explicit trigger phrase (modelspec, ai-toolkit, SimpleTuner), the
    class tokens of sd-scripts' data set folders.
    """
    return _first(metadata, _phrases, _class_tokens)


def guessed_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Where no trigger words are recorded, the most frequent tag of the training captions; else empty.

    It may be one that calls this style, or one that every picture has (1girl): good enough to be shown, not to decide
    by who is meant.
    """
    return () if trigger_words(metadata) else _first(metadata, _top_tag)


def _first(metadata: Mapping[str, str], *sources: Callable[[Mapping[str, str]], Iterator[str]]) -> tuple[str, ...]:
    for source in sources:
        words = tuple(dict.fromkeys(word.strip() for word in source(metadata) if word.strip()))
        if words:
            return words
    return ()


def base_hint(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """The base model that the header names, as ("sd1" | "sd2" | "sdxl", evidence); None where it names none we know."""
    for key in BASE_KEYS:
        value = metadata.get(key, "")
        for pattern, base in BASE_PATTERNS:
            if re.search(pattern, value.lower()):
                return base, f"{key} = {value}"
    return None


def _phrases(metadata: Mapping[str, str]) -> Iterator[str]:
    for key in PHRASE_KEYS:
        value = metadata.get(key, "")
        found = _json(value)
        yield from (str(item) for item in found) if isinstance(found, list) else [value]


def _class_tokens(metadata: Mapping[str, str]) -> Iterator[str]:
    """From sd-scripts: the class_tokens of `ss_datasets`, and folders named "10_monet style" of `ss_dataset_dirs`."""
    for dataset in _items(_json(metadata.get("ss_datasets", "")), list):
        for subset in _items(dataset.get("subsets") if isinstance(dataset, dict) else None, list):
            if isinstance(subset, dict) and isinstance(subset.get("class_tokens"), str):
                yield subset["class_tokens"]
    for folder in _items(_json(metadata.get("ss_dataset_dirs", "")), dict):
        repeats, _, token = str(folder).partition("_")
        if repeats.isdecimal():
            yield token


def _top_tag(metadata: Mapping[str, str]) -> Iterator[str]:
    counts: Counter[str] = Counter()
    frequency = _json(metadata.get("ss_tag_frequency", ""))
    for tags in frequency.values() if isinstance(frequency, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int):
                counts[str(tag)] += count
    # Captions that are sentences give "tags" that occur once: those say nothing.
    yield from (tag for tag, count in counts.most_common(1) if count > 1)


def _items(value: Any, kind: type) -> Any:
    return value if isinstance(value, kind) else ()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
