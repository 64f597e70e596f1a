"""What a rater sees, what is kept of it, and a server that answers its own page only."""

from __future__ import annotations

import http.client
import importlib.util
import json
import threading
from pathlib import Path

import pytest
from mixlora.evaluation import ratings
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.judges.pictures import painted
from mixlora.evaluation.rating.pairs import pairs
from mixlora.evaluation.rating.server import RatingServer
from mixlora.evaluation.rating.sheet import open_sheet

_spec = importlib.util.spec_from_file_location("judge_world", Path(__file__).with_name("judge_world.py"))
assert _spec and _spec.loader
world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)

GIVEN = {"composition": 4, "image": 2}


@pytest.fixture
def shown(tmp_path):
    """`shown(labels, rater, ...)` gives the pairs of painted pictures, the singles among them."""

    def show(labels=("merge", "switch"), rater="Ann", only=(), seed=0, sets=(*world.SETS, *world.SINGLES)):
        jobs = world.jobs(sets, labels)
        with world.painted(tmp_path, jobs) as store:
            return pairs(jobs, painted(jobs, store), rater, only, seed)

    return show


@pytest.fixture
def sheet(tmp_path, shown):
    """`sheet(rater, ...)` opens the rater's sheet on one file."""
    return lambda rater="Ann", **options: open_sheet(
        tmp_path / "made" / "ratings.json", rater, shown(rater=rater, **options), world.ELEMENTS
    )


def keys(found):
    return [(pair.left.job.key, pair.right.job.key) for pair in found]


# ---------------------------------------------------------------------------------------------- which pairs


@pytest.mark.parametrize("labels", [("merge", "switch"), ("merge", "switch", "composite", "none")])
def test_every_picture_of_a_set_is_shown_once_beside_another_of_it(shown, labels):
    found = shown(labels)
    assert {pair.left.job.set.size for pair in found} == {2}, "an adapter alone is nothing to compare"
    assert all(
        pair.left.job.set == pair.right.job.set and pair.left.job.label != pair.right.job.label for pair in found
    )
    every = [key for pair in keys(found) for key in pair]
    assert len(every) == len(set(every)) == len(labels) * len(world.SETS)


def test_of_three_methods_one_is_shown_twice(shown):
    every = [key for pair in keys(shown(("merge", "switch", "none"))) for key in pair]
    assert (len(every), len(set(every))) == (8, 6)


def test_order_and_sides_are_the_raters_own_and_the_same_at_every_start(shown):
    many = tuple(
        world.ElementSet(f"{number}", "north", ("tower", "snow")) for number in range(16)
    )  # another noise each
    first = keys(shown(sets=many))
    assert keys(shown(sets=many)) == first
    merges_left = sum(pair.left.job.label == "merge" for pair in shown(sets=many))
    assert 3 <= merges_left <= 13, "sides are shuffled"
    assert [pair.left.job.seed for pair in shown(sets=many)] != list(range(16)), "the order is shuffled"
    for other in (shown(sets=many, rater="Bob"), shown(sets=many, seed=1)):
        assert keys(other) != first
    assert keys(shown(sets=many[:8])) == [pair for pair in first if pair in keys(shown(sets=many[:8]))]


def test_only_some_methods_and_only_what_is_painted(shown, tmp_path):
    assert {pair.left.job.label for pair in shown(("merge", "switch", "none"), only=("merge", "none"))} <= {
        "merge",
        "none",
    }
    with pytest.raises(EvaluationError, match="'fancy' is no method of the plan"):
        shown(only=("merge", "fancy"))
    with pytest.raises(EvaluationError, match="two or more of the methods are painted"):
        shown(("merge",))
    jobs = world.jobs(labels=("merge", "composite"))
    with world.painted(tmp_path, jobs[:3]) as store:
        assert len(pairs(jobs, painted(jobs, store), "Ann")) == 1, "a set that lacks a picture waits"


# ---------------------------------------------------------------------------------------------- what is kept


def test_the_page_learns_no_method_and_no_job(sheet):
    page = sheet()
    text = json.dumps(page.state())
    assert not any(word in text for word in (*world.METHODS, page.pairs[0].left.job.key, "pictures/"))
    first = page.state()["pairs"][0]["elements"][0]
    assert first == {"category": "landmark", "name": "tower", "trigger": "a stone tower, round windows"}


def test_an_answer_is_in_the_file_at_once_in_the_published_layout(sheet):
    page = sheet()
    page.rate(1, GIVEN)
    job = page._pictures[1].job
    (entry,) = json.loads(page.path.read_text("utf-8"))
    assert (page.path.parent / entry["path"]).read_bytes() == page.picture(1).read_bytes()
    assert entry == {
        "index": 1,
        "path": entry["path"],
        "method": job.label,
        "number of elements": 2,
        "prompt": [
            f"{number}. {one.category} ({one.name}): {one.trigger}"
            for number, one in enumerate(map(world.ELEMENTS.get, job.set.elements), 1)
        ],
        "human_1": {"composition": 4.0, "image": 2.0},
        "avg_human_score": {"composition": 4.0, "image": 2.0},
        "set": job.set.name,
        "seed": job.seed,
        "key": job.key,
        "raters": {"human_1": "Ann"},
    }


def test_a_rater_goes_on_and_others_share_the_file(sheet):
    ann, bob = sheet("Ann"), sheet("Bob")  # both at work, neither sees the other's page
    ann.rate(0, GIVEN)
    number = [shown.job.key for shown in bob._pictures].index(ann._pictures[0].job.key)
    bob.rate(number, {"composition": 5, "image": 5})
    ann.rate(1, GIVEN)
    bob.rate(number, {"composition": 5, "image": 4})
    kept = {one.key: one for one in ratings.read(ann.path)}
    assert len(kept) == 2
    both = kept[ann._pictures[0].job.key]
    assert both.raters == {"human_1": "Ann", "human_2": "Bob"}
    assert both.people["human_2"] == {"composition": 5.0, "image": 4.0} and both.mean == {
        "composition": 4.5,
        "image": 3.0,
    }
    again = sheet("Ann").state()["answers"]
    assert again[:2] == [{"composition": 4.0, "image": 2.0}] * 2 and not any(again[2:])
    assert sum(map(bool, sheet("Bob").state()["answers"])) == 1


def test_an_answer_can_be_taken_back_and_what_others_gave_stays(sheet):
    ann = sheet("Ann")
    published = {
        "path": "a.png",
        "method": "merge",
        "prompt": ["1. style (B): b"],
        "human_1": {"composition": 1, "image": 2},
    }
    ann.path.write_text(json.dumps([published, {**published, "human_1": {"composition": 3, "image": 3}}]), "utf-8")
    ann.rate(0, GIVEN)
    before = ratings.read(ann.path)
    assert before[2].people == {"human_2": {"composition": 4.0, "image": 2.0}}, "human_1 is somebody else"
    ann.rate(1, GIVEN)
    ann.rate(0, None)
    ann.rate(2, None)  # nothing was there
    after = ratings.read(ann.path)
    assert after[:2] == before[:2] and [one.key for one in after[2:]] == [ann._pictures[1].job.key]


@pytest.mark.parametrize(
    "given",
    [{}, {"composition": 4}, {**GIVEN, "image": 6}, {**GIVEN, "image": 0}, {**GIVEN, "image": 3.0}, {**GIVEN, "x": 1}],
)
def test_other_answers_are_refused(sheet, given):
    page = sheet()
    with pytest.raises(ValueError, match="whole numbers from 1 to 5"):
        page.rate(0, given)
    assert not page.path.exists()


def test_a_file_that_cannot_be_read_is_never_replaced(sheet):
    page = sheet()
    page.path.write_text("half of [", "utf-8")
    with pytest.raises(EvaluationError, match="no JSON file"):
        page.rate(0, GIVEN)
    assert page.path.read_text("utf-8") == "half of ["


# ---------------------------------------------------------------------------------------------- the server


class Ask:
    """`ask(method, path, body, **headers)` gives (status, headers, body); unless told otherwise as the page itself."""

    def __init__(self, page):
        self.page, self.server = page, RatingServer(page)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def __call__(self, method, path, body=None, **headers):
        own = {"Host": self.host, "Sec-Fetch-Site": "same-origin"}
        if method == "POST":
            own |= {"Origin": f"http://{self.host}", "Content-Type": "application/json"}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self.host, timeout=30)
        payload = body if isinstance(body, str | None) else json.dumps(body)
        connection.request(method, path, payload, {name: value for name, value in own.items() if value is not None})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


@pytest.fixture
def ask(sheet):
    asking = Ask(sheet())
    yield asking
    asking.server.shutdown()
    asking.server.server_close()


RATE = {"picture": 0, "given": GIVEN}


def test_the_page_its_files_and_its_pictures(ask):
    for path, kind in [("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")]:
        status, headers, body = ask("GET", path)
        assert (status, headers.get_content_type()) == (200, kind) and body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert ask("GET", "/pictures/2")[2] == ask.page.picture(2).read_bytes()
    assert json.loads(ask("GET", "/pairs")[2]) == ask.page.state()


def test_an_answer_is_kept(ask):
    assert ask("POST", "/rate", RATE)[0] == 200
    assert len(ratings.read(ask.page.path)) == 1
    assert ask("POST", "/rate", {"picture": 0, "given": None})[0] == 200
    assert ratings.read(ask.page.path) == []


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/page.html", "/pictures/99", "/pictures/-1", "/pictures/1/", "/pictures/1?x", "/pictures/../page.js",
     "/../ratings.json", "/pictures/%2e%2e/%2e%2e/ratings.json", "//etc/passwd", "http://127.0.0.1/etc/passwd"],
)  # fmt: skip
def test_there_is_nothing_else(ask, path):
    assert ask("GET", path)[0] == 404


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Host": ""}, {"Host": "127.0.0.1.evil.example"},
     {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}],
)  # fmt: skip
def test_other_sites_pages_get_nothing(ask, headers):
    for path in ("/pairs", "/pictures/0", "/page.js"):
        assert ask("GET", path, **headers)[0] == 403
    assert ask("POST", "/rate", RATE, **headers)[0] == 403
    assert not ask.page.path.exists()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://{host}", None])
def test_an_answer_from_another_origin_is_refused(ask, origin):
    assert ask("POST", "/rate", RATE, Origin=origin and origin.format(host=ask.host))[0] == 403
    assert not ask.page.path.exists()


def test_following_a_link_to_the_page_and_another_port_in_front_are_fine(ask):
    assert ask("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask("POST", "/rate", RATE, Host="localhost:9000", Origin="http://localhost:9000")[0] == 200


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("no json", {}, 400),
        ([1], {}, 400),
        ({"picture": 0}, {}, 400),
        ({**RATE, "picture": 99}, {}, 400),
        ({**RATE, "picture": "0"}, {}, 400),
        ({**RATE, "picture": True}, {}, 400),
        ({**RATE, "given": 5}, {}, 400),
        ({**RATE, "given": {"composition": 9, "image": 1}}, {}, 400),
        (RATE, {"Content_Type": "text/plain"}, 415),
        ("x" * 5000, {}, 413),
    ],
)
def test_bad_answers_are_refused_with_a_reason(ask, body, headers, status):
    code, _, answer = ask("POST", "/rate", body, **headers)
    assert code == status and json.loads(answer)["error"]
    assert not ask.page.path.exists()


def test_a_file_that_cannot_be_changed_is_told_to_the_page(ask):
    ask.page.path.write_text("half of [", "utf-8")
    status, _, body = ask("POST", "/rate", RATE)
    assert status == 500 and "no JSON file" in json.loads(body)["error"]


def test_only_this_machine_and_only_a_free_port(ask):
    assert ask.server.server_address[0] == "127.0.0.1"
    with pytest.raises(EvaluationError, match=f"--port {ask.server.server_port} cannot be used"):
        RatingServer(ask.page, ask.server.server_port)
    with pytest.raises(EvaluationError, match="--port 99999 cannot be used"):
        RatingServer(ask.page, 99999)
