"""How the tensors of a LoRA file are named, which layers that means, and which programs understand it. Pure.

ComfyUI is asked itself, through its key map (`bases`). What A1111, Forge and diffusers take is written down here, as
their loaders and a test of twelve layouts showed it: of all of them only `lora_unet_<diffusers' block names>` with
`lora_down`, `lora_up` and `alpha` is read by every one, but for one convolution of SDXL (`a1111_losses`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

A1111, DIFFUSERS = "A1111, Forge", "diffusers"

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Layout:
    """One way to name modules."""

    name: str
    pattern: str
    """What the module's name begins with."""
    a1111: bool = False
    diffusers: bool = False
    only: str = ""
    """The kind of base model for which diffusers takes it, where that is one."""
    tails: tuple[str, ...] = ()
    """How the factors must be called for diffusers."""


_PAIR, _PEFT = ("lora_up.weight", "lora_down.weight"), ("lora_A.weight", "lora_B.weight")
_TO_DIFFUSERS = "down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding|add_embedding|class_embedding"

PORTABLE = Layout(
    "lora_unet_<diffusers' block names> (kohya)", rf"lora_unet_({_TO_DIFFUSERS})|lora_te\d?_", True, True, tails=_PAIR
)
LAYOUTS = (
    PORTABLE,
    Layout(
        "lora_unet_<LDM block names> (kohya)",
        r"lora_unet_(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)_",
        *(True, True, "sdxl", _PAIR),
    ),
    Layout("diffusion_model.<LDM block names> (ComfyUI's own)", r"diffusion_model\.|text_encoders\."),
    Layout("unet.<processors> (diffusers of 2023)", r"(unet\.)?\w+_block.*\.processor", diffusers=True),
    Layout(
        "unet.<diffusers' module names> (diffusers, PEFT)",
        r"(unet|text_encoder(_2)?)\.",
        diffusers=True,
        tails=(*_PEFT, "lora.up.weight", "lora.down.weight", "lora_linear_layer.up.weight"),
    ),
    Layout("base_model.model.<module names> (PEFT)", r"base_model\.model\."),
    Layout("lycoris_<diffusers' block names> (LyCORIS)", r"lycoris_"),
)
OTHER = Layout("another layout", "")

_A1111_MISTAKES = {"sdxl": ("lora_unet_up_blocks_0_upsamplers_0_conv",)}
"""A1111 turns diffusers' names into LDM's by SD v1.5's count: this one into output_blocks_2_1_conv, which is SDXL's
output_blocks.2.2.conv. It then says that the key did not match, and applies the rest."""

_A1111_FAMILIES = {"LoRA", "LoCon", "LoHa", "LoKr", "DoRA", "GLoRA", "OFT", "BOFT", "full diff"}

# In this order: the first group whose pattern is found in a module's name has it.
_TARGETS = (
    ("text encoder", r"^(lora_(prior_)?te|text_encoder)"),
    ("self-attention", r"attn1[._]"),
    ("cross-attention", r"attn2[._]"),
    ("feed-forward", r"[._]ff[._]"),
    ("transformer projections", r"proj_(in|out)"),
    ("norms", r"norm|[._](in|out)_layers[._]0$"),
    ("time and label embedding", r"time_emb|emb_layers|(add|label|class)_emb"),
    ("convolutions", r"conv|[._](in|out)_layers|skip_connection|samplers|[._]op$|input_blocks_0_0|[._]out_2"),
)


def layout_of(module: str) -> Layout:
    """The layout in which a module is named."""
    return next((layout for layout in LAYOUTS if re.match(layout.pattern, module)), OTHER)


def best_names(names: Mapping[str, Key]) -> dict[Key, str]:
    """For every weight the name that most programs know; `names` maps all names that ComfyUI knows to their weights."""
    two_encoders = any(name.startswith("lora_te2_") for name in names)

    def rank(name: str) -> tuple:
        numbered = re.match(r"lora_te\d_", name) is not None
        return ((*LAYOUTS, OTHER).index(layout_of(name)), numbered != two_encoders, name)

    best: dict[Key, str] = {}
    for name in sorted(names, key=rank):
        best.setdefault(names[name], name)
    return best


def target_of(module: str) -> str:
    """The kind of layer that a module's name means: "self-attention", "convolutions", ...; "other" if none fits."""
    return next((target for target, pattern in _TARGETS if re.search(pattern, module)), "other")


def a1111_objection(layout: Layout, families: Iterable[str]) -> str:
    """Why A1111 does not read modules of this layout and these families; "" if it does."""
    if not layout.a1111:
        return "A1111 reads names that begin with lora_unet_ or lora_te; Forge has ComfyUI's map"
    strange = sorted(set(families) - _A1111_FAMILIES)
    return f"they do not know {', '.join(strange)}" if strange else ""


def a1111_losses(modules: Iterable[str], kind: str | None) -> list[str]:
    """The modules of a file that A1111 leaves out although it reads their layout; `kind` is the base model's."""
    return [module for module in modules if module in _A1111_MISTAKES.get(kind or "", ())]


def diffusers_objection(layout: Layout, kind: str | None, families: Iterable[str], tails: Iterable[str]) -> str:
    """Why diffusers does not read such modules; "" if it does.

    `kind` is the base model's, `tails` what the tensors are called after the module's name.
    """
    strange = sorted(set(families) - {"LoRA", "LoCon"})
    if strange:
        return f"it reads low-rank pairs only, not {', '.join(strange)}"
    if not layout.diffusers:
        return "it does not know these names"
    if layout.only and layout.only != kind:
        return "it takes LDM block names for SDXL only"
    foreign = [tail for tail in tails if layout.tails and tail not in (*layout.tails, "alpha")]
    return f"it does not take {foreign[0]} under these names" if foreign else ""
