"""Nothing is lost: kills, spoilt states, full disks, a second run on the same output, time limits, hang-ups."""

import importlib.util
import os
import random
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from mixlora.training.checkpoint import Autosave, CorruptStateError, State
from mixlora.training.files import previous, write_atomically
from mixlora.training.run_folder import RunFolder
from mixlora.training.settings import TrainingError
from mixlora.training.stopping import TIME_IS_UP, Stop

SCRIPT = Path(__file__).with_name("killed_process.py")
_spec = importlib.util.spec_from_file_location("killed_process", SCRIPT)
assert _spec and _spec.loader
process = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(process)


def content(folder):
    """Every LoRA file and the state by name; curves and locks are not what must be equal."""
    run = RunFolder(folder / "toy.safetensors")
    return {path.name: path.read_bytes() for path in [*folder.glob("*.safetensors"), run.state]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("whole")
    assert process.run(folder / "toy.safetensors")[0].finished
    left = content(folder)
    assert {"toy.safetensors", "toy-best.safetensors", "toy-step000010.safetensors", "training-state"} <= left.keys()
    return left


def test_kill_9_at_any_moment_loses_nothing_but_the_step(tmp_path, whole):
    source, reached = random.Random(0), 0
    for _ in range(3):
        running = subprocess.Popen([sys.executable, str(SCRIPT), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert running.stdout
        steps, after = [], source.randint(1, 18)
        for line in running.stdout:
            steps += [int(line)] if line.strip().isdecimal() else []
            if len(steps) == after:
                os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert steps[0] in (reached, reached + 1, reached + 2), "went on from its last save, or that of a step before"
        reached = steps[-1]
        state = Autosave(RunFolder(tmp_path / "toy.safetensors").state).load(_recipe(tmp_path))
        assert state.step >= reached - 1 and torch.isfinite(state.tensors["flat"]).all()
    assert process.run(tmp_path / "toy.safetensors")[0].finished
    assert content(tmp_path) == whole
    assert not list(tmp_path.rglob("*.tmp")), "half-written files of the killed ones"


def _recipe(folder):
    import json

    from safetensors import safe_open

    state = RunFolder(folder / "toy.safetensors").state
    with safe_open(state if state.exists() else previous(state), "pt") as file:
        return json.loads(file.metadata()["recipe"])


@pytest.mark.parametrize("seed", range(3))
def test_resuming_at_a_random_step_is_the_uninterrupted_run_to_the_byte(tmp_path, whole, seed):
    """With a moving average, validation, the best adapter and adapters on the way; also stopped within a validation."""
    source = random.Random(seed)
    for _ in range(3):
        left = source.randint(1, 80)  # questions: two in a step, eight in a validation

        def stop():
            nonlocal left
            left -= 1
            return left < 0

        process.run(tmp_path / "toy.safetensors", keeping=replace(process.KEEPING, save_every=0), stop=stop)
    trained, validation = process.run(tmp_path / "toy.safetensors")
    assert trained.finished and content(tmp_path) == whole
    assert validation.steps == [*range(0, 60, 13), 60]


def _saved(path, steps=(3, 4)):
    for step in steps:
        State(step, {"flat": torch.full((4,), float(step))}, {"lr": 1}).save(path)


@pytest.mark.parametrize("spoil", ["truncated", "flipped", "empty", "missing"])
def test_a_spoilt_state_falls_back_to_the_one_before_and_says_so(tmp_path, spoil):
    path, said = tmp_path / "state", []
    _saved(path)
    data = bytearray(path.read_bytes())
    if spoil == "flipped":
        data[-3] ^= 1  # what the safetensors format cannot see
    path.write_bytes({"truncated": data[:50], "flipped": data, "empty": b"", "missing": b""}[spoil])
    if spoil == "missing":
        path.unlink()  # killed between the two renames
    autosave = Autosave(path, say=said.append)
    assert autosave.exists()
    state = autosave.load({"lr": 1})
    assert state.step == 3 and torch.equal(state.tensors["flat"], torch.full((4,), 3.0))
    assert "state.previous, after step 3" in said[0]
    assert {"truncated": "not a readable", "flipped": "SHA-256 differs", "empty": "not a readable"}.get(
        spoil, ""
    ) in said[0]


def test_two_spoilt_states_are_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "state"
    _saved(path)
    path.write_bytes(b"{}")
    previous(path).write_bytes(b"")
    with pytest.raises(
        CorruptStateError, match=r"(?s)state: not.*state.previous: not.*delete these files to start anew"
    ):
        Autosave(path).load({"lr": 1})


def test_another_runs_state_is_no_reason_to_take_an_older_one(tmp_path):
    path = tmp_path / "state"
    _saved(path)
    with pytest.raises(TrainingError, match="lr: saved 1, now 2"):
        Autosave(path).load({"lr": 2})


def test_a_full_disk_keeps_both_files(tmp_path):
    """RLIMIT_FSIZE makes the operating system itself refuse the write in the middle of the file."""
    path = tmp_path / "file"
    for data in (b"first", b"second"):
        write_atomically(path, data, keep_previous=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError):
            write_atomically(path, bytes(20_000), keep_previous=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (path.read_bytes(), previous(path).read_bytes()) == (b"second", b"first")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "file.previous"]


def test_a_second_run_on_one_output_is_refused_until_the_first_process_is_gone(tmp_path):
    folder = RunFolder(tmp_path / "style.safetensors")
    code = (
        "import sys; from pathlib import Path; from mixlora.training.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    with pytest.raises(TrainingError, match=r"Another run is writing .*style\.safetensors"), folder.locked():
        pass
    with RunFolder(tmp_path / "other.safetensors").locked():  # beside it is fine
        pass
    holder.kill()
    holder.wait()
    assert (folder.path / "lock").exists()  # left over, and no obstacle
    with folder.locked():
        pass
    assert not folder.path.exists()


def test_an_output_that_cannot_be_written_is_found_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(TrainingError, match=r"--output .*cannot write there"),
        RunFolder(tmp_path / "file" / "o").locked(),
    ):
        pass

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(TrainingError, match="Read-only file system"), RunFolder(tmp_path / "o.safetensors").locked():
        pass


def test_only_half_written_files_of_this_run_are_swept_away(tmp_path):
    folder = RunFolder(tmp_path / "style.safetensors")
    folder.path.mkdir()
    gone = [tmp_path / ".style.safetensors.12.tmp", tmp_path / ".style-step000010.safetensors.12.tmp"]
    gone.append(folder.path / ".training-state.12.tmp")
    stays = [tmp_path / ".style2.safetensors.12.tmp", tmp_path / "style.safetensors", folder.path / "training-state"]
    for path in [*gone, *stays]:
        path.write_bytes(b"")
    with folder.locked():
        assert not any(path.exists() for path in gone) and all(path.exists() for path in stays)


def test_the_time_limit_stops_like_a_signal():
    assert not Stop(after_minutes=60)()
    stop = Stop(after_minutes=1, since=-60.0)
    assert stop() and stop.time_is_up and stop.exit_code == TIME_IS_UP and "max_minutes" in stop.reason
    assert not Stop()()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_closed_terminal_stops_unless_the_run_was_started_with_nohup():
    with Stop() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop() and stop.exit_code == 128 + signal.SIGHUP and stop.reason == "SIGHUP"
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, former)


def test_what_fails_between_steps_is_saved_too(tmp_path):
    def broken_terminal(at):
        if at.step == 5:
            raise BrokenPipeError(32, "Broken pipe")

    quiet = replace(process.KEEPING, save_every=0)
    with pytest.raises(BrokenPipeError):
        process.run(tmp_path / "toy.safetensors", keeping=quiet, on_step=broken_terminal)
    assert Autosave(RunFolder(tmp_path / "toy.safetensors").state).load(_recipe(tmp_path)).step == 5


def test_the_other_adapters_of_an_earlier_run_are_kept_once_there_is_a_step_to_replace_them(tmp_path, capsys):
    names = ["toy-best.safetensors", "toy-step000001.safetensors", "toy-step000990.safetensors"]
    for name in names:
        (tmp_path / name).write_bytes(b"earlier")
    every, settings = replace(process.KEEPING, export_every=1, validate_every=1), replace(process.SETTINGS, steps=4)
    process.run(tmp_path / "toy.safetensors", settings, every, stop=lambda: True)
    assert all((tmp_path / name).read_bytes() == b"earlier" for name in names)
    capsys.readouterr()

    done = []
    for last in (2, 4):  # the second session finds files of the first one, which is the same run
        enough = partial(lambda last: len(done) >= last, last)
        process.run(tmp_path / "toy.safetensors", settings, every, stop=enough, on_step=done.append)
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.previous")}
    assert kept == {f"{name}.previous": b"earlier" for name in names}
    assert capsys.readouterr().out.count("of an earlier run, kept as .previous: " + ", ".join(names)) == 1
    assert RunFolder(tmp_path / "toy.safetensors").after(1).exists()
