"""LoRAWeightsFromPrompt on the real ComfyUI: tags equal LoraLoader bit for bit, windows are runs in turn."""

import comfy.model_management
import comfy.sd1_clip
import pytest
import torch
from mixlora.mixlora_core import errors
from mixlora.mixlora_core.prompt.names import Known
from mixlora.mixlora_core.prompt.similarity import ClipSimilarity
from mixlora.nodes.prompt_weights import LoRAWeightsFromPrompt
from mixlora.nodes.style_lora import LoadStyleLoRA


@pytest.fixture
def files(loras):
    """Two LoRA files with trigger words; x also speaks to the text encoder."""
    phrase = "modelspec.trigger_phrase"
    x = loras.save("x", "LoRA", size=0.1, metadata={phrase: "monet style"})
    y = loras.save("sub/y", "LoCon", seed=1, size=0.1, text=False, metadata={phrase: "van gogh style"})
    return x, y


@pytest.fixture
def spoken(sd15, clip):
    """All outputs of the node."""

    def run(text, rows=(), others="silent", unknown="error", by_similarity=False):
        output = LoRAWeightsFromPrompt.execute(sd15, clip, text, others, unknown, by_similarity, lora_stack=list(rows))
        assert output.result is not None
        return output.result

    return run


def encoded(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def same_weights(models, one, other):
    keys = (getattr(other, "patcher", other)).patches.keys()
    ours, theirs = models.patched_weights(one, keys), models.patched_weights(other, keys)
    assert keys and all(models.same_bits(ours[key], theirs[key]) for key in keys)


@pytest.mark.parametrize("stacked", [True, False])
def test_a_tag_is_lora_loader_bit_for_bit(stacked, models, sd15, clip, files, chained, spoken):
    """Weights, text and picture; whatever strength the stack has, and with no stack at all."""
    rows = [(files[0], 0.2, 0.1), (files[1], 1.0, 1.0)] if stacked else []
    model, conditioning, patched, text, _, stack = spoken("a hill <lora:x:0.6>, at sunset", rows)
    their_model, their_clip = chained(sd15, clip, [(files[0], 0.6, 0.6)])
    assert text == "a hill, at sunset" and stack.rows == [(files[0], 0.6, 0.6)]
    same_weights(models, model, their_model)
    same_weights(models, patched, their_clip)
    ((states, fields),), ((their_states, their_fields),) = conditioning, encoded(their_clip, text)
    assert models.same_bits(states, their_states)
    assert models.same_bits(fields["pooled_output"], their_fields["pooled_output"])
    assert models.same_bits(models.sample(model), models.sample(their_model))


def test_shares_are_chained_lora_loaders_at_these_strengths(models, sd15, clip, files, chained, spoken):
    model, conditioning, _, text, report, _ = spoken(
        "70 % monet, 30 % van gogh, a hill", [(files[0], 1.0, 1.0), (files[1], 0.5, 0.5)]
    )
    theirs = chained(sd15, clip, [(files[0], 0.7, 0.7), (files[1], 0.15, 0.15)])
    same_weights(models, model, theirs[0])
    assert models.same_bits(conditioning[0][0], encoded(theirs[1], text)[0][0])
    assert "2 of 2 LoRAs speak" in report


def test_strength_zero_is_the_base(sd15, clip, files, spoken, models):
    model, conditioning, patched, _, report, stack = spoken("a hill <lora:x:0>", [(files[0], 1.0, 1.0)])
    assert model is sd15 and patched is clip and not stack.entries
    assert models.same_bits(conditioning[0][0], encoded(clip, "a hill")[0][0])
    assert "0 of 1 LoRAs speak" in report


def test_who_shall_be_silent_is_handed_on_as_silent(files, spoken):
    """Else Switch would give him turns, and Composite average him in."""
    *_, stack = spoken("a hill <lora:x:0> <lora:y:0.5>", [(name, 1.0, 1.0) for name in files])
    assert [entry.row for entry in stack.entries] == [(files[1], 0.5, 0.5)] and stack.numbers == (2,)


def test_a_tag_that_every_picture_has_is_no_trigger_word(loras, spoken):
    """As trigger word it would silence all others in every prompt with it, and give marks and shares to this LoRA."""
    tags = {"ss_tag_frequency": '{"10_x": {"1girl": 90, "ink": 9}}'}
    rows = [(loras.save("one", metadata=tags, seed=1), 1.0, 1.0), (loras.save("two", seed=2), 1.0, 1.0)]
    *_, stack = spoken("1girl, on a hill", rows)
    assert [row[0] for row in stack.rows] == [row[0] for row in rows]
    with pytest.raises(errors.PromptError, match="1girl"):
        spoken("a hill, 1girl:0.8@0-40%", rows)
    report = LoadStyleLoRA.execute(*rows[0]).result
    assert report[2] == "1girl" and "none in the metadata; perhaps 1girl, its captions' most frequent tag" in report[3]


def test_windows_are_the_runs_one_after_the_other(models, sd15, files, chained, spoken):
    """Four steps: x for the first half, then y for a quarter, then nobody."""
    rows = [(files[0], 1.0, 0.0), (files[1], 1.0, 0.0)]
    ours = models.sample(spoken("x:0.8@0-50%, <lora:y:-0.5@50-75%>", rows)[0])
    latent = None
    for first, last, own in ((0, 2, [(files[0], 0.8, 0.0)]), (2, 3, [(files[1], -0.5, 0.0)]), (3, 4, [])):
        options = {"start_step": first, "last_step": last, "force_full_denoise": last == 4}
        latent = models.sample(chained(sd15, None, own)[0], latent=latent, **options)
    assert ((ours - latent).norm() / latent.norm()).item() < 1e-5
    assert ((ours - models.sample(sd15)).norm() / latent.norm()).item() > 1e-3


def test_one_window_over_the_whole_run_is_no_window(models, sd15, files, chained, spoken):
    rows = [(files[0], 1.0, 1.0), (files[1], 1.0, 1.0)]
    theirs = models.sample(chained(sd15, None, [(files[0], 0.6, 0.0), (files[1], 0.3, 0.0)])[0])
    apart = spoken("<lora:x:0.6@0-50%> <lora:x:0.6@50-100%> <lora:y:0.3>", rows)[0]
    assert models.same_bits(models.sample(apart), theirs)
    assert models.same_bits(models.sample(spoken("<lora:x:0.6@0-100%> <lora:y:0.3>", rows)[0]), theirs)


def test_the_text_is_encoded_at_the_mean_over_the_run(models, sd15, clip, files, chained, spoken):
    _, conditioning, _, text, _, stack = spoken("<lora:x:0.8:0.4@0-25%> a hill", [(files[0], 1.0, 1.0)])
    theirs = chained(sd15, clip, [(files[0], 0.0, 0.1)])[1]
    assert models.same_bits(conditioning[0][0], encoded(theirs, text)[0][0])
    assert stack.rows == [(files[0], 0.2, 0.1)]


def test_a_window_without_a_whole_step_stops_before_sampling(models, files, spoken, untouched):
    model = spoken("<lora:x:0.8@90-100%>", [(files[0], 1.0, 1.0)])[0]
    with pytest.raises(errors.CompositionError, match="90 to 100 % of 4 steps is no whole step"):
        models.sample(model)


def test_a_file_for_the_text_encoder_alone_can_have_a_window(models, sd15, clip, loras, spoken):
    tensors = {key: value for key, value in models.lora_tensors("LoRA").items() if key.startswith("lora_te")}
    rows = [(loras.save("words", tensors), 1.0, 1.0)]
    model, conditioning, *_ = spoken("a hill <lora:words:0:1@0-50%>", rows)
    assert model is sd15 and not torch.equal(conditioning[0][0], encoded(clip, "a hill")[0][0])


def test_nothing_stays_behind(models, clip, files, spoken, untouched):
    before = {key: value.clone() for key, value in clip.cond_stage_model.state_dict().items()}
    model, _, patched, *_ = spoken("x:0.8@0-50%, <lora:y:0.5>", [(files[0], 1.0, 1.0)])
    models.sample(model)
    assert patched.patcher.patches and model.wrappers
    comfy.model_management.unload_all_models()
    after = clip.cond_stage_model.state_dict()
    assert all(models.same_bits(value, after[key]) for key, value in before.items()) and not clip.patcher.patches


def test_files_that_only_tags_name_are_found(loras, files, spoken):
    stack = spoken("<lora:sub/y:0.5>, <lora:x.safetensors:1>", [])[5]
    assert [row[0] for row in stack.rows] == ["sub/y.safetensors", "x.safetensors"]
    before = LoRAWeightsFromPrompt.fingerprint_inputs("<lora:y:1> <lora:nowhere:1>", others="silent")
    assert [name for name, _ in before] == ["sub/y.safetensors"]
    loras.save("other/y")
    import folder_paths

    folder_paths.filename_list_cache.pop("loras", None)
    with pytest.raises(errors.PromptError, match=r"<lora:y:\.\.\.> fits several files: other.y\.safetensors, sub.y"):
        spoken("<lora:y:1>", [])
    assert LoRAWeightsFromPrompt.fingerprint_inputs("<lora:y:1>") == []


def test_bad_prompts_stop_with_hints(files, spoken, sd15):
    with pytest.raises(errors.PromptError, match=r"'monett' names no LoRA of the stack. Did you mean x.safetensors\?"):
        spoken("50 % monett", [(files[0], 1.0, 1.0)])
    with pytest.raises(errors.PromptError, match="'z' names no LoRA"):
        spoken("<lora:z:1>", [])
    with pytest.raises(errors.LoraNameError, match="leaves ComfyUI's loras folders"):
        spoken("a hill", [("../x.safetensors", 1.0, 1.0)])
    with pytest.raises(errors.PromptError, match="There is no CLIP"):
        LoRAWeightsFromPrompt.execute(sd15, None, "a hill", "silent", "error", False)


def test_a_prompt_alone_is_plain_text_encoding(sd15, clip, spoken, models):
    model, conditioning, patched, text, report, stack = spoken("a (hill:1.3) at sunset", [])
    assert model is sd15 and patched is clip and text == "a (hill:1.3) at sunset" and not stack.entries
    assert models.same_bits(conditioning[0][0], encoded(clip, text)[0][0])
    assert report.startswith("There is no LoRA")


class Table:
    """A CLIP that is an embedding of ComfyUI's own tokens: words that are the same are alike, others are not."""

    def __init__(self):
        self.tokenizer = comfy.sd1_clip.SD1Tokenizer()

    def tokenize(self, text):
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens(self, tokens):
        rows = [torch.randn(4096, generator=torch.Generator().manual_seed(token)) for token, _ in tokens["l"][0]]
        return torch.stack(rows)[None]


KNOWN = (
    Known("a.safetensors", ("water lilies in a pond",)),
    Known("b.safetensors", ("no such words", "starry night")),
    Known("Tram_car.safetensors"),
)


def test_similarity_finds_whose_words_are_alike():
    similar = ClipSimilarity(Table(), KNOWN)
    assert similar("starry night") == pytest.approx((1, 1.0)), "padding does not count"
    assert similar("tram car") == pytest.approx((2, 1.0)), "without trigger words the name speaks"
    found = similar("white water lilies")
    assert found is not None and found[0] == 0 and 0.4 < found[1] < 0.9
    assert similar("a picture") is None, "words that mean nobody"
    assert similar("castle") is None, "no words that are alike"
    assert ClipSimilarity(Table(), (KNOWN[0], KNOWN[0]))("water lilies") is None, "two that are alike"
    assert ClipSimilarity(Table(), ())("water lilies") is None


def test_similarity_pools_the_words_own_states(clip):
    tokens = clip.tokenize("water lilies")
    expected = clip.encode_from_tokens(tokens)[0, 1:3].mean(0)
    assert [token for token, _ in tokens["l"][0]].index(49407) == 3, "start, two words, end"
    assert torch.allclose(ClipSimilarity(clip, ())._pooled("water lilies"), expected, atol=1e-6)


def test_similarity_is_asked_for_by_a_switch(monkeypatch, files, spoken):
    rows = [(files[0], 1.0, 1.0), (files[1], 1.0, 1.0)]
    prompt = "60 % water lilies, 40 % van gogh"
    with pytest.raises(errors.PromptError, match="'water lilies' names no LoRA"):
        spoken(prompt, rows)
    monkeypatch.setattr(ClipSimilarity, "__call__", lambda self, text: (0, 0.5))
    _, _, _, _, report, stack = spoken(prompt, rows, by_similarity=True)
    assert stack.rows == [(files[0], 0.6, 0.6), (files[1], 0.4, 0.4)] and "(CLIP similarity 0.50)" in report
