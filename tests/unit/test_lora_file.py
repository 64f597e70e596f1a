"""What is no complete, finite safetensors file is refused with a sentence that helps."""

import json
import os
import struct

import pytest
import torch
from mixlora.mixlora_core import errors
from mixlora.mixlora_core.files import lora_file
from safetensors.torch import save, save_file

GOOD = {"a.lora_up.weight": torch.ones(4, 2), "a.lora_down.weight": torch.ones(2, 4)}


@pytest.fixture
def put(tmp_path):
    def write(content, name="x.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def header(entries) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "x.safetensors is empty"),
        (b"\x05\x00", "no safetensors file"),
        (b"PK\x03\x04" + bytes(64), "PyTorch zip archive.*weights_only=True"),
        (b"\x80\x02}q\x00." + bytes(8), "Python pickle"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"GGUF" + bytes(32), "GGUF"),
        (bytes(64), "no safetensors file"),
        (save(GOOD)[:-3], r"truncated: its header promises \d+ bytes, the file has \d+"),
        (save(GOOD)[:30], "truncated: its header promises at least"),
        (header(b"{ not json }"), "header is damaged"),
        (header(b"[1, 2]") + bytes(8), "no safetensors file"),
        (header({"a": 3}), "header is damaged"),
        (header(b'{"a": ' + b"[" * 100_000), "header is damaged"),
        (header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4), "cannot be read"),
        (header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}) + bytes(4), "cannot be read"),
        (header({}), "holds no tensor"),
    ],
)
def test_broken_files(content, says, put):
    with pytest.raises(errors.UnreadableFileError, match=says):
        lora_file.read(put(content))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".PKL"])
def test_pickles_are_never_opened(suffix, put):
    with pytest.raises(errors.UnreadableFileError, match=r"pickled checkpoint.*Convert it once"):
        lora_file.read(put(b"anything", f"x{suffix}"))


def test_missing_and_foreign_files(put, tmp_path):
    with pytest.raises(errors.UnreadableFileError, match="cannot be opened"):
        lora_file.read(tmp_path / "nowhere.safetensors")
    with pytest.raises(errors.UnreadableFileError, match=r"expected a file ending in \.safetensors"):
        lora_file.read(put(b"", "x.txt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite(value, dtype, put):
    tensors = {**GOOD, "b.lora_up.weight": torch.tensor([[1.0, value]], dtype=dtype)}
    with pytest.raises(errors.TensorError, match=r"x\.safetensors: tensor b\.lora_up\.weight has 1 NaN or infinite"):
        lora_file.read(put(save(tensors)))


def test_fp8_and_integers_are_checked_without_a_crash(put):
    tensors = {"a": torch.ones(4).to(torch.float8_e4m3fn), "n": torch.tensor([3])}
    assert lora_file.read(put(save(tensors))).tensors.keys() == tensors.keys()


def test_errors_are_value_errors():
    assert issubclass(errors.AdapterError, ValueError)
    for name in ("LoraNameError", "StrengthError", "UnreadableFileError", "TensorError", "NoMatchError"):
        assert issubclass(getattr(errors, name), errors.AdapterError)


def test_read_once_until_it_changes(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(GOOD, path, metadata={"k": "v"})
    first = lora_file.read(path)
    assert lora_file.read(str(path)) is first
    assert first.metadata == {"k": "v"} and first.name == "x.safetensors"
    save_file({"b": torch.zeros(1)}, path)
    os.utime(path, ns=(0, first.identity.mtime_ns + 1))
    assert list(lora_file.read(path).tensors) == ["b"]
    assert set(first.tensors) == set(GOOD)  # what was read stays what it was


def test_the_cache_is_bounded(tmp_path):
    for number in range(lora_file.CACHED_FILES + 3):
        save_file(GOOD, tmp_path / f"{number}.safetensors")
        lora_file.read(tmp_path / f"{number}.safetensors")
    assert lora_file._read.cache_info().currsize == lora_file.CACHED_FILES
