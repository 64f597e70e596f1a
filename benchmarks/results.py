"""What every benchmark writes: rows of a table with their goals, and on which kind of machine they were measured."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..standalone import ROOT, has_gpu

FOLDER = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Row:
    """One measured number. `name` says its unit; `goal` None: measured for information only."""

    name: str
    value: float
    goal: float | None = None
    at_most: bool = False
    """Whether smaller is better: the goal is a limit."""

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None where there is none. A value that is no number reaches no goal."""
        if self.goal is None:
            return None
        return bool(self.value <= self.goal if self.at_most else self.value >= self.goal)  # of numpy's they are none

    @property
    def goal_text(self) -> str | None:
        """The goal in words, for example ">= 90"."""
        return None if self.goal is None else f"{'<=' if self.at_most else '>='} {self.goal:g}"


def no_arguments(description: str | None) -> None:
    """Prints `description` for --help, and refuses any other argument: what takes long must not begin by mistake."""
    argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()


def write_results(topic: str, rows: Sequence[Row], folder: Path = FOLDER) -> Path:
    """Writes `topic`-cpu.json, or `topic`-gpu.json where torch has a GPU, into `folder`, and returns its path."""
    path = folder / f"{topic}-{'gpu' if has_gpu() else 'cpu'}.json"
    content = {
        "machine": machine(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "rows": [
            {"name": row.name, "value": _number(row.value), "goal": row.goal_text, "holds": row.holds} for row in rows
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def table(rows: Sequence[Row]) -> str:
    """The rows as text: name, measured, goal, holds."""
    lines = [("measured", "value", "goal", "holds")]
    answers = {True: "yes", False: "NO", None: ""}
    lines += [(row.name, f"{row.value:.4g}", row.goal_text or "", answers[row.holds]) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {goal:>{widths[2]}}  {holds}".rstrip()
        for name, value, goal, holds in lines
    )


def machine() -> str:
    """The machine's kind in words: processor, cores, memory, GPU, system, Python and torch. No name, no path."""
    import torch

    parts = [f"{_processor()}, {len(_usable_cores())} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory")
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    system = f"{platform.system()} {platform.machine()}"
    return ", ".join([*parts, system, f"Python {platform.python_version()}", f"torch {torch.__version__}"])


def commit() -> str | None:
    """The repository's commit, with "+" where tracked files differ from it; None without git or commits."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _number(value: Any) -> float | None:
    value = float(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None  # digits, not decimals: some values are errors


def _usable_cores() -> Sequence[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return list(affinity(0)) if affinity else range(os.cpu_count() or 1)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown processor"
