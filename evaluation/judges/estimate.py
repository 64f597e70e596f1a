"""What asking will cost, before it is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

CHARACTERS_PER_TOKEN = 4
TYPICAL_ANSWER = 400
"""Tokens of an answer in a few sentences; --max-tokens is the most."""
RULE = "text: a token for 4 characters; pictures: OpenAI's high detail, 85 + 170 for each tile of 512 pixels"


@dataclass(frozen=True)
class Estimate:
    """Requests and tokens; prices are in any currency for a million tokens."""

    requests: int
    input_tokens: int
    typical_output: int
    most_output: int
    price_in: float | None = None
    price_out: float | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.requests} requests; about {self.input_tokens:,} tokens to read ({RULE})",
            f"{self.typical_output:,} tokens to write if an answer has {TYPICAL_ANSWER}, at most {self.most_output:,}; "
            "malformed answers are asked for again and come on top",
        ]
        if self.price_in is not None and self.price_out is not None:
            typical, most = (
                (self.input_tokens * self.price_in + output * self.price_out) / 1e6
                for output in (self.typical_output, self.most_output)
            )
            lines.append(f"price: about {typical:.2f}, at most {most:.2f}")
        return "\n".join(lines)


def estimate(
    requests: Iterable[tuple[str, Iterable[tuple[int, int]]]],
    max_tokens: int,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Estimate:
    """For requests of a text and the widths and heights of its pictures."""
    count = tokens = 0
    for text, sizes in requests:
        count += 1
        tokens += math.ceil(len(text) / CHARACTERS_PER_TOKEN) + sum(picture_tokens(*size) for size in sizes)
    typical = count * min(TYPICAL_ANSWER, max_tokens)
    return Estimate(count, tokens, typical, count * max_tokens, price_in, price_out)


def picture_tokens(width: int, height: int) -> int:
    """OpenAI's rule for high detail: into 2048 x 2048, then the shorter side to 768, then 512-pixel tiles.

    Pictures are only made smaller by it. Other models count otherwise, most of them less.
    """
    scale = min(1.0, 2048 / max(width, height))
    scale *= min(1.0, 768 / (scale * min(width, height)))
    return 85 + 170 * math.ceil(width * scale / 512 - 1e-9) * math.ceil(height * scale / 512 - 1e-9)
