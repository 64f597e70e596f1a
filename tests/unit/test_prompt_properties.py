"""What holds for every prompt: nothing is lost, nothing crashes, what is written is what is read."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from mixlora.mixlora_core.errors import PromptError
from mixlora.mixlora_core.prompt import grammar
from mixlora.mixlora_core.prompt.names import Known, words
from mixlora.mixlora_core.prompt.plan import read

STACK = (
    Known("monet.safetensors", ("monet style",)),
    Known("van_gogh.safetensors", ("van gogh style",), 0.5, 0.25),
    Known("x/ghibli.safetensors", ("studio ghibli style",)),
)
FRAGMENTS = [
    *(
        "monet",
        "van gogh",
        "ghibli style",
        "a hill",
        "70 %",
        "30%",
        "0.5",
        ":",
        "@",
        "0-40%",
        "@0-40%",
        ":0.8",
        "<",
        ">",
    ),
    *("<lora:monet:1>", "<lora:ghibli:0.5@0-50%>", "equal mix of ", "and", ",", ".", "(", ")", " ", "\n", "parts", "é"),
]
prompts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=14).map("".join)
strengths = st.integers(-1000, 1000).map(lambda n: n / 100)
pure = st.text(alphabet="abcdehilnos ,.()\n", max_size=60)


@given(prompts)
def test_any_prompt_is_read_or_refused_and_twice_the_same(prompt):
    try:
        plan = read(prompt, STACK)
    except PromptError:
        return
    assert plan == read(prompt, STACK)
    assert len(plan.text) <= len(prompt)
    for speech in plan.speeches:
        assert 0 <= speech.window[0] < speech.window[1] <= 1
        assert abs(speech.model) <= 100 and abs(speech.clip) <= 100
    for adapter in range(len(STACK)):
        own = plan.of(adapter)
        assert all(one.window[1] <= other.window[0] for one, other in pairwise(own))


@given(prompts)
def test_the_text_is_the_prompt_with_parts_left_out(prompt):
    try:
        text = read(prompt, STACK).text
    except PromptError:
        return
    letters = iter("".join(prompt.split()))
    assert all(letter in letters for letter in "".join(text.split()))


@given(pure)
def test_text_without_strengths_stays_as_it_is(prompt):
    plan = read(prompt, STACK)
    assert plan.text == prompt and not plan.notes


@given(pure, strengths, strengths, st.integers(0, 99), st.integers(1, 100), pure)
def test_tags_say_what_they_say(before, model, clip, start, length, after):
    end = min(100, start + length)
    plan = read(f"{before}<lora:van_gogh:{model}:{clip}@{start}-{end}%>{after}", STACK)
    (speech,) = plan.speeches
    assert (speech.adapter, speech.model, speech.clip) == (1, model, clip)
    assert speech.window == (start / 100, end / 100)
    assert words(plan.text) == words(f"{before} {after}")


@given(st.lists(st.integers(1, 100), min_size=3, max_size=3), st.permutations([0, 1, 2]))
def test_shares_keep_their_proportions_and_never_exceed_the_whole(percents, order):
    calls = ["monet", "van gogh", "ghibli"]
    plan = read(", ".join(f"{percents[place]} % {calls[place]}" for place in order), STACK)
    shares = [speech.model / STACK[speech.adapter].strength_model for speech in plan.speeches]
    assert [speech.adapter for speech in plan.speeches] == [0, 1, 2]
    assert sum(shares) <= 1 + 1e-9
    whole = max(1.0, sum(percents) / 100)
    for share, percent in zip(shares, percents, strict=True):
        assert abs(share - percent / 100 / whole) < 1e-9


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=4))
def test_cutting_removes_no_word_outside_the_spans(pairs):
    text = "one, two, three four, five six seven, eight nine"
    spans = sorted(grammar.Span(min(pair), max(pair)) for pair in pairs)
    spans = [one for place, one in enumerate(spans) if place == 0 or one.start >= max(s.end for s in spans[:place])]
    left = grammar.cut(text, spans)
    expected = "".join(letter for place, letter in enumerate(text) if not any(s <= place < e for s, e in spans))
    assert left.replace(" ", "").replace(",", "") == expected.replace(" ", "").replace(",", "")
