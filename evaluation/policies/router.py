"""The policy of a trained router, the MixLoRA block (arXiv 2404.15159)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...mixlora_core.errors import AdapterError
from ...mixlora_core.stack import StyleStack
from ..jobs import EvaluationError
from .base import Encode, Plain, Policy

if TYPE_CHECKING:
    from ...mixlora_core.files.lora_file import Identity


@dataclass(frozen=True)
class Router(Policy):
    """A set's adapters as experts of a router file, chosen for every token; the text is the checkpoint's.

    `file`: a router of training/train_router.py that knows all adapters of the set. `k`: experts a token, 0 as trained.
    `rest`: how what is not in feed-forward layers speaks, "" as in training. `sha256`, of the file, is filled in, so
    that pictures of another content under the same name are other pictures.
    """

    file: str = ""
    k: int = 0
    rest: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        from ...mixlora_core.files import lora_file
        from ...mixlora_core.routing.router import RESTS

        if not self.file:
            raise EvaluationError("file is missing; expected a router file, see training/train_router.py.")
        if self.k < 0:
            raise EvaluationError(f"k is {self.k}; expected 1 or more, or 0 (as trained).")
        if self.rest not in ("", *RESTS):
            raise EvaluationError(f'rest is {self.rest!r}; expected one of {", ".join(RESTS)}, or "" (as trained).')
        try:
            found = _digest(lora_file.identify(self.file))
        except (AdapterError, OSError) as error:
            raise EvaluationError(f"file: {error}") from error
        if self.sha256 not in ("", found):
            raise EvaluationError(
                f"{self.file} has the SHA-256 {found}, not {self.sha256}: it was changed since the plan was read. Read "
                "the plan again."
            )
        object.__setattr__(self, "sha256", found)

    def apply(self, model: Any, clip: Any, stack: StyleStack) -> tuple[Any, Encode]:
        """The model with the router attached. Raises RouterError where the set's adapters are not its experts."""
        from ...mixlora_core.routing import router_file
        from ...mixlora_core.routing.routed import routed

        return routed(model, router_file.read(self.file), stack, k=self.k, rest=self.rest), Plain(clip)


@lru_cache(maxsize=64)
def _digest(identity: Identity) -> str:
    """Of a file, once it is sure to be a router's. A plan asks for every job."""
    from ...mixlora_core.files import hashes
    from ...mixlora_core.routing import router_file

    router_file.read(identity.path)
    return hashes.of_file(identity.path)[0]
