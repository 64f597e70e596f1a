"""Other processes: Ctrl-C is left to the one that runs, and of two at the same work one waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from mixlora.tools import processes


def bare(root, code):
    """The command that runs `code` with `dev` on a bare Python."""
    start = f"import sys; sys.path.insert(0, {str(root / 'tools')!r}); import dev"
    return [sys.executable, "-I", "-S", "-c", f"{start}\n{code}"]


SAVES_FIRST = """
import signal, sys, time
def save(*_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(1)
    print("saved", flush=True)
    sys.exit(7)
signal.signal(signal.SIGINT, save)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no Ctrl-C to one group of processes")
@pytest.mark.parametrize(("child", "output", "status"), [
    (SAVES_FIRST, "ready\nsaved\n", 7),
    ("import time; print('ready', flush=True); time.sleep(60)", "ready\n", 130),
])  # fmt: skip
def test_ctrl_c_is_the_commands_to_answer(root, child, output, status):
    code = "processes = dev.pack_module('tools.processes'); "
    code += f"sys.exit(processes.run([sys.executable, '-c', {child!r}]))"
    with subprocess.Popen(bare(root, code), stdout=subprocess.PIPE, text=True, start_new_session=True) as parent:
        assert parent.stdout is not None
        said = parent.stdout.readline()
        for _ in range(2):  # people press it again
            os.killpg(parent.pid, signal.SIGINT)
            time.sleep(0.3)
        assert (said + parent.stdout.read(), parent.wait(10)) == (output, status)


HOLDS = """
import pathlib, time
with dev.pack_module("tools.processes").alone(pathlib.Path({file!r}), ""):
    print("held", flush=True)
    time.sleep(1)
    print("done", flush=True)
"""


def test_the_second_waits_for_the_first(root, tmp_path, capsys):
    file = tmp_path / "lock"
    with subprocess.Popen(bare(root, HOLDS.format(file=str(file))), stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with processes.alone(file, "waiting"):
            assert first.stdout.readline() == "done\n"
    assert capsys.readouterr().out == "waiting\n"
    with processes.alone(file, "waiting"):
        pass
    assert capsys.readouterr().out == "", "nobody holds it any more"
