"""How coefficients reach a live ComfyUI model: the only place that touches ModelPatcher, wrappers, modules and weights.

`patching` is for coefficients that hold for a whole run. `attaching` puts a composition on a clone, `engine` runs it:
its coefficients change with the step and the row of the batch, by one of two executors: `swap` rewrites weights, `rows`
adds to activations.
`listening` changes nothing and hears what layers are given.
`routing` is for coefficients that a router reads out of every token.
"""

from .attaching import Voice, attach
from .conditioning import TEXT, WORDS
from .executor import AUTOMATIC, ROWS, SWAP
from .listening import Ears, denoise_listening, read_listening, why_deaf
from .patching import base_weights, clip_target, patched, unet_target
from .routing import attach_router, check_model

__all__ = [
    "AUTOMATIC",
    "ROWS",
    "SWAP",
    "TEXT",
    "WORDS",
    "Ears",
    "Voice",
    "attach",
    "attach_router",
    "base_weights",
    "check_model",
    "clip_target",
    "denoise_listening",
    "patched",
    "read_listening",
    "unet_target",
    "why_deaf",
]
