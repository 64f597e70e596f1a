"""The report's counting, which pictures it asks for, and the results file."""

import json
import math

import numpy as np
import pytest
from mixlora.benchmarks import results
from mixlora.benchmarks.results import Row, table, write_results
from mixlora.standin import measures, report
from mixlora.standin.measures import SWEEP, Extent, spearman
from mixlora.standin.oracle import MANNERS, Oracle, Reading
from mixlora.standin.sampling import Painter, Settings, Shot
from mixlora.standin.scenes import LANDS, OBJECTS, TIMES, Scene
from mixlora.standin.styles import STYLES
from PIL import Image
from torch import nn


def reading(scenes, style="plain", lost=()):
    """What a perfect oracle reads in perfect pictures, but for the objects in `lost`."""
    things = [[float(thing in scene.objects and thing not in lost) for thing in OBJECTS] for scene in scenes]
    return Reading(
        np.eye(4)[[LANDS.index(scene.land) for scene in scenes]],
        np.eye(3)[[TIMES.index(scene.time) for scene in scenes]],
        np.array(things),
        np.eye(5)[[MANNERS.index(style)] * len(scenes)],
    )


def values(rows):
    return {row.name: row.value for row in rows}


def test_counts_what_the_base_painted():
    scenes = [Scene("sea", "day", ("boat", "clouds")), Scene("hill", "night", ("trees",))]
    found = values(measures.base_rows(reading(scenes, lost=("boat",)), scenes))
    assert found["base: land form right (%)"] == found["base: time of day right (%)"] == 100
    assert found["base: asked-for object present (%)"] == pytest.approx(200 / 3)
    assert found["base: object present that was not asked for (%)"] == 0


def test_scenes_repeat_and_a_longer_list_begins_alike():
    assert measures.held_out_scenes(5) == measures.held_out_scenes(9)[:5]


@pytest.mark.parametrize(("prompts", "each"), [(200, 67), (200, 200), (9, 3), (2, 1), (1, 1)])
def test_styles_share_the_scenes_unless_each_wants_all(prompts, each):
    scenes = measures.held_out_scenes(prompts)
    shots = {style: measures.style_shots(style, scenes, each) for style in STYLES}
    seeds = [shot.seed for chosen in shots.values() for shot in chosen]
    assert all(each - 1 <= len(chosen) <= each and chosen for chosen in shots.values())
    assert len(set(seeds)) == (len(seeds) if each < prompts and prompts >= 3 else prompts)
    assert all(shot.strengths == ((style, 1.0),) for style, chosen in shots.items() for shot in chosen)


def test_a_sweep_changes_nothing_but_the_strengths():
    shots = measures.sweep_shots("monet", "ghibli", measures.held_out_scenes(2))
    assert len(shots) == 18 and len({(shot.prompt, shot.seed) for shot in shots[:9]}) == 1
    assert shots[0].strengths == (("monet", 1.0), ("ghibli", 0.0))
    assert shots[8].strengths == (("monet", 0.0), ("ghibli", 1.0))
    assert shots[0].prompt.endswith(", monet style, studio ghibli style")


def test_a_sweep_is_averaged_over_the_scenes_and_must_rise():
    share = np.concatenate([np.linspace(0, 1, 9), np.linspace(0.2, 0.6, 9)])
    manners = np.zeros((18, 5))
    manners[:, 2], manners[:, 4] = 1 - share, share
    seen = Reading(np.zeros((18, 4)), np.zeros((18, 3)), np.zeros((18, 5)), manners)
    curve = measures.sweep_curve("monet", "ghibli", seen)
    np.testing.assert_allclose(curve, np.linspace(0.1, 0.8, 9))
    assert all(row.holds for row in measures.sweep_rows("monet", "ghibli", curve))
    bumpy = curve.copy()
    bumpy[4] = bumpy[3] - 0.01
    assert [row.holds for row in measures.sweep_rows("monet", "ghibli", bumpy)] == [True, False]
    assert not any(row.holds for row in measures.sweep_rows("monet", "ghibli", curve[::-1]))


def test_spearman():
    assert spearman(SWEEP, np.exp(SWEEP)) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert spearman([1, 2, 3, 4], [1, 2, 2, 4]) == pytest.approx(0.9486833)  # 4.5 / (5 * 4.5) ** 0.5
    assert spearman([1, 2, 3], [5, 5, 5]) == 0


def test_psnr():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert measures.psnr(black + np.uint8(51), black) == pytest.approx(20 * math.log10(5))


def test_a_quick_look_is_not_the_whole_table():
    assert Extent().covers(Extent()) and Extent(style_prompts=200).covers(Extent())
    assert not Extent(prompts=4).covers(Extent())


def painter(tmp_path, **options):
    for name in ("checkpoint", "monet", "ghibli"):
        (tmp_path / name).write_text(options.pop(name, name))
    adapters = {name: tmp_path / name for name in ("monet", "ghibli")}
    return Painter(tmp_path / "checkpoint", adapters, tmp_path / "pictures", **options)


def test_a_picture_is_kept_by_everything_that_it_depends_on(tmp_path):
    shot = Shot((("monet", 0.5), ("ghibli", 0.5)), "a sea", 1)
    one = painter(tmp_path).path(shot)
    others = {
        painter(tmp_path).path(Shot((("monet", 0.5), ("ghibli", 0.25)), "a sea", 1)),
        painter(tmp_path).path(Shot((("ghibli", 0.5), ("monet", 0.5)), "a sea", 1)),
        painter(tmp_path).path(Shot(shot.strengths, "a hill", 1)),
        painter(tmp_path).path(Shot(shot.strengths, "a sea", 2)),
        painter(tmp_path, settings=Settings(steps=4)).path(shot),
        painter(tmp_path, checkpoint="retrained").path(shot),
        painter(tmp_path, monet="retrained").path(shot),
    }
    assert len(others) == 7 and one not in others
    assert painter(tmp_path, batch=3).path(shot) == one
    silent = Shot((("monet", 0.0),), "a sea", 1)
    assert painter(tmp_path).path(silent) == painter(tmp_path).path(Shot((), "a sea", 1))


def test_paints_each_picture_once_in_batches_of_equal_strengths(tmp_path, monkeypatch):
    calls, said = [], []

    def sample(self, strengths, shots):
        calls.append((strengths, [shot.seed for shot in shots]))
        return np.stack([np.full((128, 128, 3), shot.seed, np.uint8) for shot in shots])

    monkeypatch.setattr(Painter, "_sample", sample)
    loud = (("monet", 1.0),)
    shots = [Shot(loud, "x", 7), Shot((), "x", 3), Shot((), "x", 1), Shot((), "x", 2), Shot((), "x", 3)]
    painted = painter(tmp_path, batch=2, say=said.append).paint(shots, "base")
    assert painted[:, 0, 0, 0].tolist() == [7, 3, 1, 2, 3]
    assert calls == [((), [1, 2]), ((), [3]), (loud, [7])]
    assert said[-1].startswith("base: 4 of 4 painted") and "0 left" in said[-1]
    assert painter(tmp_path).paint(shots[:1], "again")[0, 0, 0, 0] == 7 and len(calls) == 3


def test_the_report_measures_with_whatever_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Painter, "_sample", lambda self, _, shots: np.zeros((len(shots), 128, 128, 3), np.uint8))

    class Blind(Oracle):
        def read(self, seen):
            return Reading(*(np.full((len(seen), n), 1 / n) for n in (4, 3, 5, 5)))

    made = report.Report(painter(tmp_path), Blind(nn.Module()), Extent(3, 1, 1, 0), tmp_path, tmp_path / "sheets")
    rows = made.measure(["base", "styles", "sweeps"])
    assert [row.name for row in rows if row.name.startswith("λ")] == [
        "λ from monet to ghibli: Spearman",
        "λ from monet to ghibli: smallest rise of the share in a step",
    ]
    assert not any(row.name.startswith("van_gogh") for row in rows)
    sheets = {path.name: Image.open(path).width for path in (tmp_path / "sheets").iterdir()}
    assert sheets.keys() == {"base.png", "monet.png", "ghibli.png", "monet_to_ghibli.png"}
    assert "share of ghibli from monet to ghibli: 0.500" in capsys.readouterr().out


def test_results_say_what_holds_and_name_no_machine(tmp_path, monkeypatch):
    rows = [Row("a (%)", 91.234567, 90), Row("b (MB)", 61, 60, at_most=True), Row("c", float("nan"), 1), Row("d", 2)]
    monkeypatch.setattr(results, "has_gpu", lambda: False)
    path = write_results("topic", rows, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["topic-cpu.json"] == [path.name]
    written = json.loads(path.read_text("utf-8"))
    assert written.keys() == {"machine", "commit", "date", "rows"}
    assert written["rows"] == [
        {"name": "a (%)", "value": 91.23457, "goal": ">= 90", "holds": True},
        {"name": "b (MB)", "value": 61.0, "goal": "<= 60", "holds": False},
        {"name": "c", "value": None, "goal": ">= 1", "holds": False},
        {"name": "d", "value": 2.0, "goal": None, "holds": None},
    ]
    import platform

    node = platform.node()
    assert "cores" in written["machine"] and (not node or node not in written["machine"])
    lines = table(rows).splitlines()
    assert len(lines) == 6 and lines[2].split() == ["a", "(%)", "91.23", ">=", "90", "yes"] and "NO" in lines[3]


def test_small_errors_keep_their_digits(tmp_path):
    path = write_results("topic", [Row("error", 2.42519e-6, 1e-5, at_most=True), Row("share", 97.123456789)], tmp_path)
    assert [row["value"] for row in json.loads(path.read_text("utf-8"))["rows"]] == [2.42519e-6, 97.12346]
