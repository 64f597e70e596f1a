"""The state of an unfinished run: what it holds, when it is saved, and which of its files is read again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import digest, previous, read_copy, serialise, write_atomically
from .settings import TrainingError

_FORMAT = "mixlora-training-state-1"
_MEANS = {
    "base": " (SHA-256 of the checkpoint)",
    "samples": " (SHA-256 of pictures, captions, clip_skip and repeats, without what is held out for validation)",
}


class CorruptStateError(TrainingError):
    """A file that is no whole training state."""


@dataclass(frozen=True)
class State:
    """A run after `step` updates: all that it needs to go on bit for bit (randomness is a function of the step)."""

    step: int
    tensors: dict[str, Tensor]
    """``flat``, the optimizer's, ``losses`` (one per step so far), perhaps ``ema`` and ``loss_scale``; on the CPU.

    And what the run's watch keeps, see `Watch.tensors`."""
    recipe: dict[str, Any]
    """What the result depends on: settings, digests of base and samples. A run continues only under an equal recipe."""

    def save(self, path: Path) -> None:
        """Writes the state atomically and keeps the former one beside it; raises OSError where that fails."""
        about = {
            "format": _FORMAT,
            "step": str(self.step),
            "recipe": json.dumps(self.recipe, sort_keys=True),
            "sha256": _digest(self.tensors),
        }
        write_atomically(path, serialise(self.tensors, about), keep_previous=True)

    @classmethod
    def load(cls, path: Path, recipe: dict[str, Any]) -> State:
        """Reads a state and checks that it belongs to this `recipe`.

        Raises CorruptStateError for a file that is none, TrainingError that lists what differs for another run's.
        """
        from safetensors import SafetensorError

        try:
            about, tensors = read_copy(path)
        except (SafetensorError, OSError) as error:
            raise CorruptStateError(f"{path}: not a readable training state ({error}).") from error
        if about.get("format") != _FORMAT:
            raise CorruptStateError(f"{path}: expected a training state ({_FORMAT}), found {about.get('format')!r}.")
        if about.get("sha256") != _digest(tensors):
            raise CorruptStateError(f"{path}: its content has changed since it was written (SHA-256 differs).")
        saved, wanted = json.loads(about["recipe"]), json.loads(json.dumps(recipe))
        changed = [
            f"  {name}{_MEANS.get(name, '')}: saved {saved.get(name)!r}, now {wanted.get(name)!r}"
            for name in sorted(saved.keys() | wanted.keys())
            if saved.get(name) != wanted.get(name)
        ]
        if changed:
            raise TrainingError(
                f"{path} belongs to a run with other settings:\n" + "\n".join(changed) + "\n"
                "Continue with the saved ones, or delete that file to start anew."
            )
        return cls(int(about["step"]), tensors, recipe)


def _digest(tensors: dict[str, Tensor]) -> str:
    return digest(*(tensors[name] for name in sorted(tensors)))


def say_on_stderr(message: str) -> None:
    """Where messages go that nobody else asked for."""
    print(message, file=sys.stderr, flush=True)


@dataclass
class Autosave:
    """Where a run's state is kept, and how often it is written. Either interval may be 0: never for that reason."""

    path: Path
    every_steps: int = 250
    every_minutes: float = 10.0
    resume: bool = False
    """Continue from `path` where it exists."""
    say: Callable[[str], None] = say_on_stderr
    """Gets what the user should know: a save that failed, a state that was corrupt."""

    def __post_init__(self) -> None:
        self._last, self._saved_step = time.monotonic(), 0

    def exists(self) -> bool:
        """Whether there is a run to continue."""
        return self.path.exists() or previous(self.path).exists()

    def load(self, recipe: dict[str, Any]) -> State:
        """The last state, or the one before if a crash of the machine or the disk has spoilt it.

        Raises TrainingError where neither can be read, or where it is another run's.
        """
        problems = []
        for path in (self.path, previous(self.path)):
            if not path.exists():
                continue
            try:
                state = State.load(path, recipe)
            except CorruptStateError as error:
                problems.append(str(error))
                continue
            if path != self.path:
                lost = "\n".join([*problems, "The state saved before it is whole"] if problems else ["Found"])
                self.say(f"{lost}: {path}, after step {state.step}.")
            self._saved_step = state.step
            return state
        problems.append(f"No saved run is left in {self.path.parent}: delete these files to start anew.")
        raise CorruptStateError("\n".join(problems))

    def due(self, step: int) -> bool:
        """Whether the state after `step` updates is to be written now."""
        by_steps = self.every_steps > 0 and step % self.every_steps == 0
        return by_steps or 0 < self.every_minutes * 60 <= time.monotonic() - self._last

    def save(self, state: State) -> None:
        """Writes the state and starts the minutes anew. Raises OSError, which says what is saved, where that fails."""
        self._last = time.monotonic()
        try:
            state.save(self.path)
        except OSError as error:
            former = f"the state after step {self._saved_step}" if self._saved_step else "nothing"
            raise OSError(f"Step {state.step} could not be saved ({error}). Saved is {former}.") from error
        self._saved_step = state.step

    def try_to_save(self, state: State) -> None:
        """The same for a run that goes on anyway: a disk that is full now may have room at the next save."""
        try:
            self.save(state)
        except OSError as error:
            self.say(f"WARNING: {error} The run goes on.")

    def remove(self) -> None:
        """Deletes the state of a run whose result is safe."""
        self.path.unlink(missing_ok=True)
        previous(self.path).unlink(missing_ok=True)
