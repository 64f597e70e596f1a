"""The trainer as its user runs it: a real checkpoint file, a folder, a command, Ctrl-C, --resume."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mixlora.training import cli
from mixlora.training.base import choose_dtype
from mixlora.training.run_folder import RunFolder
from mixlora.training.stopping import Stop
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SCRIPT = Path(cli.__file__).with_name("train.py")


def test_train_interrupt_resume(command, tmp_path, capsys):
    folder = RunFolder(tmp_path / "out" / "monet.safetensors")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(
        [sys.executable, str(SCRIPT), *command], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert running.stdout
    lines = []
    for line in running.stdout:
        lines.append(line)
        if line.startswith("step ") and not any(earlier.startswith("step ") for earlier in lines[:-1]):
            running.send_signal(signal.SIGINT)  # once: the second one would not wait for the save
    output = "".join(lines)
    assert running.wait() == 130, output
    assert "0.png: a hill (0), monet style" in output and "training on cpu in float32: 16 steps of 1 samples" in output
    assert "(SIGINT)" in output and "--resume continues, --finish writes" in output and folder.state.is_file()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"monet.run", "mixlora-cache"}
    assert "latents 0 read, 3 made, texts 0 read, 4 made" in output

    assert cli.main(command) == 2  # would lose the saved run
    assert "--resume" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "latents 3 read, 0 made, texts 4 read, 0 made" in printed
    assert "step 16/16" in printed and "56 of 56 layers matched" in printed
    assert {path.name for path in folder.path.iterdir()} == {"curves.png", "losses.csv", "lock"}
    with safe_open(tmp_path / "out" / "monet.safetensors", "pt") as file:
        about = file.metadata()
    assert about["ss_sd_model_name"] == "tiny" and len(about["ss_new_sd_model_hash"]) == 64
    assert about["ss_steps"] == "16" and about["modelspec.trigger_phrase"] == "monet style"


@pytest.fixture
def stop_after(monkeypatch):
    """Says after how many steps the time of --max-minutes is up; a step of `command` asks twice."""

    def limit(steps):
        asked = itertools.count()
        monkeypatch.setattr(Stop, "time_is_up", property(lambda stop: next(asked) > 2 * steps))

    return limit


def test_finish_makes_a_file_of_a_run_as_it_is(command, tmp_path, capsys, stop_after, monkeypatch):
    folder = RunFolder(tmp_path / "out" / "monet.safetensors")
    assert cli.main([*command, "--finish"]) == 2
    assert "holds no unfinished run" in capsys.readouterr().err
    stop_after(3)
    assert cli.main([*command, "--ema", "0.9", "--max-minutes", "60"]) == 124
    assert "stopped after step 3 of 16 (max_minutes are over)" in capsys.readouterr().out
    monkeypatch.undo()
    assert cli.main([*command, "--finish"]) == 2  # validated as by --resume
    assert "ema: saved 0.9, now 0.0" in capsys.readouterr().err and not folder.output.exists()
    assert cli.main([*command, "--ema", "0.9", "--finish"]) == 0
    assert "ended after step 3 of 16: " in capsys.readouterr().out
    with safe_open(folder.output, "pt") as file:
        assert file.metadata()["ss_steps"] == "3" and file.metadata()["ss_max_train_steps"] == "16"
    assert not folder.state.exists()


def test_clip_skip_reaches_captions_prompts_and_metadata(command, tmp_path, capsys):
    skipped = [*command, "--steps", "1", "--clip-skip", "2"]
    assert cli.main(skipped) == 0
    assert "texts 0 read, 4 made" in capsys.readouterr().out
    with safe_open(tmp_path / "out" / "monet.safetensors", "pt") as file:
        assert file.metadata()["ss_clip_skip"] == "2"
    assert cli.main([*skipped, "--overwrite", "--clip-skip", "1"]) == 0
    assert "latents 3 read, 0 made, texts 0 read, 4 made" in capsys.readouterr().out
    with safe_open(tmp_path / "out" / "monet.safetensors", "pt") as file:
        assert "ss_clip_skip" not in file.metadata()


def test_bad_bases_are_one_message(command, tmp_path, capsys, checkpoint):
    def error(path):
        assert cli.main([*command, "--base", str(path)]) == 2
        return capsys.readouterr().err

    torn = tmp_path / "torn.safetensors"
    with open(checkpoint, "rb") as file:
        torn.write_bytes(file.read(5000))
    assert "torn.safetensors: ComfyUI cannot load it" in error(torn)
    assert "expected an existing .safetensors checkpoint" in error(tmp_path / "none.safetensors")
    lone = tmp_path / "lone.safetensors"
    save_file({"weight": torch.ones(2)}, lone)
    assert "lone.safetensors: " in error(lone)
    assert not list((tmp_path / "out").iterdir())


def test_two_processes_write_the_same_adapter_as_one(command, tmp_path, capsys):
    """Started as `accelerate launch` starts several on GPUs; only the first one prints and writes files."""
    pytest.importorskip("accelerate")
    options = ["--steps", "2", "--accumulate", "3", "--validation", "0"]
    two = tmp_path / "two" / "monet.safetensors"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    done = subprocess.run(
        [*launch, *command, *options, "--output", str(two)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 steps of 3 samples (1 x 3), seed 0, shared by 2 processes" in done.stdout
    assert done.stdout.count("step 2/2") == 1 and done.stdout.count("56 of 56 layers matched") == 1
    assert cli.main([*command, *options]) == 0
    pair, one = (load_file(path) for path in (two, tmp_path / "out" / "monet.safetensors"))
    assert pair.keys() == one.keys()
    for name, tensor in one.items():
        assert (pair[name].float() - tensor.float()).norm() <= 1e-3 * tensor.float().norm()  # written as fp16


@pytest.mark.parametrize("native", [False, True])
def test_the_number_format_follows_the_processor(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: native, raising=False)
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == (torch.bfloat16 if native else torch.float32)
    assert choose_dtype("fp32", cpu) == torch.float32


@pytest.mark.parametrize(
    "name, major, chosen",
    [
        ("NVIDIA GeForce GTX 1660 SUPER", 7, torch.float32),
        ("NVIDIA T500", 7, torch.float32),
        ("NVIDIA GeForce RTX 2070", 7, torch.float16),
        ("NVIDIA GeForce RTX 3060", 8, torch.bfloat16),
    ],
)
def test_the_number_format_of_known_cuda_cards(monkeypatch, name, major, chosen):
    """Through ComfyUI's own list of cards whose fp16 is broken; how much memory a card has plays no part."""
    import comfy.model_management as management

    properties = SimpleNamespace(name=name, major=major)
    monkeypatch.setattr(management, "cpu_state", management.CPUState.GPU)
    monkeypatch.setattr(management, "maximum_vram_for_weights", pytest.fail)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_dtype("auto", torch.device("cuda", 0)) == chosen
