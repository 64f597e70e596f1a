"""The reports of the nodes: what a file is, what was matched, what was applied.

Plain text whose lines are Markdown lists, because ComfyUI's text preview renders Markdown and would join bare lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .adapter import TEXT_ENCODER_PREFIXES, Adapter, Summary, module_of
from .files.families import Anatomy
from .files.lora_file import LoraFile
from .files.metadata import guessed_words, trigger_words
from .mixing.saving import SavedMix
from .mixing.weighted_mix import HalfResult, MixPlan, MixSettings
from .stack import StyleStack

EXAMPLES = 3


def describe_file(file: LoraFile, summary: Summary) -> str:
    """The report of LoadStyleLoRA: the file as it is, matched to the names of the base model that it looks made for."""
    text = sum(name.startswith(TEXT_ENCODER_PREFIXES) for name in summary.modules)
    words, guessed = (", ".join(told(file.metadata)) for told in (trigger_words, guessed_words))
    words = words or "none in the metadata" + (
        f"; perhaps {guessed}, its captions' most frequent tag" if guessed else ""
    )
    lines = [
        file.name,
        f"- family: {families(summary.modules.values())}; {ranks(summary.modules.values())}",
        f"- modules: {len(summary.modules)} ({len(summary.modules) - text} UNet, {text} text encoder)",
        f"- trigger words: {words}",
    ]
    if summary.base is None:
        lines.append("- base model: not recognised; MixLoRAWeights matches the file to the model that you connect")
    else:
        unknown = set(summary.unknown) - set(summary.peft)
        tensors = [key for key in file.tensors if key not in set(summary.unread)]
        lines += [
            f"- base model: {summary.base.label} (guessed: {summary.evidence})",
            f"- keys matched to the names of that model: {len(tensors) - len(unknown)} of {len(file.tensors)}",
        ]
        missing = list(dict.fromkeys(module_of(key) or key for key in summary.unknown if key in unknown))
        lines += _left_out(f"{len(unknown)} keys ({len(missing)} modules) are not in that model", missing)
        if summary.peft:
            lines.append(
                f"- {len(summary.peft)} of these keys have PEFT's names: this pack reads them, Load LoRA does not"
            )
        if len(missing) == len(summary.modules):
            lines.append("- NONE of its modules has a name that belongs to that model; MixLoRAWeights says more")
    lines += _left_out(f"{len(summary.unread)} keys belong to no LoRA family that ComfyUI reads", summary.unread)
    return "\n".join(lines)


def describe_mix(stack: StyleStack, settings: MixSettings, result: MixPlan) -> str:
    """The report of MixLoRAWeights: the coefficients that are applied, the limit, and what was left out."""
    mode = f"{settings.mode} {settings.total:g}" if settings.mode == "sum to total" else settings.mode
    lines = [f"mode: {mode}; LoRAs in the stack: {len(stack.entries)}"]
    if not stack.entries:
        return lines[0] + "; the model is unchanged"
    for index, (entry, adapter) in enumerate(zip(stack.entries, result.adapters, strict=True)):
        lines.append(
            f"- {entry.lora_name}: {families(adapter.anatomies.values())}; {ranks(adapter.anatomies.values())}"
        )
        lines.append("  - model: " + _effective(result.model_half, index))
        if result.clip_half is not None:
            lines.append("  - clip: " + _effective(result.clip_half, index))
        lines += _match(adapter)
    for name, half in (("model", result.model_half), ("clip", result.clip_half)):
        if half is not None and half.largest is not None:
            lines.append(
                f"- limit {settings.limit:g} on {name}: bit in {half.limited} of {half.layers} layers; "
                f"largest |dW|/|W| before: {half.largest:.4g}"
            )
    lines += [f"- note: {name} stands in the stack more than once and is applied each time" for name in stack.repeated]
    return "\n".join(lines)


def describe_saved(stack: StyleStack, settings: MixSettings, saved: SavedMix) -> str:
    """The report of SaveMixedLoRA: the file, how far it is from the mix, who reads it, and the mix itself."""
    pairs = [layer for layer in saved.content.layers if layer.rank]
    ranks = sorted({layer.rank for layer in pairs}) or [0]
    worst = sorted(saved.content.layers, key=lambda layer: -layer.error / (layer.norm or 1))[:EXAMPLES]
    refused = [f"{program} ({why})" for program, why in saved.objections.items() if why]
    lines = [
        f"saved: {saved.lora_name}",
        f"- file: {saved.path}, {saved.bytes / 1e6:.2f} MB, hash {saved.sha256[:12]}",
        f"- layers: {len(pairs)} of {_range('rank', ranks)}"
        + (
            f", and {len(saved.content.layers) - len(pairs)} biases and norms"
            if len(pairs) < len(saved.content.layers)
            else ""
        ),
        f"- error against the mix: {100 * saved.content.error:.3g} % in all (|dW - file| / |dW|); the worst layers:",
        *(f"  - {100 * layer.error / (layer.norm or 1):.3g} % in {layer.name}, rank {layer.rank}" for layer in worst),
        f"- read by: {', '.join(program for program, why in saved.objections.items() if not why) or 'no program'}",
        *(["- not read by: " + "; ".join(refused)] if refused else []),
        "- use it at strength 1, for model and text encoder",
        "",
        describe_mix(stack, settings, saved.plan),
    ]
    return "\n".join(lines)


def families(anatomies: Iterable[Anatomy]) -> str:
    """For instance "LoRA" or "LoRA (128), LoCon (64)"."""
    counts = Counter(anatomy.family for anatomy in anatomies)
    named = [f"{family} ({count})" for family, count in counts.most_common()]
    return next(iter(counts), "none") if len(counts) < 2 else ", ".join(named)


def ranks(anatomies: Iterable[Anatomy]) -> str:
    """For instance "rank 4, alpha 4" or "ranks 4 to 16, no alpha (scale 1)"."""
    found = list(anatomies)
    rank = _range("rank", [anatomy.rank for anatomy in found if anatomy.rank is not None])
    alphas = [anatomy.alpha for anatomy in found if anatomy.alpha is not None]
    return f"{rank or 'no rank'}, {_range('alpha', alphas) or 'no alpha (scale 1)'}"


def _range(name: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{name} {low:g}" if low == high else f"{name}s {low:g} to {high:g}"


def _effective(half: HalfResult, index: int) -> str:
    asked, applied = half.strengths[index], sorted(half.applied[index].values())
    if not applied:
        return f"strength {asked:g}, nothing to apply"
    middle = applied[len(applied) // 2]
    effective = f"{applied[0]:.4g}"
    if applied[0] != applied[-1]:
        effective = f"{applied[0]:.4g} to {applied[-1]:.4g} by layer (median {middle:.4g})"
    return f"strength {asked:g} -> effective {effective}, {len(applied)} weights"


def _match(adapter: Adapter) -> list[str]:
    total, lost = len(adapter.file.tensors), len(adapter.left_out) + adapter.without_clip
    lines = [f"  - keys matched: {total - lost} of {total}"]
    if adapter.without_clip:
        lines.append(f"  - {adapter.without_clip} keys are for the text encoder: no CLIP is connected")
    left_out = _left_out(f"{len(adapter.left_out)} keys have no place in this model", adapter.left_out)
    return lines + [f"  {line}" for line in left_out]


def _left_out(text: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = ", ..." if len(names) > EXAMPLES else ""
    return [f"- left out: {text}: {', '.join(names[:EXAMPLES])}{more}"]
