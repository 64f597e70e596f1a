"""The command line of map_router.py: one picture painted with a router, and the map of its experts, on one sheet."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cli import start_comfy
from .ending import exit_code
from .settings import TrainingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Paints and writes the sheet; returns the exit code, 2 for something to correct."""
    return exit_code(lambda: _run(parser().parse_args(arguments)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="map_router.py",
        description="Paints one picture with a router file and writes a sheet (PNG) that shows which expert serves "
        "which region: the winner of every token, for all blocks together and block by block.",
    )
    for name, text in (
        ("base", "the checkpoint"),
        ("router", "the router file"),
        ("output", "the sheet to write, .png"),
    ):
        command.add_argument(f"--{name}", type=Path, required=True, metavar="PATH", help=f"{text} (needed)")
    command.add_argument("--prompt", required=True, metavar="TEXT", help="what to paint (needed)")
    command.add_argument("--negative", default="", metavar="TEXT", help="what not to paint")
    numbers = {
        "width": (512, "pixels"), "height": (512, "pixels"), "steps": (20, "sampling steps"),
        "seed": (0, "of the noise"), "k": (0, "experts a token, 0 as trained"),
    }  # fmt: skip
    for name, (default, text) in numbers.items():
        command.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    command.add_argument("--cfg", type=float, default=7.0, metavar="X", help="guidance (default: 7)")
    command.add_argument("--strength", type=float, default=1.0, metavar="X", help="of every expert (default: 1)")
    command.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: auto)")
    return command


def _run(given: argparse.Namespace) -> int:
    from .distribution import World

    if given.output.suffix.lower() != ".png":
        raise TrainingError(f"--output {given.output}: expected a name that ends with .png.")
    if min(given.width, given.height) < 64 or given.width % 8 or given.height % 8:
        raise TrainingError(f"--width {given.width} --height {given.height}: expected multiples of 8, 64 or more.")
    start_comfy(given.device, World())
    from ..mixlora_core.errors import AdapterError
    from .files import write_atomically

    try:
        sheet = _sheet(given)
    except AdapterError as error:
        raise TrainingError(str(error)) from error
    data = io.BytesIO()
    sheet.save(data, "PNG")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(given.output, data.getvalue())
    print(given.output)
    return 0


def _sheet(given: argparse.Namespace) -> Any:
    import comfy.sample
    import comfy.sd
    import torch
    from PIL import Image

    from ..mixlora_core.routing import router_file
    from ..mixlora_core.routing.region_map import Trace, region_map
    from ..mixlora_core.routing.routed import routed_by

    router, trace = router_file.read(given.router), Trace()
    if not given.base.is_file():
        raise TrainingError(f"--base {given.base}: there is no such file.")
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(str(given.base))[:3]
    if model is None or clip is None or vae is None:
        raise TrainingError(f"{given.base}: expected a complete checkpoint with UNet, text encoder and VAE.")
    strengths = {index: float(given.strength) for index in range(len(router.head.experts))}
    model = routed_by(model, router, strengths, k=given.k, trace=trace)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in (given.prompt, given.negative))
    with torch.inference_mode():
        empty = torch.zeros(1, 4, given.height // 8, given.width // 8)
        noise = comfy.sample.prepare_noise(empty, given.seed)
        sampled = comfy.sample.sample(
            model, noise, given.steps, given.cfg, "euler", "normal", positive, negative, empty, seed=given.seed
        )
        pixels = vae.decode(sampled)[0].clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return region_map(trace, f"Experts of {router.name}", painted=Image.fromarray(pixels))
