"""One LoRA file, looked at from all sides, without a model: what it is, who reads it, how strong it is, what is wrong.

ComfyUI's key map says which of its names the base model has; hashes and sizes of change are computed from the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adapter import Patch, PatchKey, Summary, module_of, summarise
from .files import hashes, layouts, lora_file
from .files.families import Anatomy, examine
from .files.metadata import trigger_words
from .mixing.energy import LayerEnergies

COMFYUI = "ComfyUI"


@dataclass(frozen=True, eq=False)
class Description:
    """What `describe` found. Names of modules and tensors are the file's own."""

    path: Path
    bytes: int
    sha256: str
    """Of the whole file; Civitai's AutoV2 is its first ten digits."""
    tensor_sha256: str
    """Of all after the header; Civitai's AutoV3 is its first twelve digits."""
    summary: Summary
    tensors: int
    numbers: int
    formats: Mapping[str, int]
    """Number format -> how many tensors have it."""
    layouts: Mapping[str, int]
    """Layout of names -> how many modules have it."""
    targets: Mapping[str, int]
    """Kind of layer -> how many modules adapt one."""
    objections: Mapping[str, str]
    """Program -> why it does not read the whole file; "" if it does."""
    changes: Mapping[str, float]
    """Weight -> ||dW|| (Frobenius norm) at strength 1, for all whose dW needs no model to be known."""
    unmeasured: tuple[str, ...]
    """Weights whose change depends on the model's own weights (DoRA, OFT, GLoRA, a weight that is set)."""
    trigger_words: tuple[str, ...]
    metadata: Mapping[str, str]
    hashes: Mapping[str, bool | None]
    """Claimed hash -> whether it is right; None where that cannot be told."""
    not_finite: Mapping[str, int]
    """Tensor -> how many NaN or infinite values it has."""
    zero: tuple[str, ...]
    """Tensors in which every number is 0."""

    @property
    def change(self) -> float:
        """||dW|| of all measured weights together."""
        return sum(norm**2 for norm in self.changes.values()) ** 0.5

    @property
    def matched(self) -> int | None:
        """How many modules have a place in the base model that was guessed; None where none was."""
        summary = self.summary
        return len(summary.modules) - len(_unknown_modules(summary)) if summary.base else None


def describe(path: str | Path) -> Description:
    """Looks at the file. Raises AdapterError for one that is no LoRA or is damaged, OSError if it cannot be read."""
    file = lora_file.inspect(path)
    summary = summarise(file)
    whole, tensor_hash = hashes.of_file(path)
    tensors, broken = file.tensors, lora_file.not_finite(file.tensors)
    changes, unmeasured = _changes(summary.patches)
    return Description(
        path=Path(path),
        bytes=file.identity.size,
        sha256=whole,
        tensor_sha256=tensor_hash,
        summary=summary,
        tensors=len(tensors),
        numbers=sum(tensor.numel() for tensor in tensors.values()),
        formats=Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()),
        layouts=Counter(layouts.layout_of(module).name for module in summary.modules),
        targets=Counter(layouts.target_of(module) for module in summary.modules),
        objections=objections(tensors, summary),
        changes=changes,
        unmeasured=unmeasured,
        trigger_words=trigger_words(file.metadata),
        metadata=file.metadata,
        hashes=hashes.check(tensors, file.metadata, tensor_hash),
        not_finite=broken,
        zero=tuple(key for key, tensor in tensors.items() if not tensor.any()),
    )


def _changes(patches: Mapping[PatchKey, Patch]) -> tuple[dict[str, float], tuple[str, ...]]:
    measured, unmeasured = {}, []
    for key, patch in patches.items():
        anatomy, name = examine(patch), str(key).removesuffix(".weight")
        shape = _shape(anatomy)
        if anatomy.linear and anatomy.scalable and shape is not None:
            energies = LayerEnergies([{key: patch}], lambda _, shape=shape: torch.zeros(shape), torch.device("cpu"))
            measured[name] = energies.norms.item()
        else:
            unmeasured.append(name)
    return measured, tuple(unmeasured)


def _shape(anatomy: Anatomy) -> tuple[int, ...] | None:
    """A shape that the change of weight can be computed in; kernels lie flat in it."""
    if anatomy.shape is not None:
        return anatomy.shape
    return (anatomy.rows, anatomy.columns) if anatomy.rows and anatomy.columns else None


def objections(tensors: Mapping[str, Tensor], summary: Summary) -> dict[str, str]:
    """Program -> what keeps it from reading every module of the file; "" if nothing does."""
    found: dict[str, list[str]] = {COMFYUI: [], layouts.A1111: [], layouts.DIFFUSERS: []}
    missing = _unknown_modules(summary)
    if summary.base is None:
        found[COMFYUI].append("the base model is not recognised")
    elif missing:
        found[COMFYUI].append(f"its map of {summary.base.label} lacks {_count(missing, 'module')}")
        if not any(layouts.layout_of(module).diffusers for module in missing):
            found[layouts.A1111].append(f"{summary.base.label} lacks {_count(missing, 'module')}")
    if summary.unread:
        found[COMFYUI].append(f"it ignores {_count(summary.unread, 'stray tensor')}")
        found[layouts.DIFFUSERS].append(f"it refuses a file with stray tensors ({summary.unread[0]})")

    kind = summary.base.kind if summary.base else None
    tails: dict[str, list[str]] = {}
    for key in tensors:
        if (module := module_of(key)) is not None:
            tails.setdefault(module, []).append(key[len(module) :].lstrip("._"))
    for module, anatomy in summary.modules.items():
        layout, own = layouts.layout_of(module), tails.get(module, [])
        families = [anatomy.family] + ["a Tucker core"] * ("lora_mid.weight" in own)
        found[layouts.A1111].append(layouts.a1111_objection(layout, [anatomy.family]))
        found[layouts.DIFFUSERS].append(layouts.diffusers_objection(layout, kind, families, own))
    if lost := layouts.a1111_losses(summary.modules, kind):
        found[layouts.A1111].append(f"A1111 leaves out {', '.join(lost)}; Forge reads all")
    return {program: "; ".join(dict.fromkeys(filter(None, reasons))) for program, reasons in found.items()}


def _unknown_modules(summary: Summary) -> tuple[str, ...]:
    return tuple(dict.fromkeys(module_of(key) or key for key in summary.unknown))


def _count(names: tuple[str, ...], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def as_json(described: Description) -> dict[str, Any]:
    """The description as plain values, for machines. Keys stay what they are; new ones may come."""
    summary = described.summary
    modules = summary.modules.values()
    return {
        "file": str(described.path),
        "bytes": described.bytes,
        "sha256": described.sha256,
        "tensor_sha256": described.tensor_sha256,
        "families": Counter(anatomy.family for anatomy in modules),
        "ranks": sorted({anatomy.rank for anatomy in modules if anatomy.rank is not None}),
        "alphas": sorted({float(anatomy.alpha) for anatomy in modules if anatomy.alpha is not None}),
        "base": summary.base and {"kind": summary.base.kind, "label": summary.base.label, "because": summary.evidence},
        "modules": len(modules),
        "modules_matched": described.matched,
        "tensors": described.tensors,
        "numbers": described.numbers,
        "formats": described.formats,
        "layouts": described.layouts,
        "targets": described.targets,
        "read_by": {program: not why for program, why in described.objections.items()},
        "objections": {program: why for program, why in described.objections.items() if why},
        "change": {"total": described.change, "by_weight": described.changes, "not_measured": described.unmeasured},
        "trigger_words": described.trigger_words,
        "hashes": described.hashes,
        "not_finite": described.not_finite,
        "zero": described.zero,
        "unread": summary.unread,
        "not_in_base": summary.unknown,
        "metadata": dict(described.metadata),
    }
