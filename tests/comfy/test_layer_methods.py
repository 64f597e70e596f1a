"""Concept and style by layers, and learned mixes, on the real ComfyUI: against ComfyUI's own patches, step by step."""

from dataclasses import replace

import pytest
import torch

STEPS, RANK = 6, 4
ALPHAS = (2.0, 6.0, 3.0, 2.0)


def close(one, other, tolerance=1e-5):
    return ((one - other).norm() / other.norm()).item() <= tolerance


@pytest.fixture
def tensors(models):
    """Two layers; the first one's change is `first` times as large. Files differ in alpha."""

    def make(seed, first):
        made = models.lora_tensors("LoRA", seed=seed, size=0.1, text=False)
        up, alpha = f"{models.LINEAR}.lora_up.weight", torch.tensor(ALPHAS[seed])
        return {**made, up: made[up] * first, f"{models.LINEAR}.alpha": alpha, f"{models.SQUARE}.alpha": alpha}

    return make


@pytest.fixture
def stack(loras, tensors):
    """Two concepts, a style and one without a role; in the first layer the concepts are the louder."""
    from mixlora.mixlora_core.stack import StyleStack

    rows = [(loras.save(name, tensors(seed, first)), strength, 1.0)
            for seed, (name, first, strength) in enumerate(
                (("castle", 1.5, 0.8), ("kite", 1.2, 0.5), ("monet", 1.0, 0.7), ("fog", 1.0, 0.3)))]  # fmt: skip
    entries = StyleStack().plus(rows).entries
    roles = ("concept", "concept", "style", "")
    return StyleStack(tuple(replace(entry, role=role) for entry, role in zip(entries, roles, strict=True)))


def factors(adapter, key):
    """up, down and scale of a plain low-rank change."""
    found = adapter.anatomies[key].factors
    assert found is not None
    return found


def brute_force(stack, model):
    """Per layer the share of the run at which it turns, from full matrices and K-LoRA's formulas."""
    from mixlora.mixlora_core.compose import matched

    changes = {}
    for entry, alpha in zip(stack.entries[:3], ALPHAS, strict=False):
        adapter = matched(model, entry.file)
        for key in adapter.anatomies:
            up, down, _ = factors(adapter, key)
            change = changes.setdefault(key, {"concept": 0.0, "style": 0.0})
            change[entry.role] = change[entry.role] + entry.strength_model * alpha / RANK * (up @ down).double()
    totals = [sum(change[role].abs().sum() for change in changes.values()) for role in ("concept", "style")]
    shares = {}
    for key, change in changes.items():
        top = [
            change[role].abs().flatten().sort(descending=True).values[: (RANK + RANK) * RANK].sum() for role in change
        ]
        shares[key] = ((top[0] / (top[1] * totals[0] / totals[1]) - 0.5) / 1.5).clamp(0, 1).item()
    return shares


@pytest.mark.parametrize("executor", ["swap", "rows"])
def test_concepts_then_styles_layer_by_layer(executor, sd15, stack, models):
    """The reference: each step sampled with the patches that K-LoRA's comparison, made outside, chooses for it."""
    from mixlora.mixlora_core import execution
    from mixlora.mixlora_core.compose import matched
    from mixlora.mixlora_core.layers.concept_style import composed

    model, table = composed(sd15, stack, executor=executor)
    shares = brute_force(stack, sd15)
    assert sorted(table.turns.values()) == pytest.approx(sorted(shares.values()), rel=1e-5)
    turns = [sum((step + 0.5) / STEPS < share for step in range(STEPS)) for share in shares.values()]
    assert len(set(turns)) == 2 and min(turns) > 0, "the test needs layers that turn at different steps"
    latent = None
    for step in range(STEPS):
        sets = []
        for entry in stack.entries:
            patches = matched(sd15, entry.file).model_patches
            early = {key: (step + 0.5) / STEPS < shares[key] for key in patches}
            speaks = {key: {"concept": early[key], "style": not early[key], "": True}[entry.role] for key in patches}
            sets.append((patches, {key: entry.strength_model * speaks[key] for key in patches}))
        options = {"start_step": step, "last_step": step + 1, "force_full_denoise": step == STEPS - 1}
        latent = models.sample(execution.patched(sd15, sets), steps=STEPS, latent=latent, **options)
    assert close(models.sample(model, steps=STEPS), latent)


def test_the_report_says_which_layer_turns_when(sd15, stack):
    from mixlora.mixlora_core.layers.concept_style import Settings, composed

    _, table = composed(sd15, stack, Settings(by="attention"))
    first, *lines = table.report(20).splitlines()
    assert first.startswith("concept first, then style; styles weigh") and len(lines) == 2
    assert lines[0].startswith("input_blocks.1.1.transformer_blocks.0.attn2: style from step ")
    assert lines[1].startswith("output_blocks.") and "of 20 (" in lines[1]
    together = composed(sd15, stack, Settings(by="all"))[1].turns["all"]
    assert min(table.turns.values()) < together < max(table.turns.values())


@pytest.mark.parametrize("roles", [("", "", "", ""), ("style", "style", "", ""), ("concept", "concept", "concept", "")])
def test_without_both_roles_it_is_the_merge_and_says_so(roles, sd15, stack, models, compose, methods, caplog):
    from mixlora.mixlora_core.layers.concept_style import composed

    some = type(stack)(tuple(replace(entry, role=role) for entry, role in zip(stack.entries, roles, strict=True)))
    model, table = composed(sd15, some)
    assert "so nothing takes turns" in table.report(9) and "has the role" in caplog.text
    merged = compose(stack, methods.Merge(4))
    assert models.same_bits(models.sample(model, steps=2), models.sample(merged, steps=2))


def test_strength_0_is_no_opponent(sd15, stack):
    from mixlora.mixlora_core.layers.concept_style import composed

    silent = type(stack)((*stack.entries[:2], replace(stack.entries[2], strength_model=0.0)))
    assert "all of the role style have strength 0" in composed(sd15, silent)[1].fallback


def test_other_families_are_compared_nowhere(sd15, stack, loras):
    from mixlora.mixlora_core.errors import CompositionError
    from mixlora.mixlora_core.layers.concept_style import composed

    loha = type(stack)().plus([(loras.save("sketch", "LoHa", text=False), 1.0, 1.0)]).entries[0]
    composed(sd15, type(stack)((*stack.entries[:3], loha)))  # without a role it may be anything
    with pytest.raises(CompositionError, match=r"sketch\.safetensors changes .* by LoHa, .* Save Mixed LoRA"):
        composed(sd15, type(stack)((*stack.entries[:2], replace(loha, role="style"))))


def test_the_same_stack_finds_its_parts_on_the_device(sd15, stack):
    from mixlora.mixlora_core.execution import bank
    from mixlora.mixlora_core.layers.concept_style import composed

    models = [composed(sd15, stack)[0] for _ in range(3)]
    patchers = {id(patcher) for model in models for own in model.additional_models.values() for patcher in own}
    assert len(patchers) == 1 and len(bank._banks[sd15.model]) <= bank.KEPT


def test_many_parts_that_turn_often_are_restless():
    """By this the engine leaves weights alone on a CPU: it must count the steps of a run, not the parts."""
    from mixlora.mixlora_core.composition import LayerTimetable, Switch
    from mixlora.mixlora_core.composition.layers import Span
    from mixlora.mixlora_core.execution import choice

    busy = LayerTimetable(tuple(Span(0.0, (part % 20) / 20) for part in range(400)))
    assert choice.changes(busy) > 0.5 and choice.changes(LayerTimetable((Span(),) * 400)) == 0
    assert choice.changes(Switch(40, 0)) == 39 / 40


@pytest.fixture
def mix(stack):
    from mixlora.mixlora_core.layers.learned_mix import LearnedMix, Named, tensor_hash

    def make(coefficients, groups=("input.1", "output.1"), **options):
        named = tuple(Named(entry.lora_name, tensor_hash(entry.file)) for entry in stack.entries)
        return LearnedMix(torch.as_tensor(coefficients), named, groups, **options)

    return make


def groups_of(stack, model):
    from mixlora.mixlora_core.compose import matched
    from mixlora.mixlora_core.layers import blocks

    return tuple(blocks.in_order({blocks.block_of(key) for key in matched(model, stack.entries[0].file).model_patches}))


def test_a_learned_mix_is_in_the_weights(sd15, stack, mix, models):
    from mixlora.mixlora_core.compose import matched
    from mixlora.mixlora_core.layers import blocks
    from mixlora.mixlora_core.layers.learned_mix import applied

    groups = groups_of(stack, sd15)
    coefficients = torch.arange(8.0).view(4, 2) / 4 - 0.5
    shuffled = type(stack)(tuple(stack.entries[index] for index in (2, 0, 3, 1)))
    found = models.patched_weights(applied(sd15, shuffled, mix(coefficients, groups)))
    for key, weight in found.items():
        expected = dict(sd15.model.named_parameters())[key].detach().double()
        for row, entry in enumerate(stack.entries):
            up, down, scale = factors(matched(sd15, entry.file), key)
            c = coefficients[row, groups.index(blocks.block_of(key))].item()
            expected = expected + c * entry.strength_model * scale * (up @ down).double()
        torch.testing.assert_close(weight.double(), expected, atol=1e-5, rtol=1e-5)
    assert len(found) == 2


def test_coefficients_of_1_are_chained_loaders(sd15, stack, mix, models, chained):
    from mixlora.mixlora_core.layers.learned_mix import applied

    ours = models.patched_weights(applied(sd15, stack, mix(torch.ones(4, 2), groups_of(stack, sd15))))
    theirs = models.patched_weights(chained(sd15, None, [(name, one, 0.0) for name, one, _ in stack.rows])[0])
    assert ours.keys() == theirs.keys() and all(models.same_bits(ours[key], theirs[key]) for key in ours)


def test_other_bases_are_refused(sd15, stack, mix):
    from mixlora.mixlora_core.errors import LearnedMixError
    from mixlora.mixlora_core.layers.learned_mix import applied

    with pytest.raises(LearnedMixError, match="base of the family sdxl, the model is sd1"):
        applied(sd15, stack, mix(torch.ones(4, 2), family="sdxl"))
    with pytest.raises(LearnedMixError, match=r"castle.safetensors touches output\.\d of the connected model"):
        applied(sd15, stack, mix(torch.ones(4, 1), ("input.1",)))


def test_policies_of_the_testbed(sd15, clip, stack, mix, models, tmp_path):
    from mixlora.evaluation.methods import method, policy
    from mixlora.mixlora_core.layers import concept_style, learned_mix

    model, encode = policy(method("concept_style", {}, 1.0)).apply(sd15, clip, stack)
    expected = models.sample(concept_style.composed(sd15, stack)[0], steps=2)
    assert models.same_bits(models.sample(model, steps=2), expected) and len(encode("a hill")) == 1
    halved = type(stack)(tuple(replace(one, strength_model=one.strength_model / 3**0.5) for one in stack.entries))
    quiet, _ = policy(method("concept_style", {"mode": "root"}, 1.0)).apply(sd15, clip, stack)
    expected = models.sample(concept_style.composed(sd15, halved)[0], steps=2)
    assert close(models.sample(quiet, steps=2), expected)
    learned = mix(torch.rand(4, 2), groups_of(stack, sd15))
    learned.write(tmp_path / "mix.safetensors")
    model, _ = policy(method("learned", {"file": str(tmp_path)}, 1.0)).apply(sd15, clip, stack)
    expected = models.sample(learned_mix.applied(sd15, stack, learned), steps=2)
    assert models.same_bits(models.sample(model, steps=2), expected)


def test_learned_at_the_command_line(checkpoint, stack, tmp_path, capsys, sd15, monkeypatch):
    """The whole way from prompts, and from pictures: coefficients are fitted, the file is for these adapters."""
    from mixlora.mixlora_core.layers.learned_mix import applied, read
    from mixlora.training import learn_mix_cli, learning
    from PIL import Image

    monkeypatch.setattr(learning, "HELD_OUT_BATCHES", 1)

    files = [entry.file.identity.path for entry in stack.entries[:2]]

    def run(name, *more):
        return learn_mix_cli.main([
            "--base", str(checkpoint), "--loras", f"{files[0]}=0.8", files[1],
            "--output", str(tmp_path / name), "--resolution", "64", "--pictures", "1", "--paint-steps", "1",
            "--steps", "2", "--batch", "1", "--device", "cpu", "--seed", "5", *more,
        ])  # fmt: skip

    prompts = ("--prompts", "a castle, kite")
    assert run("mix.safetensors", *prompts) == 0
    printed = capsys.readouterr().out
    assert "relative error on noise not learned from" in printed and "2 x 2 coefficients" in printed
    mix = read(tmp_path / "mix.safetensors")
    assert mix.family == "sd1" and [one.name for one in mix.adapters] == ["castle.safetensors", "kite.safetensors"]
    assert mix.about["strengths"] == "0.8, 1" and mix.about["objective"] == "composite"
    start = 2**-0.5
    assert 0 < (mix.coefficients - start).abs().max() < 0.1
    assert applied(sd15, type(stack)(stack.entries[:2]), mix).patches
    assert run("mix.safetensors", *prompts) == 2 and "--overwrite" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    Image.effect_noise((64, 64), 60).save(tmp_path / "data" / "0.png")
    (tmp_path / "data" / "0.txt").write_text("a castle, kite")
    assert run("mix.safetensors", "--data", str(tmp_path / "data"), "--by", "all", "--overwrite") == 0
    again = read(tmp_path / "mix.safetensors")
    assert again.about["objective"] == "pictures" and again.groups == ("all",) and len(again.coefficients) == 2
    assert run("mix.ckpt", *prompts) == 2 and "ends with .safetensors" in capsys.readouterr().err
