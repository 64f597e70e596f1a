"""What all tiers of tests share. `unit` needs no ComfyUI, `comfy` imports one, `server` starts one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_standalone():
    """standalone.py by its path, as a script in the repository loads it."""
    spec = importlib.util.spec_from_file_location("mixlora_standalone", ROOT / "standalone.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


load_standalone().import_pack()  # from here on `import mixlora` means this checkout, installed or not

try:
    import hypothesis
except ImportError:  # a checkout without the extras can still run the tests that need none
    pass
else:
    # A busy machine is no failure; the same examples every time make a failure somebody else's too.
    hypothesis.settings.register_profile("mixlora", deadline=None, derandomize=True, max_examples=50)
    hypothesis.settings.load_profile("mixlora")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI that the tests use; an error that says what to do where there is none."""
    return load_standalone().find_comfyui()
