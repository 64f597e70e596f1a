"""What regions compute in one layer, against loops over places."""

import math
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

# The cross-attention alone, against loops.

ROWS, HEADS, WIDTH, TEXT, TOKENS, GRID = 3, 2, 4, 6, 5, (2, 3)


@pytest.fixture
def block():
    """A model of one block with one cross-attention, and a function that runs it."""
    from comfy.ldm.modules.attention import CrossAttention
    from torch import nn

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            layers: Any = nn  # ComfyUI's own leave weights uninitialised
            block: Any = nn.Module()
            block.attn2 = CrossAttention(HEADS * WIDTH, TEXT, HEADS, WIDTH, dtype=torch.float64, operations=layers)
            self.transformer_blocks: Any = nn.ModuleList([block])

        def forward(self, x, context, options):
            return self.transformer_blocks[0].attn2(x.flatten(2).transpose(1, 2), context, transformer_options=options)

    torch.manual_seed(0)
    model: Any = nn.Module()
    model.block = Transformer()
    x = torch.randn(ROWS, HEADS * WIDTH, *GRID, dtype=torch.float64)
    context = torch.randn(ROWS, TOKENS, TEXT, dtype=torch.float64)
    return SimpleNamespace(model=model, attention=model.block.transformer_blocks[0].attn2, x=x, context=context)


def test_keys_and_values_by_place_equal_a_loop_over_places(block):
    """For every place the whole attention with that place's own weights, for three rows with other coefficients."""
    from mixlora.mixlora_core.execution.executor import Speech
    from mixlora.mixlora_core.execution.placed import Weights, placed
    from mixlora.mixlora_core.execution.rows import RowsBank
    from mixlora.mixlora_core.regions.masks import Regions

    prefix, double = "block.transformer_blocks.0.attn2", torch.float64
    adapters: Any = []
    for layers in (("to_k", "to_v"), ("to_k",), ("to_v", "to_q", "to_out.0")):
        factors = {}
        for number, layer in enumerate(layers):
            into = HEADS * WIDTH if layer in ("to_q", "to_out.0") else TEXT
            up, down = torch.randn(HEADS * WIDTH, 2 + number, dtype=double), torch.randn(2 + number, into, dtype=double)
            factors[f"{prefix}.{layer}.weight"] = SimpleNamespace(factors=(up, down, 0.5))
        adapters.append(SimpleNamespace(model_patches=dict.fromkeys(factors), anatomies=factors))
    masks = torch.rand(3, 3, *GRID)
    coefficients = [(1.0, -0.5, 2.0), (0.3, 0.0, 1.0), (1.0, 1.0, 1.0)]
    speeches = [Speech(c, Regions(tuple(own))) for c, own in zip(coefficients, masks, strict=True)]
    speeches[2] = Speech(coefficients[2])  # a row without regions in the same batch
    masks[2] = 1
    bank, options = RowsBank(adapters, double), {}
    bank.ups = torch.nn.ParameterList(  # the bank scales ups in single precision
        torch.nn.Parameter(
            torch.cat([adapters[i].anatomies[f"{one.module}.weight"].factors[0] * 0.5 for i in one.ranks], 1)
        )
        for one in bank.layers
    )
    weights = Weights(speeches, 1, bank.downs[0].data)
    with torch.no_grad(), placed(block.model, bank, weights, options):
        ours = block.model.block(block.x, block.context, options)
    assert not options and not block.attention.to_k._forward_hooks and not block.attention._forward_pre_hooks

    def weight(layer, row, place):
        own = getattr(block.attention, layer).weight if layer != "to_out.0" else block.attention.to_out[0].weight
        own = own.detach().clone()
        for index, adapter in enumerate(adapters):
            if (found := adapter.anatomies.get(f"{prefix}.{layer}.weight")) is not None:
                up, down, scale = found.factors
                own += coefficients[row][index] * masks[row, index].flatten()[place].double() * scale * (up @ down)
        return own

    bias = block.attention.to_out[0].bias.detach()
    for row in range(ROWS):
        for place in range(GRID[0] * GRID[1]):
            x, text = block.x[row].flatten(1)[:, place], block.context[row]
            q, k, v = (
                weight("to_q", row, place) @ x,
                text @ weight("to_k", row, place).T,
                text @ weight("to_v", row, place).T,
            )
            heads = []
            for head in range(HEADS):
                at = slice(head * WIDTH, (head + 1) * WIDTH)
                shares = torch.tensor([(q[at] @ key[at]).item() / math.sqrt(WIDTH) for key in k], dtype=double).softmax(
                    0
                )
                heads.append(sum(share * value[at] for share, value in zip(shares, v, strict=True)))
            expected = weight("to_out.0", row, place) @ torch.cat(heads) + bias
            assert torch.allclose(ours[row, place], expected, atol=1e-6), (row, place)


def test_the_embedding_of_a_residual_block_has_its_change_by_place():
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
    from mixlora.mixlora_core.execution.executor import Speech
    from mixlora.mixlora_core.execution.placed import Weights, placed
    from mixlora.mixlora_core.execution.rows import RowsBank
    from mixlora.mixlora_core.regions.masks import Regions

    torch.manual_seed(0)
    model = torch.nn.Module()
    block = model.block = cast("Any", ResBlock(32, 8, 0.0, dtype=torch.float32))
    for parameter in block.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    factors = [(torch.randn(32, 2), torch.randn(2, 8), 1.0) for _ in range(2)]
    anatomies = [{"block.emb_layers.1.weight": SimpleNamespace(factors=one)} for one in factors]
    adapters: Any = [SimpleNamespace(model_patches=dict.fromkeys(one), anatomies=one) for one in anatomies]
    masks, x, emb = torch.rand(2, 3, 4), torch.randn(1, 32, 3, 4), torch.randn(1, 8)
    bank, seen = RowsBank(adapters, torch.float32), []
    weights = Weights([Speech((0.5, -2.0), Regions(tuple(masks)))], 1, bank.downs[0].data)
    with torch.no_grad(), placed(model, bank, weights, {}):
        with block.emb_layers.register_forward_hook(lambda module, inputs, output: seen.append(output)):
            assert block(x, emb).shape == x.shape
        expected = torch.zeros(32, 3, 4)
        layer, read = block.emb_layers[1], torch.nn.functional.silu(emb[0])
        for row in range(3):
            for column in range(4):
                weight = layer.weight.clone()
                for (up, down, _), coefficient, mask in zip(factors, (0.5, -2.0), masks, strict=True):
                    weight += coefficient * mask[row, column] * (up @ down)
                expected[:, row, column] = weight @ read + layer.bias
    assert torch.allclose(seen[0][0], expected, atol=1e-5)
    assert not block.emb_layers._forward_hooks and not block._forward_pre_hooks


def test_what_is_overheard_is_the_attention_to_the_words(block):
    from mixlora.mixlora_core.execution.executor import Speech
    from mixlora.mixlora_core.execution.overhearing import Heard, overhearing

    words, heard, options = ((1, 3), (), (4,)), Heard(), {}
    speeches = [Speech((1.0,) * 3), Speech((1.0,) * 3, words=words), Speech((1.0,) * 3)]
    with torch.no_grad():
        plain = block.model.block(block.x, block.context, {})
        with overhearing(block.model, speeches, 1, options, heard):
            ours = block.model.block(block.x, block.context, options)
            block.model.block(block.x, block.context, options)
    assert torch.equal(ours, plain) and not options and heard.named == (True, False, True)
    q = block.attention.to_q(block.x[1].flatten(1).T).unflatten(-1, (HEADS, WIDTH))
    k = block.attention.to_k(block.context[1]).unflatten(-1, (HEADS, WIDTH))
    shares = torch.einsum("phd,thd->pht", q, k).div(math.sqrt(WIDTH)).softmax(-1).mean(1)
    expected = torch.stack([shares[:, 1] + shares[:, 3], torch.zeros(6), shares[:, 4]]).view(1, 3, *GRID)
    assert list(heard.maps) == [GRID] and torch.allclose(heard.maps[GRID], expected.float(), atol=1e-6)


def test_an_attention_of_another_pack_is_kept(block):
    """It computes what regions do not, and is back in its place afterwards."""
    from mixlora.mixlora_core.execution.places import OVERRIDE, override

    calls = []

    def theirs(function, *args, **kwargs):
        calls.append("theirs")
        return function(*args, **kwargs)

    options = {OVERRIDE: theirs}
    with ExitStack() as handles:
        override(options, lambda compute, *args, **kwargs: compute(*args, **kwargs), handles)
        with torch.no_grad():
            ours = block.model.block(block.x, block.context, options)
    assert calls == ["theirs"] and options == {OVERRIDE: theirs}
    assert torch.equal(ours, block.model.block(block.x, block.context, {}))
