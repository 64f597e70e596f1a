"""What ends a run early: a signal, or its time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

TIME_IS_UP = 124
"""Exit code of a run that `max_minutes` ended, as of timeout(1)."""


class Stop:
    """Within its block SIGINT, SIGTERM and SIGHUP only ask to stop, and so does the time; calling it tells whether.

    A second SIGINT interrupts at once, as without this object. Signals that the process was told to ignore (nohup) stay
    ignored. Outside the main thread signals cannot be caught and nothing is changed.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # Windows has no HUP, and BREAK for a window that is closed

    def __init__(self, after_minutes: float = 0.0, since: float | None = None, *, at_once: bool = False) -> None:
        """`after_minutes`, if not 0, counts from `since`, a ``time.monotonic()``; None is now. `at_once` asks now."""
        self._at_once = at_once
        self.received: int | None = None
        self._deadline = (time.monotonic() if since is None else since) + after_minutes * 60 if after_minutes else None
        self._former: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._at_once or self.received is not None or self.time_is_up

    @property
    def time_is_up(self) -> bool:
        """Whether the run has had its time."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def exit_code(self) -> int:
        """What the process should answer, as shells expect it."""
        return TIME_IS_UP if self.received is None else 128 + self.received

    @property
    def reason(self) -> str:
        """For the user."""
        return "max_minutes are over" if self.received is None else signal.Signals(self.received).name

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in self.NAMES if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if number == signal.SIGINT:
            with contextlib.suppress(OSError):  # os.write, because print may be the very thing that was interrupted
                os.write(2, b"\nstopping after this batch; Ctrl-C again interrupts it\n")
