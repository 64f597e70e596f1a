"""Ratings in the published layout against the judges in the same file, and against ours."""

from __future__ import annotations

import json

import pytest
from mixlora.evaluation import cli, correlate, ratings
from mixlora.evaluation.correlations import agreement
from mixlora.evaluation.store import Comparison, Store

from . import evaluation_findings as made

METHODS = ("merge", "switch", "composite")


def entry(prompt, method, first, second, clip, key=""):
    """A picture as the reference repository lists it; `clip` ranks methods as people do, and prompts the other way."""
    people = {name: {"composition": float(one), "image": float(6 - one)} for name, one in
              {"human_1": first, "human_2": second}.items()}  # fmt: skip
    mean = {aspect: sum(one[aspect] for one in people.values()) / 2 for aspect in ("composition", "image")}
    return {
        "index": 1, "path": f"out/{method}_{prompt}.png", "method": method, "number of elements": 2,
        "prompt": [f"1. character (one): {prompt}", "2. style (two): ink"], **people, "avg_human_score": mean,
        "clipscore": {"score": clip}, "gpt4v": {"composition": 5.0 + first, "image": 5.0},
        **({"key": key} if key else {}),
    }  # fmt: skip


def published(keys=None):
    """Five prompts; within each, composite is a point above switch and that above merge. Prompt 4 is the easiest."""
    found = []
    for prompt in range(5):
        for place, method in enumerate(METHODS):
            grade = 1 + place + prompt / 2
            found.append(
                entry(
                    prompt,
                    method,
                    grade,
                    grade + (prompt % 2) / 2,
                    30 + place - 4 * prompt,
                    (keys or {}).get((prompt, method), ""),
                )
            )
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(published()), "utf-8")
    return path


def test_the_published_layout(file, capsys, tmp_path):
    assert cli.main(["correlate", str(file), "--output", str(tmp_path / "told.md")]) == 0
    said = capsys.readouterr().out
    assert "15 pictures of 5 prompts, 2 raters" in said
    tables = {part.splitlines()[0]: part.splitlines() for part in said.split("\n\n")}
    clip = next(line for line in tables["Composition: within prompts"] if line.startswith("clipscore"))
    assert clip.split()[1] == "1.000" and "100.0 (100 to 100)" in clip, "within a prompt it agrees with everybody"
    pooled = next(line for line in tables["Composition: pooled"] if line.startswith("clipscore"))
    assert pooled.split()[1].startswith("-0.") and pooled.split()[-1] == "15", "over prompts it seems not to"
    assert next(line for line in tables["Composition: pooled"] if line.startswith("human_1 – human_2"))
    flat = next(line for line in tables["Image: within prompts"] if line.startswith("gpt4v"))
    assert flat.split()[1] == "–", "it gave all pictures the same: no correlation, rather than none of 0"
    assert "composite" in tables["What people gave"][-1]
    assert (tmp_path / "told.md").read_text("utf-8").startswith("# Judges and people")


def test_the_numbers_are_those_of_the_functions(file):
    rated = ratings.read(file)
    table = correlate.against_people(
        rated, "composition", {"clipscore": [one.judges["clipscore"]["score"] for one in rated]}
    )[0]
    expected = agreement(
        [one.judges["clipscore"]["score"] for one in rated],
        [one.mean["composition"] for one in rated],
        [one.prompt for one in rated],
    ).pooled
    assert [cell.text for cell in table.rows[0].cells[:3]] == [f"{one.value:.3f}" for one in expected]


@pytest.fixture
def judged(tmp_path):
    """Pictures of ours with their scores, and ratings that name them by key."""
    jobs = [job for job in made.jobs(made.SETS[:5]) if job.label in METHODS]
    keys = {(made.SETS.index(job.set), job.label): job.key for job in jobs}
    (tmp_path / "results.json").write_text(json.dumps(published(keys)), "utf-8")
    with made.begun(tmp_path / "found") as store:
        for job in jobs:
            made.paint(store, job)
            place = METHODS.index(job.label)
            made.judge(
                store, job, lambda job, name, place=place: 0.9 if job.set.elements.index(name) < place else 0.1, 0.2
            )
            store.add_scores(job.key, "mine", {("taste", ""): -float(place), ("element", "frost"): 1.0})
        first, second = keys[0, "merge"], keys[0, "composite"]
        store.add_comparisons(
            [
                Comparison(first, second, "vlm:m", "quality", 3.0, 9.0),
                Comparison(second, first, "vlm:m", "quality", 7.0, 4.0),
                Comparison(first, keys[0, "switch"], "vlm:m", "quality", 0.0, 0.0),  # in one order only
            ]
        )
    return tmp_path


def test_our_judges_are_held_against_people_too(judged, capsys):
    with Store(judged / "found") as store:
        ours = correlate.stored(ratings.read(judged / "results.json"), store)
    assert set(ours["composition"]) == {"oracle, share", "oracle, all", "oracle, unasked", "mine, taste"}
    assert set(ours["image"]) == set(ours["composition"]) | {"oracle, quality", "oracle, overloaded", "vlm:m, quality"}
    assert ours["composition"]["oracle, share"][:3] == [0.0, 0.5, 1.0]
    assert ours["image"]["vlm:m, quality"][:3] == pytest.approx([3.5, float("nan"), 8.0], nan_ok=True)
    assert cli.main(["correlate", str(judged / "results.json"), "--results", str(judged / "found")]) == 0
    lines = capsys.readouterr().out.splitlines()
    within = [line for line in lines if line.startswith(("oracle, share", "mine, taste"))]
    assert [line.split()[2] for line in within[2:4]] == ["-1.000", "1.000"], "taste, then share"


def test_what_cannot_be_told_is_an_error(file, tmp_path, capsys):
    Store(tmp_path / "other").close()
    assert cli.main(["correlate", str(file), "--results", str(tmp_path / "other")]) == 1
    assert "name pictures by their key" in capsys.readouterr().err
    assert cli.main(["correlate", str(file), "--results", str(tmp_path / "nowhere")]) == 1
    assert "holds no results" in capsys.readouterr().err
    unrated = [{"path": "a.png", "method": "merge", "prompt": ["x"]}]
    file.write_text(json.dumps(unrated), "utf-8")
    assert cli.main(["correlate", str(file)]) == 1
    assert "no picture in it is rated" in capsys.readouterr().err
    file.write_text("[{]", "utf-8")
    assert cli.main(["correlate", str(file)]) == 1 and "no JSON file" in capsys.readouterr().err
