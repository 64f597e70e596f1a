"""Ways to compose, by kind: parameters that are checked, and how they patch a model. A new method is one more entry.

They patch MODEL and CLIP through `mixlora_core`, as the nodes of those names do.
"""

from .base import Composed, Encode, Plain, Policy
from .composite import Anchored, Centred, Layered, Reused, Windowed
from .layers import ConceptStyle, Learned
from .loratorio import LoRAtorio
from .merging import SSR, NullSpace
from .paper import MODES, Composite, Merge, NoAdapter, Switch
from .prompt_aware import WComposite, WSwitch
from .regions import Layout, Regions
from .router import Router
from .timed import Timed

KINDS: dict[str, type[Policy]] = {
    "none": NoAdapter,
    "merge": Merge,
    "switch": Switch,
    "composite": Composite,
    "anchored": Anchored,
    "centred": Centred,
    "reused": Reused,
    "layered": Layered,
    "windowed": Windowed,
    "w-switch": WSwitch,
    "w-composite": WComposite,
    "loratorio": LoRAtorio,
    "ssr": SSR,
    "null_space": NullSpace,
    "concept_style": ConceptStyle,
    "learned": Learned,
    "timed": Timed,
    "regions": Regions,
    "layout": Layout,
    "router": Router,
}

__all__ = ["KINDS", "MODES", "Composed", "Composite", "Encode", "Merge", "NoAdapter", "Plain", "Policy", "Switch"]
