"""Settings, command line, data folder, safetensors bytes, hashes: everything around the loop that needs no ComfyUI."""

import hashlib
import importlib
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from mixlora.training import cli
from mixlora.training.base import Base
from mixlora.training.cli import main
from mixlora.training.files import serialise, write_atomically
from mixlora.training.metadata import describe, with_hashes
from mixlora.training.options import parse, parser, read_prompts
from mixlora.training.run_folder import RunFolder
from mixlora.training.samples import Samples
from mixlora.training.settings import RunSettings, TrainingError, TrainSettings
from safetensors.torch import load, save

TRAINING = Path(cli.__file__).parent
NEEDED = ["--base", "b.safetensors", "--data", "d", "--output", "o.safetensors"]


def test_settings_report_all_problems_at_once():
    wrong: dict[str, Any] = dict(
        rank=0, lr=float("nan"), batch=1.5, resolution=100, schedule="step", channels_last=1
    )  # fmt: skip
    with pytest.raises(TrainingError) as raised:
        TrainSettings(**wrong)
    text = str(raised.value)
    assert all(f"  {name}: expected" in text for name in ("rank", "lr", "batch", "resolution", "schedule"))
    assert "channels_last: expected true or false, found 1" in text
    with pytest.raises(TrainingError, match="keep_tags: no tag is moved without caption_shuffle"):
        TrainSettings(keep_tags=2)
    assert TrainSettings(rank=16).alpha == 16 and TrainSettings(rank=16, alpha=1).alpha == 1


def test_flags_win_over_toml_over_defaults(tmp_path):
    config = tmp_path / "style.toml"
    config.write_text(
        'base = "b.safetensors"\ndata = "d"\noutput = "o.safetensors"\nsteps = 10\nsave-every = 5\nlr = 1\n'
    )
    job = parse([str(config), "--steps", "20", "--device", "cpu"])
    assert (job.settings.steps, job.run.save_every, job.settings.lr, job.settings.rank) == (20, 5, 1, 4)
    assert job.output == tmp_path / "o.safetensors" and job.device == "cpu"
    config.write_text('base = "b.safetensors"\ndata = "d"\noutput = "o.safetensors"\ncache = "kept"\n')
    assert parse([str(config)]).cache == tmp_path / "kept" and job.cache == tmp_path / "mixlora-cache"
    config.write_text("stepz = 10\nresume = 1\n")
    with pytest.raises(TrainingError, match=r"(?s)no option 'stepz', did you mean 'steps'.*resume: expected bool"):
        parse([str(config)])


def test_python_3_10_reads_toml_with_tomli(tmp_path, monkeypatch):
    config = tmp_path / "style.toml"
    config.write_text("steps = 10\n")
    reader = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", reader)
    assert parse([str(config), *NEEDED]).settings.steps == 10
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(TrainingError, match=r"style\.toml: .*pip install tomli, or give the options as flags"):
        parse([str(config), *NEEDED])


def test_the_example_is_a_job_and_the_defaults_that_it_shows_are_the_defaults(root, tmp_path):
    example = (root / "docs" / "style.toml").read_text("utf-8")
    job = parse([str(root / "docs" / "style.toml")])
    assert job.data == root / "docs" / "pictures" and job.settings.trigger == "monet style" and job.run.keep_best
    assert len(job.run.sample_prompts) == 3 and all(job.settings.trigger in prompt for prompt in job.run.sample_prompts)
    shown = re.sub(r"^# ([a-z-]+ = )", r"\1", example, flags=re.MULTILINE)
    assert shown.count("\n") == example.count("\n") != shown.count("# ")
    (tmp_path / "style.toml").write_text(shown)
    whole = parse([str(tmp_path / "style.toml")])
    assert (whole.settings, whole.run, whole.resume) == (job.settings, job.run, job.resume)


def test_all_that_is_wrong_or_contradictory_is_one_message():
    wrong = [
        "--rank",
        "0",
        "--validation",
        "1.5",
        "--keep-best",
        "--sample-prompts",
        "a hill",
        "",
        "--max-minutes",
        "-1",
    ]
    with pytest.raises(TrainingError) as raised:
        parse([*NEEDED, *wrong])
    expected = (
        "rank: expected 1 or more, found 0",
        "validation: expected a share below 1 or a whole number",
        "max_minutes: expected 0 or more",
        "sample_prompts: expected prompts that are not empty",
        "sample_prompts: no picture is painted without sample_every",
    )
    assert all(problem in str(raised.value) for problem in expected)
    with pytest.raises(TrainingError, match="keep_best: needs a validation"):
        parse([*NEEDED, "--keep-best", "--validation", "0"])
    with pytest.raises(TrainingError, match=r"sample_prompts: expected a list of texts, found \(1,\)"):
        RunSettings(sample_every=1, sample_prompts=(1,))  # type: ignore


def test_prompts_may_stand_in_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffa hill\n\n  a sea \n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n")
    assert read_prompts(["a wood", str(tmp_path / "prompts.txt")]) == ["a wood", "a hill", "a sea"]
    with pytest.raises(TrainingError, match=r"empty\.txt has no prompt"):
        read_prompts([str(tmp_path / "empty.txt")])
    with pytest.raises(TrainingError, match=r"none\.txt cannot be read"):
        read_prompts(["none.txt"])
    if sys.version_info >= (3, 11):
        (tmp_path / "style.toml").write_text('sample-every = 9\nsample-prompts = ["prompts.txt", "a wood"]\n')
        job = parse([str(tmp_path / "style.toml"), *NEEDED])
        assert job.run.sample_prompts == (str(tmp_path / "prompts.txt"), "a wood")


def test_help_fits_into_80_columns_and_has_every_option(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = parser().format_help()
    assert all(len(line) <= 80 for line in text.splitlines())
    flags = [f"--{option.name.replace('_', '-')}" for kind in (TrainSettings, RunSettings) for option in fields(kind)]
    assert all(f"  {flag}" in text for flag in flags)


def test_command_line_errors_are_one_message_and_a_code(tmp_path, capsys):
    assert main(["--base", "b.safetensors"]) == 2
    assert "Missing: --data" in capsys.readouterr().err
    assert main([*NEEDED, "--rank", "0"]) == 2
    output = tmp_path / "o.safetensors"
    output.write_bytes(b"precious")
    assert main([*NEEDED, "--output", str(output)]) == 2
    assert "--overwrite" in capsys.readouterr().err and output.read_bytes() == b"precious"
    assert main([*NEEDED, "--output", str(tmp_path / "o.pt")]) == 2
    RunFolder(output).path.mkdir()
    RunFolder(output).state.write_bytes(b"")
    assert main([*NEEDED, "--output", str(output), "--overwrite"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_help_as_a_script_is_complete_and_imports_no_torch():
    script = str(TRAINING / "train.py")
    code = "\n".join((
        "import runpy, sys",
        f"sys.argv = [{script!r}, '--help']",
        "try: runpy.run_path(sys.argv[0], run_name='__main__')",
        "except SystemExit: pass",
        "assert not {'torch', 'comfy', 'numpy'} & sys.modules.keys(), 'slow help'",
    ))  # fmt: skip
    checked = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    for flag in ("--base", "--data", "--output", "--trigger", "--rank", "--resume", "--accumulate", "--save-every"):
        assert flag in checked.stdout


def test_modules_bear_no_standard_library_name():
    names = {path.stem for path in TRAINING.glob("*.py")} - {"__init__"}
    assert not names & sys.stdlib_module_names


SMALL = TrainSettings(resolution=128, trigger="monet style")


def test_serialised_bytes_are_safetensors_and_repeatable():
    tensors = {
        "b": torch.arange(6).view(2, 3).half(), "a": torch.tensor(4.0), "c": torch.arange(3),
        "d": torch.ones(3, 2, dtype=torch.bfloat16).t(),
    }  # fmt: skip
    about = {"z": "ü", "a": "1"}
    data = serialise(tensors, about)
    assert data == serialise(dict(reversed(tensors.items())), dict(reversed(about.items())))
    read = load(data)
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert all(read[name].dtype == tensors[name].dtype for name in tensors)


def test_writing_is_atomic(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_hashes_are_those_others_compute():
    tensors = {f"lora_unet_{i}": torch.randn(300, 1000) for i in range(2)}
    about = {"ss_steps": "10", "ss_network_dim": "4", "modelspec.title": "x"}
    hashed = with_hashes(tensors, about)

    # As A1111 computes them: the first from the file as written, the second before the other metadata came in.
    written = serialise(tensors, hashed)
    header = int.from_bytes(written[:8], "little")
    assert hashed["sshs_model_hash"] == hashlib.sha256(written[8 + header :]).hexdigest()
    assert hashed["modelspec.hash_sha256"] == "0x" + hashed["sshs_model_hash"]
    # The safetensors library orders these tensors the same way; with one metadata entry its order cannot vary.
    once = with_hashes(tensors, {"ss_steps": "10"})
    theirs = save(tensors, {"ss_steps": "10"})
    assert once["sshs_model_hash"] == hashlib.sha256(theirs[8 + int.from_bytes(theirs[:8], "little") :]).hexdigest()
    assert once["sshs_legacy_hash"] == hashlib.sha256(theirs[0x100000:0x110000]).hexdigest()[:8]
    assert with_hashes(tensors, {**about, "modelspec.title": "y"})["sshs_legacy_hash"] == hashed["sshs_legacy_hash"]


def test_metadata_says_what_others_look_for():
    base = Base(unet=torch.nn.Linear(1, 1), alphas_cumprod=torch.ones(1), name="sd15", sha256="ab", legacy_hash="cd")
    samples = Samples(
        latents=torch.zeros(2, 4, 16, 16),
        context=torch.zeros(2, 77, 8),
        captions=["a hill, monet style", "a sea, monet style"],
    )
    about = describe(base, samples, SMALL, title="monet", steps=40)
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in about.items())
    assert about["ss_base_model_version"] == "sd_1.5" and about["ss_v2"] == "False"
    assert about["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert about["modelspec.trigger_phrase"] == "monet style" and about["modelspec.resolution"] == "128x128"
    assert json.loads(about["ss_tag_frequency"]) == {"monet": {"monet style": 2, "a hill": 1, "a sea": 1}}
    assert json.loads(about["ss_bucket_info"])["buckets"]["0"] == {"resolution": [128, 128], "count": 2}
    assert about["ss_enable_bucket"] == "True" and about["ss_flip_aug"] == "False"
    assert about["ss_epoch"] == "80" and about["ss_network_alpha"] == "4.0"
    several = Samples(
        latents=[torch.zeros(4, 16, 16), torch.zeros(4, 8, 24)], context=torch.zeros(2, 77, 8), repeats=[1, 3]
    )
    buckets = describe(base, several, SMALL, title="m", steps=40)
    assert json.loads(buckets["ss_bucket_info"])["buckets"]["1"] == {"resolution": [192, 64], "count": 1}
    assert buckets["ss_num_train_images"] == "4" and buckets["ss_epoch"] == "40"
    assert "modelspec.date" not in about
    assert describe(base, samples, SMALL, title="m", steps=1, date="2025-01-01")["modelspec.date"] == "2025-01-01"
