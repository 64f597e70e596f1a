"""What a run found stays found; a file that is none of ours, or of another version, is left alone."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from mixlora.evaluation.jobs import ElementSet, EvaluationError, Job, Method, Sampling
from mixlora.evaluation.store import VERSION, Comparison, Score, Store, seen_from

SAMPLING = Sampling(30, 3.0, "euler", "normal", 64, 64)
JOB = Job(
    "merge", Method("merge", {"mode": "sum"}), ElementSet("tower + snow", "north", ("tower", "snow")),
    "a hill", "", 1, SAMPLING, ("c", "t", "s"),
)  # fmt: skip


def test_a_key_is_of_all_that_the_picture_depends_on_and_of_nothing_else():
    same = [replace(JOB, label="other"), replace(JOB, set=replace(JOB.set, name="a name of its own"))]
    assert {job.key for job in same} == {JOB.key}
    others = [
        replace(JOB, method=Method("merge", {"mode": "root"})), replace(JOB, method=replace(JOB.method, strength=0.5)),
        replace(JOB, set=replace(JOB.set, elements=("snow", "tower"))), replace(JOB, prompt="a sea"),
        replace(JOB, negative="dull"), replace(JOB, seed=2), replace(JOB, sampling=replace(SAMPLING, steps=29)),
        replace(JOB, files=("c", "t", "new")),
    ]  # fmt: skip
    assert len({job.key for job in [JOB, *others]}) == len(others) + 1
    assert JOB.key == "ea18383eb562f18c89ea69a1fe91cfa4", "results that exist would no longer be found"


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path) as opened:
        yield opened


def test_what_is_kept_is_read_back(store, tmp_path):
    other = replace(JOB, seed=2)
    store.add_picture(JOB, 1.5)
    store.add_picture(other, 2.5)
    store.add_scores(JOB.key, "oracle", {("share", ""): 0.5, ("element", "snow"): 0.9})
    store.add_scores(JOB.key, "clip:x", {("text", ""): 30.0})
    heard = [Comparison(JOB.key, other.key, "vlm:y", "quality", 9.0, 8.5)]
    store.add_comparisons(heard)
    store.add_answer("request", "y", "Image 1: ...", {"tokens": 12})
    with Store(tmp_path) as again:
        pictures = again.pictures()
        assert {key: one.seconds for key, one in pictures.items()} == {JOB.key: 1.5, other.key: 2.5}
        assert (
            pictures[JOB.key].path
            == again.picture_path(JOB.key)
            == tmp_path / "pictures" / JOB.key[:2] / (f"{JOB.key}.png")
        )
        assert set(again.pictures([other.key, "unknown"])) == {other.key}
        assert [score.judge for score in again.scores()] == ["clip:x", "oracle", "oracle"]
        assert list(again.scores(["clip:x"])) == [Score(JOB.key, "clip:x", "text", "", 30.0)]
        assert again.scored("oracle") == {JOB.key} and again.scored("vlm:y") == set()
        assert again.comparisons() == again.comparisons("vlm:y") == heard and again.comparisons("other") == []
        assert again.answer("request") == "Image 1: ..." and again.answer("another") is None


@pytest.fixture
def older(tmp_path):
    """A file as earlier versions of the pack made it, open in one of them: they know no origins."""
    Store(tmp_path).close()
    database = sqlite3.connect(tmp_path / "results.sqlite", isolation_level=None)
    database.execute("DROP TABLE origins")
    yield database
    database.close()


def as_before(database, job, file):
    """What earlier versions do with a picture."""
    database.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)", (job.key, file, 1.0, "{}"))
    return [row[0] for row in database.execute("SELECT key, file, seconds FROM pictures ORDER BY key")]


def test_a_file_of_an_earlier_version_is_read_and_stays_one(older, tmp_path):
    """Painted here without an origin is of here, as one; taken over without one it is of nowhere."""
    painted, taken, later, latest = (replace(JOB, seed=seed) for seed in (2, 3, 4, 5))
    as_before(older, painted, "pictures/a.png")
    as_before(older, taken, "")
    with Store(tmp_path) as store:
        store.add_picture(later, 1.0, "a run")
        assert len(as_before(older, latest, "pictures/b.png")) == 4, "it goes on while we have the file open"
        origins = {key: one.origin for key, one in store.pictures().items()}
    assert origins[later.key] == "a run" and origins[taken.key] == ""
    assert origins[painted.key] == origins[latest.key] not in ("", "a run")
    with Store(tmp_path) as again:
        assert {key: one.origin for key, one in again.pictures().items()} == origins
        again.add_picture(later, 1.0)
        assert again.pictures()[later.key].origin == origins[painted.key], "painted again, by whom is not said"


def test_scores_of_one_picture_are_kept_together_or_not_at_all(store):
    store.add_picture(JOB, 1.0)
    with pytest.raises(sqlite3.IntegrityError):
        store.add_scores(JOB.key, "oracle", {("share", ""): 0.5, ("all", ""): None})
    assert list(store.scores()) == []
    store.add_scores(JOB.key, "oracle", {("share", ""): 0.5})
    store.add_scores(JOB.key, "oracle", {("share", ""): 0.75})
    assert [score.value for score in store.scores()] == [0.75], "judged again"
    store.add_scores(JOB.key, "oracle", {("all", ""): 1.0})
    assert [(score.measure, score.value) for score in store.scores()] == [("all", 1.0)], "nothing else stays"


def test_what_judges_said_of_a_picture_goes_when_it_is_painted_again(store):
    other = replace(JOB, seed=JOB.seed + 1)
    for job in (JOB, other):
        store.add_picture(job, 1.0)
        store.add_scores(job.key, "oracle", {("share", ""): 0.5})
    store.add_comparisons([Comparison(JOB.key, other.key, "vlm:m", "quality", 3.0, 9.0)])
    store.add_picture(JOB, 2.0)
    assert [score.key for score in store.scores()] == [other.key] and store.comparisons() == []


def test_a_file_on_another_drive_is_written_with_its_whole_path(tmp_path, monkeypatch):
    assert seen_from(tmp_path / "reports", tmp_path / "pictures" / "a.png") == "../pictures/a.png"

    def other_drive(path, start):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr("os.path.relpath", other_drive)
    assert seen_from(tmp_path / "reports", tmp_path / "a.png") == (tmp_path / "a.png").as_posix()


def test_a_database_that_another_program_holds_is_not_called_a_strange_one(tmp_path, monkeypatch):
    Store(tmp_path).close()
    connect = sqlite3.connect
    with connect(tmp_path / "results.sqlite", isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", lambda path, **_: connect(path, isolation_level=None, timeout=0))
        with pytest.raises(EvaluationError, match=r"cannot be used now \(database is locked\)"):
            Store(tmp_path)


def test_a_file_of_another_version_is_left_alone(tmp_path):
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "results.sqlite") as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = (tmp_path / "results.sqlite").read_bytes()
    with pytest.raises(EvaluationError, match=f"has version {VERSION + 1} of our results.*version {VERSION}"):
        Store(tmp_path)
    assert (tmp_path / "results.sqlite").read_bytes() == before


def test_a_file_of_another_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "results.sqlite") as database:
        database.execute("CREATE TABLE bookmarks(page TEXT)")
    with pytest.raises(EvaluationError, match="is a database of another program"):
        Store(tmp_path)
    (tmp_path / "results.sqlite").write_text("no database at all, but long enough to look into" * 40)
    with pytest.raises(EvaluationError, match="is no results file"):
        Store(tmp_path)
