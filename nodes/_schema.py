"""One schema for all ComfyUI versions: what an older `io.Schema` does not know is left out."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

StyleStackType = io.Custom("STYLE_STACK")
LoraStackType = io.Custom("LORA_STACK")


def schema(**fields: Any) -> io.Schema:
    """`io.Schema(**fields)` without the fields that came later than the ComfyUI that runs (`search_aliases`: 0.11)."""
    known = inspect.signature(io.Schema).parameters
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def stack_inputs(tooltip: str = "LoRAs from Load Style LoRA.") -> list[Any]:
    """Where a stack comes in, the pack's own or the community's."""
    return [
        StyleStackType.Input("stack", optional=True, tooltip=tooltip),
        LoraStackType.Input(
            "lora_stack", optional=True, tooltip="LoRAs from another pack's LORA_STACK; they come after the stack's."
        ),
    ]
