"""ApplyLoRARegions and LoRARegionsFromPrompt: each LoRA of a stack in its own part of the picture."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..mixlora_core import regional
from ..mixlora_core.attention_masks import FromAttention
from ..mixlora_core.errors import CompositionError
from ..mixlora_core.regions import OVERLAPS, SHARE
from ..mixlora_core.stack import StyleStack
from ._sampling import gathered
from ._schema import schema, stack_inputs

MASKS = 6
_ALIASES = ["regional lora", "lora mask", "masked lora", "lora area", "regional prompt", "attention couple"]


def _model_input() -> io.Input:
    return io.Model.Input(
        "model", tooltip="The diffusion model (SD v1.5, SDXL), without these LoRAs. A patched clone comes out."
    )


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
            search_aliases=_ALIASES,
            inputs=[
                _model_input(),
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
                        tooltip=f"Where LoRA {number} of the stack speaks (white). Without it: everywhere.",
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
        if places[-1] > len(stacked.entries):
            raise CompositionError(f"mask_{places[-1]} is connected, but the stack has {len(stacked.entries)} LoRAs.")
        given += [None] * len(stacked.entries)
        return io.NodeOutput(*regional.by_hand(model, clip, stacked, given[: len(stacked.entries)], overlap))


class LoRARegionsFromPrompt(io.ComfyNode):
    """Regions without hands: where the words are seen that name a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="LoRARegionsFromPrompt",
            display_name="LoRA Regions from Prompt",
            category="MixLoRA/sampling",
            description="Every LoRA speaks where the picture shows the words that name it: its trigger words "
            "or file name in the prompt. The first steps find the places by cross-attention, the others keep them.",
            search_aliases=[*_ALIASES, "auto mask", "freefuse", "attention mask"],
            inputs=[
                _model_input(),
                io.Clip.Input("clip", tooltip="The text encoder, without these LoRAs."),
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=True, tooltip="The prompt, with words that name each LoRA."
                ),
                io.Float.Input(
                    "listen",
                    default=0.2,
                    min=0.01,
                    max=0.9,
                    step=0.01,
                    tooltip="The share of the steps that find the places. In them all LoRAs speak everywhere, at 1/N.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.5,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    tooltip="How softly regions meet: near 0 each place has one LoRA, high values mix them evenly.",
                ),
                io.Float.Input(
                    "smooth",
                    default=1.0,
                    min=0.0,
                    max=8.0,
                    step=0.1,
                    tooltip="How much the regions are blurred, in cells of the attention (16 or 32 pixels in SD v1.5).",
                ),
                *stack_inputs(),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the regions."),
                io.Conditioning.Output(
                    "positive", display_name="positive", tooltip="The prompt, for this model's sampler."
                ),
                io.Clip.Output(
                    "clip_out", display_name="clip", tooltip="The text encoder with all LoRAs, for the negative prompt."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        text: str,
        listen: float,
        temperature: float,
        smooth: float,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
    ) -> io.NodeOutput:
        """Attaches the composition to a clone and encodes the prompt."""
        wish = FromAttention(listen, temperature, smooth)
        return io.NodeOutput(*regional.from_prompt(model, clip, gathered(stack, lora_stack), text, wish))
