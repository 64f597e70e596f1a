"""What a run that fails leaves and says: numbers that are not finite, too little memory, what fails on the way."""

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mixlora.training.checkpoint import Autosave
from mixlora.training.distribution import World
from mixlora.training.ending import exit_code, memory_advice
from mixlora.training.loop import train
from mixlora.training.run import NonFiniteLossError, Run
from mixlora.training.run_folder import RunFolder
from mixlora.training.settings import TrainSettings
from safetensors import safe_open

_spec = importlib.util.spec_from_file_location("killed_process", Path(__file__).with_name("killed_process.py"))
assert _spec and _spec.loader
process = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(process)
toy = process.toy


def half(backward):
    """The toy in fp16; the gradient to what it predicts is multiplied by what `backward` says at each call."""
    made = toy.base()
    made.unet.half()

    def call(*inputs):
        predicted, factor = made.unet(*inputs), backward()
        predicted.register_hook(lambda gradient: gradient * factor)
        return predicted

    return replace(made, call=call)


def test_a_gradient_that_fp16_has_no_room_for_is_computed_again_at_a_smaller_scale(tmp_path):
    autosave, calls = Autosave(tmp_path / "state", every_steps=0, every_minutes=0), itertools.count()
    # Only early: later steps fit, and still go on with the scale that was found.
    trained = train(half(lambda: 2.0**12 if next(calls) < 12 else 1.0), toy.samples(), toy.SETTINGS, autosave=autosave)
    assert trained.finished and torch.isfinite(trained.lora.flat).all()
    run = Run(half(lambda: 1.0), toy.samples(), toy.SETTINGS, World())
    assert run.loss_scale == 2.0**12
    run.restore(autosave.load(run.recipe).tensors)
    assert 1 < run.loss_scale < 2.0**12


def test_a_scale_halved_midway_resumes_to_the_bit(tmp_path):
    def overflowing():
        return half(lambda: 2.0**12)

    whole = train(overflowing(), toy.samples(), toy.SETTINGS)
    autosave, done = Autosave(tmp_path / "state", every_steps=0, every_minutes=0, resume=True), []
    part = train(
        overflowing(), toy.samples(), toy.SETTINGS, autosave=autosave, on_step=done.append, stop=lambda: len(done) == 3
    )
    assert part.steps == 3
    rest = train(overflowing(), toy.samples(), toy.SETTINGS, autosave=autosave)
    assert rest.losses == whole.losses and torch.equal(rest.lora.flat, whole.lora.flat)


def test_a_gradient_that_no_scale_makes_finite_ends_the_run_and_binds_nothing(tmp_path):
    autosave = Autosave(tmp_path / "state", every_steps=0, every_minutes=0, resume=True)
    with pytest.raises(NonFiniteLossError, match="gradient of step 1 is not finite") as raised:
        train(half(lambda: torch.inf), toy.samples(), toy.SETTINGS, autosave=autosave)
    assert str(raised.value).endswith("; otherwise compute in fp32 (dtype).") and "rate" not in str(raised.value)
    assert not autosave.exists()
    assert train(toy.base(), toy.samples(), replace(toy.SETTINGS, lr=1e-3), autosave=autosave).finished


@pytest.mark.parametrize("end", ["stops", "fails"])
def test_before_the_first_step_nothing_is_saved(tmp_path, end):
    autosave = Autosave(tmp_path / "state", resume=True)
    if end == "stops":
        assert train(toy.base(), toy.samples(), toy.SETTINGS, autosave=autosave, stop=lambda: True).steps == 0
    else:
        with pytest.raises(ZeroDivisionError):
            train(replace(toy.base(), call=lambda *_: 1 / 0), toy.samples(), toy.SETTINGS, autosave=autosave)
    assert not autosave.exists()


def test_a_step_that_is_not_finite_leaves_the_adapter_before_it_as_a_file(tmp_path, capsys):
    output, made, done = tmp_path / "toy.safetensors", toy.base(), []
    broken = replace(made, call=lambda *inputs: made.unet(*inputs) * (torch.nan if len(done) == 5 else 1.0))
    keeping = replace(process.KEEPING, export_every=0, save_every=0)
    with pytest.raises(NonFiniteLossError) as raised:
        process.run(output, keeping=keeping, base=broken, on_step=done.append)
    folder, said = RunFolder(output), str(raised.value)
    assert "loss of step 6 is not finite, with: " in said and "captions; otherwise lower the learning rate. " in said
    assert f"The adapter before that step is in {folder.after(5)}." in said and "under another --output" in said
    with safe_open(folder.after(5), "pt") as file:
        assert file.metadata()["steps"] == "5" and torch.isfinite(file.get_tensor("flat")).all()
    assert folder.state.exists() and "written after step 5" in capsys.readouterr().out


def advice(folder, **settings):
    def fail():
        with memory_advice(TrainSettings(**settings), folder):
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")

    return exit_code(fail)


def test_out_of_memory_is_a_message_with_what_these_settings_leave_to_do(tmp_path, capsys):
    folder = RunFolder(tmp_path / "o.safetensors")
    assert advice(folder) == 1
    assert capsys.readouterr().err == "error: Tried to allocate 2.00 GiB.\nLower --resolution (now 512).\n"
    advice(folder, batch=4, dtype="fp32")
    said = capsys.readouterr().err
    assert "Lower --batch (now 4) and raise --accumulate as much, or lower --resolution (now 512)." in said
    assert "--dtype bf16" in said and "--resume" not in said
    folder.path.mkdir()
    folder.state.write_bytes(b"")
    advice(folder)
    assert "--resume continues it once more memory is free" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, why",
    [
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (RuntimeError("m1 and m2"), "m1 and m2"),  # whatever a painter stumbles over, the steps are worth more
        (AssertionError(), "AssertionError"),
    ],
)
def test_whatever_fails_on_the_way_does_not_stop_the_run(tmp_path, monkeypatch, capsys, error, why):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mixlora.training.between.write_curves", fail)
    short = replace(process.SETTINGS, steps=10)
    assert process.run(tmp_path / "toy.safetensors", short)[0].finished
    warnings = capsys.readouterr().err
    assert f"WARNING: curves not written ({why}); training goes on." in warnings
