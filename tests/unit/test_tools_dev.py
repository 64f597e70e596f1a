"""The developer's commands: set-up is resumable, and Makefile, CI and README name commands that exist."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
from mixlora import standalone
from mixlora.tools import dev, environment, links, processes


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


def test_ctrl_c_during_set_up_is_one_line(monkeypatch, capsys):
    def setup(development):
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "setup", setup)
    assert dev.main(["lint"]) == 130
    assert capsys.readouterr().err.strip() == "Set-up was interrupted. Run it again: what is already done is kept."


def test_one_set_up_at_a_time(monkeypatch, tmp_path, capsys):
    def waits(seconds):
        raise TimeoutError

    def second():
        monkeypatch.setattr(environment, "make_venv", lambda: pytest.fail("two at once"))
        monkeypatch.setattr(processes.time, "sleep", waits)
        environment.setup(development=False)

    monkeypatch.setattr(standalone, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "make_venv", second)
    with pytest.raises(TimeoutError):
        environment.setup(development=False)
    assert capsys.readouterr().out == "Another set-up is running; waiting ...\n"
    assert [path.name for path in tmp_path.iterdir()] == [".setup.lock"]


@pytest.mark.parametrize(("system", "symlinks"), [("posix", True), ("nt", False)])
def test_the_environment_links_its_python_where_it_can(monkeypatch, tmp_path, system, symlinks):
    """A copied interpreter does not find its libraries on every system; Windows has links only for some."""
    made = []

    def builder(**options):
        return SimpleNamespace(create=lambda folder: made.append(options["symlinks"]))

    monkeypatch.setattr(environment, "PYTHON", tmp_path / "python")
    monkeypatch.setattr(environment, "os", SimpleNamespace(name=system))
    monkeypatch.setattr(environment.venv, "EnvBuilder", builder)
    environment.make_venv()
    assert made == [symlinks]


def test_clean_removes_what_the_commands_made_and_nothing_else(monkeypatch, tmp_path):
    made = ["mixlora.egg-info", *(f".{name}" for name in ("venv", "types", "pytest_cache", "ruff_cache", "hypothesis"))]
    for name in [*made, "evaluation_output", "tools"]:
        (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / ".setup.lock").touch()
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "pack_module", lambda name: importlib.import_module(f"mixlora.{name}"))
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(standalone, "ROOT", tmp_path)
    assert dev.main(["clean"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation_output", "tools"]


def test_what_clean_removes_is_ignored_by_git(root):
    patterns = [line.strip("/") for line in (root / ".gitignore").read_text("utf-8").splitlines()]
    assert [name for name in dev.MADE if not any(fnmatch(name, pattern) for pattern in patterns)] == []


@pytest.mark.parametrize(("folder", "script"), [(".", "training/train.py"), ("training", "train.py")])
def test_a_link_in_custom_nodes_is_a_place_in_that_comfyui(root, tmp_path, folder, script):
    """Python knows where it runs only without links; the shell knows the way that its user came."""
    clone, around = tmp_path / "clones" / "any name", tmp_path / "ComfyUI"
    (clone / "training").mkdir(parents=True)
    for name in ("standalone.py", "training/train.py"):
        shutil.copy(root / name, clone / name)
    for name in ("__init__.py", "training/__init__.py"):
        (clone / name).touch()
    shows = "from .. import standalone as s\ndef main(): print(s.find_comfyui(), s.ROOT, sep='\\n')\n"
    (clone / "training" / "cli.py").write_text(shows, "utf-8")
    (around / "comfy").mkdir(parents=True)
    for name in ("main.py", "comfy/cli_args.py"):
        (around / name).touch()
    link = around / "custom_nodes" / "mixlora"
    links.link_folder(link, clone)

    def run(shell):
        variables = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
        command = [sys.executable, script]
        return subprocess.run(
            command, cwd=link / folder, env={**variables, "PWD": str(shell)}, capture_output=True, text=True
        )

    done = run(link / folder)
    assert done.stdout.splitlines() == [str(around), str(link)], done.stderr
    if sys.platform != "win32":  # whose Python keeps the link
        assert "No ComfyUI" in run(tmp_path).stderr, "a variable that is not about this folder"
