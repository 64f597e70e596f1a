"""The server's command line fits the ComfyUI at hand, and its log's tail is readable; tests/server starts real ones."""

from __future__ import annotations

import pytest
from mixlora import standalone
from mixlora.tools.server import Server, ServerError


@pytest.fixture
def comfyui(tmp_path):
    """A ComfyUI that knows few options."""
    (tmp_path / "comfy").mkdir()
    known = ["--listen", "--port", "--cpu", "--output-directory", "--base-directory"]
    lines = [f'parser.add_argument("{option}")\n' for option in known]
    (tmp_path / "comfy" / "cli_args.py").write_text("".join(lines))
    return tmp_path


def test_passes_only_options_that_this_comfyui_knows(monkeypatch, comfyui, tmp_path):
    monkeypatch.setattr(standalone, "has_gpu", lambda: False)
    server = Server(comfyui, tmp_path, base=tmp_path / "base", extra_args=["--mine"])
    options = [argument for argument in server.command if argument.startswith("--")]
    assert options == ["--listen", "--port", "--output-directory", "--base-directory", "--cpu", "--mine"]
    assert server.address == f"127.0.0.1:{server.port}"


def test_uses_the_gpu_where_there_is_one(monkeypatch, comfyui, tmp_path):
    monkeypatch.setattr(standalone, "has_gpu", lambda: True)
    assert "--cpu" not in Server(comfyui, tmp_path).command


def test_a_server_that_ends_at_once_is_reported_with_its_log(monkeypatch, comfyui, tmp_path):
    monkeypatch.setattr(standalone, "has_gpu", lambda: False)
    (comfyui / "main.py").write_text("print('no room'); raise SystemExit(3)")
    with pytest.raises(ServerError, match=r"(?s)ended with status 3.*no room"), Server(comfyui, tmp_path / "scratch"):
        pass


def test_tail_draws_progress_bars_once(monkeypatch, comfyui, tmp_path):
    monkeypatch.setattr(standalone, "has_gpu", lambda: False)
    server = Server(comfyui, tmp_path)
    server.log.write_bytes("first\nok\r\n 0%|\r50%|█\r100%|██\nlast\n".encode())
    assert server.tail(3).splitlines()[1:] == ["ok", "100%|██", "last"]
