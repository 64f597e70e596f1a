"""Files that are read and written again are not held open: Windows replaces and deletes none that is mapped."""

from pathlib import Path

import pytest
import torch
from mixlora.training.cache import Cache
from mixlora.training.checkpoint import Autosave, State

MAPS = Path("/proc/self/maps")
pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists what a process has mapped")


def mapped(folder):
    """The files below `folder` that this process has in its memory as they lie on the disk."""
    return [line.split()[-1] for line in MAPS.read_text().splitlines() if str(folder) in line]


def test_a_state_that_is_resumed_can_be_replaced(tmp_path):
    autosave = Autosave(tmp_path / "state")
    saved = State(3, {"flat": torch.randn(20_000), "validation": torch.randn(2, 8)}, {"lr": 1})
    autosave.save(saved)
    state = autosave.load({"lr": 1})
    assert mapped(tmp_path) == []
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in saved.tensors.items())


def test_an_encoding_that_is_read_can_be_made_anew(tmp_path):
    made = {"latent": torch.randn(20_000)}
    Cache(tmp_path).fetch("latent", {"picture": "a"}, lambda: made)
    found = Cache(tmp_path).fetch("latent", {"picture": "a"}, pytest.fail)
    assert mapped(tmp_path) == [] and torch.equal(found["latent"], made["latent"])
