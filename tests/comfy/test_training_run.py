"""What a run of the trainer shows and keeps: pictures, curves, validation, files on the way; kills, a full disk."""

import csv
import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mixlora.training import cli
from mixlora.training.base import Base
from mixlora.training.files import previous
from mixlora.training.lora import LoRA
from mixlora.training.run_folder import RunFolder
from mixlora.training.sample_pictures import SamplePictures
from mixlora.training.settings import RunSettings
from mixlora.training.stopping import Stop
from mixlora.training.targets import target_layers
from PIL import Image
from safetensors import safe_open

SCRIPT = Path(cli.__file__).with_name("train.py")
SEEN = [
    "--validation", "1", "--validate-every", "2", "--keep-best", "--export-every", "2", "--sample-every", "3",
    "--sample-prompts", "a hill, monet style", "--sample-steps", "2", "--ema", "0.9", "--steps", "5",
]  # fmt: skip


def adapters(output):
    """The LoRA files of a run, by name."""
    return {path.name: path.read_bytes() for path in RunFolder(output).adapters()}


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")  # the date is the one thing that equal runs do not share
    return tmp_path / "out" / "monet.safetensors"


def test_a_run_shows_what_it_does_and_kill_9_changes_nothing(command, output, tmp_path, capsys):
    command += [*SEEN, "--save-every", "1"]
    whole = tmp_path / "whole" / "monet.safetensors"
    assert cli.main([*command, "--output", str(whole)]) == 0
    printed = capsys.readouterr().out
    assert "held out for validation: 1 of 3 pictures" in printed
    assert "validation after step 4: loss" in printed and "the base" in printed
    assert "images/s" in printed and " GB" in printed and "0:00 left" in printed
    expected = {"monet.safetensors", "monet-best.safetensors", "monet-step000002.safetensors"}
    assert expected < adapters(whole).keys()

    with safe_open(RunFolder(whole).after(2), "pt") as file:
        about = file.metadata()
    assert about["ss_steps"] == "2" and about["ss_max_train_steps"] == "5"
    assert about["ss_output_name"] == "monet-step000002" and about["ss_num_train_images"] == "2"

    folder = RunFolder(whole).path
    pictures = {path.name for path in (folder / "samples").iterdir()}
    assert pictures == {f"step-{step:06}-1.png" for step in (0, 3, 5)}
    assert Image.open(folder / "samples" / "step-000003-1.png").size == (64, 64)
    assert Image.open(folder / "samples.png").height > 3 * 256 and Image.open(folder / "curves.png").height > 500
    rows = list(csv.DictReader((folder / "losses.csv").open()))
    assert [row["step"] for row in rows] == list("012345")
    assert [row["step"] for row in rows if row["validation_adapter"]] == list("0245")
    assert rows[0]["validation_adapter"] == rows[0]["validation_base"]

    running = subprocess.Popen(
        [sys.executable, str(SCRIPT), *command], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout
    for line in running.stdout:
        if line.startswith("validation after step 2"):  # step 1 is saved, step 2 is not or just about to be
            os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert cli.main([*command, "--resume"]) == 0
    assert "continuing after step " in capsys.readouterr().out
    assert adapters(output) == adapters(whole)


def test_a_full_disk_ends_with_a_message_and_the_saved_run_goes_on_later(command, output, capsys, monkeypatch):
    folder, asked = RunFolder(output), itertools.count()
    assert cli.main([*command, "--steps", "4", "--max-minutes", "1e-9"]) == 124
    assert "before the first step (max_minutes are over)" in capsys.readouterr().out and not folder.state.exists()
    with monkeypatch.context() as later:
        later.setattr(Stop, "time_is_up", property(lambda stop: next(asked) > 2))
        assert cli.main([*command, "--steps", "4"]) == 124
    assert "after step 1 of 4 (max_minutes are over)" in capsys.readouterr().out
    former = folder.state.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # less than a LoRA file takes, and no signal in Python
    try:
        assert cli.main([*command, "--steps", "4", "--resume", "--save-every", "2"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert "WARNING: Step 2 could not be saved" in said and "make room, then give --resume" in said
    assert folder.state.read_bytes() == former and not folder.adapters()
    assert cli.main([*command, "--steps", "4", "--resume"]) == 0

    replaced = output.read_bytes()
    assert cli.main([*command, "--steps", "4"]) == 2
    assert "give --overwrite to replace" in capsys.readouterr().err and output.read_bytes() == replaced
    assert cli.main([*command, "--steps", "4", "--seed", "1", "--overwrite"]) == 0
    assert previous(output).read_bytes() == replaced != output.read_bytes()


def test_sample_pictures_are_repeatable_and_show_the_adapter(sd15, clip, tmp_path):
    """Through ComfyUI's sampler and the very layers that are trained; nothing random outside is touched."""

    class Decode:
        """Stands in for a VAE."""

        def decode(self, latent):
            return latent.movedim(1, -1)[..., :3].repeat_interleave(8, 1).repeat_interleave(8, 2) / 8 + 0.5

    base = Base.from_comfy(sd15)
    settings = RunSettings(sample_every=1, sample_steps=3, sample_seed=5)
    painter = SamplePictures(["a hill", "a sea"], _Wide(clip), Decode(), settings, tmp_path, side=64)
    lora = LoRA(target_layers(base.unet), 2, 2.0)
    before = torch.get_rng_state()
    with lora.attached(base.unet):
        assert painter.paint(base, 0, lambda: False) and not painter.due(0, 9)
        assert painter.paint(base, 1, lambda: False)
        with torch.no_grad():
            lora.flat.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
        assert painter.paint(base, 2, lambda: False)
        assert not painter.paint(base, 3, lambda: True) and painter.due(3, 9)
    assert torch.equal(torch.get_rng_state(), before)
    plain, again, adapted = ((tmp_path / "samples" / f"step-00000{n}-1.png").read_bytes() for n in range(3))
    assert plain == again != adapted
    assert plain != (tmp_path / "samples" / "step-000000-2.png").read_bytes()
    painter.clear()
    assert not list((tmp_path / "samples").iterdir()) and not painter.sheet.exists()


class _Wide:
    """The tiny text encoder, its texts repeated to the width that the UNet reads."""

    def __init__(self, clip):
        self.tokenize, self._clip = clip.tokenize, clip

    def encode_from_tokens_scheduled(self, tokens, **options):
        [[text, more]] = self._clip.encode_from_tokens_scheduled(tokens, **options)
        return [[text.repeat(1, 1, 12), more]]


def test_a_second_run_on_the_output_is_refused(command, output, capsys):
    with RunFolder(output).locked():
        assert cli.main(command) == 2
    assert "Another run is writing" in capsys.readouterr().err
