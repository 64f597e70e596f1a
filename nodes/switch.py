"""LoRASwitchSampler and its twin: one LoRA speaks at a time, in turns."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy_api.latest import io

from ..mixlora_core.compose import composed
from ..mixlora_core.composition import Switch, timetable
from ..mixlora_core.numbers import integers
from ..mixlora_core.stack import StyleStack
from ..mixlora_core.text import unused_texts
from ._sampling import KSamplerValues, gathered, ksampler_inputs, say_unused
from ._schema import schema, stack_inputs

_ALIASES = ["lora switch", "multi lora", "lora alternate", "lora schedule", "switch lora per step"]


def _switch_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "switch_every",
            default=0,
            min=0,
            max=10000,
            tooltip="How many steps one LoRA speaks before the next (tau). 0 is automatic: a twentieth of the steps, "
            "fewer where a LoRA would otherwise get no turn.",
        ),
        io.String.Input(
            "order",
            default="",
            tooltip='In which order the LoRAs take turns, such as "2, 1, 3". Empty: as they are stacked. LoRAs for '
            "what matters most (a character) should come first.",
        ),
    ]


def _switch(stack: StyleStack, switch_every: int, order: str) -> Switch:
    places = tuple(number - 1 for number in integers(order, "order"))
    return Switch(len(stack.entries), switch_every, places)


class LoRASwitchSampler(io.ComfyNode):
    """KSampler with LoRA Switch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="LoRASwitchSampler",
            display_name="LoRA Switch Sampler",
            category="MixLoRA/sampling",
            description="KSampler in which the LoRAs of a stack take turns: one speaks at a time, the next one after "
            "switch_every steps. As fast as one LoRA.",
            search_aliases=_ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, without these LoRAs."),
                *ksampler_inputs(),
                *_switch_inputs(),
                *stack_inputs(),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The denoised latent."),
                io.String.Output("timetable", display_name="timetable", tooltip="Which LoRA speaks in which steps."),
                io.Image.Output("timetable_picture", display_name="timetable_picture", tooltip="The same, drawn."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        switch_every: int,
        order: str,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
        **ksampler: Any,
    ) -> io.NodeOutput:
        """Samples."""
        stacked, values = gathered(stack, lora_stack), KSamplerValues(**ksampler)
        switch = _switch(stacked, switch_every, order)
        names, speakers = [entry.lora_name for entry in stacked.entries], switch.timetable(values.steps_of(model))
        text = timetable.describe(names, speakers)
        if unused := unused_texts(stacked, values.positive, values.negative):
            text += f"\n- note: {unused}"
        logging.info("MixLoRA: %s", text)
        picture = torch.tensor(timetable.picture(names, speakers)).float().div(255)[None]
        return io.NodeOutput(values.sample(composed(model, stacked, switch)), text, picture)


class ApplyLoRASwitch(io.ComfyNode):
    """LoRA Switch as a patch of the MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="ApplyLoRASwitch",
            display_name="Apply LoRA Switch",
            category="MixLoRA/sampling",
            description="LoRA Switch for any sampler: the model that comes out lets the LoRAs of the stack take turns "
            "wherever it is sampled, in KSampler (Advanced), SamplerCustomAdvanced, detailers and upscalers.",
            search_aliases=_ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model. It is not changed; a patched clone comes out."),
                *_switch_inputs(),
                *stack_inputs(),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the turns.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        switch_every: int,
        order: str,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
    ) -> io.NodeOutput:
        """Attaches the composition to a clone."""
        stacked = gathered(stack, lora_stack)
        say_unused(stacked)
        return io.NodeOutput(composed(model, stacked, _switch(stacked, switch_every, order)))
