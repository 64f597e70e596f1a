"""`judge` and `rate` from the command line: options, what is said, exit codes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from mixlora.evaluation import cli
from mixlora.evaluation.painting import Painted, png
from mixlora.evaluation.plan import read_plan
from mixlora.evaluation.runner import keep
from mixlora.evaluation.store import Store
from mixlora.evaluation.testbeds import StandinTestbed
from mixlora.standin.weights import BASE


def _load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


vlm_server = _load("vlm_server")

PLAN = """
testbed = "standin"
[sets]
names = ["lighthouse + snow", "lighthouse + snow + monet"]
[methods."LoRA Switch"]
kind = "switch"
[methods.plain]
kind = "merge"
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan whose pictures are painted, in grey; no adapter and no checkpoint is needed."""
    monkeypatch.setattr(StandinTestbed, "checkpoint", lambda self, world: BASE)
    monkeypatch.setattr(StandinTestbed, "adapter", lambda self, element: BASE)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "plan.toml"
    path.write_text(PLAN, encoding="utf-8")
    with Store(tmp_path / "results") as store:
        for number, job in enumerate(read_plan(path).jobs()):
            keep(store, Painted(job, png(np.full((128, 128, 3), 40 * number, np.uint8)), 1.0))
    return path


@pytest.fixture
def judge(plan):
    """Runs `judge` on the plan with further options."""
    return lambda *options: cli.main(["judge", str(plan), "--results", str(plan.parent / "results"), *options])


def test_the_oracle_is_the_default_and_reads_each_picture_once(judge, plan, capsys):
    from mixlora.standin.element_oracle import WEIGHTS

    if not WEIGHTS.is_file():
        pytest.skip("the elements' oracle is not trained yet (`make standin`)")
    assert judge() == 0 and "oracle: 4 pictures judged, 0 were before" in capsys.readouterr().out
    assert judge() == 0 and "oracle: 0 pictures judged, 4 were before" in capsys.readouterr().out
    with Store(plan.parent / "results") as store:
        assert len(store.scored("oracle")) == 4


def test_a_model_is_asked_only_with_consent(judge, capsys):
    with vlm_server.VlmServer(lambda *_: vlm_server.Reply(vlm_server.good(8, 9, 6, 9))) as server:
        options = ["--judge", "vlm", "--model", "eyes", "--base-url", server.url, "--price-in", "1", "--price-out", "2"]
        assert judge(*options) == 1
        said = capsys.readouterr()
        assert (
            "4 requests; about" in said.out
            and "price: about 0.01, at most 0.10" in said.out
            and "Give --yes" in said.err
        )
        assert not server.asked
        assert judge(*options, "--yes", "--concurrency", "2") == 0
        said = capsys.readouterr().out
        assert "vlm:eyes: 4 comparisons judged, 0 were before" in said
        assert "position bias, composition: shown first wins 100 %" in said and "decided 2 of 2 pairs" in said
        assert judge(*options) == 0, "nothing is left to ask, so nothing to consent to"
        assert len(server.asked) == 4
        assert {one["key"] for one in server.asked} == {"Bearer none"}, "a local server needs no key"


@pytest.mark.parametrize(("answer", "requests"), [("y", 4), ("", 0), ("no", 0)])
def test_at_a_terminal_it_asks_first(judge, capsys, monkeypatch, answer, requests):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    with vlm_server.VlmServer(lambda *_: vlm_server.Reply(vlm_server.good())) as server:
        code = judge("--judge", "vlm", "--model", "eyes", "--base-url", server.url)
        assert (code, len(server.asked)) == (int(not requests), requests)


def test_failures_are_listed_and_the_exit_code_says_so(judge, capsys):
    with vlm_server.VlmServer(lambda *_: vlm_server.Reply("no")) as server:
        asked = ["--judge", "vlm", "--model", "eyes", "--base-url", server.url, "--yes", "--attempts", "1"]
        assert judge(*asked) == 1
    said = capsys.readouterr().out
    assert "4 failed" in said and said.count("FAILED lighthouse + snow") == 4 and "malformed: no line of scores" in said


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--judge", "clip"], ["--clip-model NAME", "--clip-weights FILE"]),
        (["--judge", "vlm"], ["--model is missing"]),
        (["--judge", "vlm", "--model", "eyes"], ["variable OPENAI_API_KEY is not set"]),
        (["--judge", "vlm", "--model", "eyes", "--key-variable", "MY_KEY"], ["variable MY_KEY is not set"]),
        (["--judge", "vlm", "--model", "eyes", "--against", "merge"], ["LoRA Switch, plain, not 'merge'"]),
        (
            [
                "--judge=vlm",
                "--attempts=0",
                "--concurrency=0",
                "--timeout=0",
                "--temperature=-1",
                "--price-in=1",
                "--base-url=x",
            ],
            [
                "--model",
                "--attempts 0",
                "--concurrency 0",
                "--timeout 0",
                "--temperature -1",
                "together",
                "--base-url x",
            ],
        ),
    ],
)
def test_everything_wrong_with_the_options_is_told(judge, capsys, options, messages):
    assert judge(*options) == 1
    said = capsys.readouterr().err
    assert all(message in said for message in messages), said


def test_rate_tells_what_is_wrong(plan, capsys):
    rate = ["rate", str(plan), "--results", str(plan.parent / "results"), "--port", "0", "--rater"]
    assert cli.main([*rate, " "]) == 1 and "--rater is empty" in capsys.readouterr().err
    nowhere = plan.parent / "nowhere"
    assert cli.main(["rate", str(plan), "--results", str(nowhere), "--rater", "Ann"]) == 1
    assert "holds no results" in capsys.readouterr().err and not nowhere.exists()
    assert cli.main([*rate, "Ann", "--methods", "plain,fancy"]) == 1
    assert "'fancy' is no method of the plan; expected some of LoRA Switch, plain" in capsys.readouterr().err
    (plan.parent / "results" / "ratings.json").write_text("{}")
    assert cli.main([*rate, "Ann"]) == 1 and "expected a list of rated pictures" in capsys.readouterr().err
