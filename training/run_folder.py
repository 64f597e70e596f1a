"""Where everything of a run lies, what is checked before it starts, and the lock that keeps a second run away."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .settings import TrainingError


@dataclass(frozen=True)
class RunFolder:
    """The places of a run that writes `output`. Only LoRA files end with .safetensors, so lists show nothing else."""

    output: Path

    @property
    def path(self) -> Path:
        """The folder beside the output for all that is no LoRA file."""
        return self.output.with_name(f"{self.output.stem}.run")

    @property
    def state(self) -> Path:
        """The unfinished run."""
        return self.path / "training-state"

    @property
    def best(self) -> Path:
        """The adapter with the best validation."""
        return self.output.with_name(f"{self.output.stem}-best.safetensors")

    def after(self, step: int) -> Path:
        """The adapter after so many steps."""
        return self.output.with_name(f"{self.output.stem}-step{step:06}.safetensors")

    def on_the_way(self) -> list[Path]:
        """The adapters after some steps that this and earlier runs have written here."""
        return sorted(self.output.parent.glob(f"{_literally(self.output.stem)}-step[0-9]*.safetensors"))

    def adapters(self) -> list[Path]:
        """All LoRA files that this and earlier runs have written here."""
        return [path for path in (self.output, self.best, *self.on_the_way()) if path.exists()]

    def set_aside(self) -> list[Path]:
        """Keeps each adapter of an earlier run but the output as NAME.previous; their former names. Raises OSError."""
        from .files import previous  # imports torch, which --help is not to wait for

        earlier = [path for path in self.adapters() if path != self.output]
        for path in earlier:
            os.replace(path, previous(path))
        return earlier

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and holds its lock within the block. Raises TrainingError if it is held or not writable.

        The lock is the operating system's: it ends with the process that holds it, however that ends.
        """
        from filelock import FileLock, Timeout  # comes with torch

        lock = self.path / "lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _probe(self.output)
            held = FileLock(lock)
            held.acquire(timeout=0)
        except Timeout as error:
            raise TrainingError(
                f"Another run is writing {self.output} (it holds {lock}). Wait for it, stop it, or choose another "
                "--output."
            ) from error
        except (OSError, NotImplementedError) as error:
            raise TrainingError(f"--output {self.output}: cannot write there ({error}).") from error
        try:
            self._sweep()
            yield
        finally:
            if not any(path != lock for path in self.path.iterdir()):  # a run that never began leaves nothing
                with contextlib.suppress(OSError):
                    lock.unlink()
                    self.path.rmdir()
            held.release()

    def _sweep(self) -> None:
        """Removes the half-written files of killed runs; who holds the lock has no other writer beside it."""
        stem = _literally(self.output.stem)
        half = [
            path
            for end in ("", "-best", "-step[0-9]*")
            for path in self.output.parent.glob(f".{stem}{end}.safetensors.*.tmp")
        ]
        for path in [*half, *self.path.rglob(".*.tmp")]:
            path.unlink(missing_ok=True)


def _literally(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _probe(output: Path) -> None:
    probe = output.with_name(f".{output.name}.{os.getpid()}.probe.tmp")
    try:
        probe.write_bytes(b"0")
    finally:
        probe.unlink(missing_ok=True)
