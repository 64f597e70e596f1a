"""The small file of a learned mix: written, read, and refused for other adapters and other bases."""

import pytest
import torch
from mixlora.mixlora_core.errors import LearnedMixError
from mixlora.mixlora_core.files import lora_file
from mixlora.mixlora_core.layers.learned_mix import LearnedMix, Named, read, tensor_hash
from mixlora.mixlora_core.stack import StackEntry, StyleStack
from safetensors.torch import save_file

Q = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
MID = "diffusion_model.middle_block.1.proj_in.weight"


@pytest.fixture
def entries(tmp_path):
    def make(seed, metadata=None, name=None):
        path = tmp_path / f"{name or seed}.safetensors"
        up = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed))
        save_file({"lora_unet_x.lora_up.weight": up}, path, metadata=metadata)
        return StackEntry(path.name, lora_file.read(path), 1.0, 1.0)

    return make


@pytest.fixture
def two(entries):
    return entries(1), entries(2)


@pytest.fixture
def mix(two):
    named = tuple(Named(entry.lora_name, tensor_hash(entry.file)) for entry in two)
    about = {"objective": "composite", "seed": "3"}
    return LearnedMix(torch.tensor([[0.5, 1.0], [0.25, -1.0]]), named, ("input.1", "middle.1"), about=about)


def test_round_trip(mix, tmp_path):
    mix.write(tmp_path / "mix.safetensors")
    found = read(tmp_path / "mix.safetensors")
    assert torch.equal(found.coefficients, mix.coefficients)
    for name in ("adapters", "groups", "grouping", "family", "about"):
        assert getattr(found, name) == getattr(mix, name)
    found.write(tmp_path / "again.safetensors")
    one, other = ((tmp_path / name).read_bytes() for name in ("mix.safetensors", "again.safetensors"))
    assert one == other and len(one) < 2000


def test_rows_are_found_by_content_in_any_order(mix, two, entries):
    assert mix.rows_for(StyleStack(two)) == [0, 1]
    renamed = entries(2, {"title": "another header"}, name="renamed")
    assert mix.rows_for(StyleStack((renamed, two[0]))) == [1, 0]


def test_other_adapters_are_refused(mix, two, entries):
    with pytest.raises(LearnedMixError, match=r"for 1.safetensors \(.{10}\), 2.safetensors .*: 3.safetensors is in the "
                       "stack, but the mix was not fitted to it; 2.safetensors is missing in the stack"):  # fmt: skip
        mix.rows_for(StyleStack((two[0], entries(3))))
    with pytest.raises(LearnedMixError, match=r"1\.safetensors stands in the stack more than once"):
        mix.rows_for(StyleStack((*two, two[0])))


def test_strengths_by_group(mix):
    assert mix.strengths(1, [Q, MID], 0.8) == {Q: 0.25 * 0.8, MID: -0.8}
    with pytest.raises(LearnedMixError, match=r"2\.safetensors touches output\.3 .* it has input\.1, middle\.1"):
        mix.strengths(1, [Q, "diffusion_model.output_blocks.3.1.proj_in.weight"], 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(2, 3), r"shape \(2, 3\); expected \(2, 2\)"),
        (torch.tensor([[1.0, float("nan")], [1.0, 1.0]]), "not finite"),
    ],
)
def test_impossible_mixes(mix, values, message):
    with pytest.raises(LearnedMixError, match=message):
        LearnedMix(values, mix.adapters, mix.groups)
    with pytest.raises(LearnedMixError, match="same adapter twice"):
        LearnedMix(mix.coefficients, mix.adapters[:1] * 2, mix.groups)
    with pytest.raises(LearnedMixError, match="groups layers by 'tokens'"):
        LearnedMix(mix.coefficients, mix.adapters, mix.groups, "tokens")


def test_files_that_are_no_mix(mix, two, tmp_path):
    with pytest.raises(LearnedMixError, match=r"no learned mix: .* a LoRA file belongs into the stack"):
        read(two[0].file.identity.path)
    with pytest.raises(LearnedMixError, match="cannot be read"):
        read(tmp_path / "missing.safetensors")
    torn = tmp_path / "torn.safetensors"
    mix.write(torn)
    torn.write_bytes(torn.read_bytes()[:-4])
    with pytest.raises(LearnedMixError, match="cannot be read"):
        read(torn)
    damaged = tmp_path / "damaged.safetensors"
    about = {"format": "mixlora-learned-mix-1", "adapters": "[]", "groups": "{", "grouping": "block", "family": "sd1"}
    save_file({"coefficients": torch.ones(1, 1)}, damaged, metadata=about)
    with pytest.raises(LearnedMixError, match="damaged learned mix"):
        read(damaged)
