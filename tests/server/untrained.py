"""The stand-in before any training: the same files under the same names, with random weights.

What the server does with a graph can be tested on it; what a picture shows cannot.
"""

from __future__ import annotations

from pathlib import Path

import torch
from mixlora.standin.autoencoder import new_autoencoder
from mixlora.standin.base import new_unet
from mixlora.standin.build import NAME
from mixlora.standin.elements import TRIGGERS
from mixlora.standin.weights import save_base, save_checkpoint
from mixlora.tools.standin_files import LORAS
from safetensors.torch import save_file


def place(models: Path) -> None:
    """Writes checkpoint and adapters into the folder `models`."""
    torch.manual_seed(0)
    unet = new_unet()
    with torch.no_grad():
        for weight in unet.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.02)
    for folder in ("checkpoints", "loras"):
        (models / folder).mkdir(parents=True)
    packed = models / "base.safetensors"
    save_base(dict(unet.named_parameters()), new_autoencoder(), 0.0, 1.0, packed)
    save_checkpoint(models / "checkpoints" / NAME, packed)
    for style, name in LORAS.items():
        save_file(_adapter(unet), models / "loras" / name, {"modelspec.trigger_phrase": TRIGGERS[style]})


def _adapter(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, weight in unet.named_parameters():
        if "attn" in name and weight.dim() == 2:
            module = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            tensors[f"{module}.lora_up.weight"] = torch.randn(len(weight), 4) * 0.03
            tensors[f"{module}.lora_down.weight"] = torch.randn(4, weight.shape[1]) * 0.03
            tensors[f"{module}.alpha"] = torch.tensor(4.0)
    return tensors
