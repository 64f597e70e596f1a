"""What is read out of a prompt: strengths, shares and windows, by whom they are meant, and the text that is left."""

import pytest
from mixlora.mixlora_core.errors import PromptError
from mixlora.mixlora_core.prompt.names import Known
from mixlora.mixlora_core.prompt.plan import MENTIONED, NOTHING, SAID, STACKED, read
from mixlora.mixlora_core.prompt.reading import TEXT
from mixlora.mixlora_core.prompt.report import describe

MONET = Known("standin_monet.safetensors", ("monet style",))
VAN_GOGH = Known("standin_van_gogh.safetensors", ("van gogh style",))
GHIBLI = Known("styles/standin_ghibli.safetensors", ("studio ghibli style",), 0.8, 0.5)
STACK = (MONET, VAN_GOGH, GHIBLI)
EQUAL = "equal mix of van gogh texture, monet lighting and studio ghibli animation style"


def said(prompt, known=STACK, **manner):
    """Name -> (model, clip, start, end) of those who speak; one who speaks several times has a list."""
    found = {}
    for speech in read(prompt, known, **manner).speeches:
        name = known[speech.adapter].name.removesuffix(".safetensors").rpartition("standin_")[2]
        found.setdefault(name, []).append((speech.model, speech.clip, *speech.window))
    return {name: own[0] if len(own) == 1 else own for name, own in found.items()}


def about(strength, clip=None, start=0.0, end=1.0):
    return pytest.approx((strength, strength if clip is None else clip, start, end))


TAGS = {
    "<lora:standin_monet:0.6>": (0.6, 0.6, 0.0, 1.0),
    "<lora:standin_monet>": (1.0, 1.0, 0.0, 1.0),
    "<lora:standin_monet:-0.5>": (-0.5, -0.5, 0.0, 1.0),
    "<lora:standin_monet:0.6:0.3>": (0.6, 0.3, 0.0, 1.0),
    "<lora:standin_monet:te=0.3:unet=0.6>": (0.6, 0.3, 0.0, 1.0),
    "<lora:standin_monet:0.6:te=0.3>": (0.6, 0.3, 0.0, 1.0),
    "<lora:standin_monet:.5@0-40%>": (0.5, 0.5, 0.0, 0.4),
    "<lora:standin_monet@0.25-1>": (1.0, 1.0, 0.25, 1.0),
    "<lora:standin_monet:1@ 10 % - 20 % >": (1.0, 1.0, 0.1, 0.2),
    "<LORA: Standin Monet.safetensors : 2 >": (2.0, 2.0, 0.0, 1.0),
    "<lyco:standin_monet:0.6>": (0.6, 0.6, 0.0, 1.0),
    "<lora:standin_monet:0>": (0.0, 0.0, 0.0, 1.0),
}


@pytest.mark.parametrize("tag", TAGS)
def test_tags_give_strengths_whatever_the_stack_says(tag):
    known = (Known("standin_monet.safetensors", (), 0.3, 0.2), VAN_GOGH)
    assert said(f"a hill, {tag}, at sunset", known) == {"monet": TAGS[tag]}
    assert read(f"a hill, {tag}, at sunset", known).text == "a hill, at sunset"


CUTS = {
    "<lora:standin_monet:1>": "",
    "<lora:standin_monet:1> a hill": "a hill",
    "a hill <lora:standin_monet:1>": "a hill",
    "a hill, <lora:standin_monet:1>": "a hill",
    "a <lora:standin_monet:1> hill": "a hill",
    "a hill<lora:standin_monet:1>, the sea": "a hill, the sea",
    "a hill\n<lora:standin_monet:1>\nthe sea": "a hill\n\nthe sea",
    "<lora:standin_monet:1>, <lora:standin_van_gogh:1>, a hill": "a hill",
    "monet style:0.8@0-40% over hills": "monet style over hills",
    "standin_monet:0.8@0-40%, a hill": "a hill",
    "a hill, van gogh@40-100%, ,  odd": "a hill, van gogh, ,  odd",
    "a hill, the ghibli look:0.4@50-100%": "a hill, the ghibli look",
    "a hill, van_gogh:0.4": "a hill",
    "(monet style:1.2), <lora:standin_monet:1>": "(monet style:1.2)",
}


@pytest.mark.parametrize("prompt", CUTS)
def test_tags_and_marks_are_cut_and_nothing_else(prompt):
    assert read(prompt, STACK).text == CUTS[prompt]


@pytest.mark.parametrize("prompt", [f"a hill, {EQUAL}, sunset, 8k", EQUAL, f"{EQUAL}. A lake and a house."])
def test_the_mission_s_phrase(prompt):
    third = 1 / 3
    assert said(prompt) == {
        "monet": about(third), "van_gogh": about(third), "ghibli": about(third * 0.8, third * 0.5)
    }  # fmt: skip
    assert read(prompt, STACK).text == prompt


SHARES = {
    "70 % monet, 30 % ghibli": (0.7, 0.3),
    "a hill in 70% monet lighting and 30% studio ghibli style, sunset": (0.7, 0.3),
    "monet: 70 %, ghibli: 30 %": (0.7, 0.3),
    "70 percent monet, 30 per cent ghibli": (0.7, 0.3),
    "mix of 70 % monet and 30 % ghibli": (0.7, 0.3),
    "70 % monet 30 % ghibli": (0.7, 0.3),
    "70,5 % monet, 29.5 % ghibli": (0.705, 0.295),
    "70 % of monet,30 % of ghibli": (0.7, 0.3),
    "20 % monet, 30 % ghibli": (0.2, 0.3),
    "150 % monet, 50 % ghibli": (0.75, 0.25),
    "3 parts monet, 1 part ghibli": (0.75, 0.25),
    "equal parts monet and ghibli": (0.5, 0.5),
    "a blend of monet & ghibli, soft": (0.5, 0.5),
    "equal mix of monet, ghibli": (0.5, 0.5),
    "equal mix of monet, ghibli, a hill and a house": (0.5, 0.5),
    "fusion between ghibli light, and monet": (0.5, 0.5),
}


@pytest.mark.parametrize("prompt", SHARES)
def test_shares_are_parts_of_the_stack_s_strengths(prompt):
    monet, ghibli = SHARES[prompt]
    assert said(prompt) == {"monet": about(monet), "ghibli": about(ghibli * 0.8, ghibli * 0.5)}
    assert read(prompt, STACK).text == prompt


def test_shares_beyond_the_whole_are_noted():
    assert read("150 % monet, 50 % ghibli", STACK).notes == (
        "the shares add up to 200 %: they are scaled down to 100 %",
    )
    assert read("150 % monet", STACK).speeches[0].model == pytest.approx(1.0)


def test_windows():
    assert said("standin_monet:0.8@0-40%, van gogh style:0.5@40%-100%, hill") == {
        "monet": (0.8, 0.8, 0.0, 0.4), "van_gogh": (0.5, 0.5, 0.4, 1.0)
    }  # fmt: skip
    assert said("equal mix of monet@0-50% and ghibli lines@50–100%") == {
        "monet": about(0.5, start=0.0, end=0.5), "ghibli": about(0.4, 0.25, 0.5, 1.0)
    }  # fmt: skip
    assert said("70 % monet@0-50%")["monet"] == about(0.7, end=0.5)
    assert said("ghibli@20-60% clouds") == {"ghibli": (0.8, 0.5, 0.2, 0.6)}
    assert said("monet:0.9@0-50%, monet:0.2@50-100%") == {"monet": [(0.9, 0.9, 0.0, 0.5), (0.2, 0.2, 0.5, 1.0)]}
    plan = read("monet:0.9@0-50%, monet:0.2@50-100%", STACK)
    assert not plan.whole and plan.mean(0) == pytest.approx((0.55, 0.55))


def test_what_is_no_strength_stays_text():
    prompt = "(monet:1.2), 16:9, at 10:30, 50 % clouds, 100% cotton, embedding:monet:0.5, me@home, 10-20 % fog, me@5pm"
    plan = read(prompt, STACK)
    assert plan.text == prompt and plan.source != SAID
    assert plan.notes == (
        "'50 % clouds' names no LoRA of the stack; it stays in the text",
        "'100% cotton' names no LoRA of the stack; it stays in the text",
        "'me@5pm' names no LoRA of the stack; it stays in the text",
    )
    assert read("mix of flowers and grass", STACK).source == NOTHING
    assert "'anno:1920' names no LoRA" in read("anno:1920", STACK).notes[0]
    assert "'me@5pm' names no LoRA" in read("me@5pm", STACK).notes[0]


def test_the_prompt_decides_as_far_as_it_says_something():
    plain = {"monet": about(1.0), "van_gogh": about(1.0), "ghibli": about(0.8, 0.5)}
    assert said("a hill") == plain and read("a hill", STACK).source == NOTHING
    assert said("a hill, Studio Ghibli style") == {"ghibli": about(0.8, 0.5)}
    assert read("a hill, studio ghibli style", STACK).source == MENTIONED
    assert said("a hill by standin_monet") == {"monet": about(1.0)}
    assert said("studio ghibli style <lora:standin_monet:0.6>") == {"monet": about(0.6)}
    assert said("<lora:standin_monet:0.6>", others=STACKED) == plain | {"monet": about(0.6)}
    assert said("a hill", ()) == {}


def test_names():
    a, b, c = Known("x/Monet_v2-000010.safetensors"), Known("y\\flat cel.safetensors", ("a, b style",)), Known("a.pt")
    stack = (a, b, c)
    assert [one.adapter for one in read("50 % monet, 50 % flat cel look", stack).speeches] == [0, 1]
    assert read("<lora:a.pt:1>", stack).speeches[0].adapter == 2
    assert read("a hill", stack).source == NOTHING, "a file called a is not meant by every a"
    assert read("<lora:x/monet v2-000010:1>", stack).speeches[0].adapter == 0
    longer = (Known("one.safetensors", ("monet",)), Known("two.safetensors", ("claude monet",)))
    assert read("50 % claude monet", longer).speeches[0].adapter == 1
    with pytest.raises(PromptError, match=r"'monet' fits several LoRAs alike: one.safetensors, two.safetensors"):
        read("50 % monet", (longer[0], Known("two.safetensors", ("monet",))))
    with pytest.raises(PromptError, match="fits several"):
        read("<lora:m:1>", (Known("a/m.safetensors"), Known("b/m.safetensors")))
    assert read("<lora:b/m:1>", (Known("a/m.safetensors"), Known("b/m.safetensors"))).speeches[0].adapter == 1


def test_similarity_is_the_last_resort():
    asked = []

    def similar(text):
        asked.append(text)
        return (0, 0.83) if "water lilies" in text else None

    plan = read("60 % water lilies, 40 % ghibli", STACK, similar=similar)
    found = [speech.match and speech.match.by for speech in plan.speeches]
    assert found == ["CLIP similarity", "a word that only it has"]
    assert asked == ["water lilies"]
    assert "(CLIP similarity 0.83)" in describe(STACK, plan)
    with pytest.raises(PromptError, match="'a pond' names no LoRA"):
        read("60 % a pond, 40 % ghibli", STACK, similar=similar)


BAD = {
    "<lora:monnet:0.5>": r"'monnet' names no LoRA of the stack. Did you mean standin_monet.safetensors\?",
    "<lora:x:0.5>": "'x' names no LoRA of the stack. It has standin_monet.safetensors, standin_van_gogh",
    "70 % monnet, hill": "'monnet' names no LoRA.*Did you mean standin_monet",
    "70 % monet, 30 % goghh": "'30 % goghh': 'goghh' names no LoRA.*standin_van_gogh",
    "70 % monet, 30 % grey": "'30 % grey': 'grey' names no LoRA",
    "equal mix of monet and gibli": "'gibli' names no LoRA.*standin_ghibli",
    "equal mix of vangoh texture, monet and ghibli": "'vangoh texture' names no LoRA.*standin_van_gogh",
    "equal mix of monet, a hill and ghibli": "'a hill' names no LoRA",
    "monnet:0.8": "'monnet' names no LoRA",
    "foo:0.8@0-40%": "'foo' names no LoRA",
    "<lora:standin_monet": "'<lora:standin_monet' at character 1 has no >",
    "<lora:>": "names no file",
    "<lora::1>": "names no file",
    "<lora:standin_monet:abc>": "'abc' is no strength; expected a number from -100 to 100",
    "<lora:standin_monet:nan>": "'nan' is no strength",
    "<lora:standin_monet:>": "'' is no strength",
    "<lora:standin_monet:101>": "'101' is no strength",
    "<lora:standin_monet:__import__('os')>": "is no strength",
    "<lora:standin_monet:1:1:8>": "'8' is not understood",
    "<lora:standin_monet:1:lbw=MIDD>": "'lbw=MIDD' is not understood",
    "<lora:standin_monet:1:unet=0.5>": "'unet=0.5' is not understood",
    "monet:0.8@50-40%": "the start, 0.5 of the run, is not before the end, 0.4",
    "monet:0.8@40-40%": "is not before the end",
    "monet:0.8@0-140%": "goes beyond the run, whose end is 100 %",
    "monet:0.8@0-40": r"goes beyond the run, whose end is 1. Do you mean @0-40%\?",
    "monet:0.8@40%": "'40%' is no part of the run; expected its start and end: @0-40%",
    "<lora:standin_monet:1@>": "is no part of the run",
    "monet:0.8@-10-40%": "is no part of the run",
    "monet:0.8@, hill": "'' is no part of the run",
    "monet:0.8@soon": "'soon' is no part of the run",
    "monet:1920": "'1920' is no strength",
    "70 % monet@5pm": "'monet@5pm'|'70 % monet@5pm'.*is no part of the run",
    "<lora:!!:1>": "'!!' names no LoRA",
    "0 % monet, 0 % ghibli": "All shares of the mix are 0",
    "0 parts monet, 0 parts ghibli": "All shares of the mix are 0",
    "-20 % monet, 30 % ghibli": "cannot be negative",
    f"{'9' * 400} % monet": "is more than 1000000",
    "<lora:standin_monet:1><lora:standin_monet:1>": "is given two strengths at once",
    "70 % monet, <lora:standin_monet:0.4>": "given two strengths at once: '70 % monet' and '<lora:standin_monet:0.4>'",
    "monet:0.8@0-50%, monet:0.8@40-100%": "is given two strengths at once",
    "mix of monet and monet lighting": "is given two strengths at once",
    "70 % monet@0-50% light@50-100%": "says twice when",
}


@pytest.mark.parametrize("prompt", BAD)
def test_bad_prompts_say_what_and_where(prompt):
    with pytest.raises(PromptError, match=f"(?s){BAD[prompt]}"):
        read(prompt, STACK)


def test_all_problems_at_once():
    with pytest.raises(PromptError) as caught:
        read("<lora:x:0.5>, <lora:standin_monet:abc>, monet:0.8@50-40%", STACK)
    assert len(str(caught.value).splitlines()) == 4


def test_unknown_names_can_be_left_in_the_text():
    prompt = "70 % monet, 30 % goghh, <lora:x:0.5>, foo:0.8@0-40%, hill"
    plan = read(prompt, STACK, unknown=TEXT)
    assert plan.text == "70 % monet, 30 % goghh, foo:0.8@0-40%, hill"
    assert [(speech.adapter, speech.model) for speech in plan.speeches] == [(0, 0.7)]
    assert len(plan.notes) == 3 and "By the setting, the tag is left out." in plan.notes[0]
    with pytest.raises(PromptError, match="expected one of"):
        read(prompt, STACK, unknown="maybe")


def test_hints_know_the_files_that_are_not_in_the_stack():
    with pytest.raises(PromptError, match=r"Did you mean other/klimt.safetensors\?"):
        read("<lora:climt:1>", STACK, shelf=("other/klimt.safetensors", "zorn.safetensors"))


def test_the_report_says_what_was_understood():
    plan = read("<lora:standin_monet:0.6:0.2@0-40%>, 50 % ghibli, 10 % fogg, a hill", STACK, unknown=TEXT)
    assert describe(STACK, plan).splitlines() == [
        "The prompt gives strengths; 2 of 3 LoRAs speak",
        "- standin_monet.safetensors: model 0.6, clip 0.2, from 0 to 40 % of the run, "
        'by "<lora:standin_monet:0.6:0.2@0-40%>" at character 1 (file name)',
        "  - its trigger words are not in the text: monet style",
        "- standin_van_gogh.safetensors: silent",
        '- styles/standin_ghibli.safetensors: model 0.4, clip 0.25, by "50 % ghibli" at character 37 '
        "(a word that only it has)",
        "  - its trigger words are not in the text: studio ghibli style",
        "- note: '10 % fogg': 'fogg' names no LoRA of the stack. It has standin_monet.safetensors, "
        "standin_van_gogh.safetensors, styles/standin_ghibli.safetensors. By the setting, it stays in the text.",
        "- text: 50 % ghibli, 10 % fogg, a hill",
    ]
    assert describe(STACK, read("hill", STACK)).startswith("The prompt says nothing about the LoRAs: all speak as")
    assert describe(STACK, read("monet style", STACK)).startswith("The prompt gives no strengths, but names 1 of 3")
    assert describe((), read("hill", ())).startswith("There is no LoRA")
