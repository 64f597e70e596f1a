"""The parity contract of Switch and Composite on the real ComfyUI: against LoraLoader, hooks, and each other."""

import itertools

import pytest

FAMILIES = ["LoRA", "LoCon", "LoCon mid", "LoHa", "LoKr", "DoRA", "GLoRA", "OFT", "BOFT", "full diff", "set weight",
            "norm and bias", "lora_A/B"]  # fmt: skip


def close(one, other, tolerance=1e-5):
    return ((one - other).norm() / other.norm()).item() <= tolerance


@pytest.fixture
def stack(loras):
    """A StyleStack of LoRA files: stack(("LoRA", 0.8), ("LoCon", 0.5)) saves the files and opens them."""
    from mixlora.mixlora_core.stack import StyleStack

    def make(*entries, **options):
        rows = []
        for seed, (family, strength) in enumerate(entries):
            name = loras.save(f"{family.replace('/', ' ')} {seed}", family, seed=seed, size=0.1, **options)
            rows.append((name, strength, 1.0))
        return StyleStack().plus(rows)

    return make


@pytest.fixture
def compose(sd15):
    from mixlora.mixlora_core.compose import composed
    from mixlora.mixlora_core.composition import Composite, Merge, Switch

    methods = {"switch": Switch, "composite": Composite, "merge": Merge}

    def make(stack, method, *args, executor="automatic", model=None, **options):
        return composed(model or sd15, stack, methods[method](len(stack.entries), *args, **options), executor)

    return make


@pytest.fixture
def loaded(sd15, chained):
    def make(stack):
        return chained(sd15, None, [(name, strength, 0.0) for name, strength, _ in stack.rows])[0]

    return make


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["switch", "composite"])
def test_one_adapter_is_lora_loader_bit_for_bit(family, method, stack, compose, loaded, models):
    one = stack((family, 0.8))
    theirs, ours = models.sample(loaded(one)), models.sample(compose(one, method, executor="swap"))
    assert models.same_bits(theirs, ours)
    assert not close(ours, models.sample(compose(stack((family, 0.0)), "merge")))


@pytest.mark.parametrize("family", ["LoRA", "LoCon", "lora_A/B"])
def test_one_adapter_in_rows_is_lora_loader(family, stack, compose, loaded, models):
    one = stack((family, 0.8))
    theirs = models.sample(loaded(one))
    assert close(models.sample(compose(one, "switch", executor="rows")), theirs)
    assert close(models.sample(compose(one, "composite", executor="rows")), theirs)


@pytest.mark.parametrize("executor", ["swap", "rows"])
def test_strength_zero_is_the_base(executor, sd15, stack, compose, models):
    base, silent = models.sample(sd15), stack(("LoRA", 0.0), ("LoCon", 0.0))
    for method in ("switch", "composite", "merge"):
        assert models.same_bits(models.sample(compose(silent, method, executor=executor)), base)


def test_long_turns_are_the_first_adapter_alone(stack, compose, loaded, models):
    two, first = stack(("LoRA", 0.8), ("LoHa", 1.0)), stack(("LoRA", 0.8))
    assert models.same_bits(models.sample(compose(two, "switch", 4)), models.sample(loaded(first)))


def test_merge_is_chained_lora_loaders(stack, compose, loaded, models):
    three = stack(("LoRA", 0.8), ("LoHa", 0.5), ("DoRA", 0.7))
    assert models.same_bits(models.sample(compose(three, "merge")), models.sample(loaded(three)))
    plain = stack(("LoRA", 0.8), ("LoCon", -0.5))
    assert close(models.sample(compose(plain, "merge", executor="rows")), models.sample(loaded(plain)))


def test_equal_adapters_in_composite_are_one(loras, compose, models, loaded, stack):
    one = stack(("LoRA", 0.8))
    thrice = type(one)(one.entries * 3)
    assert close(models.sample(compose(thrice, "composite")), models.sample(loaded(one)))


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_composite_is_the_hooks_graph(cfg, sd15, stack, compose, models):
    """ComfyUI's own hooks average the conditionings of one list: K LoRAs, each on its own copy of the prompt."""
    import comfy.hooks

    three = stack(("LoRA", 0.8), ("LoCon", 0.5), ("lora_A/B", 1.0))
    positive, negative = [], []
    for entry in three.entries:
        hook = comfy.hooks.create_hook_lora(dict(entry.file.tensors), entry.strength_model, 0.0)
        for conditioning, seed in ((positive, 6), (negative, 7)):
            conditioning += comfy.hooks.set_hooks_for_conditioning(models.text(seed), hook)
    theirs = models.sample(sd15, positive, negative, cfg=cfg)
    for executor in ("rows", "swap"):
        assert close(models.sample(compose(three, "composite", executor=executor), cfg=cfg), theirs)


def test_order_does_not_matter_to_composite(stack, compose, models):
    three = stack(("LoRA", 0.8), ("LoCon", 0.5), ("lora_A/B", 1.0))
    pictures = [
        models.sample(compose(type(three)(order), "composite"), steps=2)
        for order in itertools.permutations(three.entries)
    ]
    assert all(close(picture, pictures[0]) for picture in pictures)


def test_weights_count(stack, compose, loaded, models):
    two, second = stack(("LoRA", 0.8), ("LoCon", 0.5)), None
    second = type(two)(two.entries[1:])
    only = models.sample(compose(two, "composite", (0.0, 3.0), executor="swap"))
    assert models.same_bits(only, models.sample(loaded(second)))
    by = {
        executor: models.sample(compose(two, "composite", (3.0, 1.0), executor=executor))
        for executor in ("swap", "rows")
    }
    assert close(by["rows"], by["swap"])
    assert not close(by["rows"], models.sample(compose(two, "composite")), 1e-3)


def test_switch_is_the_adapters_one_after_the_other(stack, compose, loaded, models):
    """The reference: ComfyUI's own sampling of each turn with that adapter's own patched model."""
    three, steps = stack(("LoRA", 0.8), ("LoHa", 0.6), ("LoCon", 1.0)), 6
    alone = [loaded(type(three)((entry,))) for entry in three.entries]
    latent = None
    for turn, index in enumerate((2, 0, 1)):
        options = {"start_step": 2 * turn, "last_step": 2 * turn + 2, "force_full_denoise": turn == 2}
        latent = models.sample(alone[index], steps=steps, latent=latent, **options)
    ours = models.sample(compose(three, "switch", 2, (2, 0, 1)), steps=steps)
    assert close(ours, latent)
