"""What a run of the command line does between its steps: validation, sample pictures, files on the way, curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .curves import write_curves
from .display import Display
from .export import Exported
from .lora import LoRA
from .run_folder import RunFolder
from .settings import RunSettings
from .validation import Result, Validation
from .watching import Running

if TYPE_CHECKING:
    from .board import Board
    from .loop import Progress
    from .sample_pictures import SamplePictures


class Between:
    """A Watch. All that it does can be done again or caught up on by a resumed run, and none of it stops the run."""

    def __init__(
        self,
        folder: RunFolder,
        settings: RunSettings,
        display: Display,
        stop: Callable[[], bool],
        export: Callable[[LoRA, Path, int], Exported],
        validation: Validation | None = None,
        pictures: SamplePictures | None = None,
        board: Board | None = None,
    ) -> None:
        """`export` writes a LoRA that has seen so many steps."""
        self._folder, self._settings, self._display, self._stop, self._export = folder, settings, display, stop, export
        self._validation, self._pictures, self._board = validation, pictures, board
        self._run: Running | None = None
        self._fresh = False

    def __call__(self, run: Running) -> None:
        """Does what is due. If asked to stop, leaves it to the resumed run, which calls this with the same step."""
        if self._run is None:
            self._begin(run)
        if self._fresh and run.step == 1:  # not before there is a step that could replace them
            self._set_aside()
        if self._stop():
            return
        step, last = run.step, run.settings.steps
        validated = self._validate(run)
        self._paint(run)
        every = self._settings.export_every
        if every and step and step % every == 0 and step < last:
            self._write(run, self._folder.after(step))
        if validated or step % self._settings.validate_every == 0:
            self.draw()

    def on_step(self, at: Progress) -> None:
        """Shows a step."""
        self._display.step(at)
        if self._board:
            self._board.step(at)

    def tensors(self) -> Mapping[str, Tensor]:
        """See Watch."""
        return self._validation.tensors() if self._validation else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See Watch."""
        if self._validation:
            self._validation.restore(tensors)

    def results(self) -> list[Result]:
        """All validations so far."""
        return self._validation.results() if self._validation else []

    def draw(self) -> None:
        """Writes the curves, if there is a step to show."""
        if self._run and self._run.step:
            with self._warning("curves"):
                write_curves(self._folder.path, self._folder.output.stem, self._run.losses, self.results())

    def rescue(self) -> Path | None:
        """Writes the adapter of a run that cannot go on, after its last whole step; None if there is no such file."""
        run = self._run
        if not run or not run.step:
            return None
        path = self._folder.after(run.step)
        self._write(run, path)
        return path if path.exists() else None

    def close(self) -> None:
        """Ends the display and writes what is left."""
        self._display.close()
        if self._board:
            self._board.close()

    def _begin(self, run: Running) -> None:
        self._run, self._fresh = run, run.step == 0
        if run.step:
            self._display.say(f"continuing after step {run.step} of {run.settings.steps}")
        elif self._pictures:
            self._pictures.clear()
        if self._board:
            self._board.begin(run.step)
        self._display.begin(run.losses, run.settings.steps, run.base.device)

    def _set_aside(self) -> None:
        with self._warning("former adapters as NAME.previous"):
            if earlier := self._folder.set_aside():
                names = ", ".join(path.name for path in earlier)
                self._display.say(f"of an earlier run, kept as .previous: {names}")

    def _validate(self, run: Running) -> bool:
        validation = self._validation
        if not validation or not validation.due(run.step, run.settings.steps):
            return False
        with self._display.doing("validating"):
            result = validation.validate(run, self._stop)
        if result is None:
            return False
        self._display.say(str(result))
        if self._board:
            self._board.validation(result)
        if result.is_best and self._settings.keep_best:
            self._write(run, self._folder.best)
        return True

    def _paint(self, run: Running) -> None:
        pictures = self._pictures
        if not pictures or not pictures.due(run.step, run.settings.steps):
            return
        with self._display.doing("painting"), self._warning("sample pictures"), run.lora.holding(run.result):
            if pictures.paint(run.base, run.step, self._stop):
                self._display.say(f"sample pictures after step {run.step}: {pictures.sheet}")
                if self._board:
                    self._board.pictures(pictures.sheet, run.step)

    def _write(self, run: Running, path: Path) -> None:
        with self._warning(path.name), run.lora.holding(run.result):
            exported = self._export(run.lora, path, run.step)
            self._display.say(f"written after step {run.step}: {exported.path}")

    def _warning(self, what: str) -> _Warning:
        return _Warning(self._display, what)


class _Warning:
    """Turns what fails in its block into a message: the run itself is not touched by it."""

    def __init__(self, display: Display, what: str) -> None:
        self._display, self._what = display, what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        reason = str(error) or type(error).__name__
        self._display.warn(f"WARNING: {self._what} not written ({reason}); training goes on.")
        return True
