"""The client against a server that limits rates, fails, hangs, answers nonsense and refuses keys."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from threading import Event

import pytest
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.judges.client import Answer, Client, Endpoint, RefusedError, StoppedError

pytest.importorskip("openai")

_spec = importlib.util.spec_from_file_location("vlm_server", Path(__file__).with_name("vlm_server.py"))
assert _spec and _spec.loader
vlm_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(vlm_server)
Reply, failure = vlm_server.Reply, vlm_server.failure

KEY = "sk-secret-of-a-user"


class Waits(Event):
    """Notes how long it was to wait, and does not."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        return self.is_set()


class Served:
    """Asks a server with these replies, the last one for ever: (answer, requests, waits), which it also remembers."""

    def __call__(self, *replies, **options):
        with vlm_server.VlmServer(lambda number, _: replies[min(number, len(replies) - 1)]) as server:
            waits = Waits()
            self.asked, self.waits = server.asked, waits.seconds
            endpoint = Endpoint("eyes", server.url, **{"timeout": 20.0, "retries": 3, **options})
            client = Client(endpoint, KEY, waits)
            try:
                return client.ask("which?", [b"one", b"two"]), self.asked, self.waits
            finally:
                client.close()


@pytest.fixture
def served():
    return Served()


def test_a_request_has_the_text_and_both_pictures_in_order(served):
    answer, (asked,), _ = served(Reply("fine"), temperature=0.5, max_tokens=99)
    assert answer == Answer("fine", "stop", {"prompt_tokens": 500, "completion_tokens": 60})
    assert (asked["text"], asked["pictures"]) == ("which?", [b"one", b"two"])
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("eyes", 0.5, 99)
    assert (asked["path"], asked["key"]) == ("/v1/chat/completions", f"Bearer {KEY}")


def test_rate_limits_wait_as_long_as_the_server_says_else_twice_as_long_each_time(served):
    replies = failure(429, headers={"Retry-After": "7"}), failure(429), failure(500), Reply("fine")
    answer, asked, waits = served(*replies)
    assert answer.text == "fine" and len(asked) == 4
    assert waits == [7.0, 2.0, 4.0]


def test_a_server_that_fails_for_good_ends_with_what_it_said(served):
    with pytest.raises(EvaluationError, match=r"does not answer: .*overloaded.*after 4 attempts.*goes on later"):
        served(failure(503, "overloaded"))
    assert len(served.asked) == 4 and served.waits == [1.0, 2.0, 4.0]


def test_a_hanging_connection_ends_after_its_time(served):
    with pytest.raises(EvaluationError, match=r"given up after 2 attempts of at most 0\.2 s"):
        served(Reply(hang=True), timeout=0.2, retries=1)


def test_a_hanging_connection_is_tried_again(served):
    answer, asked, _ = served(Reply(hang=True), Reply("fine"), timeout=0.5)
    assert answer.text == "fine" and len(asked) == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        Reply(body=b"<html>a proxy's page</html>", headers={"Content-Type": "text/html"}),
        Reply(body=b'{"choices": [{"mess'),
        Reply(body=b'{"choices": [], "usage": null}'),
        Reply(body={"error": {"message": "no model is loaded"}}),
        Reply(body=b"half", headers={"Content-Length": "400"}),
    ],
    ids=["page", "half-json", "no-choices", "error-as-200", "half-a-body"],
)
def test_what_is_no_chat_completion_is_tried_again(served, nonsense):
    answer, asked, _ = served(nonsense, Reply("fine"))
    assert answer.text == "fine" and len(asked) == 2
    with pytest.raises(EvaluationError, match="does not answer"):
        served(nonsense, retries=0)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_tried_again_and_not_shown(served, status):
    with pytest.raises(EvaluationError, match="refuses the key") as raised:
        served(failure(status, f"Incorrect API key provided: {KEY}"))
    assert len(served.asked) == 1 and KEY not in str(raised.value)


def test_the_key_is_in_no_message(served):
    with pytest.raises(EvaluationError, match=r"no quota for \.\.\.") as raised:
        served(failure(500, f"no quota for {KEY}"), retries=0)
    assert KEY not in str(raised.value)


def test_a_wrong_address_or_model_is_told(served):
    with pytest.raises(EvaluationError, match=r"404.*no such model.*--base-url.*--model"):
        served(failure(404, "no such model"))
    assert len(served.asked) == 1


def test_no_server_at_all_is_told():
    client = Client(Endpoint("eyes", "http://127.0.0.1:9/v1", retries=0), KEY)
    with pytest.raises(EvaluationError, match="does not answer"):
        client.ask("which?", [])
    client.close()


@pytest.mark.parametrize(
    "reply",
    [failure(429, "You exceeded", "insufficient_quota"), failure(429, "later", headers={"Retry-After": "86400"})],
)
def test_no_waiting_for_what_will_not_come(served, reply):
    with pytest.raises(EvaluationError, match="gives no more answers for now"):
        served(reply)
    assert len(served.asked) == 1 and not served.waits


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_this_ones_alone(served, status):
    with pytest.raises(RefusedError, match="picture not allowed"):
        served(failure(status, "picture not allowed"))
    assert len(served.asked) == 1


def test_models_that_call_the_limit_otherwise_get_it_so(served):
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    answer, (first, second), waits = served(failure(400, said), Reply("fine"), max_tokens=77)
    assert answer.text == "fine" and not waits
    assert first["max_tokens"] == second["max_completion_tokens"] == 77
    assert "max_tokens" not in second


def test_waiting_ends_when_another_request_has_shown_that_it_is_in_vain(served):
    stop = Event()
    stop.set()
    with vlm_server.VlmServer(lambda *_: failure(500)) as server:
        client = Client(Endpoint("eyes", server.url), KEY, stop)
        with pytest.raises(StoppedError):
            client.ask("which?", [])
        client.close()
        assert len(server.asked) == 1
