"""SaveMixedLoRA: a stack, mixed as MixLoRAWeights mixes it, as one LoRA file."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io, ui

from ..mixlora_core import report
from ..mixlora_core.errors import AdapterError
from ..mixlora_core.mixing.mix_file import FORMATS
from ..mixlora_core.mixing.saving import SaveSettings, save_mix
from ..mixlora_core.mixing.weighted_mix import MixSettings
from ..mixlora_core.stack import StyleStack, gather
from ._schema import schema, stack_inputs
from .mix_weights import mix_inputs


class SaveMixedLoRA(io.ComfyNode):
    """Writes the blend of a stack as one LoRA file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="SaveMixedLoRA",
            display_name="Save Mixed LoRA",
            category="MixLoRA/mixing",
            description="Writes the blend of a stack as one LoRA file into ComfyUI's loras folder. At strength 1 the "
            "file does what Mix LoRA Weights does with the same settings: exactly, or re-compressed to a rank with the "
            "error stated.",
            search_aliases=["merge loras", "save lora", "lora merge", "resize lora", "bake lora stack"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that the LoRAs are for: it decides which of their keys count. It is not changed "
                    "and not saved; LoRAs that are already on it do not go into the file.",
                ),
                *mix_inputs(),
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="0: exact, the ranks of all LoRAs add up (LoRA and LoCon only). Else every layer is "
                    "brought to this rank by SVD, and the report states the error. 32 is usually close.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(FORMATS),
                    default="fp16",
                    tooltip="Number format of the file. fp16 rounds by about 0.02 %; fp32 is twice as large.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="mixed_lora",
                    tooltip="Name of the file in the first loras folder; may name a folder in it, such as styles/mix. "
                    "A number is added, and no file is ever overwritten.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoder. Without it only the model's part is saved."
                ),
                *stack_inputs(),
            ],
            outputs=[
                io.String.Output(
                    "lora_name", display_name="lora_name", tooltip="The new file, as the LoRA loaders list it."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was mixed, the file's size and ranks, and how far it is from the mix.",
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
        rank: int,
        dtype: str,
        filename_prefix: str,
        clip: Any = None,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
    ) -> io.NodeOutput:
        """Mixes, writes and checks the file."""
        if stack is None and lora_stack is None:
            raise AdapterError("Save Mixed LoRA has nothing to mix: connect its stack or its lora_stack input.")
        stacked, mixing = gather(stack, lora_stack), MixSettings(mode, total, limit)
        saved = save_mix(model, clip, stacked, mixing, SaveSettings(rank, dtype), filename_prefix)
        text = report.describe_saved(stacked, mixing, saved)
        logging.info("MixLoRA: %s", text)
        return io.NodeOutput(saved.lora_name, text, ui=ui.PreviewText(text))
