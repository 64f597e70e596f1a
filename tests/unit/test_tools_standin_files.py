"""The stand-in's files get into a ComfyUI's models folder under the names that the workflows use."""

from __future__ import annotations

import os

import pytest
from mixlora.standin.styles import STYLES
from mixlora.standin.weights import SHOWN
from mixlora.tools import standin_files, workflows


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """Stand-ins for the stand-in: adapters that are text, and a checkpoint that is built at once."""
    files = {name: tmp_path / f"{style}.safetensors" for style, name in standin_files.LORAS.items()}
    for path in files.values():
        path.write_text(path.stem)
    monkeypatch.setattr(standin_files, "adapter_files", lambda: files)
    monkeypatch.setattr(standin_files, "build_checkpoint", lambda path: path.write_text("built"))
    return files


def test_workflows_use_the_names_that_are_placed():
    assert set(standin_files.LORAS) == set(SHOWN)
    nodes = workflows.all_workflows()["MixLoRA stand-in"]["nodes"]
    chosen = {n["widgets_values"][0] for n in nodes if n["type"] == "LoadStyleLoRA"}
    assert chosen == {standin_files.LORAS[style] for style in STYLES}


def test_places_everything_and_again_what_has_changed(weights, tmp_path):
    models = tmp_path / "models"
    for _ in range(2):
        standin_files.place(models)
        assert (models / "checkpoints" / standin_files.CHECKPOINT).read_text() == "built"
        assert (models / "loras" / "standin_van_gogh.safetensors").read_text() == "van_gogh"
    weights["standin_monet.safetensors"].write_text("trained again")
    standin_files.place(models)
    assert (models / "loras" / "standin_monet.safetensors").read_text() == "trained again"


def test_a_missing_adapter_is_named(weights, tmp_path):
    weights["standin_ghibli.safetensors"].unlink()
    with pytest.raises(FileNotFoundError, match=r"ghibli\.safetensors.*make standin"):
        standin_files.place(tmp_path / "models")


def test_copy_refreshes_what_has_changed(tmp_path):
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_text("one")
    standin_files.copy(source, target)
    before = target.stat().st_ino
    standin_files.copy(source, target)
    assert target.stat().st_ino == before, "equal files are left alone"
    source.write_text("two")
    os.utime(source, (1, 1))
    standin_files.copy(source, target)
    assert target.read_text() == "two"
