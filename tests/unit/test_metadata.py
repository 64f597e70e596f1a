"""Trigger words and base model as the common trainers write them, and headers that lie or are broken."""

import json

import pytest
from mixlora.mixlora_core.files.metadata import base_hint, guessed_words, trigger_words


@pytest.mark.parametrize(
    "metadata, words",
    [
        ({}, ()),
        ({"modelspec.trigger_phrase": "monet style"}, ("monet style",)),
        ({"trigger_words": '["a", "b", "a", " "]'}, ("a", "b")),
        ({"ss_datasets": json.dumps([{"subsets": [{"class_tokens": "sks painting"}, {"class_tokens": None}]}])},
         ("sks painting",)),
        ({"ss_dataset_dirs": '{"10_van gogh style": {"n_repeats": 10}, "reg": {}}'}, ("van gogh style",)),
        ({"ss_tag_frequency": '{"10_x": {"1girl": 9}}'}, ()),
    ],
)  # fmt: skip
def test_trigger_words(metadata, words):
    assert trigger_words(metadata) == words


@pytest.mark.parametrize(
    "metadata, words",
    [
        ({}, ()),
        ({"ss_tag_frequency": '{"10_x": {"ghibli": 9, "tree": 4}, "5_y": {"ghibli": 2}}'}, ("ghibli",)),
        ({"ss_tag_frequency": '{"10_x": {"a whole sentence": 1}}'}, ()),
        ({"modelspec.trigger_phrase": " ", "ss_tag_frequency": '{"d": {"ink": 3}}'}, ("ink",)),
        ({"modelspec.trigger_phrase": "monet", "ss_tag_frequency": '{"d": {"ink": 3}}'}, ()),
    ],
)
def test_guessed_words(metadata, words):
    assert guessed_words(metadata) == words


@pytest.mark.parametrize(
    "broken", ["{", "[[[", "null", "3", '{"a": 1}', '[{"subsets": [3]}, 4]', '{"a": {"b": "c"}}', "[" * 99999]
)
def test_broken_headers_say_nothing_and_do_not_crash(broken):
    metadata = {key: broken for key in ("ss_datasets", "ss_dataset_dirs", "ss_tag_frequency")}
    assert trigger_words(metadata) == guessed_words(metadata) == ()


@pytest.mark.parametrize(
    "metadata, base",
    [
        ({"ss_base_model_version": "sd_v1"}, "sd1"),
        ({"ss_base_model_version": "sd_1.5"}, "sd1"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"ss_base_model_version": "sd_v2_768_v"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
    ],
)
def test_base_hint(metadata, base):
    found = base_hint(metadata)
    assert found is not None and found[0] == base
    assert next(iter(metadata.values())) in found[1]


def test_base_hint_of_other_models_is_none():
    assert base_hint({}) is None
    assert base_hint({"modelspec.architecture": "flux-1-dev/lora", "ss_base_model_version": "flux1"}) is None
