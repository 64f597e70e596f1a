"""A plan in TOML -> Plan. Everything wrong with it is said in one EvaluationError, and nothing in it is ignored."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from .jobs import ElementSet, EvaluationError, Sampling
from .methods import EXPECTED, is_a, method
from .planned import (
    FIRST,
    LISTED,
    REVERSED,
    SHUFFLED,
    Plan,
    PlannedMethod,
    impossible,
    near,
    same_methods,
    sampling_problem,
    spread,
)
from .testbeds import TESTBEDS, Testbed, named_set, open_testbed, single_sets

_OWN = {"kind": str, "strength": float, "order": str, "sampling": dict}
_SETS = {"sizes": list, "each": int, "order": str, "names": list, "without": list, "singles": bool, "custom": list}
_TOP = {"testbed": str, "seeds": list, "sets": dict, "sampling": dict, "methods": dict, "folders": dict}
_FOLDERS = ("checkpoints", "vae", "loras")


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises EvaluationError with all its problems, missing model files among them."""
    table = _toml(path)
    reader = _Reader(path, table)
    plan = reader.plan()
    problems = reader.problems
    if plan is not None and not problems:
        problems += impossible(plan) + plan.missing()
    if plan is None or problems:
        raise EvaluationError(f"{path}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return plan


def _toml(path: Path) -> dict[str, Any]:
    try:
        toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as error:
        raise EvaluationError(f"{path}: on Python 3.10 plans need a reader of TOML: pip install tomli.") from error
    try:
        return toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of both a TOMLDecodeError is a ValueError
        raise EvaluationError(f"{path}: not a readable TOML file ({error}).") from error


class _Reader:
    """Reads one table; what is wrong goes into `problems`."""

    def __init__(self, path: Path, table: Mapping[str, Any]) -> None:
        self.path, self.problems = path, []
        self.table = self._known(table, _TOP, "")

    def plan(self) -> Plan | None:
        """The plan, or None where not even its testbed is known."""
        testbed = self._testbed()
        if testbed is None:
            return None
        asked = self._known(self.table.get("sets", {}), _SETS, "[sets] ")
        sampling = self._sampling(self.table.get("sampling", {}), "[sampling] ")
        order = self._order(testbed, asked.get("order", LISTED), "[sets] ")
        methods = {
            label: one
            for label, given in self.table.get("methods", {}).items()
            if (one := self._method(testbed, label, given)) is not None
        }
        self.problems += same_methods(methods)
        if not self.table.get("methods"):
            self.problems.append(
                'no methods: there is nothing to paint. Add a table such as [methods.merge], kind = "merge".'
            )
        sets, before = self._sets(testbed, asked), len(self.problems)
        if not sets and before == len(self.problems):
            self.problems.append("[sets] no set is left: there is nothing to paint.")
        return Plan(self.path, testbed, methods, sets, self._seeds(), order, sampling)

    def _testbed(self) -> Testbed | None:
        name = self.table.get("testbed")
        if name is None:
            self.problems.append(f"testbed is missing; expected one of {', '.join(TESTBEDS)}.")
            return None
        folders = self._known(self.table.get("folders", {}), dict.fromkeys(_FOLDERS, str), "[folders] ")
        places = {kind: str(self.path.parent / Path(place).expanduser()) for kind, place in folders.items()}
        if places and name == "standin":
            self.problems.append("[folders] the stand-in's files lie in the repository; leave this table out.")
        try:
            return open_testbed(name, {} if name == "standin" else places)
        except EvaluationError as error:
            self.problems.append(str(error))
            return None

    def _seeds(self) -> tuple[int, ...]:
        seeds = self.table.get("seeds", [0])
        if not seeds or any(not is_a(seed, int) or seed < 0 for seed in seeds) or len(set(seeds)) != len(seeds):
            self.problems.append(f"seeds is {seeds}; expected different whole numbers, 0 or more, such as [0, 1, 2].")
        return tuple(seeds)

    def _order(self, testbed: Testbed, order: str, where: str) -> str:
        known = (LISTED, REVERSED, SHUFFLED, *(category + FIRST for category in testbed.categories))
        if order not in known:
            self.problems.append(f"{where}order is {order!r}; expected one of {', '.join(known)}.")
        return order

    def _sampling(self, table: Mapping[str, Any], where: str) -> dict[str, Any]:
        given = self._known(table, get_type_hints(Sampling), where)
        for name, value in given.items():
            if wrong := sampling_problem(name, value):
                self.problems.append(f"{where}{name} is {value}; {wrong}.")
        return {name: float(value) if name == "cfg" else value for name, value in given.items()}

    def _method(self, testbed: Testbed, label: str, given: Any) -> PlannedMethod | None:
        where = f"[methods] {label!r}: "
        if not isinstance(given, dict):
            self.problems.append(f'{where}is {given!r}; expected a table with kind = "merge" or another.')
            return None
        own = self._known({name: value for name, value in given.items() if name in _OWN}, _OWN, where)
        order = self._order(testbed, own["order"], where) if "order" in own else None
        sampling = self._sampling(own["sampling"], f"{where}sampling.") if "sampling" in own else None
        if "kind" not in own:
            if "kind" not in given:
                self.problems.append(f"{where}kind is missing.")
            return None
        try:
            further = {name: value for name, value in given.items() if name not in _OWN}
            made = method(own["kind"], further, own.get("strength", testbed.strength))
        except EvaluationError as error:
            self.problems.append(f"{where}{error}")
            return None
        return PlannedMethod(made, order, sampling)

    def _sets(self, testbed: Testbed, asked: Mapping[str, Any]) -> tuple[ElementSet, ...]:
        sizes = sorted({one.size for one in testbed.sets})
        singles = single_sets(testbed) if asked.get("singles") else ()
        custom = self._custom(testbed, asked.get("custom", []), {one.name for one in (*testbed.sets, *singles)})
        if "names" in asked:
            if both := {"sizes", "each"} & asked.keys():
                self.problems.append(f"[sets] names and {' and '.join(sorted(both))} exclude each other.")
            listed = self._found(asked["names"], {one.name: one for one in testbed.sets}, "[sets] names: set")
        else:
            wanted = asked.get("sizes", [] if custom and "each" not in asked else sizes)
            if unknown := [size for size in wanted if size not in sizes]:
                self.problems.append(f"[sets] sizes: no set has {unknown[0]!r} elements; expected some of {sizes}.")
            listed = [one for one in testbed.sets if one.size in wanted]
        without = {
            one.name for one in self._found(asked.get("without", []), testbed.elements, "[sets] without: element")
        }
        listed, singles, custom = (
            [one for one in some if not without.intersection(one.elements)] for some in (listed, singles, custom)
        )
        each = asked.get("each")
        if each is not None and each < 1:
            self.problems.append(f"[sets] each is {each}; expected 1 or more.")
        elif each is not None:
            listed = spread(listed, each)
        used = {name for one in (*listed, *custom) for name in one.elements}
        return (*listed, *(one for one in singles if not used or used.issuperset(one.elements)), *custom)

    def _custom(self, testbed: Testbed, tables: Sequence[Any], names: set[str]) -> list[ElementSet]:
        """Sets of the plan's own, whose names are none of `names`."""
        made: list[ElementSet] = []
        for number, table in enumerate(tables, start=1):
            where = f"[[sets.custom]] {number}: "
            if not isinstance(table, dict):
                self.problems.append(f"{where}expected a table with elements = [...].")
                continue
            given = self._known(table, {"name": str, "elements": list}, where)
            elements = [one.name for one in self._found(given.get("elements", []), testbed.elements, f"{where}element")]
            worlds = dict.fromkeys(testbed.elements[name].world for name in elements)
            one = named_set(elements, worlds.popitem()[0] if len(worlds) == 1 else " and ".join(worlds))
            one = ElementSet(given.get("name", one.name), one.world, one.elements)
            if not given.get("elements"):
                self.problems.append(f"{where}elements are missing; name one or more.")
            elif len(set(elements)) != len(elements):
                self.problems.append(f"{where}an element stands twice in {elements}.")
            elif one.name in names:
                self.problems.append(f"{where}a set {one.name!r} exists already; give another name.")
            else:
                try:
                    testbed.sampling(one.world)
                except EvaluationError as error:
                    self.problems.append(f"{where}{error}")
                    continue
                made.append(one)
                names.add(one.name)
        return made

    def _found(self, names: Sequence[Any], known: Mapping[str, Any], what: str) -> list[Any]:
        for name in names:
            if not isinstance(name, str):
                self.problems.append(f"{what} {name!r} is no text.")
            elif name not in known:
                self.problems.append(f"{what} {name!r} is unknown{near(name, list(known))}.")
        return [known[name] for name in names if isinstance(name, str) and name in known]

    def _known(self, table: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> dict[str, Any]:
        """What of the table is known and of the right type."""
        good = {}
        for name, value in table.items():
            if name not in kinds:
                self.problems.append(
                    f"{where}{name!r} is unknown{near(name, list(kinds)) or '; expected ' + ', '.join(kinds)}"
                )
            elif not is_a(value, kinds[name]):
                expected = EXPECTED.get(kinds[name], "a table")
                self.problems.append(f"{where}{name} is {value!r}; expected {expected}.")
            else:
                good[name] = value
        return good
