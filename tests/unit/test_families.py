"""The anatomy of patches, with stand-ins for ComfyUI's weight adapters (a name and a tuple of tensors)."""

from types import SimpleNamespace

import pytest
import torch
from mixlora.mixlora_core.files.families import MisfitError, check_fit, examine


def patch(name, *weights):
    return SimpleNamespace(name=name, weights=weights)


def z(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    "made, family, rank, fits",
    [
        (patch("lora", z(8, 2), z(2, 6), 1.0, None, None, None), "LoRA", 2, (8, 6)),
        (patch("lora", z(8, 2, 1, 1), z(2, 6, 1, 1), None, None, None, None), "LoRA", 2, (8, 6, 1, 1)),
        (patch("lora", z(8, 2, 1, 1), z(2, 6, 3, 3), None, None, None, None), "LoCon", 2, (8, 6, 3, 3)),
        (patch("lora", z(8, 2), z(2, 6), None, z(2, 2, 3, 3), None, None), "LoCon", 2, (8, 6, 3, 3)),
        (patch("lora", z(8, 2), z(2, 6), 1.0, None, z(8, 1), None), "DoRA", 2, (8, 6)),
        (patch("loha", z(8, 2), z(2, 54), 1.0, z(8, 3), z(3, 54), None, None, None), "LoHa", 2, (8, 6, 3, 3)),
        (patch("loha", z(2, 8), z(2, 6), 1.0, z(2, 8), z(2, 6), z(2, 2, 3, 3), z(2, 2, 3, 3), None), "LoHa", 2,
         (8, 6, 3, 3)),
        (patch("lokr", z(2, 2), z(4, 3), 1.0, None, None, None, None, None, None), "LoKr", None, (8, 6)),
        (patch("lokr", z(2, 2), None, 1.0, None, None, z(4, 5), z(5, 3), None, None), "LoKr", 5, (8, 6)),
        (patch("glora", z(6, 2), z(2, 6), z(8, 2), z(2, 6), 1.0, None), "GLoRA", 2, (8, 6)),
        (patch("oft", z(4, 2, 2), None, None, None), "OFT", None, (8, 99)),
        (patch("boft", z(3, 4, 2, 2), None, 0.0, None), "BOFT", None, (8, 99)),
        (("diff", (z(8, 6),)), "full diff", None, (8, 6)),
        (("set", (z(8, 6),)), "set weight", None, (8, 6)),
    ],
)  # fmt: skip
def test_families(made, family, rank, fits):
    anatomy = examine(made)
    assert (anatomy.family, anatomy.rank) == (family, rank)
    check_fit(anatomy, fits)
    for wrong in ((4, *fits[1:]), (16, *fits[1:])):
        with pytest.raises(MisfitError):
            check_fit(anatomy, wrong)
    if family not in ("OFT", "BOFT"):
        with pytest.raises(MisfitError, match="weight"):
            check_fit(anatomy, (fits[0], fits[1] + 1, *fits[2:]))


@pytest.mark.parametrize(
    "made, says",
    [
        (patch("lora", z(8, 2), z(3, 6), None, None, None, None), "lora_up 8x2 and lora_down 3x6 do not multiply"),
        (patch("lora", z(8), z(3, 6), None, None, None, None), "expected a matrix"),
        (patch("lora", z(8, 2), z(2, 6), None, z(2, 3, 3, 3), None, None), "lora_mid"),
        (patch("loha", z(8, 2), z(2, 6), 1.0, z(8, 2), z(2, 5), None, None, None), "must be equal"),
        (patch("lokr", z(2, 2), None, 1.0, None, None, z(4, 5), None, None, None), "lokr_w2 is incomplete"),
        (patch("lokr", None, z(2, 2), 1.0, z(4, 5), z(4, 5), None, None, None, None), "do not multiply"),
        (patch("glora", z(6, 2), z(3, 6), z(8, 2), z(2, 6), 1.0, None), "b1"),
        (patch("boft", z(3, 4, 2, 2), None, None, None), "alpha"),
        (patch("oft", z(4, 2, 3), None, None, None), "square"),
    ],
)
def test_misfits(made, says):
    with pytest.raises(MisfitError, match=says):
        examine(made)


def test_factors_and_scale_of_plain_low_rank():
    up, down = torch.randn(8, 2), torch.randn(2, 6, 3, 3)
    factors = examine(patch("lora", up, down, 1.0, None, None, None)).factors
    assert factors is not None and factors[2] == 0.5
    assert torch.equal(factors[0] @ factors[1], up @ down.flatten(1))


def test_families_of_tomorrow_pass_unexamined():
    for made in (patch("vera", z(1)), patch("lokr", *[None] * 10), ("model_as_lora", (z(1),))):
        anatomy = examine(made)
        assert not anatomy.linear and anatomy.factors is None
        check_fit(anatomy, (3, 3))
