"""What the samples of a run are. A pure function of the seed and a number: resuming needs no state of any generator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """One training sample before the picture and the noise are mixed."""

    number: int
    """Counted over the whole run; `generator(seed, purpose, number)` gives further randomness for it."""
    picture: int
    timestep: int
    noise: Tensor
    """fp32 on the CPU, whatever the device: the same run on every machine."""
    drop_caption: bool = False
    variant: int = 0
    """Which of the picture's captions."""
    flip: bool = False


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The micro-batches of a run, each of pictures of one shape, numbered from 0 over all steps and processes.

    Pictures of one shape are a bucket. A bucket's samples are an endless row of epochs, each of which shows every
    picture `repeats` times in an order of its own, and a micro-batch is the next `batch` of them. In epoch E a bucket
    of n samples has its turn ``ceil((E + 1) n / batch) - ceil(E n / batch)`` times, in random order among the buckets:
    what its last batch takes from the next epoch is not shown there again, so no picture is ever shown more often than
    its repeats say. With one bucket the samples do not depend on how a step's `batch * accumulate` are cut.
    """

    seed: int
    shapes: Sequence[tuple[int, ...]]
    """Of each picture's latent."""
    repeats: Sequence[int]
    """How often an epoch shows each picture."""
    variants: Sequence[int]
    """How many captions each picture has."""
    batch: int
    accumulate: int
    timesteps: int
    caption_dropout: float = 0.0
    flips: bool = False
    """Show half of the samples mirrored."""

    def batch_at(self, number: int) -> list[Draw]:
        """The samples of micro-batch `number`; those of step s are numbers ``s * accumulate`` and following.

        Timesteps are stratified: the schedule is cut into as many equal ranges as a step has samples, and each sample
        of a step falls into one of them, uniform within (as the low-discrepancy sampler of Kingma et al.,
        arXiv 2107.00630, but with independent offsets). The loss of a step then varies less.
        """
        bucket, turn = self._turn(number)
        first = number * self.batch
        return [self._sample(first + i, self._picture(bucket, turn * self.batch + i)) for i in range(self.batch)]

    def epoch(self, number: int) -> int:
        """The epoch of micro-batch `number`, counted from 0."""
        slots = sum(len(bucket) for bucket in self._buckets)
        epoch = number * self.batch // slots  # at most this: the batches that buckets took in advance come on top
        while self._turns_before(epoch) > number:
            epoch -= 1
        return epoch

    @cached_property
    def _buckets(self) -> list[list[int]]:
        """Per shape the pictures of an epoch, each as often as it is repeated."""
        buckets: dict[tuple[int, ...], list[int]] = {}
        for picture, (shape, times) in enumerate(zip(self.shapes, self.repeats, strict=True)):
            buckets.setdefault(tuple(shape), []).extend([picture] * times)
        return list(buckets.values())

    def _turns_before(self, epoch: int) -> int:
        return sum(self._bucket_turns(bucket, epoch) for bucket in range(len(self._buckets)))

    def _bucket_turns(self, bucket: int, epoch: int) -> int:
        """How many batches a bucket has had before an epoch."""
        return -(-epoch * len(self._buckets[bucket]) // self.batch)

    def _turn(self, number: int) -> tuple[int, int]:
        """The bucket of a micro-batch, and how many batches that bucket has had before."""
        epoch = self.epoch(number)
        counts = [self._bucket_turns(b, epoch + 1) - self._bucket_turns(b, epoch) for b in range(len(self._buckets))]
        turns = [bucket for bucket, count in enumerate(counts) for _ in range(count)]
        mixed = [turns[i] for i in order(self.seed, "buckets", epoch, len(turns))]
        place = number - self._turns_before(epoch)
        bucket = mixed[place]
        return bucket, self._bucket_turns(bucket, epoch) + mixed[:place].count(bucket)

    def _picture(self, bucket: int, position: int) -> int:
        """The picture at a position in a bucket's endless row."""
        pictures = self._buckets[bucket]
        epoch, place = divmod(position, len(pictures))
        return pictures[order(self.seed, f"bucket {bucket}", epoch, len(pictures))[place]]

    def _sample(self, number: int, picture: int) -> Draw:
        source, per_step = generator(self.seed, "sample", number), self.batch * self.accumulate
        when, drop, variant, flip = torch.rand(4, generator=source, dtype=torch.float64).tolist()
        share = (number % per_step + when) / per_step
        return Draw(
            number=number,
            picture=picture,
            timestep=min(int(share * self.timesteps), self.timesteps - 1),
            noise=torch.randn(tuple(self.shapes[picture]), generator=source),
            drop_caption=drop < self.caption_dropout,
            variant=int(variant * self.variants[picture]),
            flip=self.flips and flip < 0.5,
        )


@lru_cache(maxsize=256)
def order(seed: int, stream: str, epoch: int, count: int) -> tuple[int, ...]:
    """A random order of `count` things, another one in every stream and epoch."""
    return tuple(torch.randperm(count, generator=generator(seed, f"order/{stream}", epoch)).tolist())


def generator(seed: int, stream: str, index: int | str) -> torch.Generator:
    """A CPU generator for one purpose, independent of those for every other seed, stream and index."""
    name = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(name, "little") >> 1)
