"""Optimizers of one flat parameter, and their state as tensors, whoever wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .settings import TrainingError, TrainSettings

_TENSOR, _NUMBER = "optimizer.", "optimizer.number."


def make_optimizer(flat: Tensor, settings: TrainSettings) -> Optimizer:
    """The optimizer that the settings name. Raises TrainingError where its library is not installed.

    AdamW (arXiv 1711.05101) is torch's; Lion (2302.06675) and Prodigy (2306.06101) are those of pytorch_optimizer.
    """
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW([flat], fused=flat.is_cuda or None, **options)
    try:
        import pytorch_optimizer
    except ImportError as error:
        raise TrainingError(
            f"optimizer {settings.optimizer} needs the package pytorch_optimizer ({error}): "
            "pip install pytorch_optimizer, or use adamw."
        ) from error
    if settings.optimizer == "lion":
        return pytorch_optimizer.Lion([flat], **options)
    # Both as its authors advise for diffusion models; without bias correction the estimate shoots up in one step, and
    # on the stand-in the adapter never recovers.
    return pytorch_optimizer.Prodigy([flat], bias_correction=True, safeguard_warmup=True, **options)


def rate(optimizer: Optimizer) -> float:
    """The learning rate that the next step goes with: for Prodigy its own estimate times the given one."""
    group = optimizer.param_groups[0]
    return group["lr"] * float(group.get("d", 1.0))


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """All that an optimizer has gathered since it was made, tensors and numbers; nothing before the first step."""
    saved = optimizer.state_dict()
    kept = dict(saved["state"].get(0, {}))
    kept |= {f"group.{name}": value for name, value in saved["param_groups"][0].items() if _gathered(optimizer, name)}
    tensors = {}
    for name, value in kept.items():
        if isinstance(value, Tensor):
            tensors[_TENSOR + name] = value.detach()
        else:
            kind = torch.int64 if isinstance(value, int) else torch.float64
            tensors[_NUMBER + name] = torch.tensor(value, dtype=kind)
    return tensors


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Brings a fresh optimizer to where `optimizer_tensors` was called; other tensors are left alone."""
    state, group = {}, optimizer.state_dict()["param_groups"][0]
    for key, tensor in tensors.items():
        if not key.startswith(_TENSOR):
            continue
        number = key.startswith(_NUMBER)
        name, value = key.removeprefix(_NUMBER if number else _TENSOR), tensor.item() if number else tensor.clone()
        if name.startswith("group."):
            group[name.removeprefix("group.")] = value
        else:
            state[name] = value
    optimizer.load_state_dict({"state": {0: state} if state else {}, "param_groups": [group]})


def _gathered(optimizer: Optimizer, name: str) -> bool:
    """Whether an entry of the parameter group is no option: the loop sets lr, the settings the rest."""
    value = optimizer.param_groups[0][name]
    is_state = isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)
    return is_state and name != "lr" and (name not in optimizer.defaults or value is not optimizer.defaults[name])
