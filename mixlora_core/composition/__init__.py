"""Compositions: `base` says what one is, each other module holds a family of them. `execution` runs any of them.

A method is a small policy here. Pure: no ComfyUI, and torch only where predictions are fused.
"""

from .anchored import Anchored, lasting
from .base import BOTH, NEGATIVE, POSITIVE, Branch, Composition
from .centred import Centred
from .layers import LayerTimetable
from .paper import Composite, Merge, Switch
from .prompt_aware import WeightedSwitch, presence, relevance
from .regional import Regional
from .reused import Reused
from .windowed import Windowed

__all__ = [
    "BOTH",
    "NEGATIVE",
    "POSITIVE",
    "Anchored",
    "Branch",
    "Centred",
    "Composite",
    "Composition",
    "LayerTimetable",
    "Merge",
    "Regional",
    "Reused",
    "Switch",
    "WeightedSwitch",
    "Windowed",
    "lasting",
    "presence",
    "relevance",
]
