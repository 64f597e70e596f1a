"""The `sheet` of made-up findings: which sets it shows, what stands under a picture, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mixlora.evaluation import contact
from mixlora.evaluation.findings import Findings
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.reading import read

from . import evaluation_findings as made

LABELS = ["composite", "merge"]


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """Of all sets but one all pictures are there."""
    jobs = made.jobs()
    with made.begun(tmp_path_factory.mktemp("sheet")) as store:
        for job in jobs:
            if (job.label, job.set.name) != ("merge", "gate + photo"):
                made.paint(store, job)
                made.judge(store, job)
        yield Findings(read(jobs, made.ELEMENTS, store))


def rows_of(findings, monkeypatch, sets):
    drawn = []
    monkeypatch.setattr(contact, "contact_sheet", lambda title, rows, side: drawn.extend(rows))
    contact.sheet(findings, LABELS, sets)
    return drawn


def test_each_size_has_as_many_sets_drawn_by_lot_and_all_painted(findings, monkeypatch):
    rows = rows_of(findings, monkeypatch, 2)
    assert [len(row.heading.split(", ")) for row in rows] == [2, 2, 3, 3]
    assert "gate, photo" not in {row.heading for row in rows_of(findings, monkeypatch, 2)}
    assert [row.heading for row in rows_of(findings, monkeypatch, 1)] == [rows[0].heading, rows[2].heading]
    assert [cell.label.split("\n")[0] for cell in rows[0].cells] == LABELS


def test_under_a_picture_stands_what_is_not_there(findings, monkeypatch):
    for row in rows_of(findings, monkeypatch, 2):
        elements = row.heading.split(", ")
        for label, cell in zip(LABELS, row.cells, strict=True):
            job = next(one for one in made.jobs() if (one.label, list(one.set.elements)) == (label, elements))
            lost = [name for name in elements if made.seen(job, name) < 0.5]
            said = f"without {', '.join(lost)}" if lost else "all there"
            broken = made.chance(job.key, "overloaded") < 0.1
            assert cell.label == f"{label}\n{'overloaded' if broken else said}"


def test_signs_that_the_font_lacks_are_spelt(findings):
    shown = replace(
        contact.strip(findings, contact.Chosen(0), ["merge"]).prints[0], label="merge, w/√N, λ = 0.5, τ = 2"
    )
    assert contact._cell(shown).label.startswith("merge, w/sqrt(N), strength 0.5, tau = 2\n")


def test_the_sheet_is_a_picture(findings):
    drawn = contact.sheet(findings, LABELS, 1)
    assert drawn.width > 2 * contact.SIDE and np.asarray(drawn).std() > 0


@pytest.mark.parametrize("sets", [0, 5])
def test_too_few_painted_sets_are_an_error(sets, findings):
    with pytest.raises(EvaluationError, match=f"--sets {sets}; expected 1 or more"):
        contact.sheet(findings, LABELS, sets)


def test_unknown_methods_are_an_error(findings):
    with pytest.raises(EvaluationError, match="sing"):
        contact.sheet(findings, ["sing"], 1)


def test_the_output_must_be_a_picture(tmp_path):
    arguments = contact.argparse.Namespace(output=tmp_path / "sheet.pdf")
    with pytest.raises(EvaluationError, match=r"sheet.pdf; expected a name that ends with .jpg or .png"):
        contact.run(arguments)
