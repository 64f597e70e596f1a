"""EncodeTextPerLoRA: the prompt, encoded once for each LoRA with its own text encoder."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..mixlora_core.stack import StyleStack
from ..mixlora_core.text import encode_per_adapter
from ._sampling import gathered
from ._schema import schema, stack_inputs


class EncodeTextPerLoRA(io.ComfyNode):
    """A prompt for Switch and Composite."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="EncodeTextPerLoRA",
            display_name="Encode Text per LoRA",
            category="MixLoRA/conditioning",
            description="Encodes the prompt once for each LoRA of a stack, with that LoRA's own text-encoder part, so "
            "that in LoRA Switch and LoRA Composite every LoRA reads the prompt as it learnt to.",
            search_aliases=["lora prompt", "clip text encode lora", "per lora text encoder"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder, without these LoRAs."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The prompt."),
                *stack_inputs(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="conditioning",
                    tooltip="For LoRA Switch and Composite with the same stack. Other samplers average its parts: one "
                    "for each LoRA, and the plain text.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, clip: Any, text: str, stack: StyleStack | None = None, lora_stack: list | None = None
    ) -> io.NodeOutput:
        """Encodes."""
        return io.NodeOutput(encode_per_adapter(clip, gathered(stack, lora_stack), text, shared=True))
