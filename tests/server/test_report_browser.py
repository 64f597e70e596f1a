"""The report in a real browser: at a desk and on a phone, in both schemes, on paper, without the network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from mixlora.evaluation import report
from mixlora.evaluation.jobs import Method

_spec = importlib.util.spec_from_file_location(
    "evaluation_findings", Path(__file__).parents[1] / "unit" / "evaluation_findings.py"
)
assert _spec and _spec.loader
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a plan with long and many labels: what is most likely to be too wide."""
    folder = tmp_path_factory.mktemp("report")
    methods = {**made.METHODS, "a method whose label is rather long, w/√N, λ = 0.8, 50 steps": Method("switch")}
    jobs = made.jobs(methods=methods)
    with made.fill(folder, jobs) as store:
        return report.write_report(made.plan(folder, jobs), store, folder / "out")[0]


@pytest.fixture
def opened(browser, written):
    """`opened(viewport, scheme)` gives the page; whatever it asks the network for, or complains of, is in `.wrong`."""
    contexts = []

    def open_page(viewport, scheme="light"):
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.wrong = []
        page.on("console", lambda message: page.wrong.append(message.text))
        page.on("request", lambda request: page.wrong.append(request.url) if request.url.startswith("http") else None)
        page.goto(written.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_asks_nobody(opened, viewport, scheme):
    page = opened(viewport, scheme)
    assert page.wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    pictures = page.locator("figure img")
    assert pictures.count() > 40
    assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 0 && one.clientWidth > 60)")


def luminance(page, selector, name):
    """0..1, roughly, of a computed colour."""
    colour = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{name}")
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(", "))
    return (0.3 * red + 0.6 * green + 0.1 * blue) / 255


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_inks_follow_the_scheme_in_plots_too(opened, scheme, dark):
    page = opened(DESK, scheme)
    assert (luminance(page, "html", "backgroundColor") < 0.2) == dark
    for selector, name in [("td b", "color"), (".plot svg text", "fill"), ("h2", "color")]:
        assert (luminance(page, selector, name) > 0.6) == dark, selector


def test_on_paper_it_is_black_on_white_with_all_pictures(opened):
    page = opened({"width": 720, "height": 1000}, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(page, "html", "backgroundColor") == pytest.approx(1) and luminance(page, "td b", "color") < 0.1
    assert not page.locator("nav").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 720


def test_the_links_lead_to_the_sections(opened):
    page = opened(DESK)
    for link in page.locator("nav a").all():
        link.click()
        target = page.evaluate("document.querySelector(location.hash)?.getBoundingClientRect().top")
        bottom = page.evaluate("innerHeight + scrollY >= document.documentElement.scrollHeight - 2")
        assert target is not None and (abs(target) < 80 or bottom), link.inner_text()
