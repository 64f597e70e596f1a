"""How the engine behaves in a live ComfyUI: nothing left behind, memory, masks, caches."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ADAPTERS = 3


@pytest.mark.parametrize("method", ["Switch", "Composite"])
@pytest.mark.parametrize("executor", ["swap", "rows"])
def test_a_run_leaves_nothing_behind(method, executor, three, compose, methods, models, untouched):
    base = models.sample(untouched)
    ours = models.sample(compose(three, getattr(methods, method)(ADAPTERS), executor))
    assert not torch.equal(base, ours)
    assert torch.equal(models.sample(untouched), base)


@pytest.mark.parametrize("executor", ["swap", "rows"])
@pytest.mark.parametrize("trouble", ["error", "interrupt", "memory"])
def test_trouble_in_the_middle_leaves_nothing_behind(trouble, executor, three, compose, methods, models, untouched):
    import comfy.model_management as management

    kind = {
        "error": ZeroDivisionError,
        "interrupt": management.InterruptProcessingException,
        "memory": management.OOM_EXCEPTION,
    }[trouble]

    def fail(sigma):
        if sigma < 5:
            raise kind

    model = compose(three, methods.Composite(ADAPTERS), executor)
    expected = models.sample(model)
    with pytest.raises(kind):
        models.sample(models.watched(model, fail))
    assert torch.equal(models.sample(model), expected)


def test_running_out_of_memory_goes_on_in_smaller_batches(three, compose, methods, models, caplog, untouched):
    import comfy.model_management as management

    model = compose(three, methods.Composite(ADAPTERS, (1.0, 2.0, 3.0)))
    whole, narrow, sizes = models.sample(model), model.clone(), []

    def small(apply_model, args):
        sizes.append(len(args["input"]))
        if sizes[-1] > 2:
            raise management.OOM_EXCEPTION("no memory left")
        return apply_model(args["input"], args["timestep"], **args["c"])

    narrow.set_model_unet_function_wrapper(small)
    picture = models.sample(narrow)
    assert ((picture - whole).norm() / whole.norm()).item() < 1e-5
    assert sizes[0] == 6 and set(sizes[1:]) == {2}  # it remembers
    assert "out of memory" in caplog.text


def entries(models, seed):
    """Conditionings as artists use them: an area, a mask, a part of the run, a strength."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1.0
    return [
        *models.text(seed),
        *models.text(seed + 10, area=(4, 4, 2, 2), strength=0.7, set_area_to_bounds=False),
        *models.text(seed + 20, mask=mask, mask_strength=0.5),
        *models.text(seed + 30, start_percent=0.3, end_percent=0.8),
    ]


@pytest.mark.parametrize("batch", [1, 2])
def test_areas_masks_and_ranges(batch, sd15, three, compose, methods, models, untouched):
    """The hooks graph for the same: every conditioning once for each LoRA."""
    import comfy.hooks

    positive, negative, hooked = entries(models, 6), entries(models, 7), ([], [])
    for entry in three.entries:
        hook = comfy.hooks.create_hook_lora(dict(entry.file.tensors), entry.strength_model, 0.0)
        for theirs, conditioning in zip(hooked, (positive, negative), strict=True):
            theirs += comfy.hooks.set_hooks_for_conditioning(conditioning, hook)
    expected = models.sample(sd15, *hooked, batch=batch)
    for executor in ("rows", "swap"):
        ours = models.sample(compose(three, methods.Composite(ADAPTERS), executor), positive, negative, batch=batch)
        assert ((ours - expected).norm() / expected.norm()).item() < 1e-5, executor


def test_compositions_stand_around_each_other(three, compose, methods, models, sd15, untouched):
    """A composite of one LoRA around a composite of two: as good as all the pairs merged, averaged."""
    first, rest = type(three)(three.entries[:1]), type(three)(three.entries[1:])
    model = compose(rest, methods.Composite(2), model=compose(first, methods.Merge(1)))
    pairs = [type(three)((three.entries[0], entry)) for entry in rest.entries]
    parts = [models.sample(compose(pair, methods.Merge(2), "rows"), steps=1) for pair in pairs]
    expected = (parts[0] + parts[1]) / 2  # one Euler step is linear in the prediction
    ours = models.sample(model, steps=1)
    assert ((ours - expected).norm() / expected.norm()).item() < 1e-4


def test_a_second_queue_reads_and_matches_nothing_again(three, compose, methods, models, monkeypatch):
    from mixlora.mixlora_core import compose as module
    from mixlora.mixlora_core.files import lora_file
    from mixlora.mixlora_core.stack import StyleStack

    first = compose(three, methods.Composite(ADAPTERS))
    models.sample(first)
    reads = lora_file._read.cache_info().misses
    monkeypatch.setattr(module, "match", None)
    second = compose(StyleStack().plus(three.rows), methods.Composite(ADAPTERS))
    banks = [next(iter(model.additional_models.values()))[0].model for model in (first, second)]
    assert banks[0] is banks[1]
    assert lora_file._read.cache_info().misses == reads


def test_low_memory_and_mixed_families_choose_their_executor(three, compose, methods, loras, sd15, monkeypatch):
    from mixlora.mixlora_core.execution.rows import RowsBank
    from mixlora.mixlora_core.stack import StyleStack

    def rows(model):
        ((patcher,),) = model.additional_models.values()
        return isinstance(patcher.model, RowsBank)

    other = StyleStack().plus([(loras.save("loha", "LoHa"), 1.0, 0.0), *three.rows[:1]])
    assert rows(compose(three, methods.Composite(ADAPTERS)))
    assert not rows(compose(three, methods.Switch(ADAPTERS)))
    assert rows(compose(three, methods.Switch(ADAPTERS, 1)))  # on a CPU so many changes cost more than rows
    assert not rows(compose(three, methods.Merge(ADAPTERS)))
    assert not rows(compose(other, methods.Composite(2)))
    assert not rows(compose(other, methods.Switch(2, 1)))
    monkeypatch.setattr(sd15.model, "model_lowvram", True)
    assert rows(compose(three, methods.Switch(ADAPTERS)))


def test_what_cannot_run_says_so(three, compose, methods, loras, models):
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.mixlora_core.stack import StyleStack

    other = StyleStack().plus([(loras.save("loha", "LoHa"), 1.0, 0.0)])
    with pytest.raises(CompositionError, match="'rows' cannot run this: a LoRA is not plain low-rank"):
        compose(other, methods.Composite(1), "rows")
    with pytest.raises(CompositionError, match="already has a composition"):
        compose(other, methods.Switch(1), model=compose(three, methods.Switch(ADAPTERS)))
    with pytest.raises(CompositionError, match="for 2 LoRAs, the stack has 3"):
        compose(three, methods.Composite(2))
    with pytest.raises(CompositionError, match="3 LoRAs cannot each have a turn in 2 steps"):
        models.sample(compose(three, methods.Switch(ADAPTERS, 0)), steps=2)


def test_hooks_in_conditionings(three, compose, methods, loras, models, sd15, untouched):
    """Rows does not mind ComfyUI's LoRA hooks; swap would fight them for the weights and refuses."""
    import comfy.hooks
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.mixlora_core.stack import StyleStack
    from safetensors.torch import load_file

    name = loras.save("hooked", "LoCon", seed=9, size=0.1)
    tensors = load_file(loras.folder / name)
    texts = [
        comfy.hooks.set_hooks_for_conditioning(models.text(seed), comfy.hooks.create_hook_lora(tensors, 0.6, 0.0))
        for seed in (6, 7)
    ]
    one = type(three)(three.entries[:1])
    both = StyleStack().plus([*one.rows, (name, 0.6, 0.0)])
    ours = models.sample(compose(one, methods.Composite(1), "rows"), *texts)
    expected = models.sample(compose(both, methods.Merge(2)))
    assert ((ours - expected).norm() / expected.norm()).item() < 1e-5
    with pytest.raises(CompositionError, match="carries LoRA hooks"):
        models.sample(compose(three, methods.Switch(ADAPTERS)), *texts)


FRACTIONS = st.floats(-1, 1.5, allow_nan=False)
SIDES = st.sampled_from(["both", "positive", "negative"])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(
        st.tuples(st.tuples(*[FRACTIONS] * ADAPTERS), st.floats(0.1, 3), SIDES),
        min_size=1,
        max_size=4,
    ),
    at_once=st.integers(1, 4),
    sampler=st.sampled_from(["euler", "heun", "dpmpp_2m"]),
)
def test_rows_equal_swap_for_any_composition(three, models, sd15, methods, drawn, at_once, sampler):
    from mixlora.mixlora_core import execution
    from mixlora.mixlora_core.compose import matched
    from mixlora.mixlora_core.composition import Branch

    class Drawn(methods.Merge):
        def branches(self, step, steps, guidance=1.0):
            turned = drawn[step % len(drawn) :] + drawn[: step % len(drawn)]
            everyone = Branch((0.5,) * ADAPTERS)  # no side is left without a branch
            return [everyone, *(Branch(c, weight, None, side) for c, weight, side in turned[: 1 + step % 3])]

        depends_on_step = True

    voices = [execution.Voice(matched(sd15, entry.file), entry.strength_model) for entry in three.entries]
    swap, rows = (
        models.sample(execution.attach(sd15, voices, Drawn(ADAPTERS), executor, at_once), sampler=sampler, steps=3)
        for executor in (execution.SWAP, execution.ROWS)
    )
    assert ((rows - swap).norm() / swap.norm()).item() < 1e-4


@pytest.mark.parametrize("joined", [False, True])
def test_both_ways_of_rows_equal_swap(joined, loras, models, compose, methods, monkeypatch):
    """Joined along the rank (GPU) and apart (CPU), on linear layers, shared q k v, convolutions, several ranks."""
    import functools

    from mixlora.mixlora_core.execution import attaching, rows
    from mixlora.mixlora_core.stack import StyleStack

    names = ["LoCon", "LoRA", "lora_A/B"]
    files = [loras.save(f"f{i}", family, seed=i, size=0.1) for i, family in enumerate(names)]
    twin = models.SQUARE.replace("to_q", "to_v")  # reads what to_q reads
    wide = {
        f"{models.SQUARE}.lora_up.weight": torch.randn(320, 9) * 0.1,
        f"{models.SQUARE}.lora_down.weight": torch.randn(9, 320) * 0.1,
    }
    wide |= {key.replace(models.SQUARE, twin): value.flip(0) for key, value in wide.items()}
    stack = StyleStack().plus([(name, 0.7, 0.0) for name in [*files, loras.save("wide", wide)]])
    monkeypatch.setattr(attaching, "Rows", functools.partial(rows.Rows, joined=joined))
    for composition in (methods.Composite(4), methods.Merge(4)):
        ours, theirs = (models.sample(compose(stack, composition, kind), batch=2) for kind in ("rows", "swap"))
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5


def test_many_runs_in_turn_are_all_the_same(three, compose, methods, models, untouched):
    """Switch, Composite and plain sampling, alternating: every result as the first time."""
    kinds = [
        compose(three, methods.Switch(ADAPTERS, 1), "swap"),
        untouched,
        compose(three, methods.Composite(ADAPTERS)),
        compose(three, methods.Switch(ADAPTERS, 1), "rows"),
    ]
    first = [models.sample(model, steps=2) for model in kinds]
    for index in itertools.chain([2, 0, 1, 3, 0], range(4)):
        assert torch.equal(models.sample(kinds[index], steps=2), first[index]), index
