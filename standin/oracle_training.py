"""How the oracle is trained, and how often it is right.

Labels come from the renderer. "clouds" is unknown for Ghibli pictures, which have one whether asked for or not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from .autoencoder import coders
from .muon import Optimiser
from .oracle import HEADS, MANNERS, TRAINING_SEED, WEIGHTS, Oracle, Reading, new_network
from .scenes import LANDS, OBJECTS, SIZE, TIMES
from .workshop import Picture, Run, atomic, pictures, render_all, to_tensor

log = logging.getLogger(__name__)

_BATCH = 48
_PICTURES = 3000
_DECODED = 384  # how many of them are also seen after the autoencoder: costly, and enough to learn its traces


@dataclass(frozen=True, eq=False)
class Labels:
    """What n pictures show, as numbers; `known` (n, 5) is 0 where an object's label says nothing."""

    land: Tensor
    time: Tensor
    things: Tensor
    known: Tensor
    manner: Tensor

    @classmethod
    def of(cls, chosen: Sequence[Picture]) -> Labels:
        """The labels that the renderer's descriptions give."""
        things = torch.tensor([[float(thing in picture.scene.objects) for thing in OBJECTS] for picture in chosen])
        known = torch.ones_like(things)
        known[[picture.style == "ghibli" for picture in chosen], OBJECTS.index("clouds")] = 0
        return cls(
            torch.tensor([LANDS.index(picture.scene.land) for picture in chosen]),
            torch.tensor([TIMES.index(picture.scene.time) for picture in chosen]),
            things,
            known,
            torch.tensor([MANNERS.index(picture.style) for picture in chosen]),
        )

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Mean loss of the four heads against these rows."""
        land, hour, things, manner = logits.split(HEADS, 1)
        of_things = F.binary_cross_entropy_with_logits(things, self.things[rows], self.known[rows])
        named = ((land, self.land), (hour, self.time), (manner, self.manner))
        return 3 * of_things + sum(F.cross_entropy(head, label[rows]) for head, label in named)


def train_oracle(
    work: Path,
    autoencoder: nn.Module | None,
    steps: int = 1200,
    seed: int = 0,
    count: int = _PICTURES,
    path: Path = WEIGHTS,
) -> Oracle:
    """Trains an oracle on `count` renders and saves it to `path`; a killed run goes on from what lies in `work`.

    With an autoencoder (new_autoencoder's layout, trained) a quarter of every batch has gone through it.
    """
    chosen = pictures(count, TRAINING_SEED, dict.fromkeys(MANNERS, 1.0))
    rendered = render_all(chosen, work / "oracle-pictures.npy")
    decoded = decode(autoencoder, rendered[:_DECODED], work / "oracle-decoded.npy") if autoencoder else None
    labels = Labels.of(chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = new_network().train()
    fit(network, labels.loss, rendered, decoded, work / "oracle.safetensors", steps, seed)
    oracle = Oracle(network.eval())
    oracle.save(path)
    return oracle


def fit(
    network: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    rendered: np.ndarray,
    decoded: np.ndarray | None,
    state: Path,
    steps: int,
    seed: int,
) -> None:
    """Trains a network on augmented pictures, `loss_of(logits, their numbers)`; a killed run goes on from `state`.

    `decoded` are the first of the pictures after the autoencoder: a quarter of every batch is taken from them.
    """
    optimiser = Optimiser(network, 0.02, 3e-3, steps)
    run = Run(state, steps, seed, optimiser, network.state_dict, network.load_state_dict, every=20)
    began = time.monotonic()
    for done, step in enumerate(run, start=1):
        random = run.generator(step)
        rows = torch.randint(len(rendered), (_BATCH,), generator=random)
        batch = rendered[rows.numpy()]
        if decoded is not None:
            rows[: _BATCH // 4] %= len(decoded)
            batch[: _BATCH // 4] = decoded[rows[: _BATCH // 4].numpy()]
        loss = loss_of(network(augmented(to_tensor(batch), random)), rows)
        loss.backward()
        optimiser.step(step)
        if step % 50 == 49:
            pace = (time.monotonic() - began) / done
            log.info("oracle %d/%d loss %.4f %.2f s a step", step + 1, steps, loss.item(), pace)


def augmented(clean: Tensor, random: torch.Generator) -> Tensor:
    """The batch mirrored or not, shifted a little; each picture blurred, coloured and noisy in its own measure."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    n = len(clean)
    if uniform(1).item() < 0.5:
        clean = clean.flip(3)
    down, right = (torch.arange(SIZE).add(int(by)).clamp(0, SIZE - 1) for by in uniform(2) * 9 - 4)
    seen = clean.index_select(2, down).index_select(3, right)
    blurred = F.avg_pool2d(seen[::2], 3, 1, 1, count_include_pad=False)
    seen[::2] = seen[::2].lerp_(blurred, uniform(len(blurred), 1, 1, 1))
    seen.mul_(0.95 + 0.1 * uniform(n, 3, 1, 1)).add_(0.04 * (uniform(n, 1, 1, 1) - 0.5))
    seen.addcmul_(torch.randn(seen.shape, generator=random), 0.05 * uniform(n, 1, 1, 1).square())
    return seen.clamp_(0, 1)


def accuracy(reading: Reading, shown: Sequence[Picture]) -> dict[str, float]:
    """Share of right answers, in 0..1: "land", "time", "style", and each of OBJECTS where its label says something."""
    labels = Labels.of(shown)
    heads = {"land": (reading.lands, labels.land), "time": (reading.times, labels.time)}
    heads["style"] = (reading.manners, labels.manner)
    right = {name: float((seen.argmax(1) == label.numpy()).mean()) for name, (seen, label) in heads.items()}
    agree, known = (reading.things > 0.5) == (labels.things.numpy() > 0.5), labels.known.numpy() > 0
    return right | {thing: float(agree[known[:, k], k].mean()) for k, thing in enumerate(OBJECTS)}


@torch.no_grad()
def decode(autoencoder: nn.Module, rendered: np.ndarray, cache: Path) -> np.ndarray:
    """The pictures after encoder and decoder, uint8; kept in `cache` for a resumed run."""
    if cache.exists() and len(kept := np.load(cache)) == len(rendered):
        return kept
    encode, paint = coders(autoencoder)
    seen = [paint(encode(to_tensor(rendered[start : start + 16]))) for start in range(0, len(rendered), 16)]
    decoded = torch.cat(seen).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    with atomic(cache) as path, path.open("wb") as file:
        np.save(file, decoded)
    return decoded
