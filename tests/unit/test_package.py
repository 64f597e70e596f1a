"""The pack is what ComfyUI, its Manager and its Registry expect."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import zipfile

import mixlora
import pytest
from mixlora.tools import archive

toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli


@pytest.fixture(scope="module")
def metadata(root):
    return toml.loads((root / "pyproject.toml").read_text("utf-8"))


def test_importing_the_pack_is_light():
    code = "import sys, mixlora; print([m for m in ('torch', 'comfy', 'numpy', 'mixlora.nodes') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=sys.prefix)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_pack_speaks_the_v3_api_only():
    assert inspect.iscoroutinefunction(mixlora.comfy_entrypoint)
    assert not hasattr(mixlora, "NODE_CLASS_MAPPINGS"), "ComfyUI would read it instead of comfy_entrypoint"
    assert mixlora.WEB_DIRECTORY == "./web"


def test_project_metadata(metadata, root):
    project = metadata["project"]
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,99}", project["name"])
    assert "comfy" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"] == "GPL-3.0-or-later"
    assert project["dependencies"] == []
    assert project["urls"]["Repository"].startswith("https://")
    assert f"## [{project['version']}]" in (root / "CHANGELOG.md").read_text("utf-8")
    lines = (root / "requirements.txt").read_text("utf-8").splitlines()
    assert all(line.startswith("#") for line in lines), "ComfyUI brings everything that the nodes need"


def test_registry_metadata(metadata, root):
    comfy = metadata["tool"]["comfy"]
    assert comfy["PublisherId"]
    assert comfy["DisplayName"] == "MixLoRA"
    assert comfy["requires-comfyui"] == ">=0.3.75"
    assert (root / comfy["web"]).is_dir()
    for key in ("Icon", "Banner"):
        assert key not in comfy or comfy[key].startswith("https://")


def test_the_registry_understands_the_classifiers(metadata, monkeypatch):
    """One that it does not know makes it drop all of their kind."""
    try:
        monkeypatch.syspath_prepend(str(archive.standalone.find_comfyui()))
    except FileNotFoundError:
        pytest.skip("no ComfyUI, whose code this asks")
    parser = importlib.import_module("comfy_config.config_parser")
    classifiers = metadata["project"]["classifiers"]
    for kind, understood in (
        ("Operating System :: ", parser.validate_and_extract_os_classifiers(classifiers)),
        ("Environment :: ", parser.validate_and_extract_accelerator_classifiers(classifiers)),
    ):
        assert understood == [name.removeprefix(kind) for name in classifiers if name.startswith(kind)]


def test_every_package_is_installed(metadata, root):
    listed = set(metadata["tool"]["setuptools"]["packages"])
    folders = [path.parent.relative_to(root) for depth in ("*", "*/*") for path in root.glob(f"{depth}/__init__.py")]
    rooms = {".".join(folder.parts) for folder in folders if not folder.parts[0].startswith(".")}
    assert listed == {"mixlora", *(f"mixlora.{room}" for room in rooms)}


def test_archive_has_the_nodes_and_the_trainer_and_nothing_else(tmp_path):
    with zipfile.ZipFile(archive.build(tmp_path / "pack.zip", untracked=True)) as packed:
        names = packed.namelist()
    rooms = {name.split("/")[0] for name in names if "/" in name}
    assert rooms == {"docs", "example_workflows", "mixlora_core", "nodes", "training", "web"}
    guides = {name for name in names if name.startswith("docs/")}
    assert guides == {"docs/training.md", "docs/style.toml"}, "those that README and trainer send users to"
    files = {name for name in names if "/" not in name}
    assert files == {
        *("__init__.py", "standalone.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "CHANGELOG.md")
    }
    assert not [name for name in names if name.endswith((".safetensors", ".pt", ".ckpt"))]
    workflows = [name for name in names if name.startswith("example_workflows/") and name.endswith(".json")]
    assert workflows and all("SD v1.5" in name for name in workflows), "those that need no stand-in"


def test_archive_is_reproducible(tmp_path):
    one, other = (archive.build(tmp_path / name, untracked=True).read_bytes() for name in ("one.zip", "other.zip"))
    assert one == other


def test_the_packed_code_has_no_import_of_what_is_left_out():
    left_out = re.compile(r"^\s*from \.+(tools|standin|tests|evaluation)\b|^\s*import mixlora\b", re.MULTILINE)
    sources = [archive.standalone.ROOT / name for name in archive.files(untracked=True) if name.endswith(".py")]
    assert [path.name for path in sources if left_out.search(path.read_text("utf-8"))] == []
