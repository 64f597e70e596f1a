"""Adapters in parts, the largest entries of a change, and when each layer turns from concept to style."""

import gc
import math
import weakref
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mixlora.mixlora_core.composition import Branch, LayerTimetable
from mixlora.mixlora_core.composition.layers import Contest, Rise, Span, balanced, switch_share
from mixlora.mixlora_core.errors import CompositionError
from mixlora.mixlora_core.layers import blocks
from mixlora.mixlora_core.layers.importance import Magnitude, magnitude, rank_of
from mixlora.mixlora_core.layers.splitting import split
from mixlora.mixlora_core.stack import StackEntry

Q = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
OUT = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.bias"
FILE: Any = SimpleNamespace()
TEXT = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
CONV = "diffusion_model.output_blocks.11.0.in_layers.2.weight"
TIME = "diffusion_model.time_embed.0.weight"
FUSED = ("diffusion_model.middle_block.1.qkv.weight", (0, 0, 8))


@dataclass(frozen=True, eq=False)
class Adapter:
    """As much of the core's as a split needs; that one imports ComfyUI."""

    model_patches: dict[Any, str]
    clip_patches: dict[Any, str] = field(default_factory=lambda: {"text": "patch"})
    anatomies: dict[Any, str] = field(default_factory=dict)
    whole: Any = None


def make_adapter() -> Any:
    keys = [CONV, Q, FUSED, OUT, TEXT, TIME]
    return Adapter({key: f"patch {key}" for key in keys}, anatomies={key: f"anatomy {key}" for key in [*keys, "text"]})


@pytest.fixture
def adapter():
    return make_adapter()


@pytest.mark.parametrize(
    ("grouping", "groups"),
    [
        ("all", ["all"]),
        ("block", ["output.11", "input.1", "middle.1", "time_embed"]),
        ("attention", ["output_blocks.11.0", "input_blocks.1.1.transformer_blocks.0.attn1", "middle_block.1",
                       "input_blocks.1.1.transformer_blocks.0.attn2", "time_embed"]),
        ("layer", ["output_blocks.11.0.in_layers.2", "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
                   "middle_block.1.qkv", "input_blocks.1.1.transformer_blocks.0.attn1.to_out.0",
                   "input_blocks.1.1.transformer_blocks.0.attn2.to_k", "time_embed.0"]),
    ],
)  # fmt: skip
def test_parts_are_the_adapter(adapter, grouping, groups):
    parts = split(adapter, grouping)
    assert list(parts) == groups
    patches = [item for part in parts.values() for item in part.model_patches.items()]
    assert len(patches) == len(dict(patches)) and dict(patches) == adapter.model_patches
    for part in parts.values():
        assert part.anatomies == {key: f"anatomy {key}" for key in part.model_patches}
        assert not part.clip_patches and part.whole is adapter


def test_the_order_of_groups_is_the_models():
    names = ["output.11", "time_embed", "output.2", "input.10", "middle.1", "input.4"]
    assert blocks.in_order(names) == ["input.4", "input.10", "middle.1", "output.2", "output.11", "time_embed"]
    layers = ["output_blocks.3.1.proj_in", "input_blocks.4.1.transformer_blocks.0.attn2.to_k", "input_blocks.4.0.op"]
    assert blocks.in_order(layers) == [layers[2], layers[1], layers[0]]


def test_parts_in_use_are_found_again_and_nothing_is_kept_for_ever():
    adapter = make_adapter()
    parts = split(adapter, "block")
    assert all(split(adapter, "block")[name] is part for name, part in parts.items())
    assert split(adapter, "layer")["time_embed.0"] is not parts["time_embed"]
    kept, whole = parts["input.1"], weakref.ref(adapter)
    del adapter, parts
    gc.collect()
    assert whole() is kept.whole  # a part in use is enough
    del kept
    gc.collect()
    assert whole() is None


def test_an_unknown_grouping_is_refused(adapter):
    with pytest.raises(CompositionError, match="grouped by 'blocks'; expected one of all, block, attention, layer"):
        split(adapter, "blocks")


@pytest.mark.parametrize("at_once", [7, 40, 1 << 22])
@pytest.mark.parametrize("count", [1, 6, 1000])
def test_magnitude_is_that_of_the_full_matrix(at_once, count):
    generator = torch.Generator().manual_seed(3)
    parts = [(torch.randn(9, rank, generator=generator), torch.randn(rank, 13, generator=generator), factor)
             for rank, factor in ((2, 0.5), (3, -2.0))]  # fmt: skip
    full = sum(factor * (up.double() @ down.double()) for up, down, factor in parts)
    entries = torch.as_tensor(full).abs().flatten().sort(descending=True).values
    found = magnitude(parts, count, at_once)
    assert found.total == pytest.approx(entries.sum().item(), rel=1e-5)
    assert found.largest == pytest.approx(entries[:count].sum().item(), rel=1e-5)
    assert rank_of(parts) == 5 and magnitude([], 4) == Magnitude(0.0, 0.0)


@pytest.mark.parametrize("steps", [1, 4, 30, 31])
def test_a_layer_turns_where_k_loras_comparison_does(steps):
    """The reference: K-LoRA's rule asked in every step, at the step's middle."""
    generator = torch.Generator().manual_seed(steps)
    for _ in range(200):
        concept, style, balance = (10 ** (torch.rand(3, generator=generator) * 2 - 1)).tolist()
        share = switch_share(Contest(concept, style), balance, Rise(1.5, 0.5))
        first, then = Span(0.0, share), Span(share, 1.0)
        for step in range(steps):
            expected = concept >= balance * style * (1.5 * (step + 0.5) / steps + 0.5)
            assert first.holds(step, steps) == expected and then.holds(step, steps) != expected


def test_one_sided_layers_and_balance():
    assert switch_share(Contest(3.0, 0.0), 1.0, Rise()) == 1.0  # concepts all along
    assert switch_share(Contest(0.0, 3.0), 1.0, Rise()) == 0.0
    assert balanced(6.0, 2.0) == 3.0 and balanced(6.0, 0.0) == 1.0
    assert switch_share(Contest(2.0, 1.0), balanced(6.0, 3.0), Rise()) == pytest.approx((1 - 0.5) / 1.5)


def test_timetable_speaks_in_spans():
    table = LayerTimetable((Span(0.0, 0.5), Span(0.5, 1.0), Span(), Span(0.3, 0.3)))
    assert table.depends_on_step and table.adapters == 4
    assert table.branches(1, 4) == (Branch((1.0, 0.0, 1.0, 0.0)),)
    assert table.branches(2, 4) == (Branch((0.0, 1.0, 1.0, 0.0)),)
    assert not LayerTimetable((Span(), Span(1.0, 1.0))).depends_on_step


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerTimetable(()), "stack is empty"),
        (lambda: LayerTimetable((Span(0.0, 1.5),)), "Part 1 speaks from 0 to 1.5"),
        (lambda: LayerTimetable((Span(math.nan, 1.0),)), "Part 1 speaks from nan to 1"),
        (lambda: Rise(0.0, 0.5), "0 x [+] 0.5; expected a slope above 0"),
        (lambda: Rise(math.inf, 0.5), "expected a slope above 0"),
        (lambda: Rise(1.5, -0.1), "start of 0 or more"),
        (lambda: StackEntry("a.sft", FILE, 1.0, 1.0, "Style"), "a.sft: its role is 'Style'; expected"),
    ],
)  # fmt: skip
def test_what_is_impossible_is_refused(make, message):
    with pytest.raises(CompositionError, match=message):
        make()
