"""How fast the engine samples: ``python -m mixlora.benchmarks.sampling`` (`make bench`), ratios of runs side by side.

Peers: KSampler with chained LoRA loaders ("plain", the floor); the graph of ComfyUI's own LoRA hooks that computes the
same; and, where diffusers and peft are installed, the algorithm of the paper's reference code. Every variant runs
between two runs of plain, and its time is told in multiples of theirs.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..standalone import has_gpu, import_comfy
from .allocator import keep_memory
from .results import FOLDER, ROOT, Row, table, write_results

Variant = Callable[..., object]
PARTS = ("memory", "switch", "composite")


def over_plain(plain: Variant, variants: Mapping[str, Variant], rounds: int, steps: int) -> dict[str, float]:
    """Each variant's time in multiples of plain's: the median over the rounds of its ratio to its two neighbours.

    Plain runs before and after every variant, so that a machine which grows slower or faster hurts both sides.
    """
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        before = _seconds(plain, steps)
        for name, run in variants.items():
            spent, after = _seconds(run, steps), _seconds(plain, steps)
            ratios[name].append(ratio := spent / ((before + after) / 2))
            print(f"  {name:<24} {spent:8.2f} s, plain {before:.2f} and {after:.2f} s: {ratio:.3f}", flush=True)
            before = after
    return {name: statistics.median(each) for name, each in ratios.items()}


def _seconds(run: Variant, steps: int) -> float:
    """How long a run takes as a second queue of the same graph: the model is loaded and patched by a single step."""
    run(steps=1)
    _finish()
    gc.collect()
    begin = time.perf_counter()
    run(steps=steps)
    _finish()
    return time.perf_counter() - begin


def switch_rows(model: Any, dtype: Any, side: int, steps: int, rounds: int) -> list[Row]:
    """Switch against plain sampling, the hooks graph and the reference; `steps` as in the issue, 30."""
    from ..mixlora_core.compose import composed
    from ..mixlora_core.composition import Switch
    from . import world

    positive, negative = world.text(2), world.text(3)
    with world.stack_of(model, 3, dtype) as stack:
        paint = partial(world.sample, side=side)
        hooked = [world.hooked_switch(stack, conditioning, steps, 1) for conditioning in (positive, negative)]
        plain = partial(paint, world.chained(model, stack, 1 / 3), positive, negative)
        variants = {
            "switch, tau 5": partial(paint, composed(model, stack, Switch(3, 5)), positive, negative),
            "switch, tau 1": partial(paint, composed(model, stack, Switch(3, 1)), positive, negative),
            "switch, tau 1, rows": partial(paint, composed(model, stack, Switch(3, 1), "rows"), positive, negative),
            "hooks, tau 1": partial(paint, model, *hooked),
        }
        if reference := _reference():
            unet = reference.unet_with_loras(3, dtype, model.load_device)
            variants["reference, tau 1"] = partial(reference.switch, unet, 3, 1, side)
        times = over_plain(plain, variants, rounds, steps)
    where, ours = f"{steps} steps, {side}x{side} latents", times["switch, tau 1"]
    hooks_goal = 1.3 if has_gpu() else 1.1
    rows = [
        Row(f"Switch tau 5, N = 3, {where} / plain", times["switch, tau 5"], 1.02, True),
        Row(f"Switch tau 1, N = 3, {where} / plain", ours, 1.05, True),
        Row(f"Switch tau 1 by rows, N = 3, {where} / plain", times["switch, tau 1, rows"]),
        Row(f"hooks graph / Switch tau 1, {where}", times["hooks, tau 1"] / ours, hooks_goal),
    ]
    if "reference, tau 1" in times:
        rows.append(Row(f"reference on diffusers / Switch tau 1, {where}", times["reference, tau 1"] / ours))
    return rows


def composite_rows(
    model: Any, dtype: Any, side: int, steps: int, rounds: int, goals: Sequence[float], peers: bool = True
) -> list[Row]:
    """Composite against plain sampling, and `peers`: swap, hooks, reference; goals: N = 3 / plain, hooks / ours."""
    from ..mixlora_core.compose import composed
    from ..mixlora_core.composition import Composite
    from . import world

    positive, negative = world.text(2), world.text(3)
    with world.stack_of(model, 5, dtype) as five:
        three = type(five)(five.entries[:3])
        paint = partial(world.sample, side=side)
        chained, swap = world.chained(model, three, 1 / 3), composed(model, three, Composite(3), "swap")
        plain = partial(paint, chained, positive, negative)
        variants = {
            "plain, batch of 3": partial(paint, chained, positive, negative, batch=3),
            "composite, N = 3": partial(paint, composed(model, three, Composite(3)), positive, negative),
            "composite, N = 5": partial(paint, composed(model, five, Composite(5)), positive, negative),
        }
        if peers:
            hooked = world.hooked_composite(three, positive, negative)
            variants["composite, N = 3, swap"] = partial(paint, swap, positive, negative)
            variants["hooks, N = 3"] = partial(paint, model, *hooked)
        if peers and (reference := _reference()):
            unet = reference.unet_with_loras(3, dtype, model.load_device)
            variants["reference, N = 3"] = partial(reference.composite, unet, 3, side)
        times = over_plain(plain, variants, rounds, steps)
    where, ours = f"{side}x{side} latents", times["composite, N = 3"]
    rows = [
        Row(f"Composite, N = 3, {where} / plain", ours, goals[0], True),
        Row(f"a batch of 3 without branches, {where} / plain", times["plain, batch of 3"]),
        Row(f"Composite, N = 5 / N = 3, over 5 / 3, {where}", times["composite, N = 5"] / ours / (5 / 3), 1.0, True),
    ]
    if peers:
        rows.append(Row(f"Composite by swap, N = 3, {where} / plain", times["composite, N = 3, swap"]))
        rows.append(Row(f"hooks graph / Composite, N = 3, {where}", times["hooks, N = 3"] / ours, goals[1]))
    if "reference, N = 3" in times:
        rows.append(Row(f"reference on diffusers / Composite, N = 3, {where}", times["reference, N = 3"] / ours))
    return rows


def memory_rows(model: Any, dtype: Any) -> list[Row]:
    """Bytes of adapters that the engine holds (N = 5, rank 16) over their files', and what a second queue repeats."""
    from ..mixlora_core.compose import composed
    from ..mixlora_core.composition import Composite, Switch
    from . import world

    rows, again = [], 0
    with world.stack_of(model, 5, dtype) as stack:
        files = sum(_bytes(entry.file.tensors.values()) for entry in stack.entries)
        for name, composition, executor in (("rows", Composite(5), "rows"), ("swap", Switch(5, 1), "swap")):
            first, second = (_bank(composed(model, stack, composition, executor)) for _ in range(2))
            again += first is not second
            held = _bytes(first.model.parameters())
            rows.append(Row(f"adapters held by {name}, N = 5 of rank 16 / their files", held / files, 1.2, True))
    return [*rows, Row("banks of adapters made again by a second queue (rows and swap)", again, 0, True)]


def main() -> None:
    """Measures, prints the table, writes benchmarks/results/sampling-<device>.json where all parts were measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant (default: 3)")
    some = f"some of: {', '.join(PARTS)}"
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=some)
    given = parser.parse_args()
    keep_memory()
    import_comfy()
    import torch

    from . import world

    gpu, rounds = has_gpu(), given.rounds
    dtype = torch.float16 if gpu else torch.float32
    model = world.full_unet(dtype)
    rows: list[Row] = []
    with torch.inference_mode():
        if "memory" in given.only:
            rows += memory_rows(model, dtype)
        if "composite" in given.only and gpu:
            rows += composite_rows(model, dtype, 64, 30, rounds, (2.0, 1.5))
        elif "composite" in given.only:
            rows += composite_rows(model, dtype, 8, 12, rounds, (1.1, 2.5))
            rows += composite_rows(model, dtype, 64, 1, rounds, (3.0,), peers=False)
        if "switch" in given.only:  # what a change of turn costs does not depend on the picture: small ones are harder
            rows += switch_rows(model, dtype, 64 if gpu else 16, 30, rounds)
    print(table(rows))
    folder = FOLDER if set(given.only) == set(PARTS) else ROOT / ".scratch"
    print(f"written: {write_results('sampling', rows, folder)}")


def _reference() -> Any:
    """The module with the reference's algorithm, where its libraries are installed."""
    if any(importlib.util.find_spec(name) is None for name in ("diffusers", "peft")):
        print("  diffusers or peft is not installed: the reference's algorithm is left out")
        return None
    from . import reference

    return reference


def _bank(model: Any) -> Any:
    ((bank,),) = model.additional_models.values()
    return bank


def _bytes(tensors: Any) -> int:
    return sum(tensor.nelement() * tensor.element_size() for tensor in tensors)


def _finish() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
