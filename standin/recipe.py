"""`python -m mixlora.standin.recipe`: trains all of the stand-in from a seed; killed, it goes on where it was.

Autoencoder, UNet, base weights, the two oracles, checkpoint, adapters, in this order, then what the second oracle calls
sound. Hours on two cores, minutes on a GPU.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from ..standalone import import_comfy
from .elements import ELEMENTS
from .workshop import WORK

STAGES = ("autoencoder", "base", "weights", "oracle", "elements", "adapters", "quality")


def main() -> None:
    """Runs the stages asked for; what is finished is not done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"some of: {', '.join(STAGES)} (default: all)")
    where = "where unfinished work is kept (default: ~/.cache/mixlora/standin)"
    parser.add_argument("--work", type=Path, default=WORK, help=where)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=(), help="of the adapters only these")
    given = parser.parse_args()
    if unknown := set(given.stages) - set(STAGES):
        parser.error(f"no stage is called {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    if unknown := set(given.only) - set(ELEMENTS):
        parser.error(f"no element is called {', '.join(sorted(unknown))}; there are {', '.join(ELEMENTS)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    import_comfy()
    given.work.mkdir(parents=True, exist_ok=True)
    for stage in given.stages or STAGES:
        logging.info("stage %s", stage)
        _STAGES[stage](given.work, *([given.only] if stage == "adapters" else []))


def train_autoencoder_stage(work: Path):
    """The autoencoder through both of its stages; returns the model."""
    import torch

    from .autoencoder import LEAN, SHARP, new_autoencoder, train_autoencoder

    torch.manual_seed(0)
    model = new_autoencoder()
    train_autoencoder(LEAN, model, work, "autoencoder-lean")
    train_autoencoder(SHARP, model, work, "autoencoder-sharp")
    return model.requires_grad_(False)


def train_base_stage(work: Path) -> dict:
    """The UNet on the autoencoder's latents; returns its weights."""
    from .base import train_base

    return train_base(train_autoencoder_stage(work), work)


def write_weights(work: Path) -> None:
    """Packs UNet and autoencoder into standin/weights."""
    from .base import latent_statistics
    from .weights import save_base

    save_base(train_base_stage(work), train_autoencoder_stage(work), *latent_statistics(work))


def train_oracle_stage(work: Path) -> None:
    """The classifier that measures the stand-in."""
    from .oracle_training import train_oracle

    train_oracle(work, train_autoencoder_stage(work))


def train_element_oracle_stage(work: Path) -> None:
    """The testbed's classifier, on the weights as they are shipped."""
    from .element_training import train_element_oracle

    train_element_oracle(work)


def train_adapters(work: Path, only: Sequence[str] = ()) -> None:
    """One adapter for each element, or for those in `only`, on the checkpoint as users get it."""
    from .adapters import train_adapter
    from .build import NAME, build_checkpoint

    checkpoint = build_checkpoint(work / NAME)
    for name in only or ELEMENTS:
        train_adapter(name, checkpoint, work)


def calibrate_quality(work: Path) -> None:
    """What the testbed's oracle calls sound and overloaded, from what the adapters paint alone and from too much."""
    import numpy as np

    from .build import NAME, build_checkpoint
    from .element_oracle import WEIGHTS, ElementOracle
    from .element_training import real_pictures
    from .overload import overloaded
    from .quality import CALIBRATION, alone, recalibrate
    from .sampling import Painter
    from .weights import adapter_file

    painter = Painter(build_checkpoint(work / NAME), {name: adapter_file(name) for name in ELEMENTS}, work / "alone")
    painted = np.concatenate(list(alone(painter).values()))
    broken = overloaded(painter, CALIBRATION, singles=3, sums=8)
    recalibrate(ElementOracle.load(), real_pictures(work), painted, broken).save(WEIGHTS)


_STAGES: dict[str, Callable[..., object]] = {
    "autoencoder": train_autoencoder_stage,
    "base": train_base_stage,
    "weights": write_weights,
    "oracle": train_oracle_stage,
    "elements": train_element_oracle_stage,
    "adapters": train_adapters,
    "quality": calibrate_quality,
}

if __name__ == "__main__":
    main()
