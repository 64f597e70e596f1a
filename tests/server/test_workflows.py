"""The example workflows paint what they say, judged by the stand-in's oracle."""

from __future__ import annotations

import io

import numpy as np
import pytest
from mixlora.standin.oracle import MANNERS, Oracle
from mixlora.standin.styles import STYLES
from mixlora.tools import demo, workflows
from mixlora.tools.graph import with_widgets
from PIL import Image

STANDIN = [name for name in workflows.all_workflows() if "stand-in" in name]


def picture(result) -> Image.Image:
    """The one picture of a result."""
    (only,) = result.saved
    return Image.open(io.BytesIO(only.data)).convert("RGB")


def style_shares(image: Image.Image) -> dict[str, float]:
    """How probable the oracle holds each style for a picture; what is left of 1 is for unstyled pictures."""
    reading = Oracle.load().read(np.asarray(image)[None])
    return {manner: share for manner, share in zip(MANNERS, reading.manners[0], strict=True) if manner in STYLES}


@pytest.fixture(scope="module")
def painted(client):
    """Every stand-in workflow's result, each queued once, as it is."""
    return {name: client.run_workflow(workflows.all_workflows()[name]) for name in STANDIN}


@pytest.mark.parametrize("name", STANDIN)
def test_paints_its_pictures_and_reports(painted, name):
    images = [Image.open(io.BytesIO(one.data)) for one in painted[name].saved]
    assert [image.size for image in images] == [(128, 128)] * (3 if name.startswith("Merge") else 1)
    if name.startswith(("LoRA Composite", "LoRA Regions", "LoRA Layered")):
        return  # they say nothing
    for (text,) in painted[name].texts.values():
        assert all(style in text if name.startswith("LoRA Router") else f"standin_{style}" in text for style in STYLES)
    assert len(painted[name].texts) == (2 if name.startswith("Save") else 1)


def test_switch_shows_its_timetable(painted):
    result = painted["LoRA Switch stand-in"]
    (drawn,) = (one for one in result.pictures if one.kind == "temp")
    assert Image.open(io.BytesIO(drawn.data)).width > 500
    ((text,),) = result.texts.values()
    assert "3 LoRAs, 30 steps, 15 turns" in text


def test_the_comparison_is_the_single_workflows(painted):
    """With one seed, merge, switch and composite beside each other are what each is alone."""
    merge, switch, composite = (
        np.asarray(Image.open(io.BytesIO(one.data))) for one in painted["Merge Switch Composite stand-in"].saved
    )
    assert not np.array_equal(merge, switch) and not np.array_equal(switch, composite)
    for title, compared in (("LoRA Switch", switch), ("LoRA Composite", composite)):
        alone = np.asarray(picture(painted[f"{title} stand-in"]))
        assert np.abs(alone.astype(int) - compared).mean() < 1


def test_what_was_saved_is_the_mix_beside_it(painted, loras):
    """The picture is the plain workflow's with the same strengths, and the file that the report names is there."""
    save, mix = painted["Save Mixed LoRA stand-in"], painted["MixLoRA stand-in"]
    assert np.array_equal(np.asarray(picture(save)), np.asarray(picture(mix)))
    (file,) = (loras / "mixlora").glob("blend*.safetensors")
    assert any(file.name in text for (text,) in save.texts.values())


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("name", STANDIN)
def test_no_picture_is_flat(painted, name):
    for one in painted[name].saved:
        assert np.asarray(Image.open(io.BytesIO(one.data))).std() > 20


@pytest.mark.usefixtures("trained")
def test_van_gogh_speaks_loudest_in_the_first_workflow(painted):
    shares = style_shares(picture(painted["MixLoRA stand-in"]))
    assert max(shares, key=shares.__getitem__) == "van_gogh"


@pytest.mark.usefixtures("trained")
def test_no_style_is_alone_in_the_equal_mix(painted):
    shares = style_shares(picture(painted["MixLoRA three styles stand-in"]))
    assert max(shares.values()) < 0.95


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("style", STYLES)
def test_each_style_alone_is_recognised(client, object_info, style):
    shot = next(shot for shot in demo.shots() if shot.name == style)
    shares = style_shares(picture(client.run_workflow(demo.prepared(shot, object_info))))
    assert max(shares, key=shares.__getitem__) == style


def test_picture_carries_its_workflow_and_is_repeatable(client, object_info, painted):
    name = "MixLoRA stand-in"
    workflow = workflows.all_workflows()[name]
    (sampler,) = (node["id"] for node in workflow["nodes"] if node["type"] == "KSampler")
    # Another seed in between: the server must paint again, not answer from its cache.
    other = client.run_workflow(with_widgets(workflow, object_info, {sampler: {"seed": 43, "steps": 2}}))
    again = client.run_workflow(workflow)
    assert np.array_equal(np.asarray(picture(again)), np.asarray(picture(painted[name])))
    assert not np.array_equal(np.asarray(picture(again)), np.asarray(picture(other)))
    assert "workflow" in Image.open(io.BytesIO(again.pictures[0].data)).info


def test_progress_is_told_step_by_step(client, object_info):
    workflow = workflows.all_workflows()["MixLoRA stand-in"]
    (sampler,) = (node["id"] for node in workflow["nodes"] if node["type"] == "KSampler")
    seen = []
    client.run_workflow(
        with_widgets(workflow, object_info, {sampler: {"seed": 44, "steps": 4}}), lambda *step: seen.append(step)
    )
    assert seen == [("KSampler", done, 4) for done in (1, 2, 3, 4)]
