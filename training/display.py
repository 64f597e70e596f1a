"""What the user sees while it trains: a bar in a terminal, a line now and then in a file."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .curves import smooth

if TYPE_CHECKING:
    import torch

    from .loop import Progress

SECONDS_BETWEEN_LINES = 10.0
_FORM = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"


class Display:
    """Progress of one task after the other. A message goes above the bar; it is also safe without one."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._bar: Any = None
        self._logging = contextlib.ExitStack()  # while there is a bar, what others log goes above it
        self._last, self._started = -math.inf, 0.0
        self._first, self._stepped = 0, False
        self._losses: list[float] = []
        self._device: Any = None

    def say(self, message: str) -> None:
        """Prints a line."""
        if self._bar is None:
            print(message, flush=True)
        else:
            self._bar.write(message, file=sys.stdout)
            sys.stdout.flush()

    def warn(self, message: str) -> None:
        """Prints a line that is not to be overlooked."""
        if self._bar is None:
            print(message, file=sys.stderr, flush=True)
        else:
            self._bar.write(message, file=sys.stderr)

    def count(self, what: str, total: int) -> Callable[[int], None]:
        """A function to be told how many of `total` are done."""
        self.close()
        self._open(what, total)

        def done(number: int) -> None:
            self._show(number, total, f"{what} {number}/{total}", "")
            if number == total:
                self.close()

        return done

    def begin(self, losses: list[float], steps: int, device: torch.device) -> None:
        """Shows a run on `device` from its first step, or from the step that it continues after."""
        self.close()
        self._first, self._stepped, self._losses = len(losses), False, losses
        self._started, self._device = time.monotonic(), device
        self._open("", steps, self._first)

    def step(self, at: Progress) -> None:
        """Shows a step of a run that began; all but the last may be passed over."""
        self._stepped = True
        figures = [
            f"loss {smooth(self._losses[-200:])[-1]:.4f}",
            f"{at.samples_per_second:.3g} images/s",
            memory(self._device),
            f"{duration((time.monotonic() - self._started) / (at.step - self._first) * (at.steps - at.step))} left",
        ]
        self._show(at.step, at.steps, "  ".join([f"step {at.step}/{at.steps}", *figures]), "  " + "  ".join(figures))

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Says before the bar what happens while it stands still."""
        if self._bar is not None:
            self._bar.set_description_str(f"{what} ")
        yield
        if self._bar is not None:
            self._bar.set_description_str("")
        if not self._stepped:  # what happens before the first step is no measure of the time that is left
            self._started = time.monotonic()

    def close(self) -> None:
        """Leaves the bar as it is and goes to the next line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._logging.close()
        self._last = -math.inf

    def _open(self, what: str, total: int, initial: int = 0) -> None:
        if not self.live:
            return
        from tqdm import tqdm  # ComfyUI brings it
        from tqdm.contrib.logging import logging_redirect_tqdm

        self._logging.enter_context(logging_redirect_tqdm())
        self._bar = tqdm(total=total, initial=initial, bar_format=_FORM, dynamic_ncols=True)
        self._bar.set_description_str(f"{what} " if what else "")

    def _show(self, number: int, total: int, line: str, figures: str) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.n, self._bar.bar_format = number, _FORM + figures  # tqdm's own postfix begins with a comma
            if now - self._last >= 0.1 or number == total:
                self._bar.refresh()
                self._last = now
        elif now - self._last >= SECONDS_BETWEEN_LINES or number == total:
            print(line, flush=True)
            self._last = now


def memory(device: torch.device) -> str:
    """The most that tensors have taken on the GPU so far; without a GPU what the process takes now."""
    if device.type == "cuda":
        import torch

        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
    import psutil  # ComfyUI brings it

    return f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """For instance 0:42, 12:05 or 1:30:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
