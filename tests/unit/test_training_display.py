"""What is shown: bar and lines, curves, CSV, TensorBoard."""

import csv
import fcntl
import importlib.util
import io
import logging
import os
import pty
import struct
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mixlora.training import board, display
from mixlora.training.chart import (
    GRID,
    HEIGHT,
    LEFT,
    PAPER,
    RIGHT,
    TITLE,
    WIDTH,
    Line,
    Mark,
    Panel,
    chart,
    number,
    ticks,
)
from mixlora.training.curves import BLUE, ORANGE, draw, smooth, table
from mixlora.training.display import Display, duration
from mixlora.training.ending import exit_code
from mixlora.training.loop import Progress
from mixlora.training.run_folder import RunFolder
from mixlora.training.settings import TrainingError
from mixlora.training.validation import Validation

_spec = importlib.util.spec_from_file_location("killed_process", Path(__file__).with_name("killed_process.py"))
assert _spec and _spec.loader
process = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(process)


def progress(step, steps=1500):
    return Progress(step, steps, 0.1, 0.5, 1e-4, 5.94)


def results(*means):
    validation = Validation(process.toy.samples(2), 10)
    for place, mean in enumerate(means):
        validation._keep(10 * place, torch.full((8,), mean))
    return validation.results()


def test_the_bar_fits_into_80_columns(monkeypatch):
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    with os.fdopen(its, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        shown, losses = Display(), []
        shown.begin(losses, 1500, torch.device("cpu"))
        with shown.doing("validating"):
            logging.warning("somebody else's words")
        losses.append(0.1)
        shown.step(progress(1))
        shown.close()
        terminal.flush()
        frames = os.read(mine, 100_000).decode().replace("\n", "\r").split("\r")
    os.close(mine)
    frames = [frame.rstrip() for frame in frames if frame.strip()]
    assert any(frame.startswith("validating ") for frame in frames)
    assert any(frame.startswith("somebody else's words") for frame in frames), "on a line of their own"
    assert " 1/1500  loss 0.1000  5.94 images/s  " in frames[-1] and frames[-1].endswith(" left")
    assert 75 < len(frames[-1]) <= 80 and all(len(frame) <= 80 for frame in frames)


def test_without_a_terminal_there_are_lines_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", 1e9)
    shown, losses = Display(), []
    encoded = shown.count("encoding", 3)
    for done in (1, 2, 3):
        encoded(done)
    shown.begin(losses, 4, torch.device("cpu"))
    for step in range(1, 5):
        losses.append(0.1)
        shown.step(progress(step, 4))
    shown.warn("WARNING: look")
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[:2] == ["encoding 1/3", "encoding 3/3"]
    assert [line.split("  ")[0] for line in lines[2:]] == ["step 1/4", "step 4/4"]
    assert lines[3].endswith("  0:00 left") and printed.err == "WARNING: look\n"


def test_a_console_without_a_letter_shows_its_number(monkeypatch):
    """As Windows has it where output goes into a file or a pipe."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])

    def work():
        Display().say("0.png: widok na Łódź, é")
        raise TrainingError("no folder 日")

    assert exit_code(work) == 2
    for stream in streams:
        stream.flush()
    assert streams[0].buffer.getvalue().split() == b"0.png: widok na \\u0141\xf3d\\u017a, \xe9".split()
    assert streams[1].buffer.getvalue().strip() == rb"error: no folder \u65e5"


def test_durations():
    assert [duration(seconds) for seconds in (0, 42.4, 725, 5400)] == ["0:00", "0:42", "12:05", "1:30:00"]


def test_ticks_are_round_and_enclose():
    assert ticks(0, 1500, 8) == [0, 200, 400, 600, 800, 1000, 1200, 1400, 1600]
    assert ticks(0.0231, 0.0477, 5) == pytest.approx([0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05])
    assert [number(value, ticks(0.138, 0.146, 5)) for value in (0.138, 0.14)] == ["0.138", "0.140"]
    assert ticks(3.0, 3.0, 5)[0] <= 3.0 < ticks(3.0, 3.0, 5)[-1]


def test_smoothing_begins_with_the_first_value_and_settles():
    assert smooth([3.0])[0] == 3.0 and smooth([1.0, 3.0])[-1] == 2.0 and smooth([]) == []
    assert smooth([0.0, 1.0] * 500)[-1] == pytest.approx(0.5, abs=0.02)


def test_a_chart_draws_its_lines_where_they_belong():
    line, mark = Line("line", [(0, 1.0), (10, 1.0)], BLUE, 3.0), Mark("best", (5, 1.0), ORANGE)
    picture = chart("title", [Panel("flat", [line], rows=(0.0, 2.0)), Panel("marked", [line], [mark])], "steps", 10)
    pixels = picture.load()
    assert pixels is not None and pixels[0, 0] == PAPER
    drawn = [y for y in range(TITLE + HEIGHT) if pixels[200, y] == BLUE]
    grid = [y for y in range(TITLE + HEIGHT) if pixels[200, y] == GRID]
    assert 2 <= len(drawn) <= 4 and abs(drawn[0] - (grid[0] + grid[-1]) / 2) < 3, "1.0 is half way from 0 to 2"
    middle = (LEFT + WIDTH - RIGHT) // 2
    dot = [y for y in range(picture.height) if pixels[middle, y] == ORANGE]
    assert len(dot) in range(7, 11) and dot[0] > TITLE + HEIGHT


@pytest.mark.parametrize("steps", [0, 1, 2, 300])
def test_curves_of_any_length_can_be_drawn(steps):
    losses = [0.1 + 0.01 * (step % 7) for step in range(steps)]
    alone = draw("monet", losses, [])
    validated = draw("monet", losses, results(0.1, 0.09, 0.095))
    assert validated.height > alone.height and validated.width == alone.width
    colours = {colour for _, colour in validated.getcolors(1 << 20) or []}
    assert {ORANGE, BLUE} <= colours


def test_the_table_has_every_step_and_validation():
    rows = list(csv.DictReader(io.StringIO(table([0.5] * 12, results(0.1, 0.09)))))
    assert [row["step"] for row in rows] == [str(step) for step in range(13)]
    assert [(row["step"], row["validation_adapter"]) for row in rows if row["validation_base"]] == [
        ("0", "0.1"),
        ("10", "0.09"),
    ]


def test_tensorboard_has_the_curves_also_of_a_resumed_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output, settings = tmp_path / "toy.safetensors", replace(process.SETTINGS, steps=9)
    keeping = replace(process.KEEPING, validate_every=4, save_every=3)
    folder = RunFolder(output).path / "tensorboard"

    def fail(at):
        events.step(at)
        if at.step == 5:
            raise SystemExit

    events = board.Board(folder)
    with pytest.raises(SystemExit):
        process.run(output, settings, keeping, on_step=fail, board=events)
    events.close()
    process.run(output, settings, keeping, board=board.Board(folder))
    found = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in found.Scalars("loss/training")] == list(range(1, 10))
    assert [event.step for event in found.Scalars("loss/held-out with adapter")] == [0, 4, 8, 9]


def test_tensorboard_that_is_missing_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        board.need_tensorboard()
