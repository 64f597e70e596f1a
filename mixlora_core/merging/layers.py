"""Which adapters meet in which layer, as low-rank factors; and where only a plain sum is possible. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from ..files.families import Anatomy
from ..low_rank import Factors

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Part:
    """What one adapter does to one weight: dW = scale * up @ down. The tensors are those of the file, not copies."""

    adapter: int
    """Its place in the stack."""
    up: Tensor
    """(out, r)."""
    down: Tensor
    """(r, in * kernel)."""
    scale: float
    """alpha / r, times the strength."""

    @property
    def rank(self) -> int:
        """The inner dimension r."""
        return self.down.shape[0]

    def factors(self) -> Factors:
        """The same change as two factors, float64 on the CPU, the scale in `up`."""
        return self.up.double().cpu() * self.scale, self.down.double().cpu()


@dataclass(frozen=True)
class Left:
    """A layer in which adapters meet and are summed as they are."""

    layer: str
    reason: str


def meetings(
    anatomies: Sequence[Mapping[Key, Anatomy]], coefficients: Sequence[Mapping[Key, float]], names: Sequence[str]
) -> tuple[dict[Key, list[Part]], list[Left]]:
    """The layers in which two or more adapters speak, each with its parts in the order of the stack.

    `anatomies` and `coefficients` have a mapping for each adapter; `names` are for the reasons. A layer in which not
    all are plain low-rank pairs (LoHa, LoKr, DoRA, a bias, ...) is not among them, but in the second result.
    """
    speakers: dict[Key, list[int]] = {}
    for index, spoken in enumerate(coefficients):
        for key in spoken:
            speakers.setdefault(key, []).append(index)
    met: dict[Key, list[Part]] = {}
    left = []
    for key, indices in speakers.items():
        if len(indices) < 2:
            continue
        parts, strange = [], []
        for index in indices:
            factors = anatomies[index][key].factors
            if factors is None:
                strange.append(f"{anatomies[index][key].family} of {names[index]}")
            else:
                parts.append(Part(index, *factors[:2], factors[2] * coefficients[index][key]))
        if strange:
            left.append(Left(str(key), f"{', '.join(strange)}: no low-rank pair"))
        else:
            met[key] = parts
    return met, left
