"""The archive that users install works alone; a server that cannot start says why."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import zipfile

import pytest
from mixlora.tools import archive, workflows
from mixlora.tools.client import Client
from mixlora.tools.server import Server, ServerError

FOLDER = "some-other.name"  # users rename folders


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder to start ComfyUI on, whose custom_nodes hold the unpacked archive and nothing else."""
    base = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(archive.build(base / "pack.zip", untracked=True)) as packed:
        packed.extractall(base / "custom_nodes" / FOLDER)
    (base / "input").mkdir()
    return base


def test_nodes_load_from_the_archive_and_the_server_stops(comfyui, installed, tmp_path):
    with Server(comfyui, tmp_path, base=installed, packs=[FOLDER]) as server:
        client = Client(server.address)
        info = client.object_info()
        assert info["LoadStyleLoRA"]["python_module"] == f"custom_nodes.{FOLDER}"
        assert {"MixLoRAWeights", "LoRASwitchSampler", "EncodeTextPerLoRA"} <= set(info)
        assert client.get(f"/extensions/{FOLDER}/docs/LoadStyleLoRA.md")
        shown = client.get_json("/api/workflow_templates")[FOLDER]
        assert set(shown) == {name for name in workflows.all_workflows() if "stand-in" not in name}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=2)
    with pytest.raises(OSError):
        connection.request("GET", "/queue")


def test_trainer_starts_from_the_archive(installed, tmp_path):
    script = installed / "custom_nodes" / FOLDER / "training" / "train.py"
    done = subprocess.run(
        # -P and the empty folder keep this checkout out of reach
        [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), str(script), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_guide_to_training_comes_with_the_file_to_start_from(installed):
    docs = installed / "custom_nodes" / FOLDER / "docs"
    assert {path.name for path in docs.iterdir()} == {"training.md", "style.toml"}
    assert "(style.toml)" in (docs / "training.md").read_text("utf-8")


def test_describe_works_from_the_archive(comfyui, installed, tmp_path, root):
    script = installed / "custom_nodes" / FOLDER / "training" / "describe.py"
    done = subprocess.run(
        [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), str(script),
         str(root / "standin" / "weights" / "monet.safetensors")],
        cwd=tmp_path, capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, "COMFYUI_PATH": str(comfyui), "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ComfyUI: yes (56 of 56 modules)" in done.stdout and "monet style" in done.stdout


def test_a_server_that_cannot_start_shows_its_log(comfyui, tmp_path):
    with (
        pytest.raises(ServerError, match=r"(?s)ended with status 2.*unrecognized arguments: --no-such-option"),
        Server(comfyui, tmp_path, extra_args=["--no-such-option"]),
    ):
        pass
