"""The command line of learn_mix.py: checks, fits coefficients, writes the small file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..mixlora_core.errors import AdapterError
from ..standalone import show_all_letters
from .settings import TrainingError

_DESCRIPTION = """\
Learns how loudly each LoRA of a stack speaks in each block of the UNet, with
the LoRAs and the checkpoint frozen. Give prompts, and one pass learns to
predict what the LoRAs predict one by one (LoRA Composite, centred); or give a
folder of pictures that the mix should look like. The result is a file of a
few kB for exactly these LoRAs.

Take prompts like those that you will use, but not the ones by which you will
judge the mix.
"""
_EXIT_CODES = "exit codes: 0 done; 1 the system failed; 2 something to correct; 130 stopped by Ctrl-C"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="learn_mix.py", description=_DESCRIPTION, epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add: Any = command.add_argument
    add("--base", type=Path, required=True, help="the SD v1.5 or SDXL checkpoint, .safetensors")
    add("--loras", nargs="+", required=True, metavar="FILE[=STRENGTH]", help="the LoRA files, at their full strengths")
    add("--output", type=Path, required=True, help="the file to write, .safetensors")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompts", nargs="+", metavar="TEXT", help="prompts, or .txt files with one on each line")
    source.add_argument("--data", type=Path, metavar="FOLDER", help="pictures with captions, as for train.py")
    add(
        "--by", default="block", choices=("all", "block", "attention", "layer"), help="one coefficient for each (block)"
    )
    add("--start", default="root", choices=("one", "root"), help="start from 1 or from 1/sqrt(N) (root)")
    add("--pull", type=float, default=0.01, help="how strongly coefficients are held to the start (0.01)")
    add("--steps", type=int, default=200, help="updates (200)")
    add("--batch", type=int, default=2, help="noisy pictures a step (2)")
    add("--lr", type=float, default=0.02, help="learning rate (0.02)")
    add("--empty", type=float, default=0.1, help="share of samples with the empty prompt (0.1)")
    add("--seed", type=int, default=0, help="seed of everything random (0)")
    add("--resolution", type=int, default=512, help="side of the pictures, in pixels (512)")
    add("--pictures", type=int, default=2, help="pictures that the base paints of each prompt (2)")
    add("--paint-steps", type=int, default=20, help="their sampling steps (20)")
    add("--paint-cfg", type=float, default=7.0, help="their guidance (7)")
    add("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"),
        help="number format of the base; what is learned are small differences, which fp32 keeps (fp32)")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    add("--overwrite", action="store_true", help="replace an existing file")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Fits a mix and returns the exit code."""
    given = parser().parse_args(arguments)
    show_all_letters()
    try:
        run(given)
    except (TrainingError, AdapterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing is written", file=sys.stderr)
        return 130
    return 0


def run(given: argparse.Namespace) -> None:
    """Checks what can be checked, then fits, then writes. Raises TrainingError, AdapterError, OSError."""
    from .learning import COMPOSITE, PICTURES, LearnSettings

    if given.output.suffix != ".safetensors":
        raise TrainingError(f"--output {given.output}: expected a name that ends with .safetensors.")
    if given.output.exists() and not given.overwrite:
        raise TrainingError(f"{given.output} exists; give --overwrite to replace it, or another --output.")
    loras = [lora(text) for text in given.loras]
    settings = LearnSettings(
        objective=COMPOSITE if given.prompts else PICTURES, start=given.start, pull=given.pull, steps=given.steps,
        batch=given.batch, lr=given.lr, empty=given.empty, seed=given.seed,
    )  # fmt: skip
    from .cli import start_comfy
    from .distribution import World

    start_comfy(given.device, World())
    _learn(given, loras, settings)


def lora(text: str) -> tuple[Path, float]:
    """FILE or FILE=STRENGTH -> path and strength, 1 where none is given. Raises TrainingError."""
    path, equals, number = text.rpartition("=")
    if not equals or Path(text).is_file():
        return Path(text).expanduser(), 1.0
    try:
        return Path(path).expanduser(), float(number)
    except ValueError as error:
        raise TrainingError(
            f"--loras {text}: expected FILE or FILE=STRENGTH, such as monet.safetensors=0.8."
        ) from error


def _learn(given: argparse.Namespace, loras: Sequence[tuple[Path, float]], settings: Any) -> None:
    from ..mixlora_core.files import lora_file
    from ..mixlora_core.layers.learned_mix import LearnedMix, Named, tensor_hash
    from .base import load_base, make_room
    from .display import Display
    from .learning import learn
    from .mix_inputs import patcher_of, voices
    from .mixture import Mixture

    display = Display()
    files = [lora_file.read(path) for path, _ in loras]
    named = tuple(Named(file.name, tensor_hash(file)) for file in files)
    if len({one.sha256 for one in named}) != len(named):
        raise TrainingError("--loras names the same adapter twice.")
    base, clip, vae = load_base(given.base, given.dtype)
    model = patcher_of(base)
    spoken = voices(model, files, [strength for _, strength in loras])
    samples = _samples(given, base, model, clip, vae, settings, display)
    del clip, vae
    make_room(base)
    mixture = Mixture(base.unet, spoken, given.by)
    shown = display.count("learning", settings.steps)
    found = learn(base, mixture, samples, settings, lambda step, loss: shown(step))
    about = {
        "objective": settings.objective, "start": settings.start, "pull": str(settings.pull),
        "steps": str(settings.steps), "batch": str(settings.batch), "lr": str(settings.lr), "seed": str(settings.seed),
        "empty": str(settings.empty), "strengths": ", ".join(f"{strength:g}" for _, strength in loras),
        "base": base.name, "base_sha256": base.sha256, "samples": samples.digest(),
        "error_before": f"{found.before:.6g}", "error_after": f"{found.after:.6g}",
    }  # fmt: skip
    LearnedMix(found.coefficients, named, mixture.groups, given.by, base.family, about).write(given.output)
    display.say(report(found, mixture))
    display.say(f"{given.output}: {len(named)} x {len(mixture.groups)} coefficients")


def _samples(given: Any, base: Any, model: Any, clip: Any, vae: Any, settings: Any, display: Any) -> Any:
    from .mix_inputs import Painting, painted
    from .options import read_prompts

    if given.prompts:
        prompts = list(dict.fromkeys(read_prompts(given.prompts)))
        how = Painting(given.paint_steps, given.paint_cfg, given.resolution, given.pictures, given.seed)
        return painted(base, model, clip, prompts, how, display.count("painting", len(prompts) * how.each))
    import comfy.sd1_clip

    from .captions import count_chunks
    from .dataset import find_pictures
    from .encoding import encode
    from .settings import TrainSettings

    data = find_pictures(
        given.data, TrainSettings(resolution=given.resolution, batch=settings.batch),
        count_chunks(comfy.sd1_clip.SD1Tokenizer()),
    )  # fmt: skip
    display.say(str(data))
    scale = base.model.process_latent_in
    return encode(data.pictures, clip, vae, scale, sdxl=base.family == "sdxl", progress=display.count)


def report(found: Any, mixture: Any) -> str:
    """The coefficients as a table, and how near to the target they come."""
    width = max(len(group) for group in mixture.groups)
    names = [voice.name.removesuffix(".safetensors")[:14] for voice in mixture.voices]
    lines = [" " * width + "".join(f"  {name:>14}" for name in names)]
    for column, group in enumerate(mixture.groups):
        cells = [
            f"  {value:14.3f}" if touched else f"  {'-':>14}"
            for value, touched in zip(found.coefficients[:, column].tolist(), mixture.touched[:, column], strict=True)
        ]
        lines.append(f"{group:<{width}}{''.join(cells)}")
    lines.append(f"relative error on noise not learned from: {found.before:.4f} before, {found.after:.4f} after")
    return "\n".join(lines)
