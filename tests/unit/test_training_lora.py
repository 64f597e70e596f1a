"""The adapter: one flat parameter, its views, what a layer adds and what flows back."""

import pytest
import torch
from mixlora.training.lora import LoRA
from mixlora.training.settings import TrainingError
from mixlora.training.targets import block_of, target_layers
from torch import nn


class Attention(nn.Module):
    """Attention-shaped names around plain linear layers."""

    def __init__(self, width=6, context=5):
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x, context):
        return self.to_out(self.to_q(x) + (self.to_k(context) * self.to_v(context)).mean(1, keepdim=True))


class Toy(nn.Module):
    """Attention around a residual convolution over 3 x 2 images of 6 channels."""

    def __init__(self):
        super().__init__()
        self.attn1, self.ff = Attention(context=6), nn.Linear(6, 6)
        self.conv = nn.Conv2d(6, 8, 3, padding=1)
        self.op = nn.Conv2d(8, 6, (1, 3), stride=(1, 2), padding=(0, 1), bias=False)
        self.attn2 = Attention()

    def forward(self, x, context):
        hidden = self.ff(self.attn1(x, x))
        image = self.op(torch.tanh(self.conv(hidden.movedim(1, 2).unflatten(2, (3, 2)))))
        return self.attn2(image.flatten(2).movedim(1, 2), context)


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy().requires_grad_(False)


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 6, 6), torch.randn(2, 4, 5)


def make(toy, rank=2, alpha=2.0, targets="attention+conv", **options):
    return LoRA(target_layers(toy, targets), rank, alpha, **options)


def full_change(lora, name):
    """What a layer's weight changes by, from the factors' definition."""
    up, down = lora.up[name].flatten(1), lora.down[name].flatten(1)
    return lora.scale * (up @ down).view(lora.up[name].shape[0], *lora.down[name].shape[1:])


def test_finds_the_layers_of_a_kind(toy):
    assert len(target_layers(toy)) == 8
    layers = target_layers(toy, "attention+conv")
    assert "ff" not in layers and list(layers)[3:6] == ["attn1.to_out.0", "conv", "op"]
    with pytest.raises(TrainingError, match="targets: Sequential has no attention layer"):
        target_layers(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(TrainingError, match="Toy has no ff layer"):
        target_layers(toy, "all")


def test_chooses_blocks_by_name_and_pattern():
    unet = nn.Module()
    for name, count in (("input_blocks", 12), ("middle_block", 2), ("output_blocks", 12)):
        blocks = [nn.ModuleDict({"attn1": Attention()}) for _ in range(count)]
        unet.add_module(name, nn.ModuleList(blocks if count > 2 else [nn.Identity(), blocks[1]]))

    def chosen(patterns):
        return list(dict.fromkeys(block_of(name) for name in target_layers(unet, "attention", patterns)))

    assert chosen("input.1") == ["input.1"]
    assert chosen("middle, output.[3-5]") == ["middle.1", "output.3", "output.4", "output.5"]
    assert len(chosen("input output")) == 24 and len(chosen("all")) == 25
    with pytest.raises(TrainingError, match=r"blocks: 'inputs', 'output.12' names no block .*middle\.1"):
        chosen("inputs middle output.12")
    with pytest.raises(TrainingError, match="blocks: ' ' names no block"):
        chosen(" ")


def test_factors_and_gradients_are_views_of_one_tensor(toy, inputs):
    lora = make(toy)
    assert lora.flat.numel() == sum(f.numel() for side in (lora.down, lora.up) for f in side.values())
    with torch.no_grad():
        lora.flat.fill_(3.0)
    assert all((factor == 3.0).all() for side in (lora.down, lora.up) for factor in side.values())
    with lora.attached(toy):
        lora.backward(toy(*inputs).sum())
        once = lora.gradient.clone()
        lora.backward(toy(*inputs).sum())
    assert lora.flat.grad is lora.gradient
    assert once.any() and torch.allclose(lora.gradient, 2 * once)
    assert lora.views(lora.gradient)["up attn2.to_q"].any()


def test_starts_as_the_base_and_depends_on_the_seed(toy, inputs):
    plain, lora = toy(*inputs), make(toy, seed=5)
    with lora.attached(toy):
        assert torch.equal(toy(*inputs), plain)
    assert torch.equal(lora.flat, make(toy, seed=5).flat)
    assert not torch.equal(lora.flat, make(toy, seed=6).flat)
    down = lora.down["attn1.to_q"]
    assert down.abs().max() <= 6**-0.5 and down.std() > 0.1


@pytest.mark.parametrize("alpha", [1.0, 2.0, 8.0])
def test_adds_alpha_over_rank_times_up_down(toy, inputs, alpha):
    lora = make(toy, rank=2, alpha=alpha)
    with torch.no_grad():
        lora.flat.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    with lora.attached(toy):
        hooked = toy(*inputs)
    with torch.no_grad():
        for name in lora.names:
            toy.get_submodule(name).weight += full_change(lora, name)
    torch.testing.assert_close(hooked, toy(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_autograd(toy, inputs, dtype):
    """fp32: straight into the flat gradient; fp64 stands for every other format, which goes a step round."""
    toy.to(dtype)
    x, context = (value.to(dtype) for value in inputs)
    lora = make(toy, rank=2, alpha=3.0)
    with torch.no_grad():
        lora.flat.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    with lora.attached(toy):
        lora.backward(toy(x, context).square().sum())
    to_x = x.grad
    x = x.detach().requires_grad_()

    leaf = lora.flat.detach().to(dtype).requires_grad_()
    factors, weights = lora.views(leaf), dict(toy.named_parameters())
    for name in lora.names:
        up, down = factors[f"up {name}"], factors[f"down {name}"]
        change = (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:])
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + 1.5 * change
    torch.func.functional_call(toy, weights, (x, context)).square().sum().backward()
    for found, expected in ((lora.gradient, leaf.grad), (to_x, x.grad)):
        assert found is not None and expected is not None
        assert (found - expected).norm() < 1e-5 * expected.norm()


def test_every_entry_moves_though_the_base_is_bf16(toy, inputs):
    toy.bfloat16()
    lora = make(toy)
    optimizer = torch.optim.AdamW([lora.flat], lr=1e-4)
    start = lora.flat.detach().clone()
    with lora.attached(toy):
        for _ in range(5):
            lora.gradient.zero_()
            lora.backward(toy(*(value.bfloat16() for value in inputs)).float().square().sum())
            optimizer.step()
    assert lora.flat.dtype == torch.float32
    assert (lora.flat != start).all()


def test_the_cast_factors_follow_every_change(toy, inputs):
    toy.bfloat16()
    inputs, lora = [value.bfloat16() for value in inputs], make(toy)
    with lora.attached(toy), torch.no_grad():
        before = toy(*inputs)
        lora.up["attn2.to_out.0"].add_(0.5)
        after_view = toy(*inputs)
        lora.flat.mul_(2.0)
        after_flat = toy(*inputs)
    assert not torch.equal(before, after_view)
    assert not torch.equal(after_view, after_flat)


def test_the_cast_factors_follow_an_optimizer_that_does_not_count_its_changes(toy, inputs):
    """The fused AdamW, which a CUDA run gets, leaves the parameter's version as it was."""
    toy.bfloat16()
    lora = make(toy)
    x, context = (value.bfloat16() for value in inputs)
    optimizer = torch.optim.AdamW([lora.flat], lr=0.1, fused=True)
    with lora.attached(toy):
        before = toy(x, context)
        lora.backward(before.float().square().sum())
        optimizer.step()
        after = toy(x, context)
    with lora.attached(toy):  # casts anew
        expected = toy(x, context)
    assert torch.equal(after, expected) and not torch.equal(after, before)


def test_no_hook_is_left_even_after_an_exception(toy, inputs):
    plain, lora = toy(*inputs), make(toy)
    with torch.no_grad():
        lora.flat.fill_(1.0)
    with pytest.raises(RuntimeError), lora.attached(toy):
        raise RuntimeError
    assert torch.equal(toy(*inputs), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in toy.modules())
    assert not any("forward" in vars(module) for module in toy.modules())
