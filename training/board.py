"""TensorBoard, for those who have it: the same curves and pictures as in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .settings import TrainingError

if TYPE_CHECKING:
    from .loop import Progress
    from .validation import Result


def need_tensorboard() -> None:
    """Raises TrainingError that says what to install where TensorBoard is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise TrainingError(
            f"tensorboard: it is not installed ({error}). Run `python -m pip install tensorboard`, or leave it out."
        ) from error


class Board:
    """Event files in a folder. The writer is made late: only then it is known after which step the run goes on."""

    def __init__(self, folder: Path) -> None:
        need_tensorboard()
        self.folder = folder
        self._writer: Any = None

    def begin(self, step: int) -> None:
        """Events of later steps, which a killed run has left behind, are void."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def step(self, at: Progress) -> None:
        """A step's figures."""
        self._writer.add_scalar("loss/training", at.loss, at.step)
        self._writer.add_scalar("learning rate", at.lr, at.step)
        self._writer.add_scalar("gradient norm", at.gradient_norm, at.step)

    def validation(self, result: Result) -> None:
        """A validation's figures."""
        self._writer.add_scalar("loss/held-out with adapter", result.adapter, result.step)
        self._writer.add_scalar("loss/held-out without", result.base, result.step)

    def pictures(self, sheet: Path, step: int) -> None:
        """The sheet as it is now."""
        import numpy
        from PIL import Image

        self._writer.add_image("samples", numpy.asarray(Image.open(sheet)), step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
