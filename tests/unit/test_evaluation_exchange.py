"""Scores that travel: the same bytes again, taken over once, never over a picture's own, and never another oracle's."""

import gzip
import json

import pytest
from mixlora.evaluation import exchange, runner
from mixlora.evaluation.jobs import EvaluationError
from mixlora.evaluation.judges import oracle, pictures
from mixlora.evaluation.reading import read
from mixlora.standin.element_oracle import ElementOracle

from .evaluation_findings import ELEMENTS, SETS, begun, chance, fill, jobs, judge, paint, seen

JOBS = jobs(SETS[:3])


@pytest.fixture
def published(tmp_path):
    """A file of scores, and the store that it came from."""
    with fill(tmp_path / "first", JOBS) as store:
        for job in JOBS:
            oracle.note_version(store, job.key, ElementOracle.version())
        path = tmp_path / "scores.jsonl.gz"
        assert exchange.export(store, JOBS, path) == (len(JOBS), 0)
        yield path, store


def test_a_store_without_pictures_reads_the_same(published, tmp_path):
    path, store = published
    with begun(tmp_path / "second") as other:
        assert exchange.adopt(other, JOBS, path) == (len(JOBS), 0, 0)
        assert exchange.adopt(other, JOBS, path) == (0, len(JOBS), 0)
        ours, theirs = read(JOBS, ELEMENTS, store), read(JOBS, ELEMENTS, other)
        for column, values in ours.values.items():
            assert values == pytest.approx(theirs.values[column], abs=1e-6), column
        assert theirs.seconds.tolist() == ours.seconds.tolist()
        assert theirs.file("merge", 0) is None and ours.file("merge", 0) is not None
        assert runner.missing(other, JOBS) == [], "what is scored is not painted again"
        assert pictures.painted(JOBS, other) == {} and pictures.unpainted(JOBS, other) == []
        again = tmp_path / "again.jsonl.gz"
        exchange.export(other, JOBS, again)
        assert again.read_bytes() == path.read_bytes()


def test_times_travel_with_their_origin(tmp_path):
    """What one run painted stays comparable elsewhere; what came without an origin leaves without one."""
    with begun(tmp_path / "first") as store:
        for job in JOBS:
            if job.label == "switch":
                store.adopt(job, 9.0, [])
            else:
                paint(store, job, origin="busy hour" if job.label == "merge" else "")
            judge(store, job)
            oracle.note_version(store, job.key, ElementOracle.version())
        exchange.export(store, JOBS, tmp_path / "scores.gz")
        origins = read(JOBS, ELEMENTS, store).origins
    assert len(set(origins[0])) == 1 and origins[0, 0] and set(origins[1]) == {"busy hour"} and set(origins[3]) == {""}
    with begun(tmp_path / "second") as other:
        exchange.adopt(other, JOBS, tmp_path / "scores.gz")
        assert read(JOBS, ELEMENTS, other).origins.tolist() == origins.tolist()
        exchange.export(other, JOBS, tmp_path / "again.gz")
        paint(other, JOBS[0])
        own = read(JOBS, ELEMENTS, other).origins[0]
    assert (tmp_path / "again.gz").read_bytes() == (tmp_path / "scores.gz").read_bytes()
    assert own[0] not in ("", own[1]), "a picture that was painted here again is of here"


def test_own_pictures_keep_their_scores_and_strangers_are_counted(published, tmp_path):
    path, _ = published
    with fill(tmp_path / "second", JOBS[:5], seen=lambda job, element: 0.25) as other:
        before = [score for score in other.scores()]
        assert exchange.adopt(other, JOBS[:8], path) == (3, 5, len(JOBS) - 8)
        assert [score for score in other.scores() if score.key in {job.key for job in JOBS[:5]}] == before


def test_own_pictures_are_held_against_those_of_the_file(published, tmp_path):
    """Two of four pictures are painted here, too; one element of theirs is seen here alone, one is sounder."""
    path, _ = published
    with begun(tmp_path / "second") as other:
        exchange.adopt(other, JOBS[2:4], path)
        assert exchange.compare(other, path) == (0, 0, 0, 0.0), "what was taken over agrees with itself"
        odd, plain = JOBS[:2]
        for job in (odd, plain):
            paint(other, job)
        judge(other, odd, lambda job, name: abs(seen(job, name) - (name == "tower")))
        judge(other, plain, quality=0.5 + 0.4 * chance(plain.key, "quality") + 0.03)
        found = exchange.compare(other, path)
    assert found == (2, 4, 1, pytest.approx(0.03, abs=1e-6))


def test_scores_of_another_oracle_stay_behind(published, tmp_path):
    path, store = published
    oracle.note_version(store, JOBS[0].key, "an earlier one")
    assert exchange.export(store, JOBS, tmp_path / "fewer.gz") == (len(JOBS) - 1, 1)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    stranger = tmp_path / "stranger.gz"
    stranger.write_bytes(gzip.compress("\n".join([json.dumps({"format": 1, "oracle": "x"}), *lines[1:]]).encode()))
    with begun(tmp_path / "third") as other:
        with pytest.raises(EvaluationError, match="another oracle"):
            exchange.adopt(other, JOBS, stranger)
        assert not other.pictures()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"plain text", "no file that"),
        (gzip.compress(b"{}\n"), "no file that"),
        (gzip.compress(b""), "no file that"),
        (gzip.compress(b'{"format": 9}\n'), "format 9"),
    ],
)
def test_other_files_are_errors(content, said, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with begun(tmp_path / "store") as store, pytest.raises(EvaluationError, match=said):
        exchange.adopt(store, JOBS, tmp_path / "file")
