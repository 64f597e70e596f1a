"""Other processes: one to wait for, and those that must not do the same at once (standard library only)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


def run(command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
    """Runs `command` to its end and returns its exit status; as shells do, 128 + N where signal N ended it.

    Ctrl-C is the command's to answer, which gets it as well: it may save first. `subprocess.run` would kill it soon.
    """
    process = subprocess.Popen(command, cwd=cwd, env=env)
    while True:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            continue
        return status if status >= 0 else 128 - status


@contextmanager
def alone(file: Path, waiting: str) -> Iterator[None]:
    """Holds the lock `file` within the block; while another process holds it says `waiting`, once, and waits.

    The lock is the operating system's: it ends with the process that holds it, however that ends.
    """
    held = os.open(file, os.O_RDWR | os.O_CREAT)
    try:
        if not _locked(held):
            print(waiting, flush=True)
            while not _locked(held):
                time.sleep(0.2)
        yield
    finally:
        os.close(held)


def _locked(file: int) -> bool:
    """Whether the lock is ours now, or is not to be had: some network folders have no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True
