"""What a LoRA file says about itself, in the three vocabularies that are read: kohya's `ss_*`, `modelspec.*`, `sshs_*`.

A1111 shows `ss_output_name` and takes the model's version from `ss_base_model_version` and `ss_v2`; Forge asks
`modelspec.architecture`; Civitai and ComfyUI's LoRA managers look a file up by `sshs_model_hash`; trigger words are
read from `modelspec.trigger_phrase` and `ss_tag_frequency`.
"""

from __future__ import annotations

import json
from collections import Counter

from ..mixlora_core.files.hashes import with_hashes
from .base import Base
from .samples import Samples
from .settings import TrainSettings

__all__ = ["IMPLEMENTATION", "describe", "tag_frequency", "with_hashes"]

IMPLEMENTATION = "mixlora"
_FAMILIES = {
    "sd1": ("sd_1.5", "stable-diffusion-v1/lora"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
}
_OPTIMIZERS = {
    "adamw": "torch.optim.AdamW",
    "lion": "pytorch_optimizer.Lion",
    "prodigy": "pytorch_optimizer.Prodigy",
}


def describe(
    base: Base, samples: Samples, settings: TrainSettings, *, title: str, steps: int, date: str = ""
) -> dict[str, str]:
    """All metadata but the hashes, as strings. `date` is ISO 8601; left out, equal runs give equal files."""
    buckets = Counter((shape[-1] * 8, shape[-2] * 8) for shape in samples.shapes)
    width, height = buckets.most_common(1)[0][0]
    shown = sum(samples.repeats)
    version, architecture = _FAMILIES[base.family]
    about: dict[str, object] = {
        "ss_base_model_version": version,
        "ss_v2": False,
        "ss_network_module": "networks.lora",
        "ss_network_dim": settings.rank,
        "ss_network_alpha": settings.alpha,
        "ss_network_args": {"targets": settings.targets, "blocks": settings.blocks},
        "ss_output_name": title,
        "ss_sd_model_name": base.name,
        "ss_sd_model_hash": base.legacy_hash,
        "ss_new_sd_model_hash": base.sha256,
        "ss_resolution": f"({width}, {height})",
        "ss_enable_bucket": settings.buckets,
        "ss_bucket_no_upscale": True,
        "ss_bucket_info": {
            "buckets": {str(i): {"resolution": size, "count": count} for i, (size, count) in enumerate(buckets.items())}
        },
        "ss_num_train_images": shown,
        "ss_tag_frequency": {title: tag_frequency(samples)},
        "ss_learning_rate": settings.lr,
        "ss_unet_lr": settings.lr,
        "ss_lr_scheduler": settings.schedule,
        "ss_lr_warmup_steps": round(settings.warmup * settings.steps),
        "ss_optimizer": f"{_OPTIMIZERS[settings.optimizer]}(weight_decay={settings.weight_decay})",
        "ss_steps": steps,
        "ss_max_train_steps": settings.steps,
        "ss_epoch": steps * settings.global_batch // shown,
        "ss_batch_size_per_device": settings.batch,
        "ss_gradient_accumulation_steps": settings.accumulate,
        "ss_seed": settings.seed,
        "ss_min_snr_gamma": settings.min_snr or None,
        "ss_noise_offset": settings.noise_offset or None,
        "ss_flip_aug": settings.flip,
        "ss_shuffle_caption": settings.caption_shuffle > 0,
        "ss_keep_tokens": settings.keep_tags,
        "ss_caption_dropout_rate": settings.caption_dropout,
        "ss_mixed_precision": {"float16": "fp16", "bfloat16": "bf16"}.get(str(base.dtype).removeprefix("torch."), "no"),
        "ss_max_grad_norm": settings.clip_norm,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": IMPLEMENTATION,
        "modelspec.title": title,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": {"epsilon": "epsilon", "v_prediction": "v"}[base.prediction],
    }
    if settings.clip_skip != 1:
        about["ss_clip_skip"] = settings.clip_skip
    if settings.trigger:
        about["modelspec.trigger_phrase"] = settings.trigger
        about["modelspec.usage_hint"] = f"Write “{settings.trigger}” into the prompt."
    if date:
        about["modelspec.date"] = date
    return {key: value if isinstance(value, str) else _text(value) for key, value in about.items()}


def tag_frequency(samples: Samples) -> dict[str, int]:
    """How many captions hold each of their comma-separated parts, the most frequent first."""
    parts = (part.strip() for caption in samples.captions for part in dict.fromkeys(caption.split(",")))
    return dict(sorted(Counter(part for part in parts if part).items(), key=lambda item: (-item[1], item[0])))


def _text(value: object) -> str:
    """As kohya writes them: JSON for mappings, Python's own form for the rest."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
