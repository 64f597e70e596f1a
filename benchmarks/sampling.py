"""How fast the engine samples: ``python -m mixlora.benchmarks.sampling`` (`make bench`), ratios of runs side by side.

Peers: KSampler with chained LoRA loaders ("plain", the floor), and the graph of ComfyUI's own LoRA hooks that computes
the same. Every number is the ratio of the fastest of several runs that take turns, so that a busy machine hurts all.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..standalone import has_gpu, import_comfy
from .results import Row, table, write_results

Variant = Callable[[], object]


def best(variants: dict[str, Variant], rounds: int) -> dict[str, float]:
    """Seconds of each variant's fastest run; the variants take turns, after one run of each that does not count."""
    seconds = dict.fromkeys(variants, float("inf"))
    for counted in [False] + [True] * rounds:
        for name, run in variants.items():
            gc.collect()
            begin = time.perf_counter()
            run()
            _finish()
            spent = time.perf_counter() - begin
            seconds[name] = min(seconds[name], spent) if counted else seconds[name]
            print(f"  {name:<24} {spent:8.2f} s{'' if counted else '  (warm-up)'}", flush=True)
    return seconds


def switch_rows(model: Any, dtype: Any, side: int, steps: int, rounds: int) -> list[Row]:
    """Switch against plain sampling and the hooks graph; `steps` as in the issue, 30."""
    from ..mixlora_core.compose import composed
    from ..mixlora_core.composition import Switch
    from . import world

    positive, negative = world.text(2), world.text(3)
    with world.stack_of(model, 3, dtype) as stack:
        paint = partial(world.sample, side=side, steps=steps)
        hooked = [world.hooked_switch(stack, conditioning, steps, 1) for conditioning in (positive, negative)]
        seconds = best(
            {
                "plain": partial(paint, world.chained(model, stack, 1 / 3), positive, negative),
                "switch, tau 5": partial(paint, composed(model, stack, Switch(3, 5)), positive, negative),
                "switch, tau 1": partial(paint, composed(model, stack, Switch(3, 1)), positive, negative),
                "switch, tau 1, rows": partial(paint, composed(model, stack, Switch(3, 1), "rows"), positive, negative),
                "hooks, tau 1": partial(paint, model, *hooked),
            },
            rounds,
        )
    where = f"{steps} steps, {side}x{side} latents"
    return [
        Row(f"Switch tau 5, N = 3, {where} / plain", seconds["switch, tau 5"] / seconds["plain"], 1.02, True),
        Row(f"Switch tau 1, N = 3, {where} / plain", seconds["switch, tau 1"] / seconds["plain"], 1.05, True),
        Row(f"Switch tau 1 by rows, N = 3, {where} / plain", seconds["switch, tau 1, rows"] / seconds["plain"]),
        Row(
            f"hooks graph / Switch tau 1, {where}",
            seconds["hooks, tau 1"] / seconds["switch, tau 1"],
            1.3 if has_gpu() else 1.1,
        ),
    ]


def composite_rows(
    model: Any, dtype: Any, side: int, steps: int, rounds: int, goals: Sequence[float | None]
) -> list[Row]:
    """Composite against plain sampling and the hooks graph; goals: of N = 3 / plain, and of hooks / ours."""
    from ..mixlora_core.compose import composed
    from ..mixlora_core.composition import Composite
    from . import world

    positive, negative = world.text(2), world.text(3)
    with world.stack_of(model, 5, dtype) as five:
        three = type(five)(five.entries[:3])
        paint = partial(world.sample, side=side, steps=steps)
        seconds = best(
            {
                "plain": partial(paint, world.chained(model, three, 1 / 3), positive, negative),
                "composite, N = 3": partial(paint, composed(model, three, Composite(3)), positive, negative),
                "composite, N = 5": partial(paint, composed(model, five, Composite(5)), positive, negative),
                "composite, N = 3, swap": partial(
                    paint, composed(model, three, Composite(3), "swap"), positive, negative
                ),
                "hooks, N = 3": partial(paint, model, *world.hooked_composite(three, positive, negative)),
            },
            rounds,
        )
    where = f"{side}x{side} latents"
    ours, growth = seconds["composite, N = 3"], seconds["composite, N = 5"] / seconds["composite, N = 3"]
    return [
        Row(f"Composite, N = 3, {where} / plain", ours / seconds["plain"], goals[0], True),
        Row(f"Composite by swap, N = 3, {where} / plain", seconds["composite, N = 3, swap"] / seconds["plain"]),
        Row(f"hooks graph / Composite, N = 3, {where}", seconds["hooks, N = 3"] / ours, goals[1]),
        Row(f"Composite, N = 5 / N = 3, over 5 / 3, {where}", growth / (5 / 3), 1.0, True),
    ]


def memory_rows(model: Any, dtype: Any) -> list[Row]:
    """Bytes that the engine holds beside the model and the files, N = 5 of rank 16, over what is allowed."""
    from ..mixlora_core.compose import composed
    from ..mixlora_core.composition import Composite, Switch
    from . import world

    with world.stack_of(model, 5, dtype) as stack:
        files = sum(_bytes(entry.file.tensors.values()) for entry in stack.entries)
        rows = []
        for name, composition, executor in (("rows", Composite(5), "rows"), ("swap", Switch(5, 1), "swap")):
            ((bank,),) = composed(model, stack, composition, executor).additional_models.values()
            held = _bytes(bank.model.parameters())
            rows.append(Row(f"adapters held by {name}, N = 5 of rank 16 / their files", held / files, 1.2, True))
    return rows


def main() -> None:
    """Measures, prints the table, writes benchmarks/results/sampling-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each variant that count (default: 2)")
    rounds = parser.parse_args().rounds
    import_comfy()
    import torch

    from . import world

    gpu = has_gpu()
    dtype = torch.float16 if gpu else torch.float32
    model = world.full_unet(dtype)
    with torch.inference_mode():
        rows = memory_rows(model, dtype)
        if gpu:
            rows += switch_rows(model, dtype, 64, 30, rounds)
            rows += composite_rows(model, dtype, 64, 30, rounds, (2.0, 1.5))
        else:
            rows += composite_rows(model, dtype, 8, 12, rounds, (1.1, 2.5))
            rows += switch_rows(model, dtype, 32, 30, rounds)
            rows += composite_rows(model, dtype, 64, 2, 1, (3.0, None))
    print(table(rows))
    print(f"written: {write_results('sampling', rows)}")


def _bytes(tensors: Any) -> int:
    return sum(tensor.nelement() * tensor.element_size() for tensor in tensors)


def _finish() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
