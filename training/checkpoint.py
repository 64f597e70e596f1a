"""The state of an unfinished run: what it holds, when it is saved, and how a signal turns into a save."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from .files import serialise, write_atomically
from .settings import TrainingError

_FORMAT = "mixlora-training-state-1"


@dataclass(frozen=True)
class State:
    """A run after `step` updates: all that it needs to go on bit for bit (randomness is a function of the step)."""

    step: int
    tensors: dict[str, Tensor]
    """``flat``, ``exp_avg``, ``exp_avg_sq``, ``losses`` (one per step so far), perhaps ``ema``; fp32, on the CPU."""
    recipe: dict[str, Any]
    """What the result depends on: settings, digests of base and samples. A run continues only under an equal recipe."""

    def save(self, path: Path) -> None:
        """Writes the state atomically; raises OSError and leaves the former file untouched where that fails."""
        about = {"format": _FORMAT, "step": str(self.step), "recipe": json.dumps(self.recipe, sort_keys=True)}
        write_atomically(path, serialise(self.tensors, about))

    @classmethod
    def load(cls, path: Path, recipe: dict[str, Any]) -> State:
        """Reads a state and checks that it belongs to this `recipe`. Raises TrainingError that lists what differs."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise TrainingError(f"{path}: not a readable training state ({error}). Delete it to start anew.") from error
        if about.get("format") != _FORMAT:
            raise TrainingError(f"{path}: expected a training state ({_FORMAT}), found {about.get('format')!r}.")
        saved, wanted = json.loads(about["recipe"]), json.loads(json.dumps(recipe))
        changed = [
            f"  {name}: saved {saved.get(name)!r}, now {wanted.get(name)!r}"
            for name in sorted(saved.keys() | wanted.keys())
            if saved.get(name) != wanted.get(name)
        ]
        if changed:
            raise TrainingError(
                f"{path} belongs to a run with other settings:\n" + "\n".join(changed) + "\n"
                "Continue with the saved ones, or delete that file to start anew."
            )
        return cls(int(about["step"]), tensors, recipe)


@dataclass
class Autosave:
    """Where a run's state is kept, and how often it is written. Either interval may be 0: never for that reason."""

    path: Path
    every_steps: int = 250
    every_minutes: float = 10.0
    resume: bool = False
    """Continue from `path` where it exists."""

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether the state after `step` updates is to be written now."""
        by_steps = self.every_steps > 0 and step % self.every_steps == 0
        return by_steps or 0 < self.every_minutes * 60 <= time.monotonic() - self._last

    def save(self, state: State) -> None:
        """Writes the state and starts the minutes anew."""
        state.save(self.path)
        self._last = time.monotonic()


class StopOnSignal:
    """Within its block SIGINT and SIGTERM only ask to stop; calling the object tells whether one did.

    A second SIGINT interrupts at once, as without this object. Outside the main thread signals cannot be caught and
    nothing is changed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether a signal asked to stop."""
        return self.received is not None

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
