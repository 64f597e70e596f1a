"""Where adapters disturb each other: for each pair and layer how far they listen to and say the same. Pure torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from .layers import Key, Left, Part
from .subspaces import inner, nearest, overlap, singular

ALIKE, APART, LISTENING = 0.3, -0.2, 0.2
"""From which cosine on two adapters count as saying the same, or the opposite, and from which overlap of inputs (beyond
chance) as hearing each other. Chosen, not measured on pictures."""
SHOWN = 8


@dataclass(frozen=True)
class Conflict:
    """One pair of adapters in one layer."""

    layer: str
    first: int
    second: int
    """Their places in the stack."""
    cosine: float
    """<D_i, D_j> / (|D_i| |D_j|), -1 to 1: 1 is the same change twice, -1 cancels, 0 is what strangers have."""
    inputs: float
    """The share, 0 to 1, of the smaller input subspace that lies in the other: mean cos² of the principal angles."""
    inputs_nearest: float
    """The cosine, 0 to 1, of the smallest angle between the input subspaces."""
    inputs_by_chance: float
    """The share that random subspaces of these ranks would have."""
    outputs: float
    outputs_nearest: float
    outputs_by_chance: float
    """The same three of the output subspaces."""
    loudness: float
    """sqrt(|D_i| |D_j|), the size at which they meet."""

    @property
    def hearing(self) -> float:
        """The overlap of inputs beyond chance, at most 1; below 0 where they avoid each other."""
        return beyond(self.inputs, self.inputs_by_chance)

    @property
    def severity(self) -> float:
        """What layers are ordered by: the stronger of |cosine| and overlap of inputs, times the loudness."""
        return max(abs(self.cosine), self.hearing) * self.loudness


def beyond(share: float, chance: float) -> float:
    """A share counted from chance (0) to all (1)."""
    return (share - chance) / (1 - chance) if chance < 1 else 0.0


def conflicts(layers: Mapping[Key, Sequence[Part]]) -> list[Conflict]:
    """Every pair in every layer of `layers.meetings`, the worst first. A change that is zero meets nobody."""
    found = []
    for key, parts in layers.items():
        factors = [part.factors() for part in parts]
        triples = [singular(one) for one in factors]
        for i, j in combinations(range(len(parts)), 2):
            (left, s, right), (other_left, other_s, other_right) = triples[i], triples[j]
            if not (len(s) and len(other_s)):
                continue
            norms, rank = (s.norm() * other_s.norm()).item(), max(len(s), len(other_s))
            found.append(
                Conflict(
                    *(str(key), parts[i].adapter, parts[j].adapter),
                    *(inner(factors[i], factors[j]) / norms,),
                    *(overlap(right, other_right), nearest(right, other_right), rank / len(right)),
                    *(overlap(left, other_left), nearest(left, other_left), rank / len(left)),
                    *(norms**0.5,),
                )
            )
    return sorted(found, key=lambda one: -one.severity)


def describe(found: Sequence[Conflict], names: Sequence[str], left: Sequence[Left] = (), shown: int = SHOWN) -> str:
    """The report: each pair in a line, then the worst layers, then advice. `found` as `conflicts` orders it.

    Lines are those of a Markdown list, as in the pack's other reports.
    """
    if not found:
        lines = ["no layer in which two low-rank LoRAs meet: nothing to compare"]
        return "\n".join(lines + _left(left))
    lines = [f"{len({one.layer for one in found})} layers in which LoRAs meet; over all of them, weighed by size:"]
    for pair in sorted({(one.first, one.second) for one in found}):
        own = [one for one in found if (one.first, one.second) == pair]
        lines.append(f"- {names[pair[0]]} and {names[pair[1]]}: {_numbers(own)}")
    lines.append("the worst layers:")
    lines += [
        f"- {one.layer}: {names[one.first]} and {names[one.second]}, {_numbers([one])}, size {one.loudness:.3g}"
        for one in found[:shown]
    ]
    lines.append(f"advice: {advice(found)}")
    return "\n".join(lines + _left(left))


def advice(found: Sequence[Conflict]) -> str:
    """One sentence on what to do, from means weighed by size: of the pair for which they are most extreme."""
    pairs = {(one.first, one.second) for one in found}
    own = [[one for one in found if (one.first, one.second) == pair] for pair in pairs]
    cosines = [mean(one, "cosine") for one in own]
    hearing = max((mean(one, "hearing") for one in own), default=0.0)
    if cosines and max(cosines) >= ALIKE:
        return "two of them say much the same; a sum doubles it, so lower their strengths, or leave one out."
    if cosines and min(cosines) <= APART:
        return "two of them pull in opposite directions and cancel; let them speak in turn (Switch, Composite)."
    if hearing >= LISTENING:
        return "they react to the same inputs in different ways; SSR-Merge or NP-LoRA keeps them apart."
    return "they hardly meet; a plain sum is as good as any other merge, and only its total strength matters."


def mean(found: Sequence[Conflict], measure: str) -> float:
    """A measure's mean over layers, weighed by the squared loudness, as norms of whole adapters add up."""
    weights = [one.loudness**2 for one in found]
    return sum(getattr(one, measure) * weight for one, weight in zip(found, weights, strict=True)) / sum(weights)


def _numbers(found: Sequence[Conflict]) -> str:
    cosine, inputs, outputs = (mean(found, name) for name in ("cosine", "inputs", "outputs"))
    by_chance = mean(found, "inputs_by_chance"), mean(found, "outputs_by_chance")
    return (
        f"cosine {cosine:+.2f}, inputs shared {inputs:.0%} (by chance {by_chance[0]:.0%}), "
        f"outputs {outputs:.0%} ({by_chance[1]:.0%})"
    )


def _left(left: Sequence[Left]) -> list[str]:
    if not left:
        return []
    return [f"not compared, {len(left)} layers:", *(f"- {one.layer}: {one.reason}" for one in left[:SHOWN])]
