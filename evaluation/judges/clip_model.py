"""A CLIP model from the user's disk, through open_clip. Nothing is downloaded, and no pickle is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from ...mixlora_core.files import hashes
from ..jobs import EvaluationError

INSTALL = 'pip install "open_clip_torch>=2.24"'
CONFIG = "open_clip_config.json"
"""Lies beside the weights in repositories of open_clip models."""
PREPARATION = {
    "mean": "image_mean",
    "std": "image_std",
    "interpolation": "image_interpolation",
    "resize_mode": "image_resize_mode",
}
"""What it says about pictures: open_clip's options of the same."""


class ClipModel:
    """Pictures and texts as unit vectors of one space."""

    def __init__(self, model: str, weights: Path, device: str | None = None) -> None:
        """Loads open_clip's architecture `model` with the weights of a safetensors file.

        Raises EvaluationError for an unknown architecture, a file that is not there or does not fit, or where open_clip
        is not installed.
        """
        try:
            import open_clip
        except ImportError as error:
            raise EvaluationError(f"--judge clip needs open_clip: {INSTALL}") from error
        _check(open_clip, model, weights)
        prepared = preparation(weights)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            network, _, prepare = open_clip.create_model_and_transforms(
                model, pretrained=str(weights), device=self.device, **prepared
            )
        except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0][:200]
            raise EvaluationError(
                f"{weights} does not fit --clip-model {model} ({first}). Give the architecture that it was trained as."
            ) from error
        self._network: Any = network.eval()
        self._prepare: Any = prepare
        self._tokenizer: Any = open_clip.get_tokenizer(model)
        look = f" {hashlib.sha256(repr(prepared).encode()).hexdigest()[:8]}" if prepared else ""
        self.name = f"clip:{model}@{hashes.of_file(weights)[0][:8]}{look}"
        """Other weights are another judge, and so is another preparation of pictures."""

    @torch.inference_mode()
    def pictures(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures, uint8 (height, width, 3) each -> float32 (n, width of the space), rows of length 1."""
        from PIL import Image

        batch = torch.stack([self._prepare(Image.fromarray(picture)) for picture in pixels]).to(self.device)
        return _unit(self._network.encode_image(batch))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> float32 (n, width of the space), rows of length 1; what does not fit into the context is cut off."""
        return _unit(self._network.encode_text(self._tokenizer(list(texts)).to(self.device)))

    def fits(self, text: str) -> bool:
        """Whether CLIP reads all of a text."""
        return len(self._tokenizer.encode(text)) + 2 <= self._tokenizer.context_length  # two marks, begin and end


def preparation(weights: Path) -> dict[str, Any]:
    """How pictures are prepared for these weights, as open_clip's options: what open_clip_config.json beside them says.

    Without that file nothing, which means OpenAI's mean and deviation. Raises EvaluationError for a broken one.
    """
    path = weights.with_name(CONFIG)
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text("utf-8"))["preprocess_cfg"]
        return {option: said[name] for name, option in PREPARATION.items() if name in said}
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path}: no preprocess_cfg of open_clip can be read from it ({error!r}). Fetch it again from where the "
            "weights are from, or take it away if it is not theirs."
        ) from error


def _check(open_clip: Any, model: str, weights: Path) -> None:
    """Refuses what open_clip would go to the network for, or could not read without pickle."""
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise EvaluationError(
            f"--clip-model {model} is none of open_clip's architectures, for instance ViT-B-16, or ViT-B-16-quickgelu "
            "for OpenAI's own weights. `python -c 'import open_clip; print(open_clip.list_models())'` lists them."
        )
    text = config.get("text_cfg", {})
    if "hf_tokenizer_name" in text or "hf_model_name" in text:
        raise EvaluationError(
            f"--clip-model {model} has a tokenizer that open_clip would download. Give one with CLIP's own, for "
            "instance ViT-B-16 or ViT-L-14."
        )
    if weights.suffix != ".safetensors" or not weights.is_file():
        what = "no such file" if not weights.is_file() else "not a safetensors file"
        raise EvaluationError(
            f"--clip-weights {weights}: {what}. Give the path of a .safetensors file on this machine; nothing is "
            "downloaded. Repositories of open_clip models have it as open_clip_model.safetensors."
        )


def _unit(features: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
