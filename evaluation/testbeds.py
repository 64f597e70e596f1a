"""What there is to compose: the protocol of a testbed, how its sets come about, and the stand-in's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, Protocol

from ..mixlora_core.errors import UnreadableFileError
from ..mixlora_core.files import hashes, lora_file
from ..mixlora_core.stack import CONCEPT, STYLE
from .jobs import Element, ElementSet, EvaluationError, Sampling

SIZES = (2, 3, 4, 5)

ROLES = {"style": STYLE, **dict.fromkeys(("landmark", "object", "character", "clothing"), CONCEPT)}
"""What an element is to methods that treat concepts and styles apart, by its category. Weather, ground and background
are neither: they shape the layout, which is decided early, and all surfaces, which are decided late, so they have no
role and always speak."""


class Testbed(Protocol):
    """Elements, the sets to compose, prompts, settings, and the files that paint them."""

    name: str
    categories: tuple[str, ...]
    """In the order of the stack; the first is in every set."""
    elements: Mapping[str, Element]
    sets: tuple[ElementSet, ...]
    strength: float
    """λ of every adapter where a plan does not say."""
    options: Mapping[str, Any]
    """What `open_testbed` needs besides the name to make it again, in another process."""

    def prompt(self, chosen: ElementSet) -> tuple[str, str]:
        """The positive and the negative prompt of a set, its own or one that a plan names."""
        ...

    def sampling(self, world: str) -> Sampling:
        """How pictures of a world are sampled where a plan does not say."""
        ...

    def checkpoint(self, world: str) -> Path:
        """The checkpoint of a world. Raises EvaluationError where there is none."""
        ...

    def vae(self, world: str) -> Path | None:
        """The autoencoder that is used instead of the checkpoint's, if there is one. Raises EvaluationError."""
        ...

    def adapter(self, element: str) -> Path:
        """The adapter file of an element. Raises EvaluationError where there is none."""
        ...

    def precision(self) -> AbstractContextManager[Any]:
        """The block in which the model is sampled."""
        ...


class StandinTestbed:
    """The stand-in's world in ComposLoRA's structure: needs no file that is not in the repository."""

    name: str = "standin"
    strength: float = 1.0
    options: Mapping[str, Any] = {}

    def __init__(self) -> None:
        from ..standin.elements import CATEGORIES, ELEMENTS

        self.categories: tuple[str, ...] = tuple(CATEGORIES)
        self.elements: Mapping[str, Element] = {
            name: Element(one.name, one.world, one.category, one.trigger) for name, one in ELEMENTS.items()
        }
        self.sets = composed_sets(self.elements.values(), self.categories)

    def prompt(self, chosen: ElementSet) -> tuple[str, str]:
        """A land and a time that belong to the set whatever its order, then the triggers in its order."""
        from ..standin.scenes import LANDS, TIMES, Scene

        drawn = draw(chosen.elements)
        scene = Scene(LANDS[drawn % len(LANDS)], TIMES[drawn // len(LANDS) % len(TIMES)])
        return ", ".join([scene.caption, *(self.elements[name].trigger for name in chosen.elements)]), ""

    def sampling(self, world: str) -> Sampling:
        """As everything on the stand-in is sampled."""
        from ..standin.sampling import Settings
        from ..standin.scenes import SIZE

        how = Settings()
        return Sampling(how.steps, how.cfg, how.sampler_name, how.scheduler, SIZE, SIZE)

    def checkpoint(self, world: str) -> Path:
        """Built from the committed weights where it is not there yet."""
        return self._checkpoint

    @cached_property
    def _checkpoint(self) -> Path:
        from filelock import FileLock  # comes with torch

        from ..standin.build import NAME, build_checkpoint
        from ..standin.workshop import WORK

        folder = WORK / "testbed"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / "lock"):  # workers on one machine would write it at the same time
                return build_checkpoint(folder / NAME)
        except FileNotFoundError as error:
            raise EvaluationError(str(error)) from error

    def vae(self, world: str) -> Path | None:
        """The checkpoint's own."""

    def adapter(self, element: str) -> Path:
        """The committed adapter."""
        from ..standin.weights import adapter_file

        path = adapter_file(element)
        if not path.is_file():
            raise EvaluationError(
                f"{element}: its adapter {path} is missing. Check it out, or train it: "
                f"python -m mixlora.standin.recipe adapters --only {element}"
            )
        return path

    def precision(self) -> AbstractContextManager[Any]:
        """bfloat16 where the processor multiplies it natively."""
        from ..standin.workshop import half_precision

        return half_precision()


def composed_sets(elements: Iterable[Element], categories: Sequence[str]) -> tuple[ElementSet, ...]:
    """All sets of 2 to 5 by ComposLoRA's rule (arXiv 2402.16843): one element of the first category, at most one of
    each other, all of one world; by size, then world, then category.
    """
    elements = list(elements)
    first, *others = categories
    found = []
    for size in SIZES:
        for world in dict.fromkeys(one.world for one in elements):
            for chosen in combinations(others, size - 1):
                members = [
                    [one.name for one in elements if (one.world, one.category) == (world, category)]
                    for category in (first, *chosen)
                ]
                found += [named_set(names, world) for names in product(*members)]
    return tuple(found)


def single_sets(testbed: Testbed) -> tuple[ElementSet, ...]:
    """Every element alone."""
    return tuple(named_set((name,), one.world) for name, one in testbed.elements.items())


def named_set(elements: Sequence[str], world: str) -> ElementSet:
    """A set that is called by its elements."""
    return ElementSet(" + ".join(elements), world, tuple(elements))


def draw(elements: Iterable[str], salt: str = "") -> int:
    """A number below 2³² that depends on which elements are asked for, and on `salt`, but not on their order."""
    words = "\n".join([salt, *sorted(elements)])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")


def open_testbed(name: str, options: Mapping[str, Any]) -> Testbed:
    """The testbed of that name. Raises EvaluationError for an unknown one."""
    if name == "standin":
        return StandinTestbed()
    if name == "composlora":
        from .composlora import ComposLoRA

        return ComposLoRA(**options)
    raise EvaluationError(f"testbed {name!r} is unknown; expected one of {', '.join(TESTBEDS)}.")


TESTBEDS = ("standin", "composlora")


def digests(testbed: Testbed, chosen: ElementSet) -> tuple[str, ...]:
    """What `Job.files` keeps: the digest of the checkpoint, with its other VAE if it has one, and of each adapter."""
    base, vae = digest(testbed.checkpoint(chosen.world)), testbed.vae(chosen.world)
    if vae is not None:
        base = hashlib.sha256(f"{base} {digest(vae)}".encode()).hexdigest()
    return (base, *(digest(testbed.adapter(name)) for name in chosen.elements))


def digest(path: Path) -> str:
    """SHA-256 of a safetensors file's tensors; what its header says about itself changes no picture.

    Raises EvaluationError for a file that cannot be read.
    """
    try:
        return _digest(lora_file.identify(path))
    except (OSError, UnreadableFileError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}).") from error


@lru_cache(maxsize=1024)
def _digest(identity: lora_file.Identity) -> str:
    return hashes.of_file(identity.path)[1]
