"""MixLoRAWeights: a stack, blended into a MODEL and a CLIP as weights."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..mixlora_core import report
from ..mixlora_core.errors import AdapterError
from ..mixlora_core.mixing import modes
from ..mixlora_core.mixing.weighted_mix import MixSettings, mix
from ..mixlora_core.stack import StyleStack, gather
from ._schema import schema, stack_inputs


def mix_inputs() -> list[io.Input]:
    """How strengths become coefficients: the inputs that every node has which blends a stack as weights."""
    return [
        io.Combo.Input(
            "mode",
            options=list(modes.MODES),
            default=modes.SUM,
            tooltip="sum: strengths as they are, the same bits as chained LoRA loaders. sum to total: absolute "
            "strengths scaled to add up to total. 1/sqrt(N): strengths divided by the root of their number. "
            "equal energy: in every layer each LoRA's change is brought to the same size first.",
        ),
        io.Float.Input(
            "total",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip='What the strengths add up to in the mode "sum to total"; other modes ignore it.',
        ),
        io.Float.Input(
            "limit",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="Largest allowed |dW|/|W| of a layer; above it the whole blend of that layer is scaled "
            "down. 0 is no limit. 0.1 is a strong change, 0.3 usually breaks the picture.",
        ),
    ]


class MixLoRAWeights(io.ComfyNode):
    """Blends the LoRAs of a stack into one model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="MixLoRAWeights",
            display_name="Mix LoRA Weights",
            category="MixLoRA/mixing",
            description="Blends all LoRAs of a stack into the model: W + sum of c * dW. The mode says how the "
            "coefficients c come from the strengths; the report lists them.",
            search_aliases=["lora mixer", "multi lora", "lora stack", "apply lora stack", "normalize lora"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model. It is not changed; a patched clone comes out."),
                *mix_inputs(),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder. Without it only the model is patched."),
                *stack_inputs(),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the blend."),
                io.Clip.Output(
                    "clip_out", display_name="clip", tooltip="The text encoder with the blend, if one came in."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Effective strengths, where the limit bit, what was left out.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        mode: str,
        total: float,
        limit: float,
        clip: Any = None,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
    ) -> io.NodeOutput:
        """Applies the stack to clones."""
        if stack is None and lora_stack is None:
            raise AdapterError("Mix LoRA Weights has nothing to mix: connect its stack or its lora_stack input.")
        stacked, settings = gather(stack, lora_stack), MixSettings(mode, total, limit)
        result = mix(model, clip, stacked, settings)
        text = report.describe_mix(stacked, settings, result)
        logging.info("MixLoRA: %s", text)
        return io.NodeOutput(result.model, result.clip, text)
