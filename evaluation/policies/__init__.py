"""Ways to compose, by kind: parameters that are checked, and how they patch a model. A new method is one more entry.

They patch MODEL and CLIP through `mixlora_core`, as the nodes of those names do.
"""

from .base import Composed, Encode, Plain, Policy
from .loratorio import LoRAtorio
from .paper import MODES, Composite, Merge, NoAdapter, Switch

KINDS: dict[str, type[Policy]] = {"none": NoAdapter, "merge": Merge, "switch": Switch, "composite": Composite}
KINDS["loratorio"] = LoRAtorio

__all__ = ["KINDS", "MODES", "Composed", "Composite", "Encode", "Merge", "NoAdapter", "Plain", "Policy", "Switch"]
