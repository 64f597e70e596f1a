"""The command line of describe.py: what is in a LoRA file, for people at 80 columns and, with --json, for machines."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .. import standalone
from ..standalone import show_all_letters

if TYPE_CHECKING:
    from ..mixlora_core.description import Description

WIDTH, LABEL, LOUDEST, EXAMPLES = 80, 16, 5, 3

# Rows of the metadata that people ask for: (label, ((key, how it is written), ...)).
_TRAINING = (
    ("title", (("modelspec.title", "{}"), ("modelspec.author", "by {}"), ("modelspec.date", "{}"),
               ("modelspec.license", "licence {}"))),
    ("made with", (("modelspec.implementation", "{}"), ("ss_network_module", "{}"), ("ss_network_args", "{}"),
                   ("software", "{}"))),
    ("trained on", (("ss_sd_model_name", "{}"), ("ss_sd_model_hash", "hash {}"), ("ss_base_model_version", "{}"),
                    ("modelspec.prediction_type", "prediction {}"))),
    ("pictures", (("ss_num_train_images", "{}"), ("ss_resolution", "at {}"), ("ss_caption_dropout_rate",
                  "caption dropout {}"))),
    ("steps", (("ss_steps", "{}"), ("ss_epoch", "epoch {}"), ("ss_batch_size_per_device", "batch {}"),
               ("ss_gradient_accumulation_steps", "accumulated {}"), ("ss_seed", "seed {}"))),
    ("learning", (("ss_learning_rate", "rate {}"), ("ss_lr_scheduler", "{}"), ("ss_optimizer", "{}"),
                  ("ss_min_snr_gamma", "min-SNR {}"), ("ss_noise_offset", "noise offset {}"),
                  ("ss_mixed_precision", "precision {}"))),
    ("mix of", (("modelspec.merged_from", "{}"),)),
    ("says", (("modelspec.description", "{}"), ("modelspec.usage_hint", "{}"), ("ss_training_comment", "{}"))),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Describes every file; returns 2 if one could not be described, else 0."""
    parser = argparse.ArgumentParser(prog="describe.py", description="Shows what is in LoRA files (.safetensors).")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="a JSON list with everything, for machines")
    given = parser.parse_args(arguments)
    show_all_letters()
    try:
        standalone.import_comfy(cpu=True)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from ..mixlora_core.description import as_json, describe
    from ..mixlora_core.errors import AdapterError

    results, failed = [], False
    for path in given.files:
        try:
            found = describe(path)
        except (AdapterError, OSError) as error:
            failed = True
            print(f"error: {error}", file=sys.stderr, flush=True)
            results.append({"file": path, "error": str(error)})
            continue
        results.append(as_json(found))
        if not given.json:
            print(as_text(found), end="\n\n", flush=True)
    if given.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    return 2 if failed else 0


def as_text(found: Description) -> str:
    """The description in lines of 80 columns."""
    from ..mixlora_core.report import families, ranks

    summary, modules = found.summary, found.summary.modules
    base = f"{summary.base.label}, as {summary.evidence}" if summary.base else "not recognised"
    formats = ", ".join(f"{count} {name}" for name, count in found.formats.items())
    rows = [
        ("kind", f"{families(modules.values())}; {ranks(modules.values())}"),
        ("made for", base),
        ("targets", _counts(found.targets)),
        ("names", _counts(found.layouts, len(modules))),
        *(("read by" if not row else "", line) for row, line in enumerate(_readers(found))),
        ("size", f"{_bytes(found.bytes)}; {found.tensors} tensors ({formats}); {found.numbers:,} numbers"),
        *(("change" if not row else "", line) for row, line in enumerate(_change(found))),
        ("trigger words", _words(found)),
        *_training(found.metadata),
        *(("hashes" if not row else "", line) for row, line in enumerate(_hashes(found))),
        *(("look at this" if not row else "", line) for row, line in enumerate(_problems(found))),
    ]
    return "\n".join([str(found.path), *(_row(label, text) for label, text in rows)])


def _row(label: str, text: str) -> str:
    lead = f"  {label:<{LABEL}}"
    indent = " " * len(lead)
    return textwrap.fill(text, WIDTH, initial_indent=lead, subsequent_indent=indent, break_on_hyphens=False)


def _readers(found: Description) -> Iterable[str]:
    for program, why in found.objections.items():
        matched = f" ({found.matched} of {len(found.summary.modules)} modules)" if program == "ComfyUI" else ""
        answer = "in part" if matched and found.matched else "no"
        if matched and found.matched is None:
            answer, matched = "unknown", ""
        yield f"{program}: {f'{answer}{matched}: {why}' if why else f'yes{matched}'}"


def _words(found: Description) -> str:
    from ..mixlora_core.files.metadata import guessed_words

    guessed = ", ".join(guessed_words(found.metadata))
    perhaps = f"; perhaps {guessed}, its captions' most frequent tag" if guessed else ""
    return ", ".join(found.trigger_words) or f"none in the metadata{perhaps}"


def _change(found: Description) -> Iterable[str]:
    if found.changes:
        yield f"norm of dW {found.change:.4g} over {len(found.changes)} weights; the largest:"
        loud = sorted(found.changes.items(), key=lambda item: -item[1])[:LOUDEST]
        yield from (f"{norm:<7.4g} {_short(name)}" for name, norm in loud)
    if found.unmeasured:
        yield f"not known without the model for {len(found.unmeasured)} weights, such as {found.unmeasured[0]}"


def _training(metadata: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    shown = set()
    for label, parts in _TRAINING:
        there = [(key, how) for key, how in parts if metadata.get(key, "None") not in ("None", "", "{}")]
        shown.update(key for key, _ in there)
        if there:
            yield label, "; ".join(how.format(" ".join(metadata[key].split())) for key, how in there)
    others = len(metadata.keys() - shown)
    if not metadata:
        yield "metadata", "none"
    elif others:
        yield "metadata", f"{len(metadata)} entries; --json shows the other {others}, too"


def _hashes(found: Description) -> Iterable[str]:
    yield f"file     {found.sha256[:10]} (SHA-256, AutoV2)"
    yield f"tensors  {found.tensor_sha256[:12]} (SHA-256, AutoV3)"
    words = {True: "right", False: "WRONG: the tensors were changed after it was written", None: "not checked"}
    yield from (f"{key}: {words[right]}" for key, right in found.hashes.items())


def _problems(found: Description) -> Iterable[str]:
    summary = found.summary
    named = [
        (tuple(f"{key} ({count})" for key, count in found.not_finite.items()), "tensors have NaN or infinite values"),
        (found.zero, "tensors are zero, so their modules do nothing"),
        (summary.unread, "tensors belong to no LoRA family that ComfyUI reads"),
        (summary.unknown, "tensors are for layers that the base model does not have"),
    ]
    for names, what in named:
        if names:
            yield f"{len(names)} {what}: {', '.join(names[:EXAMPLES])}{', ...' if len(names) > EXAMPLES else ''}"


def _counts(counts: Mapping[str, int], alone: int | None = None) -> str:
    """Names with their counts; without a count where one name has all."""
    return ", ".join(name if count == alone else f"{name} {count}" for name, count in counts.items())


def _short(name: str) -> str:
    """A weight's name that fits beside its number: without what all names share, then without its middle."""
    name, room = re.sub(r"^(lora_unet_|diffusion_model\.|unet\.)", "", name), WIDTH - LABEL - 10
    return name if len(name) <= room else f"{name[: room // 2 - 2]}...{name[1 - room // 2 :]}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
