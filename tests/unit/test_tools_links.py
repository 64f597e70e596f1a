"""The pack is linked into a ComfyUI once, and nothing of anybody else's is touched."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mixlora import standalone
from mixlora.tools import links


def test_links_the_pack_once(tmp_path):
    custom_nodes = tmp_path / "custom_nodes"
    assert links.link_pack(custom_nodes) == "mixlora"
    assert links.link_pack(custom_nodes) == "mixlora"
    assert (custom_nodes / "mixlora").samefile(standalone.ROOT)
    assert len(list(custom_nodes.iterdir())) == 1


def test_keeps_a_link_of_another_name(tmp_path):
    links.link_folder(tmp_path / "my-own-name", standalone.ROOT)
    assert links.link_pack(tmp_path) == "my-own-name"
    assert not (tmp_path / "mixlora").exists()


def test_another_copy_in_the_way_is_an_error_and_is_kept(tmp_path):
    (tmp_path / "mixlora").mkdir()
    with pytest.raises(FileExistsError, match="move it away"):
        links.link_pack(tmp_path)
    assert not links.unlink_pack(tmp_path)
    assert (tmp_path / "mixlora").is_dir()


def test_replaces_a_dead_link(tmp_path):
    links.link_folder(tmp_path / "mixlora", tmp_path / "gone")
    assert links.link_pack(tmp_path) == "mixlora"
    assert (tmp_path / "mixlora").samefile(standalone.ROOT)


def test_a_link_to_another_checkout_is_an_error_and_is_kept(tmp_path):
    other = tmp_path / "other checkout"
    other.mkdir()
    links.link_folder(tmp_path / "mixlora", other)
    with pytest.raises(FileExistsError, match="move it away"):
        links.link_pack(tmp_path)
    assert not links.unlink_pack(tmp_path)
    assert (tmp_path / "mixlora").samefile(other)


def test_a_link_that_is_ours_alone_may_be_led_elsewhere(tmp_path):
    for name in ("one", "other", "folder"):
        (tmp_path / name).mkdir()
        if name != "folder":
            links.link_folder(tmp_path / "link", tmp_path / name, ours=True)
            assert (tmp_path / "link").samefile(tmp_path / name)
    with pytest.raises(FileExistsError, match="move it away"):
        links.link_folder(tmp_path / "folder", tmp_path / "one", ours=True)


def test_a_dead_junction_is_replaced(tmp_path, monkeypatch):
    """Windows' own: to Python no symbolic link, to nowhere, and only rmdir takes it away."""
    link = tmp_path / "mixlora"
    link.symlink_to(tmp_path / "gone", target_is_directory=True)
    monkeypatch.setattr(links, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)
    monkeypatch.setattr(links.os, "rmdir", os.unlink)
    made = SimpleNamespace(CreateJunction=lambda target, link: os.symlink(target, link))
    monkeypatch.setitem(sys.modules, "_winapi", made)
    assert links.link_pack(tmp_path) == "mixlora"
    assert link.samefile(standalone.ROOT)


def test_the_link_through_which_the_pack_is_used_is_kept(tmp_path, monkeypatch):
    links.link_folder(tmp_path / "mixlora", standalone.ROOT)
    monkeypatch.setattr(standalone, "ROOT", tmp_path / "mixlora")
    assert not links.unlink_pack(tmp_path)
    assert (tmp_path / "mixlora").exists()


def test_unlink_removes_the_link_only(tmp_path):
    links.link_pack(tmp_path)
    assert links.unlink_pack(tmp_path)
    assert not links.unlink_pack(tmp_path)
    assert (standalone.ROOT / "standalone.py").is_file()


def test_foreign_models_are_seen(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "my.safetensors").touch()
    (tmp_path / "checkpoints" / "mixlora_standin.safetensors").touch()
    (tmp_path / "checkpoints" / "put_checkpoints_here").touch()
    assert [path.name for path in links.foreign_models(tmp_path)] == ["my.safetensors"]
