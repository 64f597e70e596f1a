"""What a user sees: nodes that declare their inputs and outputs and hand the work to `mixlora_core`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .composite import ApplyLoRAComposite, LoRACompositeSampler
from .encode_text import EncodeTextPerLoRA
from .layered import ApplyLoRALayered
from .mix_weights import MixLoRAWeights
from .prompt_weights import LoRAWeightsFromPrompt
from .regions import ApplyLoRARegions
from .router import ApplyLoRARouter
from .save_mixed_lora import SaveMixedLoRA
from .style_lora import LoadStyleLoRA
from .switch import ApplyLoRASwitch, LoRASwitchSampler

NODES: tuple[type[io.ComfyNode], ...] = (
    LoadStyleLoRA,
    MixLoRAWeights,
    LoRAWeightsFromPrompt,
    SaveMixedLoRA,
    LoRASwitchSampler,
    ApplyLoRASwitch,
    LoRACompositeSampler,
    ApplyLoRAComposite,
    EncodeTextPerLoRA,
    ApplyLoRARegions,
    ApplyLoRALayered,
    ApplyLoRARouter,
)


class MixLoRAExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return list(NODES)
