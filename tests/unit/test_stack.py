"""LORA_STACK rows as other packs write them, and names that try to leave the folder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixlora.mixlora_core.errors import AdapterError, LoraNameError, StrengthError
from mixlora.mixlora_core.stack import parse_rows, relative_parts


def test_rows_of_every_kind():
    rows = [("a", 1, 0.5), ["b", "0.5", 0], ("None", 1.0, 1.0), (None, 1.0, 1.0), ("", 1.0, 1.0), ("c", 0, 0.0)]
    assert parse_rows(rows) == [("a", 1.0, 0.5), ("b", 0.5, 0.0), ("c", 0.0, 0.0)]


@pytest.mark.parametrize("row", ["abc", ("a", 1.0), ("a", 1.0, 1.0, 1.0), {"a": 1}, None])
def test_rows_that_are_none(row):
    with pytest.raises(StrengthError, match="Row 2 of the LORA_STACK is"):
        parse_rows([("a", 1.0, 1.0), row])


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "x", None, []])
def test_strengths(value):
    with pytest.raises(StrengthError, match=r"a\.safetensors: strength_clip is .*expected a finite number"):
        parse_rows([("a.safetensors", 1.0, value)])


def test_names_have_either_slash():
    assert relative_parts("a/b\\c.safetensors") == ("a", "b", "c.safetensors")


@given(st.text(alphabet="ab./\\:\0", max_size=12))
def test_no_name_leaves_the_folder(name):
    try:
        parts = relative_parts(name)
    except LoraNameError as error:
        assert isinstance(error, AdapterError)
    else:
        assert parts and not any(part in ("", "..", ".") or "/" in part or "\\" in part for part in parts)
        assert not name.startswith(("/", "\\"))
