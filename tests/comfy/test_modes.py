"""The modes and the limit, measured on the weights that ComfyUI really patches."""

import pytest
import torch

LINEAR = ["LoRA", "LoCon", "LoCon mid", "LoHa", "LoHa Tucker", "LoKr", "LoKr factored", "full diff"]


def deltas(models, model, base):
    state = base.model.state_dict()
    return {key: (weight - state[key]).double() for key, weight in models.patched_weights(model).items()}


@pytest.mark.parametrize("family", [*LINEAR, "DoRA", "GLoRA", "OFT"])
def test_energies_are_the_norms_of_the_applied_change(family, models, sd15, loras, mixed):
    """At strength 1 the Gram matrix must say what ComfyUI's patching does, for every family."""
    from mixlora.mixlora_core import execution
    from mixlora.mixlora_core.adapter import match
    from mixlora.mixlora_core.files import lora_file
    from mixlora.mixlora_core.mixing.energy import LayerEnergies

    name = loras.save("a", family, text=False)
    adapter = match(lora_file.read(loras.folder / name), execution.unet_target(sd15), None)
    energies = LayerEnergies([adapter.model_patches], *execution.base_weights(sd15))
    applied = deltas(models, mixed(sd15, None, [(name, 1.0, 0.0)])[0], sd15)
    for key, norm in zip(energies.layers, energies.norms[:, 0], strict=True):
        assert norm.item() == pytest.approx(applied[key].norm().item(), rel=2e-4), key


def test_equal_energy_brings_every_adapter_to_one_size(models, sd15, loras, mixed):
    names = [loras.save("quiet", "LoRA", size=0.004), loras.save("loud", "LoHa", seed=1, size=0.1)]
    strengths = (1.0, 0.5)
    both, _, report = mixed(sd15, None, [(n, s, 0.0) for n, s in zip(names, strengths, strict=True)], "equal energy")
    alone = [deltas(models, mixed(sd15, None, [(n, 1.0, 0.0)])[0], sd15) for n in names]
    mix = deltas(models, both, sd15)
    for key, change in mix.items():
        columns = torch.stack([a[key].flatten() for a in alone], dim=1)
        found = torch.linalg.lstsq(columns, change.flatten()[:, None]).solution.flatten() * columns.norm(dim=0)
        target = columns.norm(dim=0).log().mean().exp()
        assert torch.allclose(found, target * torch.tensor(strengths, dtype=torch.float64), rtol=1e-3)
    assert "by layer" in report


@pytest.mark.parametrize("mode, factor", [("sum to total", 0.5 / 2.0), ("1/sqrt(N)", 1 / 2**0.5)])
def test_shared_factors(mode, factor, models, sd15, loras, chained, mixed):
    names = [loras.save(f"{i}", seed=i, text=False) for i in range(2)]
    ours, _, report = mixed(sd15, None, [(names[0], 1.5, 0.0), (names[1], -0.5, 0.0)], mode, total=0.5)
    theirs = chained(sd15, None, [(names[0], 1.5 * factor, 0.0), (names[1], -0.5 * factor, 0.0)])[0]
    ours, theirs = models.patched_weights(ours), models.patched_weights(theirs)
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-7) for key in theirs)
    assert f"effective {1.5 * factor:.4g}" in report


@pytest.mark.parametrize("family", [*LINEAR, "DoRA", "GLoRA", "OFT", "BOFT"])
def test_the_limit_holds_on_the_real_weights(family, models, sd15, loras, mixed):
    rows = [(loras.save("a", family, text=False), 4.0, 0.0), (loras.save("b", "LoRA", seed=9, text=False), 3.0, 0.0)]
    model, _, report = mixed(sd15, None, rows, limit=0.05)
    state = sd15.model.state_dict()
    for key, change in deltas(models, model, sd15).items():
        assert change.norm() <= 0.05 * state[key].double().norm() * (1 + 1e-4), key
    assert "bit in " in report and "bit in 0 of" not in report


def test_a_limit_that_never_bites_changes_no_bit(models, sd15, loras, mixed):
    rows = [(loras.save("a", text=False), 0.3, 0.0), (loras.save("b", seed=1, text=False), 0.2, 0.0)]
    free, held = mixed(sd15, None, rows)[0], mixed(sd15, None, rows, limit=100.0)[0]
    free, held = models.patched_weights(free), models.patched_weights(held)
    assert all(models.same_bits(free[key], held[key]) for key in free)


def test_an_adapter_without_text_encoder_does_not_count_on_clip(sd15, clip, loras, mixed):
    rows = [(loras.save("with"), 1.0, 1.0), (loras.save("without", text=False, seed=1), 1.0, 1.0)]
    _, out, _ = mixed(sd15, clip, rows, "sum to total", total=1.0)
    assert {entry[0] for entries in out.patcher.patches.values() for entry in entries} == {1.0}


def test_per_layer_strengths_stack_on_patches_that_were_there(models, sd15, loras, chained, mixed):
    upstream = chained(sd15, None, [(loras.save("first", seed=4, text=False), 0.7, 0.0)])[0]
    names = [loras.save("a", text=False), loras.save("b", seed=1, size=0.2, text=False)]
    model = mixed(upstream, None, [(n, 1.0, 0.0) for n in names], "equal energy")[0]
    assert all(entries[0][0] == 0.7 and len(entries) == 3 for entries in model.patches.values())
    assert all(len(entries) == 1 for entries in upstream.patches.values())


@pytest.mark.parametrize("settings", [{"mode": "equal energy"}, {"limit": 0.5}])
def test_files_that_set_weights_alone_have_no_energy(settings, models, sd15, loras, chained, mixed):
    """There is no change to scale: they are applied as they are."""
    row = (loras.save("set", "set weight", text=False), 1.0, 0.0)
    expected = models.patched_weights(chained(sd15, None, [row])[0])
    found = models.patched_weights(mixed(sd15, None, [row], **settings)[0])
    assert all(models.same_bits(found[key], expected[key]) for key in expected)
