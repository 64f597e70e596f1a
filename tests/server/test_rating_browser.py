"""The rating page in a real browser: keys, mouse, undo, going on after a restart, both sizes, both schemes."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import pytest
from mixlora.evaluation import ratings
from mixlora.evaluation.judges.pictures import painted
from mixlora.evaluation.rating.pairs import pairs
from mixlora.evaluation.rating.server import RatingServer
from mixlora.evaluation.rating.sheet import open_sheet

_spec = importlib.util.spec_from_file_location("judge_world", Path(__file__).parents[1] / "unit" / "judge_world.py")
assert _spec and _spec.loader
world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)

DESK, PHONE = {"width": 1280, "height": 720}, {"width": 390, "height": 844}
QUESTIONS = ["left-composition", "left-image", "right-composition", "right-image"]


class Rated:
    """A server on painted pictures, and what is in its file."""

    def __init__(self, folder, labels=("merge", "switch")):
        self.folder, self.labels, self.jobs = folder, labels, world.jobs(labels=labels)
        world.painted(folder, self.jobs).close()
        self.start()

    def start(self):
        with world.painted(self.folder, []) as store:
            shown = pairs(self.jobs, painted(self.jobs, store), "Ann")
        self.sheet = open_sheet(self.folder / "ratings.json", "Ann", shown, world.ELEMENTS)
        self.server = RatingServer(self.sheet)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def kept(self):
        """[(composition, image) of each picture by its number, None where there is no answer]."""
        given = (
            {one.key: one.people["human_1"] for one in ratings.read(self.sheet.path)}
            if self.sheet.path.exists()
            else {}
        )
        of_each = [given.get(shown.job.key) for shown in self.sheet._pictures]
        return [one and (one["composition"], one["image"]) for one in of_each]


@pytest.fixture
def rated(tmp_path):
    serving = Rated(tmp_path)
    yield serving
    serving.stop()


@pytest.fixture
def opened(browser):
    """Opens the page of a server; at the end nothing may have gone wrong in any of them."""
    pages, complaints = [], []

    def open_page(rated, viewport=DESK, **options):
        page = browser.new_page(viewport=viewport, **options)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.complaints = complaints
        page.goto(rated.server.url)
        page.wait_for_selector("main:not([hidden])")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


def press(page, keys):
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function("saving.then(() => true)")


def marked(page):
    return page.eval_on_selector_all(".marked", "all => all.map(one => one.id)")


def answers(page):
    """The pressed answer of each question, None where there is none."""
    return [
        page.evaluate("id => document.querySelector(`#${id} [aria-pressed=true]`)?.textContent ?? null", name)
        for name in QUESTIONS
    ]


def test_four_keys_rate_a_pair_and_the_next_one_comes(rated, opened):
    page = opened(rated)
    assert page.inner_text("#place") == "Pair 1 of 2 · 0 rated · Ann"
    elements = [world.ELEMENTS[name] for name in rated.sheet.pairs[0].left.job.set.elements]
    assert page.inner_text("#elements").split("\n") == [f"{one.category}: {one.trigger}" for one in elements]
    for number, key in enumerate("423"):
        assert marked(page) == [QUESTIONS[number]]
        assert page.evaluate("document.activeElement.id") == QUESTIONS[number], "screen readers are told the question"
        press(page, key)
    assert answers(page) == ["4", "2", "3", None]
    assert rated.kept() == [(4, 2), None, None, None], "a picture is kept as soon as it has both answers"
    press(page, "5")
    assert rated.kept() == [(4, 2), (3, 5), None, None]
    assert page.inner_text("#place") == "Pair 2 of 2 · 1 rated · Ann" and answers(page) == [None] * 4
    press(page, "1122")
    assert rated.kept()[2:] == [(1, 1), (2, 2)]
    assert page.inner_text("#end h2") == "All pairs are rated" and page.inner_text("#file") == "ratings.json"
    page.click("#again")
    assert answers(page) == ["4", "2", "3", "5"]


def test_each_side_shows_its_picture(rated, opened):
    page = opened(rated)
    for number, pair in enumerate(rated.sheet.pairs):
        for side in ("left", "right"):
            address = page.get_attribute(f"#{side} img", "src")
            body = page.evaluate("async url => [...new Uint8Array(await (await fetch(url)).arrayBuffer())]", address)
            assert bytes(body) == getattr(pair, side).path.read_bytes()
            page.wait_for_function(f"document.querySelector('#{side} img').naturalWidth === 64")
            assert page.get_attribute(f"#{side} img", "alt") == f"{side.title()} picture of pair {number + 1}"
        press(page, "3333")


def test_undo_takes_back_the_last_answer_also_of_the_pair_before(rated, opened):
    page = opened(rated)
    press(page, "4235")
    press(page, ["Backspace"])
    assert page.inner_text("#place") == "Pair 1 of 2 · 0 rated · Ann"
    assert (answers(page), marked(page)) == (["4", "2", "3", None], ["right-image"])
    assert rated.kept() == [(4, 2), None, None, None], "what was taken back is not in the file"
    press(page, ["Backspace"] * 3)
    assert answers(page) == [None] * 4 and rated.kept() == [None] * 4 and page.is_disabled("#undo")
    press(page, "1")
    page.click("#left-composition button:has-text('5')")
    page.click("#undo")
    assert answers(page) == ["1", None, None, None], "undoing a correction brings back what was there"


def test_looking_back_and_correcting(rated, opened):
    page = opened(rated)
    assert page.is_disabled("#back") and page.is_disabled("#next"), "no pair is passed over"
    press(page, "4235")
    press(page, ["ArrowLeft", "ArrowDown", "1"])
    assert rated.kept()[:2] == [(4, 1), (3, 5)]
    press(page, ["ArrowUp", "ArrowUp", "ArrowUp", "5"])
    assert rated.kept()[0] == (5, 1) and page.inner_text("#place").startswith("Pair 1 of 2")
    press(page, ["ArrowRight"])
    assert page.inner_text("#place").startswith("Pair 2 of 2") and marked(page) == ["left-composition"]


def test_it_goes_on_where_it_was_after_the_server_was_started_again(rated, opened):
    press(opened(rated), "423533")
    rated.stop()
    rated.start()
    page = opened(rated)
    assert page.inner_text("#place") == "Pair 2 of 2 · 1 rated · Ann"
    assert (answers(page), marked(page)) == (["3", "3", None, None], ["right-composition"])
    press(page, "11")
    assert page.is_visible("#end")
    page.reload()
    page.wait_for_selector("#end:not([hidden])")


def test_of_three_methods_the_picture_shown_twice_has_its_answers_already(tmp_path, opened):
    rated = Rated(tmp_path, ("merge", "switch", "none"))
    page = opened(rated)
    presses = 0
    while page.is_hidden("#end"):
        press(page, "3")
        presses += 1
        assert presses <= 12
    assert presses == 12 and rated.kept() == [(3, 3)] * 6, "six pictures, two answers each"
    rated.stop()


def test_mouse_and_large_view(rated, opened):
    page = opened(rated)
    page.click("#right-image button:has-text('2')")
    assert answers(page) == [None, None, None, "2"] and marked(page) == ["left-composition"]
    page.click("#right .picture")
    assert page.is_visible("#large") and page.get_attribute("#large img", "alt") == "Right picture of pair 1"
    press(page, "5")
    assert answers(page) == [None, None, None, "2"], "the large view takes no answers"
    press(page, ["Escape"])
    assert page.is_hidden("#large")
    press(page, "z")
    assert page.get_attribute("#large img", "alt") == "Left picture of pair 1"
    press(page, "z")
    assert page.is_hidden("#large")


def test_an_answer_that_cannot_be_kept_is_told(rated, opened):
    page = opened(rated)
    rated.sheet.path.write_text("half of [", "utf-8")
    press(page, "44")
    assert "Not kept: " in page.inner_text("#error") and "no JSON file" in page.inner_text("#error")
    rated.sheet.path.unlink()
    press(page, ["Backspace", "5"])
    assert page.is_hidden("#error") and rated.kept()[0] == (4, 5)
    page.complaints[:] = [one for one in page.complaints if "500" not in one]  # the browser's own line


def contrast(page, selector, behind):
    """WCAG's ratio of an element's colour and a background's."""
    return page.evaluate(
        """([selector, behind]) => {
            const light = (element, property) => {
                const canvas = new OffscreenCanvas(1, 1).getContext("2d");
                canvas.fillStyle = getComputedStyle(document.querySelector(element))[property];
                canvas.fillRect(0, 0, 1, 1);
                const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255)
                    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const [a, b] = [light(selector, "color"), light(behind, "backgroundColor")].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
        }""",
        [selector, behind],
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_everything_fits_and_can_be_read_and_hit(rated, opened, viewport, scheme):
    page = opened(rated, viewport, color_scheme=scheme, reduced_motion="reduce")
    press(page, "4")
    size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size[0] <= viewport["width"] and size[1] <= viewport["height"], "no scrolling"
    for button in page.query_selector_all(".answers button, nav button"):
        box = button.bounding_box()
        assert box["width"] >= 24 and box["height"] >= 34, "WCAG 2.2 asks for 24 pixels"
        assert box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"]
    boxes = [page.query_selector(f"#{side} .picture").bounding_box() for side in ("left", "right")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["width"] == boxes[1]["width"] >= 170
    assert boxes[0]["height"] >= 170
    pressed = "#left-composition [aria-pressed=true]"
    for text, behind in [
        ("#place", "body"),
        (".label span", "body"),
        ("#elements span", "#elements li"),
        (pressed, pressed),
    ]:
        assert contrast(page, text, behind) >= 4.5, f"{text} on {behind}"
    assert contrast(page, ".marked .label span", ".marked") >= 4.5
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus is visible"
