"""The optimiser of the stand-in's recipe: Muon for weight matrices and convolutions, AdamW for the rest.

Muon (Jordan et al., 2024): momentum, orthogonalised by a polynomial iteration, so that every direction of a weight
learns at one pace. In 50 s on two cores the autoencoder's first stage came to 23.3 dB with it and to 17.9 dB with AdamW
(one run each, one learning rate each). torch.optim.Muon takes matrices only; here a convolution is a matrix of
out x (in * height * width).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_POLYNOMIALS = (  # odd quintics a, b, c; the first iterations of Polar Express (Amsel et al., 2025)
    (8.2872, -23.5959, 17.3004),
    (4.1071, -2.9478, 0.5448),
    (3.9487, -2.9089, 0.5518),
    (3.3184, -2.4885, 0.5100),
)
_NARROWEST = 32  # matrices with a side below this are better off with AdamW


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for weights of two or more dimensions; `lr` is the spectral norm of an update."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Applies one update to every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                mean = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])  # Nesterov
                update = orthogonal(ahead.reshape(len(weight), -1)).reshape(weight.shape)
                weight.add_(update, alpha=-group["lr"] * max(1.0, len(weight) / weight[0].numel()) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with all singular values about 1, by a polynomial iteration.

    In bfloat16 where the processor multiplies it natively: the iteration forgives rounding (Jordan et al.), and it is
    half the time of a step.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() * 1.02 + 1e-7)).to(torch.bfloat16 if native_bfloat16() else torch.float32)
    for a, b, c in _POLYNOMIALS:
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


def native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512-BF16 or AMX); others would be slower with it."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class Optimiser:
    """Muon and AdamW over the parameters of one module, with one schedule: warm-up, constant, linear decay to zero.

    `decay` is the share of the run in which the rate falls. Until then a run does not know its own length, so it can
    still be made longer or shorter.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        matrix_lr: float,
        other_lr: float,
        steps: int,
        decay: float = 1.0,
        warmup: int = 40,
    ) -> None:
        weights = [p for p in module.parameters() if p.requires_grad]
        wide = [p for p in weights if p.dim() > 1 and min(len(p), p[0].numel()) >= _NARROWEST]
        chosen = {id(p) for p in wide}
        rest = [p for p in weights if id(p) not in chosen]
        self.parts = (Muon(wide, matrix_lr), torch.optim.AdamW(rest, other_lr, betas=(0.9, 0.99), weight_decay=0.0))
        self.peaks = (matrix_lr, other_lr)
        self.steps, self.decay, self.warmup, self.weights = steps, decay, warmup, weights

    def step(self, step: int) -> None:
        """Clips the gradient to norm 1, updates at the rate of this step (counted from 0), forgets the gradient."""
        scale = min(1.0, (step + 1) / self.warmup) * min(1.0, (1 - step / self.steps) / self.decay)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, as flat named tensors."""
        flat = {}
        for name, part in zip(("muon", "adamw"), self.parts, strict=True):
            for index, values in part.state_dict()["state"].items():
                flat |= {f"{name}.{index}.{key}": value for key, value in values.items()}
        return flat

    def load_tensors(self, flat: dict[str, Tensor]) -> None:
        """Takes back what `tensors` gave; other keys are passed over."""
        for name, part in zip(("muon", "adamw"), self.parts, strict=True):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in flat.items():
                kind, index, slot = (*key.split(".", 2), "", "")[:3]
                if kind == name:
                    state.setdefault(int(index), {})[slot] = value
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
