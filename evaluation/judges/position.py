"""Position bias: how much a judge's verdict on two pictures depends on which of them it sees first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..store import Comparison


@dataclass(frozen=True)
class PositionBias:
    """Over pairs that a judge saw in both orders; without bias the first wins as often as the second."""

    measure: str
    pairs: int
    first: int
    """How often the picture shown first got more, of 2 × pairs showings."""
    ties: int
    second: int
    difference: float
    """Mean score of the first minus that of the second."""
    reversed: int
    """Pairs in which the same place won both times: the order decided."""

    def __str__(self) -> str:
        shown = 2 * self.pairs
        first, ties, second = (f"{100 * count / shown:.0f} %" for count in (self.first, self.ties, self.second))
        return (
            f"{self.measure}: shown first wins {first}, shown second wins {second}, tie {ties} of {shown} showings; "
            f"first - second {self.difference:+.2f} on average; the order decided {self.reversed} of {self.pairs} pairs"
        )


def position_bias(comparisons: Iterable[Comparison]) -> list[PositionBias]:
    """The bias by measure of one judge's comparisons; pairs seen in one order only are left out."""
    gaps: dict[str, dict[tuple[str, str], float]] = {}
    for one in comparisons:
        gaps.setdefault(one.measure, {})[one.first, one.second] = one.first_score - one.second_score
    found = []
    for measure, by_order in gaps.items():
        pairs = [(gap, by_order[b, a]) for (a, b), gap in by_order.items() if a < b and (b, a) in by_order]
        shown = [gap for pair in pairs for gap in pair]
        if pairs:
            found.append(
                PositionBias(
                    measure,
                    len(pairs),
                    sum(gap > 0 for gap in shown),
                    sum(gap == 0 for gap in shown),
                    sum(gap < 0 for gap in shown),
                    sum(shown) / len(shown),
                    sum(one * other > 0 for one, other in pairs),
                )
            )
    return found
