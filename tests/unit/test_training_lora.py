"""The adapter: one flat parameter, its views, what a layer adds and what flows back."""

import pytest
import torch
from mixlora.training.lora import LoRA, attention_layers
from mixlora.training.settings import TrainingError
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
    def __init__(self):
        super().__init__()
        self.attn1, self.ff = Attention(context=6), nn.Linear(6, 6)
        self.attn2 = Attention()

    def forward(self, x, context):
        return self.attn2(self.ff(self.attn1(x, x)), context)


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy().requires_grad_(False)


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 3, 6), torch.randn(2, 4, 5)


def make(toy, rank=2, alpha=2.0, **options):
    return LoRA(attention_layers(toy), rank, alpha, **options)


def test_finds_attention_layers_only(toy):
    layers = attention_layers(toy)
    assert len(layers) == 8
    assert "ff" not in layers and "attn2.to_out.0" in layers
    with pytest.raises(TrainingError, match="no linear layer"):
        attention_layers(nn.Sequential(nn.Linear(2, 2)))


def test_factors_and_gradients_are_views_of_one_tensor(toy, inputs):
    lora = make(toy)
    assert lora.flat.numel() == sum(f.numel() for side in (lora.down, lora.up) for f in side.values())
    with torch.no_grad():
        lora.flat.fill_(3.0)
    assert all((factor == 3.0).all() for side in (lora.down, lora.up) for factor in side.values())
    with lora.attached(toy):
        toy(*inputs).sum().backward()
        once = lora.gradient.clone()
        toy(*inputs).sum().backward()
    assert lora.flat.grad is lora.gradient
    assert once.any() and torch.allclose(lora.gradient, 2 * once)
    shared = lora.up["attn2.to_q"].grad
    assert shared is not None and shared.untyped_storage().data_ptr() == lora.gradient.untyped_storage().data_ptr()


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
        for name, layer in attention_layers(toy).items():
            layer.weight += (alpha / 2) * lora.up[name] @ lora.down[name]
    torch.testing.assert_close(hooked, toy(*inputs), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_autograd(toy, inputs):
    toy.double()
    lora = make(toy, rank=2, alpha=3.0)
    with torch.no_grad():
        lora.flat.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    with lora.attached(toy):
        toy(*(value.double() for value in inputs)).square().sum().backward()

    expected = {}
    weights = dict(toy.named_parameters())
    for name in lora.names:
        factors = [lora.up[name].detach().double(), lora.down[name].detach().double()]
        expected[name] = [factor.requires_grad_() for factor in factors]
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + 1.5 * expected[name][0] @ expected[name][1]
    output = torch.func.functional_call(toy, weights, tuple(value.double() for value in inputs))
    output.square().sum().backward()
    for name, (up, down) in expected.items():
        torch.testing.assert_close(lora.up[name].grad, up.grad.float(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(lora.down[name].grad, down.grad.float(), rtol=1e-5, atol=1e-4)


def test_every_entry_moves_though_the_base_is_bf16(toy, inputs):
    toy.bfloat16()
    lora = make(toy)
    optimizer = torch.optim.AdamW([lora.flat], lr=1e-4)
    start = lora.flat.detach().clone()
    with lora.attached(toy):
        for _ in range(5):
            lora.gradient.zero_()
            toy(*(value.bfloat16() for value in inputs)).float().square().sum().backward()
            optimizer.step()
    assert lora.flat.dtype == torch.float32
    assert (lora.flat != start).all()


def test_the_cast_factors_follow_every_change(toy, inputs):
    lora = make(toy)
    with lora.attached(toy), torch.no_grad():
        before = toy(*inputs)
        lora.up["attn2.to_out.0"].add_(0.5)
        after_view = toy(*inputs)
        lora.flat.mul_(2.0)
        after_flat = toy(*inputs)
    assert not torch.equal(before, after_view)
    assert not torch.equal(after_view, after_flat)


def test_no_hook_is_left_even_after_an_exception(toy, inputs):
    plain, lora = toy(*inputs), make(toy)
    with torch.no_grad():
        lora.flat.fill_(1.0)
    with pytest.raises(RuntimeError), lora.attached(toy):
        raise RuntimeError
    assert torch.equal(toy(*inputs), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in toy.modules())
