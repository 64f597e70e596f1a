"""The developer's commands: set-up is resumable, and Makefile, CI and README name commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from mixlora import standalone
from mixlora.tools import dev, environment


def test_help_runs_on_a_bare_python(root):
    # -S leaves out site-packages, -I the environment: what is left is the standard library.
    command = [sys.executable, "-I", "-S", str(root / "tools" / "dev.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in dev.COMMANDS)


def test_set_up_needs_only_the_standard_library(root):
    code = f"import sys; sys.path.insert(0, {str(root / 'tools')!r}); import dev; dev.pack_module('tools.environment')"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_command_and_stray_arguments_are_refused(capsys):
    assert dev.main(["paint"]) == 2
    assert "Unknown command 'paint'" in capsys.readouterr().err
    assert dev.main(["setup", "--fast"]) == 2
    assert "takes no arguments" in capsys.readouterr().err


def test_make_has_the_same_commands(root):
    targets = re.search(r"^TARGETS := (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    assert {*targets.group(1).split(), "help"} == set(dev.COMMANDS)


def test_ci_calls_exactly_make_test(root):
    lines = (root / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if re.match(r"(make|python)\b", line)] == ["make test"]


def test_readme_names_only_commands_that_exist(root):
    text = (root / "README.md").read_text("utf-8") + (root / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"(?:tools/dev\.py|`make|^make) ([a-z-]+)", text, re.MULTILINE))
    assert {"setup", "demo", "test", "standin-report"} <= named <= set(dev.COMMANDS)


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """The arguments of every pip run; `fail` makes the next one break off."""

    class Runs(list):
        fail = False

    runs = Runs()

    def run(command, check):
        if runs.fail:
            runs.fail = False
            raise subprocess.CalledProcessError(1, command)
        runs.append(command)

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(environment, "VENV", tmp_path)
    return runs


def test_installs_once(pip):
    environment.install("runtime", ["torch"])
    environment.install("runtime", ["torch"])
    assert len(pip) == 1
    assert pip[0][-1] == "torch"


def test_installs_again_after_a_failure_and_after_a_change(pip, tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy")
    pip.fail = True
    with pytest.raises(subprocess.CalledProcessError):
        environment.install("runtime", [], [requirements])
    environment.install("runtime", [], [requirements])
    requirements.write_text("numpy>=2")
    environment.install("runtime", [], [requirements])
    assert len(pip) == 2


def test_find_comfyui(monkeypatch, tmp_path):
    def comfyui(folder):
        (folder / "comfy").mkdir(parents=True)
        (folder / "main.py").touch()
        (folder / "comfy" / "cli_args.py").touch()
        return folder

    pack = tmp_path / "around" / "custom_nodes" / "any name"
    monkeypatch.setattr(standalone, "ROOT", pack)
    monkeypatch.setattr(standalone, "FETCHED", pack / ".comfyui")
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    with pytest.raises(FileNotFoundError, match="make setup"):
        standalone.find_comfyui()
    fetched = comfyui(pack / ".comfyui")
    assert standalone.find_comfyui() == fetched
    own = comfyui(tmp_path / "own")
    monkeypatch.setenv("COMFYUI_PATH", str(own))
    assert standalone.find_comfyui() == own
    around = comfyui(tmp_path / "around")
    assert standalone.find_comfyui() == around, "a pack in custom_nodes belongs to that ComfyUI"
