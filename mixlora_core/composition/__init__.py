"""Compositions: `base` says what one is, each other module holds a family of them. `execution` runs any of them.

Pure: no torch, no ComfyUI. A method is a small policy here.
"""

from .base import BOTH, NEGATIVE, POSITIVE, Branch, Composition
from .paper import Composite, Merge, Switch
from .regional import Regional

__all__ = ["BOTH", "NEGATIVE", "POSITIVE", "Branch", "Composite", "Composition", "Merge", "Regional", "Switch"]
