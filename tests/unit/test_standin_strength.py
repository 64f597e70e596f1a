"""The strength that an element's adapter is shipped with: which is chosen, and what it changes in the file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mixlora.mixlora_core.files import hashes
from mixlora.mixlora_core.files.lora_file import read
from mixlora.standin import strength
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{layer}.lora_down.weight": torch.randn(2, 8), f"{layer}.lora_up.weight": torch.randn(8, 2)}
    path = tmp_path / "kite.safetensors"
    save_file(
        tensors | {f"{layer}.alpha": torch.tensor(4.0)}, path, {"ss_network_alpha": "4.0", "ss_output_name": "kite"}
    )
    return path


@pytest.fixture
def oracle(monkeypatch):
    """What the oracle sees of the kite in all pictures of a strength: {strength: probabilities}."""
    seen: dict[float, list[float]] = {}

    class Painter:
        def __init__(self, checkpoint, adapters, folder):
            pass

        def paint(self, shots, what):
            assert len({shot.seed for shot in shots}) == len(shots) == 12
            ((_, chosen),) = {shot.strengths[0] for shot in shots}
            return chosen

    def read(chosen):
        return SimpleNamespace(shows=lambda name: np.array((seen[chosen] * 12)[:12]))

    monkeypatch.setattr(strength, "Painter", Painter)
    monkeypatch.setattr(strength.ElementOracle, "load", lambda: SimpleNamespace(read=read))
    return seen


@pytest.mark.parametrize(
    ("seen", "chosen"),
    [
        ({1.0: [0.9]}, 1.0),
        ({1.0: [0.9, 0.4], 1.2: [0.7]}, 1.2),
        ({1.0: [0.4], 1.2: [0.99, 0.4], 1.4: [0.6, 0.3]}, 1.2),
        ({1.0: [0.4], 1.2: [0.4, 0.45], 1.4: [0.8, 0.3]}, 1.4),
    ],
)
def test_the_gentlest_strength_that_shows_it_everywhere(seen, chosen, oracle, trained, tmp_path):
    oracle.update(seen)
    output = tmp_path / "shipped.safetensors"
    assert strength.set_strength("kite", trained, output, tmp_path / "base.safetensors") == chosen
    assert {float(value) for key, value in load_file(output).items() if key.endswith("alpha")} == {
        float(torch.tensor(4.0 * chosen))
    }


def test_alpha_alone_changes_and_the_file_says_so(trained, tmp_path):
    output = tmp_path / "louder.safetensors"
    strength.scale_alpha(trained, output, 1.25)
    before, after = load_file(trained), load_file(output)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value * 1.25 if key.endswith("alpha") else value)
    with safe_open(output, "pt") as file:
        about = file.metadata()
    assert about["ss_network_alpha"] == "5.0" and about["ss_output_name"] == "kite"
    assert set(hashes.check(after, about, hashes.of_file(output)[1]).values()) == {True}
    assert read(str(output)).tensors.keys() == after.keys()
