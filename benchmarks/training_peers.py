"""How others train the same LoRA, step for step, on the same shapes: what `benchmarks.training` measures ours against.

ComfyUI's TrainLoraNode is run as it is. Of diffusers' and kohya's scripts the work of a step is done again with the
libraries that they use; their data loaders, trackers and files are left out, which is in their favour.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor, nn

RANK, RATE = 4, 1e-4


@dataclass(frozen=True, eq=False)
class Task:
    """What all of them do: random latents and texts for a UNet of SD v1.5's kind, so many of them in a step."""

    model: Any
    """A ComfyUI MODEL."""
    latents: Tensor
    """[n, 4, h, w] on the CPU."""
    context: Tensor
    """[n, 77, 768] on the CPU."""
    batch: int = 1
    accumulate: int = 1
    """Batches of a step."""

    @property
    def device(self) -> torch.device:
        """Where training runs."""
        return comfy.model_management.get_torch_device()

    @property
    def dtype(self) -> torch.dtype:
        """The frozen UNet's number format."""
        return next(self.model.model.diffusion_model.parameters()).dtype

    def synchronise(self) -> float:
        """The time, once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def between(times: list[float]) -> list[float]:
    """Seconds from each time to the next."""
    return [after - before for before, after in itertools.pairwise(times)]


def train_lora_node(task: Task, steps: int) -> list[float]:
    """Seconds of each step of ComfyUI's TrainLoraNode after its first, with an fp32 adapter and no checkpointing.

    It adapts every layer, norm and bias of the UNet; that cannot be chosen. A batch of B goes through the UNet B times.
    """
    from comfy.weight_adapter import adapter_maps
    from comfy_extras.nodes_train import TrainLoraNode

    unet, half = task.model.model.diffusion_model, "fp32" if task.dtype == torch.float32 else "bf16"
    unet.to(memory_format=torch.contiguous_format)
    times: list[float] = []
    with _progress_calls(lambda: times.append(task.synchronise())):
        TrainLoraNode.execute(
            model=[task.model],
            # one by one: a single batched latent makes the node of 0.3.75 fail
            latents=[{"samples": latent[None] / 0.18215} for latent in task.latents],
            positive=[[[text[None], {}]] for text in task.context],
            batch_size=[task.batch], grad_accumulation_steps=[task.accumulate], steps=[steps + 1], learning_rate=[RATE],
            rank=[RANK], optimizer=["AdamW"], loss_function=["MSE"], seed=[0], training_dtype=[half],
            lora_dtype=["fp32"], algorithm=[next(iter(adapter_maps))], gradient_checkpointing=[False],
            existing_lora=["[None]"],
        )  # fmt: skip
    comfy.model_management.unload_all_models()
    for module in unet.modules():  # it leaves its adapters on the layers
        comfy.model_patcher.wipe_lowvram_weight(module)
    unet.to(task.device)
    return between(times)


@contextmanager
def _progress_calls(call: Any) -> Iterator[None]:
    """Calls back where a node would move ComfyUI's progress bar: once for each step of TrainLoraNode."""
    before, shown = comfy.utils.PROGRESS_BAR_HOOK, comfy.utils.PROGRESS_BAR_ENABLED
    comfy.utils.set_progress_bar_enabled(False)
    comfy.utils.set_progress_bar_global_hook(lambda *_, **__: call())
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
        comfy.utils.set_progress_bar_enabled(shown)


class Scripts:
    """Diffusers' models of SD v1.5's shapes with random weights, and a step of either script on them."""

    def __init__(self, device: torch.device, dtype: torch.dtype, full: bool = True) -> None:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
        from diffusers.utils.logging import set_verbosity_error
        from transformers import CLIPTextConfig, CLIPTextModel

        set_verbosity_error()  # it warns of every cast of a model
        torch.manual_seed(0)
        shallow: dict[str, Any] = dict(
            block_out_channels=(320, 320), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
        )  # fmt: skip
        unet: Any = UNet2DConditionModel(cross_attention_dim=768, **({} if full else shallow))
        self.unet = unet.to(device, dtype).requires_grad_(False)
        text = CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12 if full else 1
        )
        self.text_encoder: Any = CLIPTextModel(text).to(device, dtype).requires_grad_(False)  # type: ignore
        encoder: dict[str, Any] = dict(
            block_out_channels=(128, 256, 512, 512) if full else (32,) * 4, layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        vae: Any = AutoencoderKL(**encoder)
        self.vae = vae.to(device, dtype).requires_grad_(False)
        self.schedule: Any = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    def move(self, device: torch.device | str) -> None:
        """Takes the models somewhere else, when memory is measured."""
        for model in (self.unet, self.text_encoder, self.vae):
            model.to(device)

    def diffusers_way(self, task: Task, steps: int) -> list[float]:
        """train_text_to_image_lora.py: PEFT on the attention; picture and text are encoded again in every batch."""
        from peft import LoraConfig

        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
        parameters = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        for parameter in parameters:
            parameter.data = parameter.data.float()

        def batch(latents: Tensor) -> Tensor:
            sides = (8 * side for side in latents.shape[-2:])
            pixels = torch.rand(len(latents), 3, *sides, device=latents.device).to(latents) * 2 - 1
            return self._loss(self.vae.encode(pixels).latent_dist.sample() * 0.18215, needs_gradient=False)

        try:  # its gradient clipping meets an empty iterator, so there is none
            return self._train(task, steps, parameters, batch, clip=False)
        finally:
            self.unet.unload_lora()

    def kohya_way(self, task: Task, steps: int) -> list[float]:
        """train_network.py with cached latents, for the UNet alone: q, k, v, out, feed-forward and projections."""
        adapters = nn.ModuleList()
        forwards = []
        for transformer in self.unet.modules():
            if type(transformer).__name__ != "Transformer2DModel":
                continue
            for layer in transformer.modules():
                if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
                    adapters.append(adapter := _Beside(layer).to(task.device))
                    forwards.append((layer, layer.forward))
                    layer.forward = adapter.beside(layer.forward)
        try:
            parameters = list(adapters.parameters())
            return self._train(task, steps, parameters, lambda latents: self._loss(latents, True), clip=True)
        finally:
            for layer, forward in forwards:
                layer.forward = forward

    def _train(self, task: Task, steps: int, parameters: list[nn.Parameter], loss_of: Any, clip: bool) -> list[float]:
        optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        times, rows = [], itertools.cycle(range(len(task.latents)))
        for _ in range(steps + 1):
            for _ in range(task.accumulate):
                latents = task.latents[[next(rows) for _ in range(task.batch)]].to(task.device, task.dtype)
                loss = loss_of(latents)
                (loss / task.accumulate).backward()
                loss.detach().item()  # both wait for the device in every batch, to show the loss
            if clip:
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            times.append(task.synchronise())
        return between(times)

    def _loss(self, latents: Tensor, needs_gradient: bool) -> Tensor:
        """The loss of one batch; the text goes through CLIP, whose output neither script caches for SD v1.5."""
        text = self.text_encoder(torch.randint(0, 49_000, (len(latents), 77), device=latents.device))[0]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),), device=latents.device)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        if needs_gradient:  # kohya asks for the gradient of the noisy latents, too
            noisy.requires_grad_(True)
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=latents.dtype != torch.float32):
            predicted = self.unet(noisy, timesteps, text, return_dict=False)[0]
        return nn.functional.mse_loss(predicted.float(), noise.float())


class _Beside(nn.Module):
    """A low-rank pair beside a layer whose forward it replaces; fp32, alpha 1."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        if isinstance(layer, nn.Conv2d):
            self.down: nn.Module = nn.Conv2d(layer.in_channels, RANK, 1, bias=False)
            self.up: nn.Module = nn.Conv2d(RANK, layer.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(layer.in_features, RANK, bias=False)
            self.up = nn.Linear(RANK, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)  # type: ignore[arg-type]

    def beside(self, forward: Any) -> Any:
        """`forward` with the pair's output added."""
        return lambda x, *args, **kwargs: forward(x, *args, **kwargs) + self.up(self.down(x)) * (1 / RANK)
