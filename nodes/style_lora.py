"""LoadStyleLoRA: one LoRA file, with its strengths, onto a stack."""

from __future__ import annotations

import logging
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..mixlora_core import report
from ..mixlora_core.adapter import summarise
from ..mixlora_core.stack import StyleStack, fingerprint, gather, open_row, parse_rows
from ._schema import LoraStackType, StyleStackType, schema


class LoadStyleLoRA(io.ComfyNode):
    """Adds a LoRA file to a stack and tells what the file is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs; read again for every list of nodes, which also refreshes the list of files."""
        strength: dict[str, Any] = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}
        return schema(
            node_id="LoadStyleLoRA",
            display_name="Load Style LoRA",
            category="MixLoRA/loaders",
            description="Adds one LoRA to a stack, finds its trigger words, and reports what the file is and what it "
            "was made for. Chain several of these nodes, then connect the stack to Mix LoRA Weights.",
            search_aliases=["lora stack", "style lora", "lora loader", "trigger words", "multi lora"],
            inputs=[
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="The LoRA file, from ComfyUI's loras folders. Only safetensors files are read.",
                ),
                io.Float.Input(
                    "strength_model",
                    tooltip="How strongly it speaks to the diffusion model. May be negative.",
                    **strength,
                ),
                io.Float.Input(
                    "strength_clip", tooltip="How strongly it speaks to the text encoder. May be negative.", **strength
                ),
                StyleStackType.Input("stack", optional=True, tooltip="A stack to continue: its LoRAs come first."),
                LoraStackType.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="A LORA_STACK of another pack: its LoRAs come after the stack's.",
                ),
            ],
            outputs=[
                StyleStackType.Output(
                    "stack_out",
                    display_name="stack",
                    tooltip="The stack with this LoRA at its end; with both strengths 0 it only keeps its number.",
                ),
                LoraStackType.Output(
                    "lora_stack_out",
                    display_name="lora_stack",
                    tooltip="The same stack for nodes of other packs: rows of "
                    "(name, strength_model, strength_clip). Connect either this or the stack, not both.",
                ),
                io.String.Output(
                    "trigger_words",
                    display_name="trigger_words",
                    tooltip="The trigger words of the whole stack, found in "
                    "the files' metadata, joined by commas. Put them into your prompt.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What this file is: family, rank, alpha, base model, matched keys.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, **_: Any) -> Any:
        """Changes when the file on disk changes, so that a LoRA that was trained again is read again."""
        return fingerprint(lora_name)

    @classmethod
    def execute(
        cls,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
    ) -> io.NodeOutput:
        """Reads the file and appends it."""
        entry = open_row((lora_name, strength_model, strength_clip))
        text = report.describe_file(entry.file, summarise(entry.file))
        logging.info("MixLoRA: %s", text)
        stacked = gather(stack, lora_stack).continued(parse_rows([entry.row]))
        return io.NodeOutput(stacked, stacked.rows, ", ".join(stacked.trigger_words), text)
