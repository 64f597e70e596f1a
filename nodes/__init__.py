"""What a user sees: nodes that declare their inputs and outputs and hand the work to `mixlora_core`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .mix_weights import MixLoRAWeights
from .style_lora import LoadStyleLoRA

NODES: tuple[type[io.ComfyNode], ...] = (LoadStyleLoRA, MixLoRAWeights)


class MixLoRAExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return list(NODES)
