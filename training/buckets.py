"""Sizes that pictures are brought to: one square, or buckets of about its area in the pictures' own proportions."""

from __future__ import annotations

import math
from functools import lru_cache

STEP = 64
"""Pixels: eight of the VAE's times the eight by which SD's UNet shrinks a latent."""

Size = tuple[int, int]
"""Width and height in pixels."""


@lru_cache(maxsize=64)
def sizes(resolution: int) -> tuple[Size, ...]:
    """All buckets: ``resolution`` squared, and what has no more pixels than that and sides that are multiples of STEP.

    Sides lie between half and twice the resolution; of equally wide (and of equally high) ones only the largest counts.
    """
    area, found = resolution**2, {(resolution, resolution)}
    low = max(STEP, math.ceil(resolution / 2 / STEP) * STEP)
    for side in range(low, 2 * resolution + 1, STEP):
        other = min(area // side, 2 * resolution) // STEP * STEP
        if other >= low:
            found |= {(side, other), (other, side)}
    return tuple(sorted(found))


def choose(size: Size, resolution: int, buckets: bool = True) -> Size:
    """The size for a picture: the bucket of the nearest proportions that it covers; without buckets the square.

    Near is measured in the logarithm of width / height, so that a picture and its quarter turn are treated alike; the
    larger of two equally near ones is taken. A picture that covers none is too small; its bucket is the nearest of all.
    """
    if not buckets:
        return resolution, resolution
    proportions = math.log(size[0] / size[1])

    def order(bucket: Size) -> tuple[bool, float, int, Size]:
        distance = round(abs(math.log(bucket[0] / bucket[1]) - proportions), 9)
        return not covers(size, bucket), distance, -bucket[0] * bucket[1], bucket

    return min(sizes(resolution), key=order)


def covers(size: Size, bucket: Size) -> bool:
    """Whether a picture need not be enlarged to fill the bucket."""
    return size[0] >= bucket[0] and size[1] >= bucket[1]


def largest_resolution(size: Size, buckets: bool = True) -> int:
    """The highest resolution, in steps of STEP, at which a picture need not be enlarged; 0 if there is none."""
    highest = max(size) // STEP * STEP  # no bucket has two sides that are shorter
    fitting = (side for side in range(highest, 0, -STEP) if covers(size, choose(size, side, buckets)))
    return next(fitting, 0)


def cut_off(size: Size, bucket: Size) -> float:
    """The share of a picture's area that filling the bucket cuts off."""
    ratio = size[0] * bucket[1] / (size[1] * bucket[0])
    return 1 - min(ratio, 1 / ratio)


def conditions(size: Size, bucket: Size) -> tuple[int, int, int, int, int, int]:
    """What SDXL is told: original height and width, top and left of the crop in the scaled picture, height and width.

    arXiv 2307.01952, section 2.2, in the order in which ComfyUI embeds them.
    """
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    left, top = ((round(side * scale) - into) // 2 for side, into in zip(size, bucket, strict=True))
    return size[1], size[0], top, left, bucket[1], bucket[0]
