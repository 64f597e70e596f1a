"""The sets follow ComposLoRA's rule on both testbeds, and its data is what the paper says."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import pytest
from mixlora.evaluation import check, cli
from mixlora.evaluation.composlora import ComposLoRA
from mixlora.evaluation.jobs import ElementSet, EvaluationError
from mixlora.evaluation.plan import read_plan
from mixlora.evaluation.testbeds import StandinTestbed, named_set, open_testbed, single_sets

PAPER = {2: 24, 3: 72, 4: 96, 5: 48}


@pytest.fixture(params=["standin", "composlora"])
def testbed(request):
    return open_testbed(request.param, {})


def test_480_sets_by_the_papers_rule(testbed):
    worlds = {one.world for one in testbed.elements.values()}
    assert len(testbed.elements) == 22 and len(worlds) == 2 and len(testbed.categories) == 5
    assert Counter((one.world, one.size) for one in testbed.sets) == {
        (world, size): count for world in worlds for size, count in PAPER.items()
    }
    assert len({one.name for one in testbed.sets}) == len({frozenset(one.elements) for one in testbed.sets}) == 480
    for one in testbed.sets:
        members = [testbed.elements[name] for name in one.elements]
        places = [testbed.categories.index(member.category) for member in members]
        assert {member.world for member in members} == {one.world}
        assert places[0] == 0 and places == sorted(set(places)), "exactly one of the first, at most one of each"


@pytest.mark.parametrize(("name", "digest"), [("standin", "69eccc1beba09397"), ("composlora", "76b087ca3c15513b")])
def test_sets_and_prompts_never_change(name, digest):
    testbed = open_testbed(name, {})
    prompts = [(one.name, *testbed.prompt(one)) for one in (*testbed.sets, *single_sets(testbed))]
    assert hashlib.sha256(repr(prompts).encode()).hexdigest()[:16] == digest, "results would no longer compare"


def test_the_standins_prompt_belongs_to_the_set_and_its_triggers_to_the_order():
    testbed = StandinTestbed()
    one = named_set(("lighthouse", "snow", "monet"), "north")
    scene, rest = testbed.prompt(one)[0].split(", ", 1)
    assert rest == "a lighthouse, in the snow, monet style"
    turned = ElementSet("x", "north", one.elements[::-1])
    assert testbed.prompt(turned)[0] == f"{scene}, monet style, in the snow, a lighthouse"
    scenes = Counter(testbed.prompt(other)[0].split(", ")[0] for other in testbed.sets)
    assert len(scenes) == 12 and min(scenes.values()) > 20, "all lands and times"


def test_composloras_prompts_and_settings():
    testbed = ComposLoRA()
    assert testbed.strength == 0.8
    assert testbed.sampling("anime").cfg == 10 and testbed.sampling("anime").steps == 200
    assert (testbed.sampling("reality").width, testbed.sampling("reality").height) == (768, 1024)
    chosen = next(one for one in testbed.sets if one.name == "Scarlett Johansson + School Dress")
    positive, negative = testbed.prompt(chosen)
    assert positive.startswith("RAW photo, subject, 8k uhd") and positive.endswith(
        "knees up, scarlett, short red hair, blue eyes, school uniform, white shirt, red tie, blue pleated microskirt"
    )
    assert testbed.worlds["reality"]["negative"].startswith(negative) and negative.endswith("poorly drawn face")
    mixed = named_set(("Son Goku", "Umbrella"), "anime and reality")
    with pytest.raises(EvaluationError, match="no common checkpoint"):
        testbed.prompt(mixed)


@pytest.fixture
def folders(tmp_path):
    """Folders in which all files of ComposLoRA lie, empty."""
    for world, letters in (("anime", "Counterfeit-V2.5_pruned"), ("reality", "Realistic_Vision_V5.1_fp16-no-ema")):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / f"{letters}.safetensors").touch()
        (tmp_path / "loras" / world).mkdir(parents=True)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "vae-ft-mse-840000-ema-pruned.safetensors").touch()
    for source in ComposLoRA().sources.values():
        (tmp_path / "loras" / f"{source.file}.safetensors").touch()
    return tmp_path


def checked(folders, capsys):
    code = cli.main(["check", *(f"--{kind}={folders / kind}" for kind in ("checkpoints", "vae", "loras"))])
    return code, capsys.readouterr().out


def test_check_lists_what_is_there_and_who_did_not_agree(folders, capsys):
    code, said = checked(folders, capsys)
    assert code == 0 and "25 files found, 0 missing" in said
    assert "Consent: IU (Lee Ji Eun, Korean singer), Scarlett Johansson, The Rock (Dwayne Johnson)" in said
    assert "https://civitai.com/models/20346/" in said and "licence" in said.lower()


def test_check_lists_everything_that_is_missing(folders, capsys):
    (folders / "loras" / "anime" / "object_2.safetensors").unlink()
    (folders / "loras" / "reality" / "character_1.safetensors").unlink()
    (folders / "vae" / "vae-ft-mse-840000-ema-pruned.safetensors").unlink()
    (folders / "checkpoints" / "counterfeit-v2.5-copy.safetensors").touch()
    code, said = checked(folders, capsys)
    assert code == 1 and "4 missing" in said
    assert "Toast: anime/object_2.safetensors is missing" in said
    assert "reality/character_1.safetensors is missing" in said and "has she or he agreed?" in said
    assert "stabilityai/sd-vae-ft-mse-original: no file like" in said and "leave one in the folder" in said


def test_looks_find_files_of_the_plan_alone(folders):
    found, missing = check.look(ComposLoRA(**{kind: str(folders / kind) for kind in ("checkpoints", "vae", "loras")}))
    assert len(found) == 25 and not missing
    assert any("reality" in line and "Realistic_Vision_V5.1" in line for line in found)


def test_the_documented_plan_asks_no_real_person(folders, root, capsys):
    text = (root / "docs" / "composlora.toml").read_text("utf-8").replace("# [folders]", "[folders]")
    for kind in ("checkpoints", "vae", "loras"):
        text = re.sub(rf"(?m)^# {kind} = .*$", f'{kind} = "{kind}"', text)
    (folders / "plan.toml").write_text(text, "utf-8")
    plan = read_plan(folders / "plan.toml")
    assert {one.world for one in plan.sets} == {"anime"}, "every set has a character"
    assert Counter(one.size > 1 for one in plan.sets) == {True: 240, False: 11}
    assert cli.main(["check", str(folders / "plan.toml")]) == 0
    said = capsys.readouterr().out
    assert "251 sets, 8 methods, 6024 pictures. All is there." in said
    assert "Kamado Nezuko: https://" in said and "Consent" not in said
    (folders / "loras" / "anime" / "style_1.safetensors").unlink()
    with pytest.raises(EvaluationError, match=r"Hand-drawn Style: anime/style_1\.safetensors is missing"):
        read_plan(folders / "plan.toml")
