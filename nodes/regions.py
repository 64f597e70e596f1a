"""ApplyLoRARegions: each LoRA of a stack in its own part of the picture, by masks."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..mixlora_core.errors import CompositionError
from ..mixlora_core.regions import regional
from ..mixlora_core.regions.masks import OVERLAPS, SHARE
from ..mixlora_core.stack import StyleStack
from ._sampling import gathered
from ._schema import schema, stack_inputs

MASKS = 6


class ApplyLoRARegions(io.ComfyNode):
    """Regions by hand, as a patch of the MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="ApplyLoRARegions",
            display_name="Apply LoRA Regions",
            category="MixLoRA/sampling",
            description="Every LoRA of a stack speaks only where its mask says, in one pass of the model. Masks may be "
            "soft and of any size; a LoRA without a mask speaks everywhere.",
            search_aliases=["regional lora", "lora mask", "masked lora", "lora area", "regional prompt"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The diffusion model (SD v1.5, SDXL), without these LoRAs. A patched clone comes out.",
                ),
                io.Combo.Input(
                    "overlap",
                    options=list(OVERLAPS),
                    default=SHARE,
                    tooltip="Where masks overlap. sum: every LoRA at its own strength. share: masks that add up to "
                    "more than 1 are divided by their sum.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoder. Text has no place: all LoRAs speak in it."
                ),
                *stack_inputs(),
                *(
                    io.Mask.Input(
                        f"mask_{number}",
                        optional=True,
                        tooltip=f"Where LoRA {number} of the stack speaks (white). Without it: everywhere. A LoRA with "
                        "both strengths 0 keeps its number; its mask does nothing.",
                    )
                    for number in range(1, MASKS + 1)
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the regions."),
                io.Clip.Output(
                    "clip_out", display_name="clip", tooltip="The text encoder with all LoRAs, if one came in."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        overlap: str,
        clip: Any = None,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
        **masks: Any,
    ) -> io.NodeOutput:
        """Attaches the composition to a clone."""
        stacked = gathered(stack, lora_stack)
        given = [masks.get(f"mask_{number}") for number in range(1, MASKS + 1)]
        places = [number for number, mask in enumerate(given, start=1) if mask is not None]
        if not places:
            raise CompositionError(
                "No mask is connected, so there are no regions. Connect one, or use Mix LoRA Weights."
            )
        if places[-1] > stacked.size:
            raise CompositionError(f"mask_{places[-1]} is connected, but the stack has {stacked.size} LoRAs.")
        given += [None] * stacked.size
        own = [given[number - 1] for number in stacked.numbers]  # the mask of a silent LoRA is nobody's
        return io.NodeOutput(*regional.by_hand(model, clip, stacked, own, overlap))
