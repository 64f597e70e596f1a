"""One ComfyUI server for all tests of this tier, in a scratch folder with the linked pack and the stand-in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mixlora import standalone
from mixlora.standin import weights
from mixlora.standin.oracle import WEIGHTS as ORACLE
from mixlora.tools import links, standin_files
from mixlora.tools.client import Client
from mixlora.tools.server import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="session")
def missing_weights() -> list[str]:
    """The stand-in's trained files that this checkout lacks."""
    return [path.name for path in (weights.BASE, ORACLE, *weights.adapter_files().values()) if not path.is_file()]


@pytest.fixture(scope="session")
def base(tmp_path_factory, missing_weights) -> Path:
    """A folder to start ComfyUI on: custom_nodes with the pack, models with the stand-in, an empty input."""
    folder = tmp_path_factory.mktemp("comfyui")
    links.link_pack(folder / "custom_nodes")
    if missing_weights:
        standalone.import_comfy()
        from . import untrained

        untrained.place(folder / "models")
    else:
        standin_files.place(folder / "models")
    (folder / "input").mkdir()
    return folder


@pytest.fixture(scope="session")
def loras(base) -> Path:
    """The folder that the server reads LoRA files from; it sees new files at once."""
    return base / "models" / "loras"


@pytest.fixture(scope="session")
def server(comfyui, base, tmp_path_factory) -> Iterator[Server]:
    """The running server."""
    with Server(comfyui, tmp_path_factory.mktemp("scratch"), base=base) as running:
        yield running


@pytest.fixture(scope="session")
def client(server) -> Client:
    """A client of the running server."""
    return Client(server.address)


@pytest.fixture(scope="session")
def object_info(client):
    """What the server says about its nodes."""
    return client.object_info()


@pytest.fixture(scope="module")
def browser():
    """Chromium or Chrome without a window; tests that need it are skipped where there is none.

    For one module: while playwright runs there is an event loop in this thread, in which our client cannot run its own.
    """
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium or Chrome on the path (`apt-get install chromium`)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=FLAGS)


@pytest.fixture
def trained(missing_weights) -> None:
    """For tests that look at pictures."""
    if missing_weights:
        pytest.skip(f"not trained yet, missing in standin/weights: {', '.join(missing_weights)} (`make standin`)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Adds the end of the server's log to the report of a test that failed."""
    report = yield
    server = item.funcargs.get("server") if hasattr(item, "funcargs") else None
    if report.failed and isinstance(server, Server):
        report.sections.append(("ComfyUI's log", server.tail()))
    return report
