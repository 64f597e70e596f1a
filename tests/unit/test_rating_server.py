"""The rating page's server: it answers its own page only, and nothing but that page's addresses."""

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
def ask(tmp_path):
    jobs = world.jobs()
    with world.painted(tmp_path, jobs) as store:
        shown = pairs(jobs, painted(jobs, store), "Ann")
    asking = Ask(open_sheet(tmp_path / "ratings.json", "Ann", shown, world.ELEMENTS))
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
