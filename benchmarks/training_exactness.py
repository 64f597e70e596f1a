"""How exact the trainer is: its file against what it trained, a resumed run against an uninterrupted one."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .results import Row

if TYPE_CHECKING:
    from .training_peers import Task


def file_rows(task: Task) -> list[Row]:
    """What the UNet predicts while the adapter is trained, against the exported file applied by ComfyUI."""
    import comfy.model_management
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    from ..training.export import export
    from ..training.loop import train
    from ..training.settings import TrainSettings
    from .training import base_of, samples_of

    base, samples = base_of(task), samples_of(task)
    trained = train(base, samples, TrainSettings(steps=3, accumulate=1, lr=1e-2, warmup=0.0))

    @torch.no_grad()
    def predict() -> Any:
        rows = task.latents[:2].to(base.device, base.dtype), task.context[:2].to(base.device, base.dtype)
        return base(rows[0], torch.tensor([20.0, 800.0], device=base.device), rows[1]).float()

    plain = predict()
    with trained.lora.attached(base.unet):
        training = predict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trained.safetensors"
        export(trained.lora, path, task.model, {}, dtype=torch.float32)
        patched: Any = comfy.sd.load_lora_for_models(task.model, None, load_file(path), 1.0, 0.0)[0]
    patched.patch_model(device_to=patched.load_device)
    try:
        applied = predict()
    finally:
        patched.unpatch_model(device_to=patched.load_device)
    effect = ((training - plain).norm() / plain.norm()).item()
    error = ((training - applied).norm() / applied.norm()).item()
    return [
        Row("training forward / exported file in ComfyUI, relative error", error, 1e-5, at_most=True),
        Row("the same, of the adapter's effect on the prediction", error / effect),
    ]


def resume_rows(task: Task, steps: int = 6) -> list[Row]:
    """A run that is stopped at a random step and resumed, against one that is not."""
    from ..training.checkpoint import Autosave
    from ..training.files import raw_bytes
    from ..training.loop import train
    from ..training.settings import TrainSettings
    from .training import base_of, samples_of

    base, samples = base_of(task), samples_of(task)
    settings = TrainSettings(steps=steps, accumulate=1, ema=0.9)
    whole = train(base, samples, settings)
    last = random.randint(1, steps - 1)
    with tempfile.TemporaryDirectory() as folder:
        autosave = Autosave(Path(folder) / "state", every_steps=0, every_minutes=0, resume=True)
        calls = iter(range(steps))
        part = train(base, samples, settings, autosave=autosave, stop=lambda: next(calls) >= last)
        print(f"  stopped after step {part.steps} of {steps}")
        rest = train(base, samples, settings, autosave=autosave)
    pairs = zip(raw_bytes(whole.lora.flat), raw_bytes(rest.lora.flat), strict=True)
    different = sum(a != b for a, b in pairs) + sum(a != b for a, b in zip(whole.losses, rest.losses, strict=True))
    return [Row("resumed at a random step / uninterrupted, different bytes", different, 0, at_most=True)]
