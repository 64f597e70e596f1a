"""Composite at full strength or less cost: branches, what they fuse to, and what holds where predictions are linear."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from mixlora.mixlora_core.composition import (
    BOTH,
    NEGATIVE,
    POSITIVE,
    Anchored,
    Branch,
    Centred,
    Composite,
    Merge,
    Reused,
    Switch,
    Windowed,
    fusion,
    lasting,
)
from mixlora.mixlora_core.composition.fusion import Moment
from mixlora.mixlora_core.composition.schedule import steps_within
from mixlora.mixlora_core.errors import CompositionError

SIGMAS = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.03]


class Toy:
    """Predictions of 2 pictures of 3 numbers for N adapters: base + Σ c_i d_i + bend · (Σ c_i d_i)², by side."""

    def __init__(self, adapters, bend=0.0, shifts_only=False):
        generator = torch.Generator().manual_seed(adapters)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        self.base = {POSITIVE: draw(2, 3), NEGATIVE: draw(2, 3)}
        shift = draw(adapters, 2, 3)
        self.changes = {POSITIVE: shift, NEGATIVE: shift if shifts_only else draw(adapters, 2, 3)}
        self.bend, self.ran = bend, 0

    def __call__(self, branch, side):
        self.ran += 1
        change = torch.einsum("n,nij->ij", torch.tensor(branch.coefficients, dtype=torch.float64), self.changes[side])
        return self.base[side] + change + self.bend * change**2


def run(composition, toy, guidance=3.0, sigmas=SIGMAS, calls=None):
    """The guided predictions of a run, as the engine makes them: one call a step, unless `calls` lists their steps."""
    steps, memory, told = len(sigmas), {POSITIVE: {}, NEGATIVE: {}}, []
    for step in range(steps) if calls is None else calls:
        found = {}
        for side in (POSITIVE, NEGATIVE):
            branches = [one for one in composition.branches(step, steps, guidance) if one.side in (BOTH, side)]
            predictions = [toy(one, side) for one in branches]
            moment = Moment(step, steps, toy.base[side] + sigmas[step] * 2, memory[side])
            fuse = composition.fusion
            mean = fusion.mean(predictions, [one.weight for one in branches]) if fuse is None else None
            found[side] = mean if fuse is None else fuse(predictions, branches, moment)
        told.append(found[NEGATIVE] + guidance * (found[POSITIVE] - found[NEGATIVE]))
    return torch.stack(told)


def same(one, other):
    return torch.allclose(one, other, rtol=0, atol=1e-9)


def test_the_anchor_that_keeps_strength():
    assert [round(lasting(adapters, 7.0), 2) for adapters in (1, 2, 3, 5, 7, 9)] == [0, 0.17, 0.33, 0.67, 1, 1]
    assert lasting(2, 2.0) == lasting(5, 2.0) == 1.0, "more than the base alone cannot be had"
    assert lasting(3, 1.0) == lasting(3, 0.5) == 0.0, "no guidance, nothing to gain"


def test_anchored_runs_each_with_the_prompt_and_merge_and_base_without():
    third = (1 / 3,) * 3
    own = [Branch(tuple(float(i == k) for i in range(3)), 1.0, k, POSITIVE) for k in range(3)]
    merge, base = Branch(third, 0.75, None, NEGATIVE), Branch((0.0,) * 3, 0.25, None, NEGATIVE)
    assert Anchored(3).branches(0, 1, 9.0) == (*own, merge, base)
    assert Anchored(3).branches(0, 1, 2.0) == (*own, Branch((0.0,) * 3, 1.0, None, NEGATIVE)), "capped: base alone"
    assert Anchored(3, 0.0).branches(0, 1, 9.0) == (*own, Branch(third, 1.0, None, NEGATIVE))
    assert Anchored(1).branches(0, 1, 9.0)[1:] == (Branch((1.0,), 1.0, None, NEGATIVE),)
    weighted = Anchored(3, 0.5, (3.0, 0.0, 1.0)).branches(0, 1, 9.0)
    assert [(one.text, one.weight) for one in weighted] == [(0, 3.0), (2, 1.0), (None, 0.5), (None, 0.5)]
    assert weighted[2].coefficients == (0.75, 0.0, 0.25)


def test_anchored_without_an_anchor_is_composite_where_predictions_are_linear():
    toy = Toy(3)
    assert same(run(Anchored(3, 0.0), toy), run(Composite(3), toy))
    assert not same(run(Anchored(3, 0.5), toy), run(Composite(3), toy))


@pytest.mark.parametrize(("adapters", "guidance"), [(2, 7.0), (3, 7.0), (5, 7.0), (5, 2.0), (4, 1.5)])
def test_anchored_keeps_what_does_not_depend_on_the_prompt(adapters, guidance):
    """Its gain is [1 + λ (s - 1)] / N: 1 as of a scale of N, s / N below; Composite's is 1 / N."""
    toy = Toy(adapters, shifts_only=True)
    plain = run(Composite(adapters, ()), toy, guidance)[0]
    nothing = toy.base[NEGATIVE] + guidance * (toy.base[POSITIVE] - toy.base[NEGATIVE])
    gain = 1.0 if guidance >= adapters else guidance / adapters
    shift = toy.changes[POSITIVE].sum(0)
    assert same(plain - nothing, shift / adapters)
    assert same(run(Anchored(adapters), toy, guidance)[0] - nothing, gain * shift)


@pytest.mark.parametrize("unconditional", ["merged", "each"])
@pytest.mark.parametrize("guidance", [1.0, 2.0, 7.5])
def test_centred_at_full_strength_is_the_merge_where_predictions_are_linear(unconditional, guidance):
    toy = Toy(4)
    merged = run(Merge(4), toy, guidance)
    assert same(run(Centred(4, unconditional=unconditional), toy, guidance), merged)
    bent = Toy(4, bend=0.2)
    assert not same(run(Centred(4, unconditional=unconditional), bent, guidance), run(Merge(4), bent, guidance))


def test_centred_around_a_base_on_the_other_side_is_louder_by_the_guidance():
    toy, guidance = Toy(3, shifts_only=True), 5.0
    nothing = toy.base[NEGATIVE] + guidance * (toy.base[POSITIVE] - toy.base[NEGATIVE])
    ours = run(Centred(3, unconditional="base"), toy, guidance)[0]
    assert same(ours - nothing, guidance * toy.changes[POSITIVE].sum(0))


def test_centred_at_one_nth_is_composite():
    bent = Toy(3, bend=0.3)
    centred = Centred(3, 1 / 3, unconditional="each")
    assert same(run(centred, bent), run(Composite(3), bent))
    assert len(centred.branches(0, 1)) == 3, "the base, which counts 0, is not run"
    weights = (0.2, 0.0, 0.5)
    assert same(
        run(Centred(3, 2.0, weights, "each"), bent),
        # 0.4 e_0 + 1.0 e_2 - 0.4 e_base, by hand
        torch.stack([by_hand(bent, {0: 0.4, 2: 1.0})] * len(SIGMAS)),
    )


def by_hand(toy, weights, guidance=3.0):
    sides = {}
    for side in (POSITIVE, NEGATIVE):
        total = (1 - sum(weights.values())) * toy.base[side]
        for index, weight in weights.items():
            change = toy.changes[side][index]
            total = total + weight * (toy.base[side] + change + toy.bend * change**2)
        sides[side] = total
    return sides[NEGATIVE] + guidance * (sides[POSITIVE] - sides[NEGATIVE])


def test_centred_branches():
    base = Branch((0.0, 0.0), 1.0, None, POSITIVE)
    own = [Branch((1.0, 0.0), 0.5, 0, POSITIVE), Branch((0.0, 1.0), 1.5, 1, POSITIVE)]
    merge = Branch((0.5, 1.5), 1.0, None, NEGATIVE)
    assert Centred(2, 0.5, (1.0, 3.0)).branches(0, 1) == (base, *own, merge)
    assert len(Centred(5).branches(0, 1)) == 7 and len(Centred(5, unconditional="each").branches(0, 1)) == 6
    assert Centred(1).branches(0, 1) == (Branch((1.0,), 1.0, 0, POSITIVE), Branch((1.0,), 1.0, None, NEGATIVE))


@pytest.mark.parametrize("unconditional", ["merged", "base", "each"])
@pytest.mark.parametrize("around", ["merged", "base"])
def test_reused_in_every_step_is_centred(around, unconditional):
    toy, centred = Toy(3, bend=0.3), Centred(3, 0.8, unconditional=unconditional)
    assert Reused(centred, 1, around).branches(5, 9) == centred.branches(5, 9)
    assert same(run(Reused(centred, 1, around), toy), run(centred, toy))
    whole, reused = run(centred, toy), run(Reused(centred, 3, around), toy)
    assert same(reused[::3], whole[::3]), "where it is renewed it is Centred"
    assert not any(same(reused[step], whole[step]) for step in (1, 2, 4, 5, 7))


@pytest.mark.parametrize("every", [2, 5, 100])
def test_around_the_merge_nothing_is_lost_where_predictions_are_linear(every):
    toy = Toy(4)
    assert same(run(Reused(Centred(4), every), toy), run(Merge(4), toy))
    assert not same(run(Reused(Centred(4), every, "base"), toy), run(Merge(4), toy))


def test_what_is_kept_shrinks_with_the_noise():
    """Around the base of a linear model each adapter adds d; kept it is d · c(r') / c(r), c(r) = r / sqrt(r² + 1)."""
    toy = Toy(2)
    toy.base = {side: toy.base[POSITIVE] for side in (POSITIVE, NEGATIVE)}
    composition = Reused(Centred(2, unconditional="each"), 100, "base")
    ours = run(composition, toy, guidance=1.0) - toy.base[POSITIVE]
    sizes = [2 * sigma / math.sqrt(4 * sigma**2 + 1) for sigma in SIGMAS]  # r is twice sigma in `run`
    for change, size in zip(ours, sizes, strict=True):
        assert same(change, toy.changes[POSITIVE].sum(0) * size / sizes[0])
    assert all(small.norm() < large.norm() for large, small in pairwise(ours))


def test_rows_have_their_own_noise():
    anchor, kept = (
        torch.zeros(2, 1, 2, 2),
        {"difference": torch.ones(2, 1, 2, 2), "size": torch.full((2, 1, 1, 1), 0.5)},
    )
    noisy = torch.stack([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 1e-9)])
    told = Reused(Centred(2), 2).fusion([anchor], [Branch((1.0, 1.0), side=POSITIVE)], Moment(1, 4, noisy, kept))
    assert told[0].flatten().tolist() == pytest.approx([math.sqrt(2)] * 4)
    assert told[1].abs().max() < 1e-5 and torch.isfinite(told).all()


def test_reused_runs_one_branch_between_and_counts_by_steps_not_calls():
    reused = Reused(Centred(5), 4)
    assert [len(reused.branches(step, 9)) for step in range(9)] == [8, 2, 2, 2, 8, 2, 2, 2, 8]
    assert reused.branches(1, 9) == (Branch((1.0,) * 5, 1.0, None, POSITIVE), Branch((1.0,) * 5, 1.0, None, NEGATIVE))
    assert [len(Reused(Centred(5), 4, "base").branches(step, 9)) for step in (0, 1)] == [7, 2]
    assert [len(Reused(Centred(5, 0.2), 4).branches(step, 9)) for step in (0, 1)] == [7, 2]
    toy = Toy(3, bend=0.3)
    once = run(reused := Reused(Centred(3), 2), toy)
    calls = [0, 1, 1, 2, 2, 3]  # heun looks ahead, then calls there again
    assert same(run(reused, toy, calls=calls), torch.stack([once[step] for step in calls]))


def test_where_nothing_was_kept_yet_the_engine_is_told_and_asks_for_all():
    """Windowed passes both on to the composition whose part it is."""
    reused = Reused(Centred(2), 4)
    for composition in (reused, Windowed(reused, Merge(2), 0.0, 1.0)):
        with pytest.raises(fusion.NothingKept):
            run(composition, Toy(2), calls=[1])
        assert composition.renewed(1, 8) == reused.branches(0, 8) != reused.branches(1, 8)


class Odd(Merge):
    """A composition that tells the steps that it was asked for."""

    def branches(self, step, steps, guidance=1.0):
        return (Branch((float(step), float(steps))),)


def test_windowed_lets_each_count_its_own_steps():
    windowed = Windowed(Composite(2), Odd(2), 0.3, 0.6)
    told = [windowed.branches(step, 10) for step in range(10)]
    assert told[3:6] == [Composite(2).branches(0, 1)] * 3
    assert [one.coefficients for (one,) in told[:3]] == [(0.0, 3.0), (1.0, 3.0), (2.0, 3.0)]
    assert [one.coefficients for (one,) in told[6:]] == [(0.0, 4.0), (1.0, 4.0), (2.0, 4.0), (3.0, 4.0)]
    assert windowed.fusion is None


@pytest.mark.parametrize(("start", "end", "inside"), [(0, 0, 0), (0.5, 0.5, 0), (0, 1, 8), (0, 0.01, 0), (0.9, 1, 1)])
def test_windowed_at_its_edges(start, end, inside):
    toy = Toy(2, bend=0.3)
    whole, none = run(Centred(2), toy), run(Switch(2, 1), toy)
    ours = run(Windowed(Centred(2), Switch(2, 1), start, end), toy)
    assert len(steps_within(start, end, 8)) == inside
    if inside in (0, 8):
        assert same(ours, whole if inside else none)
    else:
        assert same(ours[-1], whole[-1]) and same(ours[:-1], none[:-1])


def test_windowed_gives_each_part_its_own_memory():
    toy = Toy(2, bend=0.3)
    outside, inside = Reused(Centred(2), 3), Reused(Centred(2, 0.4, unconditional="each"), 2)
    ours = run(Windowed(inside, outside, 0.25, 0.75), toy)
    assert same(ours[:2], run(outside, toy, sigmas=SIGMAS[:2]))
    assert same(ours[2:6], run(inside, toy, sigmas=SIGMAS[2:6]))
    assert same(ours[6:], run(outside, toy, sigmas=SIGMAS[6:]))


def test_windowed_asks_whom_it_needs():
    Windowed(Composite(5), Switch(5, 0), 0.0, 1.0).check(4)
    with pytest.raises(CompositionError, match="5 LoRAs cannot each have a turn in 4 steps"):
        Windowed(Composite(5), Switch(5, 0), 0.0, 0.6).check(10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Anchored(0), "stack is empty"),
        (lambda: Anchored(2, 1.5), "anchor is 1.5"),
        (lambda: Anchored(2, math.nan), "anchor is nan"),
        (lambda: Anchored(2, None, (1.0,)), "1 weights for 2 LoRAs"),
        (lambda: Centred(0), "stack is empty"),
        (lambda: Centred(2, 0.0), "strength is 0.0"),
        (lambda: Centred(2, math.inf), "strength is inf"),
        (lambda: Centred(2, 1.0, (0.0, 0.0)), "All weights are 0"),
        (lambda: Centred(2, unconditional="none"), "unconditional is 'none'"),
        (lambda: Reused(Centred(2), 0), "every is 0"),
        (lambda: Reused(Centred(2), 2, "each"), "around is 'each'"),
        (lambda: Windowed(Merge(2), Merge(3)), "for 2 LoRAs, the one outside for 3"),
        (lambda: Windowed(Merge(2), Merge(2), 0.6, 0.4), "from 0.6 to 0.4"),
        (lambda: Windowed(Merge(2), Merge(2), 0.0, math.nan), "from 0 to nan"),
    ],
)
def test_what_cannot_be_composed_is_refused(make, message):
    with pytest.raises(CompositionError, match=message):
        make()
