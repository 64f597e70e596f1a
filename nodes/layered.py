"""ApplyLoRALayered: things one by one over a merge of scenery and styles."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..mixlora_core.layered import describe, layered, things_of
from ..mixlora_core.stack import StyleStack
from ._sampling import gathered
from ._schema import schema, stack_inputs


class ApplyLoRALayered(io.ComfyNode):
    """Things over scenery, as a patch of the MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="ApplyLoRALayered",
            display_name="Apply LoRA Layered",
            category="MixLoRA/sampling",
            description="For many LoRAs of which some are things (characters, buildings, objects) and others cover the "
            "picture (styles, weather, ground): these are merged, and each thing is added alone, so that things do not "
            "break each other.",
            search_aliases=["multi lora", "lora composite", "character lora", "many loras", "concept and style"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, without these LoRAs. A patched clone comes out."),
                io.String.Input(
                    "things",
                    default="",
                    tooltip="Which LoRAs of the stack are things, by name, trigger words or place, with commas "
                    'between: "castle, balloon" or "1, 3". Empty: all of them. Each costs one prediction a step; one '
                    "thing alone costs nothing.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder. All LoRAs speak in it."),
                *stack_inputs(),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the layers."),
                io.Clip.Output(
                    "clip_out", display_name="clip", tooltip="The text encoder with all LoRAs, if one came in."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Which LoRA is a thing, which is merged, the cost."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        things: str,
        clip: Any = None,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
    ) -> io.NodeOutput:
        """Attaches the composition to a clone."""
        stacked = gathered(stack, lora_stack)
        places = things_of(things, stacked)
        return io.NodeOutput(*layered(model, clip, stacked, places), describe(stacked, places))
