"""What asking will cost, before it is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHARACTERS_PER_TOKEN = 4
TYPICAL_ANSWER = 400
"""Tokens of an answer in a few sentences; --max-tokens is the most."""
RULE = (
    "text: a token for 4 characters; pictures: OpenAI's high detail, 85 + 170 for each tile of 512 pixels. Other "
    "models count otherwise, some many times as much: --picture-tokens"
)
GIVEN = "text: a token for 4 characters; {} for each picture"


@dataclass(frozen=True)
class Request:
    """One question with pictures of these widths and heights, asked up to `attempts` times."""

    text: str
    sizes: Sequence[tuple[int, int]]
    attempts: int = 1


@dataclass(frozen=True)
class Estimate:
    """Requests and tokens; prices are in any currency for a million tokens."""

    requests: int
    input_tokens: int
    typical_output: int
    most_input: int
    """Where every answer but the last is malformed, and asked for again."""
    most_output: int
    rule: str
    price_in: float | None = None
    price_out: float | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.requests} requests; about {self.input_tokens:,} tokens to read ({self.rule})",
            f"{self.typical_output:,} tokens to write if an answer has {TYPICAL_ANSWER}; at most {self.most_output:,} "
            f"to write and {self.most_input:,} to read, if all are as long as they may be and malformed until the last",
        ]
        if self.price_in is not None and self.price_out is not None:
            typical, most = (
                (read * self.price_in + written * self.price_out) / 1e6
                for read, written in ((self.input_tokens, self.typical_output), (self.most_input, self.most_output))
            )
            lines.append(f"price: about {typical:.2f}, at most {most:.2f}")
        return "\n".join(lines)


def estimate(
    requests: Iterable[Request],
    max_tokens: int,
    price_in: float | None = None,
    price_out: float | None = None,
    picture: int | None = None,
) -> Estimate:
    """For requests; `picture` is the number of tokens of one, None: by OpenAI's rule."""
    count = read = most_read = most_written = 0
    for one in requests:
        seen = sum(picture_tokens(*size) if picture is None else picture for size in one.sizes)
        tokens = math.ceil(len(one.text) / CHARACTERS_PER_TOKEN) + seen
        count, read, most_read = count + 1, read + tokens, most_read + one.attempts * tokens
        most_written += one.attempts * max_tokens
    typical = count * min(TYPICAL_ANSWER, max_tokens)
    rule = RULE if picture is None else GIVEN.format(picture)
    return Estimate(count, read, typical, most_read, most_written, rule, price_in, price_out)


def picture_tokens(width: int, height: int) -> int:
    """OpenAI's rule for high detail: into 2048 x 2048, then the shorter side to 768, then 512-pixel tiles.

    Pictures are only made smaller by it.
    """
    scale = min(1.0, 2048 / max(width, height))
    scale *= min(1.0, 768 / (scale * min(width, height)))
    return 85 + 170 * math.ceil(width * scale / 512 - 1e-9) * math.ceil(height * scale / 512 - 1e-9)
