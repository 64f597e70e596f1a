"""A base in half precision from the first picture to the file: as ComfyUI loads it, trained, painted with, exported."""

from __future__ import annotations

import pytest
from mixlora.training import cli
from mixlora.training.run_folder import RunFolder
from safetensors import safe_open


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_sample_pictures_are_painted_in_the_format_that_is_trained_in(command, tmp_path, capsys, dtype):
    """On a CPU ComfyUI would cast the weights of either format to fp32 as it samples."""
    painting = ["--sample-every", "2", "--sample-prompts", "a hill", "--sample-steps", "2", "--steps", "2"]
    assert cli.main([*command, "--dtype", dtype, *painting]) == 0
    printed = capsys.readouterr()
    assert "WARNING" not in printed.err and "sample pictures after step 2" in printed.out
    folder = RunFolder(tmp_path / "out" / "monet.safetensors")
    assert {path.name for path in (folder.path / "samples").iterdir()} == {f"step-00000{step}-1.png" for step in (0, 2)}
    with safe_open(folder.output, "pt") as file:
        assert file.metadata()["ss_mixed_precision"] == dtype
