"""Finished LoRA files as a router's experts, and a trained router as one file with them."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..mixlora_core import execution
from ..mixlora_core.adapter import TEXT_ENCODER_PREFIXES, Adapter, match, module_of
from ..mixlora_core.errors import AdapterError
from ..mixlora_core.files import hashes, lora_file
from ..mixlora_core.files.metadata import trigger_words
from ..mixlora_core.routing import experts, router_file
from ..mixlora_core.routing.experts import PREFIX, Parts
from ..mixlora_core.routing.router import FIRST, SECOND, feed_forwards
from ..mixlora_core.routing.router_file import Expert, Head
from .base import Base
from .export import Exported, file_prefixes
from .router_settings import RouterSettings
from .settings import TrainingError

if TYPE_CHECKING:
    from .router import Routers

LINEARS = (FIRST, SECOND)


@dataclass(frozen=True, eq=False)
class Loaded:
    """One expert, matched to the base."""

    about: Expert
    adapter: Adapter
    parts: Parts
    tensors: Mapping[str, Tensor]
    """All of its file but what is for text encoders."""


@dataclass(frozen=True)
class ExportedRouter(Exported):
    """What was written; `modules` are feed-forward layers, `norm` is the routers'."""

    experts: int

    def __str__(self) -> str:
        return (
            f"{self.path}: routers of {self.modules} feed-forward layers over {self.experts} experts, "
            f"{self.bytes / 1e6:.2f} MB, norm of the routers {self.norm:.3g}, hash {self.sha256[:12]}"
        )


def load_experts(paths: Sequence[Path], base: Base) -> list[Loaded]:
    """The files, read and matched to the base's UNet. Parts for text encoders are left out.

    Raises TrainingError for fewer than two, for one that is there twice, does not fit the base or changes no
    feed-forward layer of it.
    """
    if len(paths) < 2:
        raise TrainingError(f"experts: expected two LoRA files or more, found {len(paths)}.")
    loaded = [_load(path, base) for path in paths]
    for index, one in enumerate(loaded):
        if one.about.sha256 in {other.about.sha256 for other in loaded[:index]}:
            raise TrainingError(f"experts: {paths[index]} is there twice, under this name or another. Remove one.")
    return loaded


def _load(path: Path, base: Base) -> Loaded:
    try:
        file = lora_file.read(path)
        adapter = match(file, _target(base), None)
        parts = experts.parts(adapter, feed_forwards(base.unet))
    except AdapterError as error:
        raise TrainingError(f"experts: {error}") from error
    if adapter.left_out:
        raise TrainingError(
            f"experts: {path}: {len(adapter.left_out)} of its tensors have no place in the base, such as "
            f"{adapter.left_out[0]}. Use LoRAs that were trained on this base."
        )
    if not parts.layers:
        raise TrainingError(
            f"experts: {path} changes no feed-forward layer, so a router would have nothing to choose. Train it with "
            "--targets ff or --targets attention+ff."
        )
    words = trigger_words(file.metadata)
    about = Expert(path.stem, hashes.of_file(path)[1], words)
    tensors = {
        name: tensor.half() if tensor.element_size() == 1 else tensor  # 8-bit formats: no digit is lost
        for name, tensor in file.tensors.items()
        if not name.startswith(TEXT_ENCODER_PREFIXES)
    }
    return Loaded(about, adapter, parts, tensors)


@contextmanager
def rest_merged(base: Base, loaded: Sequence[Loaded], rest: str) -> Iterator[None]:
    """Within the block the base's weights hold what the experts change beside the feed-forward layers, as `rest` says.

    After it the very same weights are back.
    """
    from ..mixlora_core.execution.bank import Bank
    from ..mixlora_core.execution.swap import Swap

    loud = experts.share(rest, len(loaded))
    if not loud or not any(one.parts.rest for one in loaded):
        yield
        return
    swap = Swap(Bank([replace(one.adapter, model_patches=one.parts.rest) for one in loaded]))
    try:
        swap.prepare(base.model, [(loud,) * len(loaded)])
        yield
    finally:
        swap.close(base.model)


def export_router(
    routers: Routers, loaded: Sequence[Loaded], options: RouterSettings, path: Path, base: Base,
    metadata: Mapping[str, str], *, keep_previous: bool = False,
) -> ExportedRouter:  # fmt: skip
    """Writes the routers and their experts as one file, atomically, and reads it back.

    Frozen experts are in it tensor for tensor as in their own files; trained ones have their new feed-forward factors,
    in fp16. Raises TrainingError for what is not finite or could not be read back, OSError where it cannot be written.
    """
    abouts, tensors = [one.about for one in loaded], [dict(one.tensors) for one in loaded]
    if options.train_experts:
        abouts = [replace(about, trained=True) for about in abouts]
        tensors = [_replaced(one, routers.factors(index), base) for index, one in enumerate(loaded)]
    head = Head(
        k=options.k, mixing=options.mixing, rest=options.rest, base=base.family,
        feed_forwards=len(feed_forwards(base.unet)), experts=tuple(abouts),
        base_name=base.name, base_sha256=base.sha256,
    )  # fmt: skip
    weights = routers.weights()
    words = ", ".join(dict.fromkeys(word for about in abouts for word in about.words))
    about = {key: value for key, value in metadata.items() if not key.startswith("ss_network")}
    about |= {"modelspec.trigger_phrase": words} if words else {}
    try:
        written = router_file.write(path, head, weights, tuple(tensors), about, keep_previous=keep_previous)
        _check_fits(written, loaded, base)
    except AdapterError as error:
        raise TrainingError(str(error)) from error
    norm = torch.stack([weight.square().sum() for weight in weights.values()]).sum().sqrt().item()
    return ExportedRouter(path, len(weights), path.stat().st_size, hashes.of_file(path)[1], norm, len(loaded))


def _replaced(one: Loaded, factors: Mapping[str, tuple[Tensor, Tensor, float]], base: Base) -> dict[str, Tensor]:
    """An expert's tensors with other factors for its feed-forward layers, given by their paths in the UNet."""
    names, ours = _target(base).names, {f"{PREFIX}{layer}.weight" for layer in factors}
    tensors = {key: tensor for key, tensor in one.tensors.items() if names.get(module_of(key) or "") not in ours}
    if len(tensors) > len(one.tensors) - 2 * len(factors):
        raise TrainingError(
            f"experts: {one.adapter.file.name}: the names of its feed-forward tensors are not understood, so "
            "trained ones cannot take their place. Convert it with Save Mixed LoRA, or leave its experts frozen."
        )
    for layer, prefix in file_prefixes(factors, base.model.model_config.unet_config).items():
        up, down, scale = factors[layer]
        tensors[f"{prefix}.lora_up.weight"] = up.detach().to("cpu", torch.float16)
        tensors[f"{prefix}.lora_down.weight"] = down.detach().to("cpu", torch.float16)
        tensors[f"{prefix}.alpha"] = torch.tensor(scale * len(down))
    return tensors


def _check_fits(written: router_file.RouterFile, loaded: Sequence[Loaded], base: Base) -> None:
    """Raises TrainingError where ComfyUI reads other layers from the file than the experts have."""
    for index, one in enumerate(loaded):
        found = match(written.expert(index), _target(base), None)
        if found.model_patches.keys() != one.adapter.model_patches.keys():
            raise TrainingError(
                f"{written.identity.path} was written, but ComfyUI reads {len(found.model_patches)} of "
                f"{len(one.adapter.model_patches)} layers of {one.about.name} from it. This is the trainer's defect; "
                "please report it."
            )


def _target(base: Base) -> Any:
    if base.model is None:
        raise TrainingError("Experts need a Base made by Base.from_comfy or load_base.")
    return execution.unet_target(types.SimpleNamespace(model=base.model))
