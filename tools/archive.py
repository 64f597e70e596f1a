"""Builds the archive that the ComfyUI Registry would: ``python -m mixlora.tools.archive`` writes dist/mixlora-*.zip.

The Registry's client packs the files that git tracks, without those that `.comfyignore` matches.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from .. import standalone


def files(*, untracked: bool = False) -> list[str]:
    """The paths in the archive, relative to the root; with `untracked` also new files that git does not ignore yet."""
    kinds = ["--cached", "--others"] if untracked else ["--cached"]
    found = set(_git_ls_files(*kinds, "--exclude-standard"))
    left_out = set(_git_ls_files(*kinds, "--ignored", "--exclude-from=.comfyignore"))
    return sorted(path for path in found - left_out if (standalone.ROOT / path).is_file())


def build(target: Path, *, untracked: bool = False) -> Path:
    """Writes the archive to `target`; the same files give the same bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files(untracked=untracked):
            entry = zipfile.ZipInfo(path)  # dated 1980, not today
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (standalone.ROOT / path).read_bytes())
    return target


def version() -> str:
    """The version in pyproject.toml."""
    found = re.search(r"^version = \"([^\"]+)\"", (standalone.ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError('pyproject.toml: expected a line `version = "X.Y.Z"` in [project], found none.')
    return found.group(1)


def main() -> int:
    """Builds the archive and lists what is in it."""
    target = build(standalone.ROOT / "dist" / f"{standalone.PACKAGE}-{version()}.zip")
    with zipfile.ZipFile(target) as archive:
        for entry in archive.infolist():
            print(f"{entry.file_size:>9}  {entry.filename}")
    print(f"\n{target} ({target.stat().st_size / 1024:.0f} KiB)")
    left = sorted(set(files(untracked=True)) - set(files()))
    if left:
        print(f"Not in it, because git does not track them yet: {', '.join(left)}", file=sys.stderr)
    return 0


def _git_ls_files(*options: str) -> list[str]:
    command = ["git", "ls-files", "-z", *options]
    done = subprocess.run(command, cwd=standalone.ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed in {standalone.ROOT}: {done.stderr.strip()}")
    return [path for path in done.stdout.split("\0") if path]


if __name__ == "__main__":
    sys.exit(main())
