"""What was understood of a prompt and what was not, in words: a Markdown list, as all reports of this pack."""

from __future__ import annotations

from collections.abc import Sequence

from .names import Known, contains, words
from .numbers import WHOLE
from .plan import MENTIONED, SAID, Plan, Speech


def describe(known: Sequence[Known], plan: Plan) -> str:
    """The report of LoRAWeightsFromPrompt: who speaks how strongly and when, where that was read, and what is left."""
    speaking = {speech.adapter for speech in plan.speeches if speech.model or speech.clip}
    lines = [_heading(plan, len(speaking), len(known))]
    for place, one in enumerate(known):
        own = plan.of(place)
        lines += [f"- {one.name}: {_strengths(speech)}{_source(speech)}" for speech in own]
        lines += [] if own else [f"- {one.name}: silent"]
        if any(speech.model for speech in own) and one.triggers and not _called(one, plan.text):
            lines.append(f"  - its trigger words are not in the text: {', '.join(one.triggers)}")
    lines += [f"- note: {note}" for note in plan.notes]
    lines.append(f"- text: {' '.join(plan.text.split()) or 'empty'}")
    return "\n".join(lines)


def _heading(plan: Plan, speaking: int, known: int) -> str:
    if not known:
        return "There is no LoRA: the stack is empty, and the prompt names none"
    if plan.source == SAID:
        return f"The prompt gives strengths; {speaking} of {known} LoRAs speak"
    if plan.source == MENTIONED:
        return f"The prompt gives no strengths, but names {speaking} of {known} LoRAs: these speak as stacked"
    return "The prompt says nothing about the LoRAs: all speak as stacked"


def _strengths(speech: Speech) -> str:
    same = speech.model == speech.clip
    text = f"{speech.model:.4g}" if same else f"model {speech.model:.4g}, clip {speech.clip:.4g}"
    start, end = speech.window
    return text if speech.window == WHOLE else f"{text}, from {100 * start:.4g} to {100 * end:.4g} % of the run"


def _source(speech: Speech) -> str:
    if not speech.match:
        return ", as stacked"
    by = speech.match.by + (f" {speech.match.likeness:.2f}" if speech.match.likeness is not None else "")
    said = f', by "{speech.quote}" at character {speech.place + 1}' if speech.quote else ", as stacked"
    return f"{said} ({by})"


def _called(one: Known, text: str) -> bool:
    said = words(text)
    return any(contains(said, words(part)) for trigger in one.triggers for part in trigger.split(","))
