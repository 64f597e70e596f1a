"""Sample pictures on the way: fixed prompts and seeds through ComfyUI's own sampler, all steps on one sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..mixlora_core.contact_sheet import Cell, Row, contact_sheet
from .base import Base, make_room
from .files import write_atomically
from .settings import RunSettings

if TYPE_CHECKING:
    from PIL import Image

SAMPLER, SCHEDULER = "euler", "normal"
MOST_ROWS = 12
"""Of the sheet; of a longer run it shows every second, third, ... sheet, the first and the last."""
_NAME = re.compile(r"step-(\d+)-(\d+)\.png")


class _StoppedError(Exception):
    """Somebody asked to stop while a picture was painted."""


class SamplePictures:
    """Paints the prompts with whatever adapter is attached to the base. Prompts are encoded once, at the start."""

    def __init__(
        self, prompts: Sequence[str], clip: Any, vae: Any, settings: RunSettings, folder: Path, side: int
    ) -> None:
        """`clip` is only needed here; `vae` stays where ComfyUI puts what it does not use, and is loaded to decode."""
        self.prompts, self.folder, self._settings, self._side, self._vae = tuple(prompts), folder, settings, side, vae
        self._positive = [_encode(clip, prompt) for prompt in self.prompts]
        self._negative = _encode(clip, settings.sample_negative)
        self._patcher: Any = None

    @property
    def sheet(self) -> Path:
        """The picture with all others on it."""
        return self.folder / "samples.png"

    def due(self, step: int, last: int) -> bool:
        """Whether step `step` of a run of `last` steps is to be painted and has not been."""
        wanted = step % self._settings.sample_every == 0 or step == last
        return wanted and not all(self._path(step, place).exists() for place in range(len(self.prompts)))

    def clear(self) -> None:
        """Deletes the pictures of an earlier run of that name."""
        for path in self._pictures().glob("step-*.png"):
            path.unlink()
        self.sheet.unlink(missing_ok=True)

    def paint(self, base: Base, step: int, stop: Callable[[], bool]) -> bool:
        """Paints every prompt, writes the pictures and the sheet; False if asked to stop before all were there.

        Raises OSError where they cannot be written. torch's global random state is the same afterwards, and the base
        lies on its device.
        """
        import torch

        try:
            with torch.random.fork_rng(), torch.no_grad():
                latents = [self._latent(base, place, stop) for place in range(len(self.prompts))]
                images = [self._decode(latent) for latent in latents]
        except _StoppedError:
            return False
        finally:
            make_room(base)
        self._pictures().mkdir(exist_ok=True)
        for place, image in enumerate(images):
            _write(image, self._path(step, place))
        self._draw_sheet()
        return True

    def _latent(self, base: Base, place: int, stop: Callable[[], bool]) -> Any:
        import comfy.sample
        import torch

        settings, seed = self._settings, self._settings.sample_seed + place
        empty = torch.zeros(1, base.model.latent_format.latent_channels, self._side // 8, self._side // 8)
        noise = comfy.sample.prepare_noise(empty, seed)

        def look(*_: Any) -> None:
            if stop():
                raise _StoppedError

        return comfy.sample.sample(
            self._model(base), noise, settings.sample_steps, settings.sample_cfg, SAMPLER, SCHEDULER,
            self._positive[place], self._negative, empty, callback=look, disable_pbar=True, seed=seed,
        )  # fmt: skip

    def _model(self, base: Base) -> Any:
        """The base as a ComfyUI MODEL, one for the whole run: ComfyUI takes a second one for a memory leak."""
        import comfy.model_management
        import comfy.model_patcher

        if self._patcher is None:
            device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
            self._patcher = comfy.model_patcher.ModelPatcher(base.model, load_device=device, offload_device=offload)
        return self._patcher

    def _decode(self, latent: Any) -> Image.Image:
        from PIL import Image

        pixels = self._vae.decode(latent)[0]
        return Image.fromarray(pixels.clamp(0, 1).mul(255).round().byte().cpu().numpy())

    def _draw_sheet(self) -> None:
        from PIL import Image

        steps: dict[int, list[Path]] = {}
        for path in sorted(self._pictures().iterdir()):
            if found := _NAME.fullmatch(path.name):
                steps.setdefault(int(found[1]), []).append(path)
        rows = [
            Row(f"step {step}" if step else "step 0: no adapter", [Cell("", Image.open(path)) for path in steps[step]])
            for step in _some(sorted(steps), MOST_ROWS)
        ]
        last = zip(self.prompts, rows[-1].cells, strict=False)  # a resumed run may have other prompts
        rows[-1] = Row(rows[-1].heading, [Cell(prompt, cell.image) for prompt, cell in last])
        _write(contact_sheet(f"Sample pictures of {self.folder.stem}", rows), self.sheet)

    def _pictures(self) -> Path:
        return self.folder / "samples"

    def _path(self, step: int, place: int) -> Path:
        return self._pictures() / f"step-{step:06}-{place + 1}.png"


def default_prompts(captions: Sequence[str]) -> list[str]:
    """Four captions, spread over the pictures."""
    return _some(list(dict.fromkeys(captions)), 4)


def _some(things: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(things) <= most:
        return list(things)
    return [things[round(i * (len(things) - 1) / (most - 1))] for i in range(most)]


def _encode(clip: Any, text: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text), show_pbar=False)


def _write(image: Image.Image, path: Path) -> None:
    data = io.BytesIO()
    image.save(data, "PNG")
    write_atomically(path, data.getvalue())
