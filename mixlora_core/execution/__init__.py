"""How coefficients reach a live ComfyUI model: the only place that touches ModelPatcher, wrappers, modules and weights.

`patching` is for coefficients that hold for a whole run. `engine` runs a composition, whose coefficients change with
the step and the row of the batch, by one of two executors: `swap` rewrites weights, `rows` adds to activations.
"""

from .conditioning import TEXT, WORDS
from .engine import Voice, attach
from .executor import AUTOMATIC, ROWS, SWAP
from .patching import base_weights, clip_target, patched, unet_target

__all__ = [
    "AUTOMATIC",
    "ROWS",
    "SWAP",
    "TEXT",
    "WORDS",
    "Voice",
    "attach",
    "base_weights",
    "clip_target",
    "patched",
    "unet_target",
]
