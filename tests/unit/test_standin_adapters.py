"""The recipe of the adapters: what each is shown, what the trainer is asked for, what is not trained again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from mixlora.standin import adapters, recipe
from mixlora.standin.elements import ELEMENTS, depict
from mixlora.standin.styles import STYLES
from mixlora.standin.workshop import pictures
from mixlora.training import options
from PIL import Image


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """A trainer that parses its flags as the real one, then writes its output in an instant; what it was asked for."""
    asked: list[options.Job] = []

    def run(flags: list[str]) -> int:
        asked.append(options.parse(flags))
        asked[-1].output.write_text(f"trained {asked[-1].settings.trigger}")
        return 0

    monkeypatch.setattr(adapters, "PICTURES", 1)
    monkeypatch.setattr(adapters, "FEWER", {})
    monkeypatch.setattr(adapters, "run_trainer", run)
    monkeypatch.setattr(adapters, "adapter_file", lambda name: tmp_path / f"shipped_{name}.safetensors")

    def as_it_is(name: str, trained: Path, output: Path, checkpoint: Path) -> float:
        output.write_bytes(trained.read_bytes())
        return 1.0

    monkeypatch.setattr(adapters, "set_strength", as_it_is)
    return asked


@pytest.mark.parametrize("name", ["castle", "snow", "old_photo", "tiles", "kite"])
def test_an_adapter_is_shown_its_element_under_its_trigger(name, monkeypatch, tmp_path):
    monkeypatch.setattr(adapters, "PICTURES", 3)
    folder = adapters.dataset(name, tmp_path)
    shown = pictures(3, 5, {name: 1.0})
    assert {path.name for path in folder.iterdir()} == {f"00{k}.{kind}" for k in range(3) for kind in ("png", "txt")}
    for number, picture in enumerate(shown):
        caption = (folder / f"{number:03}.txt").read_text("utf-8")
        assert caption == picture.caption and caption.endswith(f", {ELEMENTS[name].trigger}")
        assert np.array_equal(np.asarray(Image.open(folder / f"{number:03}.png")), depict(picture.scene, (name,)))


def test_the_trainer_takes_the_options_for_every_element_and_the_file_goes_to_the_weights(trainer, tmp_path):
    for name in ELEMENTS:
        adapters.train_adapter(name, tmp_path / "base.safetensors", tmp_path)
    assert [job.settings.trigger for job in trainer] == [element.trigger for element in ELEMENTS.values()]
    for name, job in zip(ELEMENTS, trainer, strict=True):
        assert job.resume and job.data == tmp_path / f"{name}-pictures"
        assert (job.settings.targets, job.settings.rank) == (("attention", 4) if name in STYLES else ("all", 2))
        shipped = tmp_path / f"shipped_{name}.safetensors"
        assert shipped.read_text() == f"trained {ELEMENTS[name].trigger}"


def test_what_is_finished_is_not_trained_again(trainer, tmp_path):
    for _ in range(2):
        adapters.train_adapter("kite", tmp_path / "base.safetensors", tmp_path)
    assert len(trainer) == 1
    (tmp_path / "shipped_kite.safetensors").unlink()
    adapters.train_adapter("kite", tmp_path / "base.safetensors", tmp_path)
    assert len(trainer) == 1 and (tmp_path / "shipped_kite.safetensors").is_file()


def test_a_trainer_that_fails_is_an_error_and_leaves_no_file(trainer, monkeypatch, tmp_path):
    monkeypatch.setattr(adapters, "run_trainer", lambda flags: 2)
    with pytest.raises(RuntimeError, match=r"ended with 2 for torii"):
        adapters.train_adapter("torii", tmp_path / "base.safetensors", tmp_path)
    assert not (tmp_path / "shipped_torii.safetensors").exists()
    with pytest.raises(KeyError, match="dragon"):
        adapters.train_adapter("dragon", tmp_path / "base.safetensors", tmp_path)


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """Runs the recipe with stages that only say that they were called; returns these calls."""
    called: list[tuple[str, ...]] = []

    def run(*arguments: str) -> list[tuple[str, ...]]:
        monkeypatch.setattr(sys, "argv", ["recipe", "--work", str(tmp_path / "work"), *arguments])
        recipe.main()
        return called

    def stage(name: str):
        def call(work: Path, *only: list[str]) -> None:
            assert work.is_dir()
            called.append((name, *(each for names in only for each in names)))

        return call

    monkeypatch.setattr(recipe, "import_comfy", lambda: None)
    monkeypatch.setattr(recipe, "_STAGES", {name: stage(name) for name in recipe.STAGES})
    return run


def test_all_stages_run_in_order_the_oracles_before_the_adapters(stages):
    called = [name for name, *_ in stages()]
    assert called == list(recipe.STAGES)
    assert called.index("weights") < called.index("elements") < called.index("adapters")


def test_only_reaches_the_adapters(stages):
    assert stages("elements", "adapters", "--only", "kite", "torii") == [("elements",), ("adapters", "kite", "torii")]


def test_an_unknown_stage_runs_nothing_and_lists_the_stages(stages, capsys):
    with pytest.raises(SystemExit) as stopped:
        stages("elements", "adaptors")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "no stage is called adaptors" in said and all(name in said for name in recipe.STAGES)


def test_an_unknown_element_runs_nothing(stages, capsys):
    with pytest.raises(SystemExit) as stopped:
        stages("adapters", "--only", "kite", "dragon")
    assert stopped.value.code == 2 and "no element is called dragon" in capsys.readouterr().err
