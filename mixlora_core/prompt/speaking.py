"""A prompt, a stack, a MODEL and a CLIP -> model and conditioning in which the adapters speak as the prompt says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..compose import composed
from ..composition.scheduled import Scheduled, Window
from ..errors import AdapterError, PromptError
from ..files.lora_file import identify
from ..files.metadata import trigger_words
from ..mixing.weighted_mix import MixSettings, mix
from ..stack import StackEntry, StyleStack, fingerprint, resolve
from ..text import only_text
from . import grammar
from .names import Known, file_names, joined
from .plan import ERROR, SILENT, Plan, read
from .similarity import ClipSimilarity


@dataclass(frozen=True)
class Manner:
    """How a prompt is read where it leaves something open; the values of `plan`."""

    others: str = SILENT
    unknown: str = ERROR
    by_similarity: bool = False


@dataclass(frozen=True, eq=False)
class Spoken:
    """What came of a prompt."""

    model: Any
    clip: Any
    """With the text-encoder parts of those who speak: for the negative prompt."""
    conditioning: list
    plan: Plan
    known: Sequence[Known]
    """All who could speak: the stack that came in, then files that only tags name."""
    stack: StyleStack
    """Those who do, with their strengths; a window counts by its share of the run."""


def speak(model: Any, clip: Any, stack: StyleStack, prompt: str, manner: Manner) -> Spoken:
    """Reads the prompt and applies it to clones.

    Without windows this is the weighted mix "sum", hence chained LoRA loaders, bit for bit; with windows it is the
    composition `Scheduled`. The text is encoded once, with each text-encoder part at its strength averaged over the
    run. Raises AdapterError.
    """
    if clip is None:
        raise PromptError("There is no CLIP, so the prompt cannot be encoded. Connect the one of the checkpoint.")
    shelf = _shelf()
    stack = stack.plus([(name, 1.0, 1.0) for name in tagged(prompt, stack, shelf)])
    known = [_known(entry) for entry in stack.entries]
    similar = ClipSimilarity(clip, known) if manner.by_similarity else None
    plan = read(prompt, known, manner.others, manner.unknown, similar, shelf)
    places = sorted({speech.adapter for speech in plan.speeches})
    said = StyleStack(tuple(_at(stack.entries[place], *plan.mean(place)) for place in places))
    if plan.whole:
        mixed = mix(model, clip, said, MixSettings())
        model, clip = mixed.model, mixed.clip
    else:
        texts = StyleStack(tuple(replace(entry, strength_model=0.0) for entry in said.entries))
        clip = mix(model, clip, texts, MixSettings()).clip
        model = _scheduled(model, stack, plan, places)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(plan.text))
    return Spoken(model, clip, conditioning, plan, known, StyleStack.of(said.entries))


def tagged(prompt: str, stack: StyleStack, shelf: Sequence[str]) -> list[str]:
    """Files of `shelf` that tags of the prompt name and that are not in the stack, each once.

    Raises PromptError for a name that several files have.
    """
    listed = {name: [joined(call) for call in file_names(name)] for name in shelf}
    stacked = {joined(call) for entry in stack.entries for call in file_names(entry.lora_name)}
    found: list[str] = []
    for said in grammar.tags(prompt, []):
        name = prompt[said.words.start : said.words.end].strip()
        wanted = "" if joined(name) in stacked else joined(name)
        files = [file for file, calls in listed.items() if wanted and wanted in calls]
        if len(files) > 1:
            raise PromptError(f"<lora:{name}:...> fits several files: {', '.join(files)}. Write the one's whole name.")
        found += files
    return list(dict.fromkeys(found))


def identities(prompt: str | None) -> Any:
    """The files that tags of a prompt may name, as they are on disk now; nothing where they are not clear.

    None is a prompt that another node gives, which nobody knows before the run: it may name any file.
    """
    if prompt is None:
        return fingerprint(None)
    try:
        return [(name, identify(resolve(name)[1])) for name in tagged(prompt, StyleStack(), _shelf())]
    except AdapterError:
        return []  # running the node says what is wrong


def _shelf() -> list[str]:
    import folder_paths  # ComfyUI's

    return folder_paths.get_filename_list("loras")


def _known(entry: StackEntry) -> Known:
    return Known(entry.lora_name, trigger_words(entry.file.metadata), entry.strength_model, entry.strength_clip)


def _at(entry: StackEntry, model: float, clip: float) -> StackEntry:
    return replace(entry, strength_model=model, strength_clip=clip)


def _scheduled(model: Any, stack: StyleStack, plan: Plan, places: Sequence[int]) -> Any:
    """The model with the windows; strengths are their coefficients, so that one adapter can have several."""
    windows = {
        place: tuple(Window(*speech.window, speech.model) for speech in plan.of(place) if speech.model)
        for place in places
    }
    heard = [place for place in places if windows[place] and not only_text(stack.entries[place].file)]
    if not heard:
        return model
    voices = StyleStack(tuple(_at(stack.entries[place], 1.0, 0.0) for place in heard))
    return composed(model, voices, Scheduled(tuple(windows[place] for place in heard)))
