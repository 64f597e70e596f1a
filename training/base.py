"""The frozen model that an adapter is trained on, as ComfyUI loads it, reduced to what training needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..mixlora_core.files import hashes
from .settings import TrainingError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A UNet with its noise schedule. Pure torch can make one; `from_comfy` and `load_base` make one from ComfyUI's."""

    unet: nn.Module
    """Its layers are hooked while training runs, and it is left frozen and in eval mode."""
    alphas_cumprod: Tensor
    """fp32, one per timestep: the share of the signal's variance in the noisy latent."""
    prediction: str = "epsilon"
    """What the UNet predicts: "epsilon" (the noise) or "v_prediction"."""
    call: Callable[..., Tensor] | None = None
    """(noisy latents, timesteps as floats, context) -> prediction; None: ``unet(x, t, context=context)``.

    Also takes what `vector` gives, where there is one."""
    vector: Callable[[Tensor, Tensor], Tensor] | None = None
    """(pooled text [b, 1280], sizes [b, 6]) -> what SDXL's UNet reads of them beside the context; None for SD v1.5."""
    family: str = "sd1"
    """"sd1" or "sdxl", as in the core's bases."""
    context_width: int | None = None
    """Of the text that its cross-attention reads: 768, or 2048 for SDXL; None where any is taken."""
    model: Any = None
    """ComfyUI's BaseModel, where there is one; export needs it."""
    name: str = ""
    sha256: str = ""
    """Of the checkpoint file."""
    legacy_hash: str = ""
    """The eight digits by which A1111 once named a checkpoint."""

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction"):
            raise TrainingError(f"Prediction: expected epsilon or v_prediction, found {self.prediction!r}.")

    def __call__(self, x: Tensor, timesteps: Tensor, context: Tensor, *vector: Tensor) -> Tensor:
        """The UNet's prediction for exactly these rows; `vector` is what `self.vector` gives, if it is there."""
        return (self.call or self._call)(x, timesteps, context, *vector)

    def _call(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return self.unet(x, timesteps, context=context)

    @property
    def dtype(self) -> torch.dtype:
        """The number format that the UNet computes in: that of its weights."""
        return next(self.unet.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the UNet's weights lie."""
        return next(self.unet.parameters()).device

    @classmethod
    def from_comfy(cls, model: Any, *, name: str = "", sha256: str = "", legacy_hash: str = "") -> Base:
        """From a ComfyUI MODEL (ModelPatcher) or BaseModel of the SD v1.5 or SDXL family, wherever its weights lie.

        Raises TrainingError for other families and for predictions other than noise and velocity.
        """
        from comfy.ldm.modules.attention import attention_pytorch

        model, name = getattr(model, "model", model), name or "The base model"
        family = _family(model, name)
        prediction = {"EPS": "epsilon", "V_PREDICTION": "v_prediction"}.get(model.model_type.name)
        if prediction is None:
            raise TrainingError(f"{name} predicts {model.model_type.name}; expected EPS or V_PREDICTION.")
        unet, sigmas = model.diffusion_model, model.model_sampling.sigmas
        if unet.in_channels != 4:
            raise TrainingError(f"{name} takes {unet.in_channels} channels; expected 4 (no inpainting model).")

        def attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
            # Whatever attention ComfyUI chose to sample with: some have no backward, others depend on free memory.
            return attention_pytorch(*args, **kwargs)

        def call(x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None) -> Tensor:
            options = {"optimized_attention_override": attention}
            return unet(x, timesteps, context=context, y=y, transformer_options=options)

        def vector(pooled: Tensor, sizes: Tensor) -> Tensor:
            # As ComfyUI's SDXL.encode_adm, which takes one row, on the CPU.
            embedded = model.embedder(sizes.float().flatten()).view(len(sizes), -1)
            return torch.cat([pooled, embedded.to(pooled.dtype)], 1)

        return cls(
            unet=unet, alphas_cumprod=1 / (sigmas.float().cpu() ** 2 + 1), prediction=prediction, call=call,
            vector=vector if family == "sdxl" else None, family=family,
            context_width=model.model_config.unet_config["context_dim"],
            model=model, name="" if name == "The base model" else name, sha256=sha256, legacy_hash=legacy_hash,
        )  # fmt: skip


def _family(model: Any, name: str) -> str:
    import comfy.supported_models

    config = model.model_config
    for family, kind in (("sd1", comfy.supported_models.SD15), ("sdxl", comfy.supported_models.SDXL)):
        if isinstance(config, kind):
            return family
    kind = type(config).__name__
    hint = " The refiner cannot be trained: give the SDXL base model." if kind == "SDXLRefiner" else ""
    raise TrainingError(f"{name} is {kind}; this trainer trains SD v1.5 and SDXL models.{hint}")


def load_base(path: Path, dtype: str = "auto") -> tuple[Base, Any, Any]:
    """An SD v1.5 or SDXL checkpoint through ComfyUI's loader: the base, its text encoder, its VAE.

    ComfyUI moves the last two to its device as they are used; `make_room` then does so with the UNet.

    `dtype` "auto" is bf16 on GPUs and processors that have it, fp16 on other CUDA GPUs that ComfyUI trusts with it,
    fp32 elsewhere. Raises TrainingError where the file is no complete checkpoint of either in safetensors.
    """
    import comfy.model_management
    import comfy.sd

    if path.suffix.lower() != ".safetensors" or not path.is_file():
        raise TrainingError(f"{path}: expected an existing .safetensors checkpoint (pickled files are not opened).")
    device = comfy.model_management.get_torch_device()
    try:
        patcher, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(path), model_options={"dtype": choose_dtype(dtype, device)}
        )
    except Exception as error:  # for a file that is no checkpoint ComfyUI raises whatever it stumbles over
        raise TrainingError(f"{path}: ComfyUI cannot load it as a checkpoint: {error}") from error
    missing = [part for part, found in (("UNet", patcher), ("text encoder", clip), ("VAE", vae)) if found is None]
    if missing:
        raise TrainingError(f"{path}: holds no {' and no '.join(missing)}; give a complete checkpoint.")
    base = Base.from_comfy(patcher, name=path.stem, sha256=hashes.of_file(path)[0], legacy_hash=_legacy_hash(path))
    # Where ComfyUI would rather compute in another format than that of the weights, it casts each layer's as they are
    # used. An adapted layer does not, so what it is given for a sample picture must be in the weights' own format.
    base.model.manual_cast_dtype = None
    return base, clip, vae


def make_room(base: Base) -> None:
    """Moves everything that ComfyUI has loaded off its device, then the UNet onto it."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    base.unet.to(comfy.model_management.get_torch_device())


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch format that a `dtype` setting stands for on this device."""
    if dtype != "auto":
        return _DTYPES[dtype]
    if device.type == "cpu":
        return torch.bfloat16 if _multiplies_bfloat16() else torch.float32
    if device.type != "cuda":
        return torch.float32
    import comfy.model_management as management

    # ComfyUI knows which cards emulate bf16, slowly, and on which fp16 is slow or broken. Asked for the card alone,
    # without a model's size, it does not look at the memory, so a card always gets the same format.
    if management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if management.should_use_fp16(device) else torch.float32


def _multiplies_bfloat16() -> bool:
    """Whether the processor has AVX512-BF16 or AMX; others emulate bf16, slowly."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def _legacy_hash(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
