"""LoRAWeightsFromPrompt: the prompt itself says how strongly, and when, each LoRA speaks."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..mixlora_core.prompt.plan import OTHERS, UNKNOWN
from ..mixlora_core.prompt.report import describe
from ..mixlora_core.prompt.speaking import Manner, identities, speak
from ..mixlora_core.stack import StyleStack, gather
from ._schema import StyleStackType, schema, stack_inputs


class LoRAWeightsFromPrompt(io.ComfyNode):
    """Reads strengths and schedules out of a prompt, applies them, and encodes what is left of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="LoRAWeightsFromPrompt",
            display_name="LoRA Weights from Prompt",
            category="MixLoRA/mixing",
            description='Reads from the prompt how strongly and when each LoRA speaks: "70 % monet, 30 % ghibli", '
            '"equal mix of van gogh texture and monet lighting", <lora:name:0.6>, name:0.8@0-40%. The report says what '
            "was understood.",
            search_aliases=["lora tag", "lora prompt", "prompt lora weights", "lora schedule", "a1111 lora"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model. It is not changed; a patched clone comes out."),
                io.Clip.Input("clip", tooltip="The text encoder, without these LoRAs."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt, with strengths. LoRAs are called by file name or trigger words.",
                ),
                io.Combo.Input(
                    "others",
                    options=list(OTHERS),
                    default=OTHERS[0],
                    tooltip="What LoRAs of the stack do to which the prompt gives no strength, where it gives some. "
                    "Without any strength in the prompt, those speak whom it names, and all where it names none.",
                ),
                io.Combo.Input(
                    "unknown",
                    options=list(UNKNOWN),
                    default=UNKNOWN[0],
                    tooltip="What happens where a name is no LoRA of the stack: an error with close matches, or it is "
                    "text like any other, and the report says so.",
                ),
                io.Boolean.Input(
                    "by_similarity",
                    default=False,
                    tooltip="As a last resort, find whom words mean by the text encoder's similarity to the trigger "
                    'words, such as "water lilies" for monet.',
                ),
                *stack_inputs(),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the LoRAs as asked."),
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="The encoded prompt, for the positive input."
                ),
                io.Clip.Output(
                    "clip_out",
                    display_name="clip",
                    tooltip="The text encoder with the same LoRAs: encode the negative prompt with it.",
                ),
                io.String.Output("text_out", display_name="text", tooltip="The prompt without tags: what was encoded."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Who speaks how strongly and when, and where that was read.",
                ),
                StyleStackType.Output(
                    "stack_out",
                    display_name="stack",
                    tooltip="The LoRAs that speak, with the strengths that were read; for Save Mixed LoRA, Switch or "
                    "Composite. Do not apply it to this node's model again.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, text: str | None, **_: Any) -> Any:
        """Changes when a file that a tag names changes on disk, or comes or goes."""
        return identities(text)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        text: str,
        others: str,
        unknown: str,
        by_similarity: bool,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
    ) -> io.NodeOutput:
        """Reads, applies and encodes."""
        spoken = speak(model, clip, gather(stack, lora_stack), text, Manner(others, unknown, by_similarity))
        said = describe(spoken.known, spoken.plan)
        logging.info("MixLoRA: %s", said)
        return io.NodeOutput(spoken.model, spoken.conditioning, spoken.clip, spoken.plan.text, said, spoken.stack)
