"""The stand-in's text encoder: CLIP-L's full shape, seeded and untrained, so that it need not be shipped.

Its layers pass tokens on almost unchanged: the output is an embedding of the words and their places, which is all
that a small world of captions asks for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PREFIX = "cond_stage_model.transformer.text_model."
WIDTH, LAYERS, TOKENS, LENGTH = 768, 12, 49408, 77


def text_encoder(seed: int = 0) -> dict[str, Tensor]:
    """CLIP-L's state dict under the keys of an SD v1.5 checkpoint, fp16; the same bits for the same seed."""
    random = np.random.RandomState(seed)  # its stream is frozen for good, unlike default_rng's
    weights: dict[str, Tensor] = {}

    def normal(key: str, shape: tuple[int, ...], std: float) -> None:
        weights[PREFIX + key + ".weight"] = torch.from_numpy((random.standard_normal(shape) * std).astype(np.float16))

    def constant(key: str, size: int, value: float) -> None:
        weights[PREFIX + key] = torch.full((size,), value, dtype=torch.float16)

    def norm(key: str) -> None:
        constant(key + ".weight", WIDTH, 1.0)
        constant(key + ".bias", WIDTH, 0.0)

    normal("embeddings.token_embedding", (TOKENS, WIDTH), 0.02)
    normal("embeddings.position_embedding", (LENGTH, WIDTH), 0.006)
    for index in range(LAYERS):
        layer = f"encoder.layers.{index}."
        for name in ("q_proj", "k_proj", "v_proj"):
            normal(f"{layer}self_attn.{name}", (WIDTH, WIDTH), 0.036)
            constant(f"{layer}self_attn.{name}.bias", WIDTH, 0.0)
        normal(f"{layer}self_attn.out_proj", (WIDTH, WIDTH), 0.0003)  # close to the identity
        constant(f"{layer}self_attn.out_proj.bias", WIDTH, 0.0)
        normal(f"{layer}mlp.fc1", (4 * WIDTH, WIDTH), 0.036)
        constant(f"{layer}mlp.fc1.bias", 4 * WIDTH, 0.0)
        normal(f"{layer}mlp.fc2", (WIDTH, 4 * WIDTH), 0.00015)
        constant(f"{layer}mlp.fc2.bias", WIDTH, 0.0)
        norm(f"{layer}layer_norm1")
        norm(f"{layer}layer_norm2")
    norm("final_layer_norm")
    return weights


def load_clip(weights: dict[str, Tensor]) -> object:
    """The encoder as ComfyUI's CLIP object, for training; a checkpoint loads it by itself."""
    import comfy.sd

    bare = {key.removeprefix("cond_stage_model.transformer."): value for key, value in weights.items()}
    return comfy.sd.load_text_encoder_state_dicts([bare], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)


def encode(clip, captions: list[str]) -> Tensor:
    """Captions to float32 states, (n, 77, 768); parentheses are text, not weights."""
    states = [clip.encode_from_tokens(clip.tokenize(caption, disable_weights=True)) for caption in captions]
    return torch.cat([state.float() for state in states])
