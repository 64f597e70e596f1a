"""The pack in ComfyUI's own editor, in a real browser: templates, help pages, a queued run.

Needs Chromium, which no Python package brings: `apt-get install chromium`, or any Chrome that is on the path.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mixlora.tools import workflows
from mixlora.tools.graph import NOTES

PAGES = Path(__file__).parents[2] / "web" / "docs"


@pytest.fixture(scope="module")
def editor(browser, server):
    """ComfyUI's editor, loaded; what goes wrong in it is collected in `editor.complaints`."""
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    # Dialogs would cover the page: the templates of a first start, the models that SD v1.5's workflows miss.
    quiet = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False}
    page.request.post(f"http://{server.address}/settings", data=quiet)
    page.goto(f"http://{server.address}/")
    page.wait_for_function("window.app && window.app.graph && window.LiteGraph", timeout=120_000)
    page.wait_for_function("Boolean(window.LiteGraph.registered_node_types.LoadStyleLoRA)", timeout=60_000)
    yield page
    page.close()


def opened(page, workflow):
    """What the editor holds after opening a workflow: its nodes with type, values and whether it knows the type."""
    return page.evaluate(
        """async workflow => {
            await window.app.loadGraphData(workflow);
            return window.app.graph.nodes.map(node => ({
                id: node.id, type: node.type, values: (node.widgets || []).map(widget => widget.value),
                missing: !(node.type in window.LiteGraph.registered_node_types),
            }));
        }""",
        workflow,
    )


@pytest.mark.parametrize("name", list(workflows.all_workflows()))
def test_every_template_opens_with_its_values(editor, name):
    workflow = workflows.all_workflows()[name]
    nodes = {node["id"]: node for node in opened(editor, workflow)}
    assert len(nodes) == len(workflow["nodes"])
    for saved in workflow["nodes"]:
        node = nodes[saved["id"]]
        assert not node["missing"], saved["type"]
        if saved["type"] not in NOTES:
            assert node["values"][: len(saved["widgets_values"])] == saved["widgets_values"], saved["type"]
    assert editor.complaints == []


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_every_help_page_is_shown_by_the_nodes_info_button(editor, page):
    """Beside the canvas, with the page's title and its tables, none of them much wider than the panel."""
    editor.evaluate(
        """type => {
            const {app, LiteGraph} = window;
            app.graph.clear();
            app.canvas.ds.reset();  // the workflows before may have moved the view
            const node = LiteGraph.createNode(type);
            node.pos = [700, 200];
            app.graph.add(node);
            app.canvas.deselectAll();
            app.canvas.selectNode(node);
            app.canvas.setDirty(true, true);
        }""",
        page.stem,
    )
    editor.get_by_test_id("info-button").click(timeout=30_000)
    text = page.read_text("utf-8")
    title = editor.locator(".markdown-content h1", has_text=text.splitlines()[0].removeprefix("# "))
    title.wait_for(timeout=30_000)
    room, widths = title.evaluate(
        """title => {
            const page = title.parentElement;
            return [page.clientWidth, [...page.querySelectorAll("table")].map(table => table.offsetWidth)];
        }"""
    )
    assert len(widths) == text.count("| --- | --- |")
    assert all(width <= 1.1 * room for width in widths), f"wider than the panel: {widths} of {room} pixels"


def test_a_queued_run_shows_progress_and_its_picture(editor):
    workflow = workflows.all_workflows()["LoRA Switch stand-in"]
    (sampler,) = (node for node in workflow["nodes"] if node["type"] == "LoRASwitchSampler")
    sampler["widgets_values"][0] = 77  # not in the server's cache
    opened(editor, workflow)
    editor.evaluate(
        """() => {
            window.seen = {progress: [], pictures: []};
            window.app.api.addEventListener("progress", event => window.seen.progress.push(event.detail.value));
            window.app.api.addEventListener("executed", event =>
                window.seen.pictures.push(...((event.detail.output || {}).images || [])));
            return window.app.queuePrompt(0);
        }"""
    )
    editor.wait_for_function("window.seen.pictures.some(image => image.type === 'output')", timeout=120_000)
    seen = json.loads(editor.evaluate("JSON.stringify(window.seen)"))
    assert seen["progress"][:3] == [1, 2, 3] and max(seen["progress"]) == 30
    shown = editor.wait_for_function(
        """() => window.app.graph.nodes.filter(node => node.type === "SaveImage" && node.imgs && node.imgs.length)
                 .map(node => node.imgs[0].src)[0]""",
        timeout=30_000,
    ).json_value()
    assert re.search(r"LoRA_Switch_stand-in", shown)
    assert editor.complaints == []
