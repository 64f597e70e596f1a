"""The committed weights and the checkpoint made from them.

Weights travel as 8-bit integers with one scale per output row (half the size of fp16, an error below 0.4 % of a row's
largest weight); biases, norms and the autoencoder travel as fp16.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .autoencoder import new_autoencoder
from .styles import STYLES
from .text_encoder import text_encoder
from .workshop import save_tensors

FOLDER = Path(__file__).parent / "weights"
BASE = FOLDER / "base.safetensors"
ROUTER = FOLDER / "router.safetensors"
"""Over three styles, with their feed-forward experts, as `experts` trains it."""
TITLE = "MixLoRA stand-in"
UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
SD_LATENT_SCALE = 0.18215
SHOWN = (*STYLES, "lighthouse", "snow", "balloon")
"""The elements whose adapters the demo and the example workflows use; all of them serve the testbed."""
_SCALE = ".scale"


def adapter_file(name: str) -> Path:
    """Where the adapter of one of ELEMENTS lies in the repository."""
    return FOLDER / f"{name}.safetensors"


def adapter_files() -> dict[str, Path]:
    """The name that each of SHOWN bears among ComfyUI's LoRAs -> its file."""
    return {f"standin_{name}.safetensors": adapter_file(name) for name in SHOWN}


def quantise(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and convolutions to int8 with a float16 scale a row (`key`.scale); everything else to fp16."""
    packed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if value.dim() < 2:
            packed[key] = value.half()
            continue
        rows = value.detach().float().flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-7).half()
        packed[key] = (rows / scale.float()).round().clamp(-127, 127).to(torch.int8).reshape(value.shape).contiguous()
        packed[key + _SCALE] = scale.flatten()
    return packed


def dequantise(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `quantise` packed, as fp16."""
    tensors = {}
    for key, value in packed.items():
        if key.endswith(_SCALE):
            continue
        if value.dtype == torch.int8:
            scale = packed[key + _SCALE].float().reshape(-1, *[1] * (value.dim() - 1))
            value = (value.float() * scale).half()
        tensors[key] = value
    return tensors


def save_base(
    unet: dict[str, Tensor], autoencoder: nn.Module, mean: float, deviation: float, path: Path = BASE
) -> None:
    """Writes UNet and autoencoder; `mean` and `deviation` are those of the raw latents that the UNet knows."""
    vae = {key: value.half() for key, value in autoencoder.state_dict().items()}
    scale = SD_LATENT_SCALE * deviation  # ComfyUI multiplies by SD_LATENT_SCALE what the encoder gives
    vae["vae_scale"] = torch.tensor(scale)
    vae["vae_shift"] = torch.tensor(-mean / scale)
    packed = {UNET_PREFIX + key: value for key, value in quantise(unet).items()}
    packed |= {VAE_PREFIX + key: value for key, value in vae.items()}
    save_tensors(path, packed, {"format": "pt", "modelspec.title": TITLE, "modelspec.license": "GPL-3.0-or-later"})


def committed_autoencoder(base: Path = BASE) -> nn.Module:
    """The autoencoder as it is shipped, frozen. Raises FileNotFoundError without the weights."""
    if not base.is_file():
        raise FileNotFoundError(f"{base}: the stand-in's weights are missing. Check them out, or run `make standin`.")
    model = new_autoencoder()
    parts = {key.removeprefix(VAE_PREFIX): value.float() for key, value in load_file(base).items() if VAE_PREFIX in key}
    model.load_state_dict(parts)
    return model.requires_grad_(False)


def save_checkpoint(path: Path, base: Path = BASE, source: str = "") -> None:
    """Writes the checkpoint that ComfyUI's CheckpointLoaderSimple loads: UNet, autoencoder, seeded text encoder.

    `source` is kept in its metadata: the digest of the weights that it was made from.
    """
    metadata = {"format": "pt", "modelspec.title": TITLE, "mixlora.source": source}
    save_tensors(path, dequantise(load_file(base)) | text_encoder(), metadata)
