"""The MixLoRA block's maths on toy layers: routing, balance, the mixture, its gradients, nothing left behind."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mixlora.mixlora_core.routing.region_map import Heard, Trace, region_map, winners
from mixlora.mixlora_core.routing.router import LAYERS, MIXINGS, OUTPUTS, Block, Speaker, balance, feed_forwards, route
from torch import nn

EXPERTS, WIDTH, INNER = 3, 6, 8


class Geglu(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(WIDTH, 2 * INNER)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """As ComfyUI's."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(Geglu(), nn.Dropout(0.0), nn.Linear(INNER, WIDTH))

    def forward(self, x):
        return self.net(x)


def rand(*shape, seed=0, size=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return FeedForward().double().eval()


@pytest.fixture
def tokens():
    return rand(2, 5, WIDTH, seed=1)


def block(router, gaps=True):
    """Three experts of ranks 1 to 3; the second has nothing in the first linear layer, the third none in the other."""
    first: list[Any] = [(rand(2 * INNER, e + 1, seed=e), rand(e + 1, WIDTH, seed=10 + e)) for e in range(EXPERTS)]
    second: list[Any] = [(rand(WIDTH, e + 1, seed=20 + e), rand(e + 1, INNER, seed=30 + e)) for e in range(EXPERTS)]
    if gaps:
        first[1] = second[2] = None
    return Block(router, first, second)


def with_weights(layer, first, second):
    """A copy of the layer with changed weights: another way to compute an expert."""
    copy: Any = FeedForward().double()
    copy.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for linear, change in ((copy.net[0].proj, first), (copy.net[2], second)):
            if change is not None:
                linear.weight += change
    return copy


def product(change, share: Any = 1.0) -> Any:
    return None if change is None else share * change[0] @ change[1]


def spoken(layer, tokens, block, k, mixing):
    with Speaker(k, mixing, block).speaking(layer):
        return layer(tokens)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_coefficients_sum_to_one_and_exactly_k_speak(k):
    routing = route(rand(4, 7, WIDTH), rand(EXPERTS, WIDTH, seed=2), k)
    assert routing.coefficients.shape == (4, 7, EXPERTS)
    torch.testing.assert_close(routing.coefficients.sum(-1), torch.ones(4, 7, dtype=torch.float64))
    assert (routing.coefficients.count_nonzero(dim=-1) == k).all() and (routing.coefficients >= 0).all()
    torch.testing.assert_close(routing.probabilities, (rand(4, 7, WIDTH) @ rand(EXPERTS, WIDTH, seed=2).T).softmax(-1))


def test_coefficients_are_the_largest_probabilities_made_to_sum_to_one():
    routing = route(rand(9, WIDTH), rand(5, WIDTH, seed=2), 2)
    for probabilities, coefficients in zip(routing.probabilities, routing.coefficients, strict=True):
        best = sorted(range(5), key=lambda expert: -probabilities[expert])[:2]
        expected = torch.zeros(5, dtype=torch.float64)
        expected[best] = probabilities[best] / probabilities[best].sum()
        torch.testing.assert_close(coefficients, expected)


def test_routing_is_computed_wide_and_survives_extreme_logits():
    routing = route(torch.full((2, WIDTH), 200.0, dtype=torch.float16), torch.eye(EXPERTS, WIDTH) * 1e4, 2)
    assert routing.coefficients.dtype == torch.float32 and routing.coefficients.isfinite().all()
    routing = route(torch.tensor([[1.0] + [0.0] * (WIDTH - 1)]), torch.eye(EXPERTS, WIDTH) * -1e6, 2)
    assert routing.coefficients.tolist() == [[0.0, 0.5, 0.5]]  # the first one's probability is 0, and nothing breaks


def test_balance_is_one_where_all_serve_alike_and_n_where_one_does_all():
    assert balance(torch.eye(4).repeat(3, 1)).item() == pytest.approx(1.0)
    assert balance(torch.eye(4)[[2] * 5]).item() == pytest.approx(4.0)
    by_hand = torch.tensor([[[0.6, 0.4], [0.9, 0.1]], [[0.2, 0.8], [0.7, 0.3]]])
    assert balance(by_hand).item() == pytest.approx(2 * (0.75 * 0.6 + 0.25 * 0.4))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_outputs_are_the_experts_outputs_mixed(layer, tokens, k):
    experts = block(rand(EXPERTS, WIDTH, seed=2))
    each = [with_weights(layer, product(first), product(second))(tokens)
            for first, second in zip(experts.first, experts.second, strict=True)]  # fmt: skip
    shares = route(tokens, experts.router, k).coefficients
    expected = sum(shares[..., e : e + 1] * each[e] for e in range(EXPERTS))
    torch.testing.assert_close(spoken(layer, tokens, experts, k, OUTPUTS), expected)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_layers_are_a_merge_of_its_own_for_every_token(layer, tokens, k):
    experts = block(rand(EXPERTS, WIDTH, seed=2))
    shares, found = route(tokens, experts.router, k).coefficients, spoken(layer, tokens, experts, k, LAYERS)
    for row, token in itertools.product(range(2), range(5)):
        merged = []
        for changes in (experts.first, experts.second):
            parts = [product(c, shares[row, token, e]) for e, c in enumerate(changes) if c is not None]
            merged.append(sum(parts))
        torch.testing.assert_close(found[row, token], with_weights(layer, *merged)(tokens[row, token]))


def test_without_a_preference_all_experts_are_averaged(layer, tokens):
    experts = block(torch.zeros(EXPERTS, WIDTH, dtype=torch.float64), gaps=False)
    each = [with_weights(layer, product(a), product(b))(tokens)
            for a, b in zip(experts.first, experts.second, strict=True)]  # fmt: skip
    torch.testing.assert_close(spoken(layer, tokens, experts, EXPERTS, OUTPUTS), torch.stack(each).mean(0))
    mean = [sum(product(change, 1 / EXPERTS) for change in changes) for changes in (experts.first, experts.second)]
    torch.testing.assert_close(spoken(layer, tokens, experts, EXPERTS, LAYERS), with_weights(layer, *mean)(tokens))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_gradients_are_finite_differences(layer, tokens, mixing):
    layer.requires_grad_(False)
    start = block(rand(EXPERTS, WIDTH, seed=2))
    target = rand(2, 5, WIDTH, seed=3)

    def loss(router, up, down):
        said = []
        first = [(up, down), *start.first[1:]]
        with Speaker(2, mixing, Block(router, first, start.second), said.append).speaking(layer):
            error = (layer(tokens) - target).square().mean()
        return error + 0.1 * balance(said[0].probabilities)

    inputs = [value.clone().requires_grad_() for value in (start.router, *start.first[0])]
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss(*inputs), inputs[:1])
    assert gradient.abs().max() > 1e-3


def test_one_expert_for_a_token_gets_no_gradient_from_the_picture(layer, tokens):
    """Why training needs k of two or more: the one coefficient is always 1."""
    router = rand(EXPERTS, WIDTH, seed=2).requires_grad_()
    spoken(layer, tokens, block(router), 1, OUTPUTS).square().sum().backward()
    assert router.grad is None or not router.grad.abs().max() > 1e-12


@pytest.mark.parametrize("mixing", MIXINGS)
def test_the_layer_is_as_before_even_after_an_exception(layer, tokens, mixing):
    plain, experts = layer(tokens), block(rand(EXPERTS, WIDTH, seed=2))
    speaker = Speaker(2, mixing, experts)
    assert not torch.allclose(spoken(layer, tokens, experts, 2, mixing), plain)
    with pytest.raises(RuntimeError), speaker.speaking(layer):
        layer(tokens[..., :3])  # too narrow
    assert torch.equal(layer(tokens), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())
    assert all(value is None for name, value in vars(speaker).items() if name.startswith("_"))


def test_finds_gated_feed_forward_layers_by_their_path():
    unet = nn.Module()
    unet.middle_block = nn.ModuleList([nn.Module()])
    unet.middle_block[0].transformer_blocks = nn.ModuleList([nn.Module(), nn.Module()])
    unet.middle_block[0].transformer_blocks[0].ff = FeedForward()
    unet.middle_block[0].transformer_blocks[1].ff = nn.Linear(2, 2)
    unet.ff = FeedForward()
    assert list(feed_forwards(unet)) == ["middle_block.0.transformer_blocks.0.ff"]


LARGEST_ALLOWED, LEAST_DIFFERENCE = 0.6, 0.2
"""Shares of the tokens of the busiest of three experts, even is a third. Written down before the first measurement.

The toy had to be changed, the thresholds were not. First the task alone undid the collapse: Adam does not see how small
a loss is. Then the task told experts 1 and 2 apart in nothing: the loss fell to 1.00, but the tokens that the two won
went from one to the other at every step (0.64 and 0.66 measured).
"""


def busiest(balance_weight):
    """The busiest expert's share before and after 300 steps, from a router that sends (nearly) all tokens to expert 0.

    Each expert is good for tokens in which its own number is large, and expert 0 is so much better for all that the
    task alone keeps the router where it is. One number of every token is always 1, so that a router can prefer an
    expert whatever the token. Two experts serve a token.
    """
    router = rand(3, 4, seed=5, size=0.01)
    router[0, 3] = 3.0
    router.requires_grad_()
    optimizer = torch.optim.Adam([router], lr=0.02)
    tokens = torch.cat([rand(600, 3, seed=6), torch.ones(600, 1).double()], -1)
    costs = torch.tensor([0.0, 1e-3, 1e-3], dtype=torch.float64) - 2e-4 * tokens[:, :3]
    shares = [route(tokens, router, 1).coefficients.mean(0).max().item()]
    for _ in range(300):
        said = route(tokens, router, 2)
        loss = (said.coefficients * costs).sum(-1).mean() + balance_weight * balance(said.probabilities)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return *shares, route(tokens, router, 1).coefficients.mean(0).max().item()


def test_the_balance_loss_makes_a_collapsed_router_more_even():
    (before, without), (same, with_loss) = busiest(0.0), busiest(0.01)
    assert before == same > 0.95
    assert with_loss <= LARGEST_ALLOWED
    assert without - with_loss >= LEAST_DIFFERENCE


def heard(block, side, expert, sigma=1.0):
    grid = torch.zeros(1, side, side, 2)
    grid[..., expert] = 1.0
    return Heard(block, sigma, grid)


def test_the_map_shows_who_won_where():
    coarse = heard("input_blocks.1.1.transformer_blocks.0.ff", 2, 0)
    fine = Heard("middle_block.1.transformer_blocks.0.ff", 1.0, torch.zeros(1, 4, 4, 2))
    fine.coefficients[:, :, :2, 0] = 1.0  # left: the first; right: the second, clearly enough to win the mean
    fine.coefficients[:, :, 2:, 1] = 3.0
    trace = Trace(("monet", "ghibli"), [coarse, fine])
    expected = torch.tensor([[0, 0, 1, 1]] * 4)
    assert torch.equal(winners(trace.mean()), expected)
    assert torch.equal(winners(trace.mean(trace.blocks()[0])), torch.zeros(2, 2, dtype=torch.long))
    sheet = region_map(trace)
    counts = {colour: count for count, colour in sheet.getcolors(1 << 16) or []}
    side = 160 * 160
    assert counts[0, 114, 178] >= side // 2 + side + side // 2  # half of the mean, the coarse block, half of the fine
    assert side <= counts[230, 159, 0] < counts[0, 114, 178]


def test_a_map_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="No router was heard for any block, picture 1"):
        region_map(Trace(("a", "b")))
