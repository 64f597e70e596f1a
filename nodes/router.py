"""ApplyLoRARouter: a trained router says for each token which LoRAs speak."""

from __future__ import annotations

import logging
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..mixlora_core.routing import router_file
from ..mixlora_core.routing.routed import describe, routed_by, taking_part
from ..mixlora_core.stack import StyleStack, fingerprint, gather, resolve
from ._schema import schema, stack_inputs


class ApplyLoRARouter(io.ComfyNode):
    """The MixLoRA block as a patch of the MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs; read again for every list of nodes, which also refreshes the list of files."""
        return schema(
            node_id="ApplyLoRARouter",
            display_name="Apply LoRA Router",
            category="MixLoRA/sampling",
            description="A router that was trained over several LoRAs (training/train_router.py) says for every token "
            "of the picture which of them speak there, and how strongly. The LoRAs are in the router's file.",
            search_aliases=["mixlora", "mixture of experts", "moe lora", "lora router", "multi lora"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, without these LoRAs. A patched clone comes out."),
                io.Combo.Input(
                    "router_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="The router file of training/train_router.py, from ComfyUI's loras folders.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Of all its LoRAs. Together they are as loud as one of them, so 1 to 1.5 is a good start.",
                ),
                io.Int.Input(
                    "experts_per_token",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many LoRAs serve a token: 0 as trained, 1 lets each place belong to one of them.",
                ),
                *stack_inputs("Optional: which of the router's LoRAs take part, at these strengths. All without it."),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="The model with the router."),
                io.String.Output(
                    "trigger_words",
                    display_name="trigger_words",
                    tooltip="Those of the LoRAs that take part, joined by commas. Put them into your prompt.",
                ),
                io.String.Output("report", display_name="report", tooltip="What the router is, and who takes part."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, router_name: str | None, **_: Any) -> Any:
        """Changes when the file on disk changes, so that a router that was trained again is read again."""
        return fingerprint(router_name)

    @classmethod
    def execute(
        cls,
        model: Any,
        router_name: str,
        strength: float,
        experts_per_token: int,
        stack: StyleStack | None = None,
        lora_stack: list | None = None,
    ) -> io.NodeOutput:
        """Reads the router and attaches it to a clone."""
        router = router_file.read(resolve(router_name)[1])
        voices = taking_part(router, strength, gather(stack, lora_stack))
        made = routed_by(model, router, voices, k=experts_per_token)
        words = [word for index in voices for word in router.head.experts[index].words]
        text = describe(router, voices, experts_per_token)
        logging.info("MixLoRA: %s", text)
        return io.NodeOutput(made, ", ".join(dict.fromkeys(words)), text)
