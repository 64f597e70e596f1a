"""LoRACompositeSampler and its twin: every LoRA predicts alone, the predictions are averaged or added."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..mixlora_core.compose import composed
from ..mixlora_core.composition import Centred, Composite, Composition, Reused
from ..mixlora_core.numbers import decimals
from ..mixlora_core.stack import StyleStack
from ._sampling import KSamplerValues, gathered, ksampler_inputs, say_unused
from ._schema import schema, stack_inputs

_ALIASES = ["lora composite", "multi lora", "lora guidance average", "compose loras"]

AVERAGE, FULL = "average", "full strength"


def _composite_inputs() -> list[Any]:
    return [
        io.String.Input(
            "weights",
            default="",
            tooltip='How much each LoRA counts in the average, such as "2, 1, 1". Empty: all the same. This is not the '
            "strength: it says how much of the picture a LoRA decides, not how far it goes. At full strength: how much "
            "of its effect is added, all of it where empty.",
        ),
        io.Combo.Input(
            "mode",
            options=[AVERAGE, FULL],
            default=AVERAGE,
            optional=True,  # workflows and scripts of before know no mode
            tooltip="average: LoRA Composite as published; each LoRA has an N-th of its effect. full strength: what "
            "each LoRA changes by itself is added up, anew in every fourth step; with five LoRAs for half the time.",
        ),
    ]


def _composite(stack: StyleStack, weights: str, mode: str) -> Composition:
    count, own = len(stack.entries), decimals(weights, "weights")
    if mode == AVERAGE:
        return Composite(count, own)
    return Reused(Centred(count, weights=own))


class LoRACompositeSampler(io.ComfyNode):
    """KSampler with LoRA Composite."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="LoRACompositeSampler",
            display_name="LoRA Composite Sampler",
            category="MixLoRA/sampling",
            description="KSampler in which every LoRA of a stack predicts alone in each step and the predictions are "
            "averaged, or what each one changes is added up, so that no LoRA distorts another's weights. Costs up to N "
            "times as much.",
            search_aliases=_ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, without these LoRAs."),
                *ksampler_inputs(),
                *_composite_inputs(),
                *stack_inputs(),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="The denoised latent.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        weights: str,
        mode: str = AVERAGE,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
        **ksampler: Any,
    ) -> io.NodeOutput:
        """Samples."""
        stacked, values = gathered(stack, lora_stack), KSamplerValues(**ksampler)
        say_unused(stacked, values.positive, values.negative)
        return io.NodeOutput(values.sample(composed(model, stacked, _composite(stacked, weights, mode))))


class ApplyLoRAComposite(io.ComfyNode):
    """LoRA Composite as a patch of the MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="ApplyLoRAComposite",
            display_name="Apply LoRA Composite",
            category="MixLoRA/sampling",
            description="LoRA Composite for any sampler: the model that comes out averages the predictions of all "
            "LoRAs of the stack, or adds up what each one changes, wherever it is sampled.",
            search_aliases=_ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model. It is not changed; a patched clone comes out."),
                *_composite_inputs(),
                *stack_inputs(),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the composition.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        weights: str,
        mode: str = AVERAGE,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
    ) -> io.NodeOutput:
        """Attaches the composition to a clone."""
        stacked = gathered(stack, lora_stack)
        say_unused(stacked)
        return io.NodeOutput(composed(model, stacked, _composite(stacked, weights, mode)))
