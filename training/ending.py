"""How a call of a trainer ends: its exit code, and what is said of runs that fail, break off, stop or finish."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..standalone import show_all_letters
from .run_folder import RunFolder
from .settings import TrainingError, TrainSettings

if TYPE_CHECKING:
    from .between import Between
    from .checkpoint import Autosave
    from .display import Display
    from .distribution import World
    from .options import Job
    from .stopping import Stop


def exit_code(work: Callable[[], int]) -> int:
    """What `work` answers, or, where it fails, the exit code of that failure, which is printed."""
    show_all_letters()
    try:
        return work()
    except TrainingError as error:
        return _failed(error, 2)
    except (OSError, MemoryError) as error:
        return _failed(error, 1)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        return _failed(error, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


@contextmanager
def memory_advice(settings: TrainSettings, folder: RunFolder) -> Iterator[None]:
    """Adds to an error of too little memory in the block what these settings can do about it; raises MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        lower = f"--resolution (now {settings.resolution})"
        if settings.batch > 1:
            lower = f"--batch (now {settings.batch}) and raise --accumulate as much, or lower {lower}"
        advice = f"Lower {lower}."
        if settings.dtype == "fp32":
            advice += " --dtype bf16 takes about half of the memory."
        if folder.state.exists():
            advice = (
                f"The run is saved in {folder.path}: --resume continues it once more memory is free. With other "
                f"settings it starts anew, under another --output. {advice}"
            )
        raise MemoryError(f"{error}\n{advice}") from error


@contextmanager
def seen_off(watch: Between) -> Iterator[None]:
    """Ends a watch's display after the block; a step in it that is not finite leaves the adapter before it as a file.

    Raises that step's NonFiniteLossError with what can be done about it.
    """
    from .run import NonFiniteLossError

    try:
        yield
    except NonFiniteLossError as error:
        if not (path := watch.rescue()):
            raise
        raise NonFiniteLossError(
            f"{error} The adapter before that step is in {path}. --resume would come to the same step, so what is to "
            "be trained otherwise starts anew, under another --output."
        ) from error
    finally:
        watch.close()
        watch.draw()


def conclude(
    trained: Any, job: Job, stop: Stop, world: World, folder: RunFolder, display: Display, watch: Between,
    autosave: Autosave, save: Callable[[], Any],
) -> int:  # fmt: skip
    """Says how a run ended and, where it is finished or to be, saves what it trained; the exit code."""
    steps = job.settings.steps
    if not trained.finished and not job.finish:
        reason, code = (stop.reason, stop.exit_code) if stop() else ("so was another process", 130)
        if trained.steps:
            saved = f"saved in {folder.path}. --resume continues, --finish writes the LoRA file as it is."
            display.say(f"stopped after step {trained.steps} of {steps} ({reason}); {saved}")
        else:
            display.say(f"stopped before the first step ({reason}); there is nothing to save.")
        return code
    if not world.main:
        return 0
    again = "--finish" if job.finish else "--resume"
    try:
        display.say(f"{save()}" if trained.finished else f"ended after step {trained.steps} of {steps}: {save()}")
    except OSError as error:
        raise OSError(f"{error}. The trained run stays in {folder.path}: make room, then give {again}.") from error
    autosave.remove()
    _sum_up(watch, folder, display)
    return 0


def _sum_up(watch: Between, folder: RunFolder, display: Display) -> None:
    """Says which adapter was the best, and where to look."""
    from .validation import percent

    results = watch.results()
    best = next((result for result in reversed(results) if result.is_best), None)
    if best and best is results[-1]:
        display.say(f"its last validation was the best: loss {percent(best)}")
    elif best:
        kept = f"it is in {folder.best}" if folder.best.exists() else "--keep-best would keep it"
        display.say(f"its best validation was after step {best.step}: loss {percent(best)}; {kept}")
    display.say(f"curves: {folder.path / 'curves.png'}")


def _failed(error: BaseException, code: int) -> int:
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    process = f" in process {rank} of {size}" if size != "1" else ""
    print(f"error{process}: {error}", file=sys.stderr)
    return code


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether it is torch's error for that; importing torch here would slow down --help."""
    return type(error).__name__ == "OutOfMemoryError"
