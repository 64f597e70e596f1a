"""The engine on other models: SDXL in half precision, 8-bit weights, ControlNet beside it."""

import pytest
import torch


@pytest.fixture
def stack(loras):
    from mixlora.mixlora_core.stack import StyleStack

    def make(*families, rename=None, **options):
        rows = []
        for seed, family in enumerate(families):
            tensors = loras_tensors(family, seed, **options)
            if rename:
                tensors = {rename(key): value for key, value in tensors.items()}
            rows.append((loras.save(f"m{seed}", tensors), 0.8, 0.0))
        return StyleStack().plus(rows)

    def loras_tensors(family, seed, **options):
        import sys

        return sys.modules["mixlora_test_models"].lora_tensors(family, seed=seed, size=0.1, text=False, **options)

    return make


@pytest.fixture(autouse=True)
def as_comfyui_runs_nodes():
    with torch.inference_mode():
        yield


def relative(one, other):
    return ((one - other).norm() / other.norm()).item()


def compose(model, stack, method, *args, executor="automatic"):
    from mixlora.mixlora_core import composition
    from mixlora.mixlora_core.compose import composed

    return composed(model, stack, getattr(composition, method)(len(stack.entries), *args), executor)


def sdxl_name(key):
    return key.replace("down_blocks_0", "down_blocks_1").replace("up_blocks_0", "up_blocks_1")


def test_sdxl_in_half_precision(sdxl, stack, chained, models):
    three = stack("LoRA", "LoCon", "LoRA", rename=sdxl_name, width=2048)
    first = type(three)(three.entries[:1])
    positive, negative = (models.text(seed, 2048, pooled_output=torch.zeros(1, 1280)) for seed in (6, 7))
    paint = lambda model: models.sample(model, positive, negative, steps=2)  # noqa: E731
    alone = paint(chained(sdxl, None, first.rows)[0])
    assert models.same_bits(paint(compose(sdxl, first, "Switch")), alone)
    assert relative(paint(compose(sdxl, first, "Composite", executor="rows")), alone) < 5e-3  # fp16
    rows, swap = (paint(compose(sdxl, three, "Composite", executor=kind)) for kind in ("rows", "swap"))
    assert relative(rows, swap) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrow_weights(dtype, stack, chained, models):
    """ComfyUI's rounding of patched weights, stochastic for 8 bits, is the engine's too: the same bits."""
    model = models.unet(models.SD15_UNET, dtype=dtype)
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    two = stack("LoRA", "LoHa")
    one = type(two)(two.entries[:1])
    alone = models.sample(chained(model, None, one.rows)[0], steps=2)
    assert models.same_bits(models.sample(compose(model, one, "Switch"), steps=2), alone)
    # 8 bits: LoraLoader rounds the sum to 3 bits of mantissa, rows adds beside the weight without rounding
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 5e-2, torch.float8_e4m3fn: 0.3}[dtype]
    assert relative(models.sample(compose(model, one, "Composite", executor="rows"), steps=2), alone) < tolerance
    models.sample(compose(model, two, "Switch", 1), steps=2)
    for key, value in model.model.state_dict().items():
        assert torch.equal(value.view(torch.uint8), before[key].view(torch.uint8)), key


def test_control_net_in_every_branch(sd15, stack, models):
    """A real ControlNet of the tiny layout: composite by rows, by swap, and ComfyUI's hooks graph agree."""
    import comfy.controlnet
    import comfy.hooks
    import comfy.ops
    from comfy.cldm.cldm import ControlNet

    config = {
        key: value for key, value in models.SD15_UNET.items() if key not in ("out_channels", "transformer_depth_output")
    }
    network = ControlNet(**config, hint_channels=3, dtype=torch.float32, operations=comfy.ops.manual_cast)
    torch.manual_seed(2)
    for parameter in network.parameters():
        parameter.data = torch.randn_like(parameter) * 0.02
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"), manual_cast_dtype=torch.float32)
    control = control.copy().set_cond_hint(torch.rand(1, 3, 64, 64), 0.9, (0.0, 1.0))
    three = stack("LoRA", "LoCon", "lora_A/B")
    texts = [models.text(seed, control=control, control_apply_to_uncond=False) for seed in (6, 7)]
    rows, swap = (models.sample(compose(sd15, three, "Composite", executor=kind), *texts) for kind in ("rows", "swap"))
    hooked = ([], [])
    for entry in three.entries:
        hook = comfy.hooks.create_hook_lora(dict(entry.file.tensors), entry.strength_model, 0.0)
        for theirs, conditioning in zip(hooked, texts, strict=True):
            theirs += comfy.hooks.set_hooks_for_conditioning(conditioning, hook)
    expected = models.sample(sd15, *hooked)
    assert relative(rows, swap) < 1e-5
    assert relative(rows, expected) < 1e-5
    assert relative(models.sample(compose(sd15, three, "Composite")), expected) > 1e-3  # the control did something
