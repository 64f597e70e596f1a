"""Lets a judge score the pictures of a plan: the stand-in's oracle, CLIP, or a vision-language model."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ...training.display import Display
from ..jobs import EvaluationError, Job
from ..plan import read_plan
from ..planned import Plan
from ..runner import open_results, results_folder
from ..store import Store
from . import client, clip, oracle, vlm
from .pictures import Outcome

JUDGES = ("oracle", "clip", "vlm")
SHOWN = 20
"""How many failures are listed one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `judge`."""
    parser.add_argument("plan", type=Path, help="the plan, a TOML file")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: evaluation_output/TESTBED")
    parser.add_argument("--judge", choices=JUDGES, default="oracle", help="default: oracle, which reads the stand-in")
    clip_group = parser.add_argument_group("--judge clip", "CLIPScore, and likeness to pictures of each adapter alone")
    clip_group.add_argument("--clip-model", metavar="NAME", help="open_clip's name of the architecture: ViT-B-16, ...")
    clip_group.add_argument("--clip-weights", type=Path, metavar="FILE", help="its weights, a .safetensors file")
    clip_group.add_argument(
        "--reference", metavar="LABEL", help="whose sets of one show an adapter alone (default: the first merge)"
    )
    vlm_group = parser.add_argument_group("--judge vlm", "a vision-language model, by the paper's rubric")
    vlm_group.add_argument("--model", help="as the endpoint calls it")
    vlm_group.add_argument(
        "--base-url",
        default=os.environ.get("OPENAI_BASE_URL", client.HOSTED),
        metavar="URL",
        help="any OpenAI-compatible endpoint, hosted or local (default: $OPENAI_BASE_URL, else OpenAI's)",
    )
    vlm_group.add_argument(
        "--key-variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the key (default: OPENAI_API_KEY); it is stored nowhere",
    )
    vlm_group.add_argument("--against", metavar="LABEL", help="the method to compare with (default: the first merge)")
    defaults = client.Endpoint("")
    for name, kind, default, text in [
        ("temperature", float, defaults.temperature, "as in the paper"),
        ("max-tokens", int, defaults.max_tokens, "of one answer"),
        ("timeout", float, defaults.timeout, "seconds for one answer"),
        ("retries", int, defaults.retries, "after rate limits, timeouts and server errors, each after a longer wait"),
        ("attempts", int, 5, "at an answer with scores, before a malformed one counts as failed"),
        ("concurrency", int, 4, "requests at a time"),
    ]:
        text = f"{text} (default: {default})"
        vlm_group.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=text)
    for name in ("price-in", "price-out"):
        vlm_group.add_argument(f"--{name}", type=float, metavar="P", help="of a million tokens, for the estimate")
    vlm_group.add_argument(
        "--picture-tokens", type=int, metavar="N", help="of one picture, for the estimate (default: OpenAI's rule)"
    )
    vlm_group.add_argument("--yes", action="store_true", help="start without asking")


def run(arguments: argparse.Namespace) -> int:
    """Judges and says what was done; 0 all judged, 1 some failed."""
    plan = read_plan(arguments.plan)
    with open_results(results_folder(arguments, plan)) as store:
        outcome = judge(plan, store, arguments.judge, arguments)
    for line in outcome.failed[:SHOWN]:
        print(f"FAILED {line}")
    if len(outcome.failed) > SHOWN:
        print(f"... and {len(outcome.failed) - SHOWN} more")
    for note in outcome.notes:
        print(note)
    return int(bool(outcome.failed))


def judge(plan: Plan, store: Store, name: str = "oracle", options: argparse.Namespace | None = None) -> Outcome:
    """Scores what the plan's pictures lack of a judge's scores; `options` are those of `add_arguments`.

    Raises EvaluationError; what was judged before that is kept.
    """
    if options is None:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        options = parser.parse_args([str(plan.path)])
    jobs, display = plan.jobs(), Display()
    counter: list[Callable[[int], None]] = []

    def done(number: int, total: int) -> None:
        if not counter:
            counter.append(display.count(f"{name}: judged", total))
        counter[0](number)

    try:
        outcome = {"oracle": _oracle, "clip": _clip, "vlm": _vlm}[name](plan, jobs, store, options, done)
    finally:
        display.close()
    what = "comparisons" if name == "vlm" else "pictures"
    print(
        f"{outcome.judge}: {outcome.judged} {what} judged, {outcome.known} were before"
        + (f", {len(outcome.failed)} failed" if outcome.failed else ""),
        flush=True,
    )
    return outcome


Done = Callable[[int, int], None]


def _oracle(plan: Plan, jobs: list[Job], store: Store, options: argparse.Namespace, done: Done) -> Outcome:
    from ...standin.element_oracle import ElementOracle
    from ...standin.elements import ELEMENTS

    return oracle.judge(jobs, store, ElementOracle.load().read, list(ELEMENTS), done, ElementOracle.version())


def _clip(plan: Plan, jobs: list[Job], store: Store, options: argparse.Namespace, done: Done) -> Outcome:
    from .clip_model import ClipModel

    if options.clip_model is None or options.clip_weights is None:
        raise EvaluationError(
            "--judge clip needs --clip-model NAME, such as ViT-B-16, and --clip-weights FILE, its weights on this "
            "machine; nothing is downloaded."
        )
    model = ClipModel(options.clip_model, options.clip_weights)
    return clip.judge(jobs, plan.testbed.elements, store, model, done, options.reference)


def _vlm(plan: Plan, jobs: list[Job], store: Store, options: argparse.Namespace, done: Done) -> Outcome:
    _check_vlm(options)
    endpoint = client.Endpoint(
        options.model, options.base_url, options.temperature, options.max_tokens, options.timeout, options.retries
    )
    showings, notes = vlm.showings(jobs, plan.testbed.elements, store, options.against)
    docket = vlm.Docket(showings, store, endpoint, options.attempts)
    if docket.pending:
        asker = client.Client(endpoint, _key(options))
        print(f"{docket.judge} at {options.base_url}: {docket.known} of {len(showings)} comparisons are known")
        print(docket.estimate(options.price_in, options.price_out, options.picture_tokens), flush=True)
        try:
            if not options.yes and not _confirmed():
                raise EvaluationError("Nothing was asked.")
            vlm.ask(docket, asker, options.concurrency, done)
        finally:
            asker.close()
    outcome = docket.outcome()
    outcome.notes[:0] = notes
    return outcome


def _check_vlm(options: argparse.Namespace) -> None:
    problems = [] if options.model else ["--model is missing: the model's name at the endpoint."]
    for name, least in [("attempts", 1), ("concurrency", 1), ("max_tokens", 1), ("retries", 0), ("temperature", 0)]:
        if not getattr(options, name) >= least:
            problems.append(f"--{name.replace('_', '-')} {getattr(options, name)}: expected {least} or more.")
    if not options.timeout > 0:
        problems.append(f"--timeout {options.timeout}: expected more than 0 seconds.")
    if options.picture_tokens is not None and options.picture_tokens < 1:
        problems.append(f"--picture-tokens {options.picture_tokens}: expected 1 or more.")
    if (options.price_in is None) != (options.price_out is None):
        problems.append("--price-in and --price-out belong together.")
    if not options.base_url.startswith(("http://", "https://")):
        problems.append(f"--base-url {options.base_url}: expected http:// or https://, often with /v1 at its end.")
    if problems:
        raise EvaluationError("\n".join(problems))


def _key(options: argparse.Namespace) -> str:
    key = os.environ.get(options.key_variable, "").strip()
    if not key and options.base_url == client.HOSTED:
        raise EvaluationError(f"The environment variable {options.key_variable} is not set; it must hold the key.")
    return key or "none"  # local servers want no key, the client insists on one


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise EvaluationError("Give --yes to start asking; nothing was asked.")
    return input("Start? [y/N] ").strip().lower() in ("y", "yes")
