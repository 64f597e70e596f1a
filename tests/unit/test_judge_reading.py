"""What a vision-language model is asked and how its answer is read; tokens of pictures; position bias."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from mixlora.evaluation.judges.estimate import picture_tokens
from mixlora.evaluation.judges.parsing import MalformedError, parse
from mixlora.evaluation.judges.position import position_bias
from mixlora.evaluation.judges.rubric import question
from mixlora.evaluation.store import Comparison

_spec = importlib.util.spec_from_file_location("judge_world", Path(__file__).with_name("judge_world.py"))
assert _spec and _spec.loader
world = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(world)

LINES = (
    "Image 1: Composition Quality: {}/10, Image Quality: {}/10\nImage 2: Composition Quality: 4/10, Image Quality: 0/10"
)


@pytest.mark.parametrize(
    "text",
    [
        LINES.format("7.5", "9"),
        "Image 1 shows it all.\n\n" + LINES.format("7.5", "9.0") + "\n",
        "**" + LINES.format("7.5", "9").replace("\n", "**\n**") + "**",
        "- " + LINES.format("7.50", "9").replace("\n", ".\n- "),
        "```\n" + LINES.format("7.5", "9").replace("Image 1", "IMAGE 1").replace(", ", "; ") + "\n```",
        "\n".join(reversed(LINES.format("7.5 ", "9 ").splitlines())),
    ],
)
def test_two_lines_of_scores_are_read(text):
    assert parse(text, "stop") == ((7.5, 9.0), (4.0, 0.0))


@pytest.mark.parametrize(
    ("text", "finish", "why"),
    [
        (LINES.format("7.5", "9"), "length", "cut off .*--max-tokens"),
        (LINES.format("7.5", "9"), "content_filter", "content_filter"),
        ("", "stop", "no line of scores for Image 1 and Image 2"),
        ("I cannot rate people.", "stop", "no line of scores"),
        (LINES.format("7.5", "9").splitlines()[0], "stop", "for Image 2"),
        (LINES.format("X", "X"), "stop", "no scores in 'Image 1"),
        (LINES.format("10.5", "9"), "stop", "0 to 10 in steps of 0.5"),
        (LINES.format("7.3", "9"), "stop", "0 to 10 in steps of 0.5"),
        (LINES.format("-1", "9"), "stop", "no scores"),
        (LINES.format("7.5", "9").replace("/10", "/100"), "stop", "no scores"),
        (LINES.format("7.5", "9") + "\n" + LINES.format("8", "9"), "stop", "several lines of scores for Image 1"),
        (LINES.format("7.5", "9") + " or 8/10", "stop", "no scores"),
        ("Scores: " + LINES.format("7.5", "9"), "stop", "for Image 1"),
        ('{"image 1": {"composition": 7.5}}', "stop", "no line"),
    ],
)
def test_anything_else_is_malformed_and_nothing_is_guessed(text, finish, why):
    with pytest.raises(MalformedError, match=why):
        parse(text, finish)


def test_the_question_lists_every_element_and_names_no_method():
    text = question(list(world.ELEMENTS.values()))
    assert "1. landmark (tower): a stone tower, round windows\n2. weather (snow): snow\n3. style (ink)" in text
    assert text.endswith(LINES.format("X", "X").replace("4/10", "X/10").replace("0/10", "X/10").replace("1X", "X"))
    assert not any(label in text for label in world.METHODS)
    with pytest.raises(MalformedError):
        parse(text, "stop")


@pytest.mark.parametrize(
    ("size", "tiles"),
    [((128, 128), 1), ((512, 512), 1), ((513, 512), 2), ((1024, 1024), 4), ((768, 1024), 4), ((2048, 4096), 6)],
)
def test_tokens_of_pictures_follow_the_rule(size, tiles):
    assert picture_tokens(*size) == 85 + 170 * tiles


def test_position_bias_counts_pairs_seen_in_both_orders():
    def seen(first, second, gap, measure="composition"):
        return Comparison(first, second, "vlm:eyes", measure, 5 + gap, 5)

    found = position_bias(
        [
            seen("a", "b", 2), seen("b", "a", 1),  # the first wins both times: the order decided
            seen("a", "c", 3), seen("c", "a", -3),  # a wins, wherever it stands
            seen("a", "d", 0), seen("d", "a", -1),
            seen("a", "e", 9),  # one order only
            seen("a", "b", 0, "quality"), seen("b", "a", 0, "quality"),
        ]
    )  # fmt: skip
    composition, quality = found
    assert (composition.pairs, composition.first, composition.ties, composition.second) == (3, 3, 1, 2)
    assert (composition.reversed, composition.difference) == (1, pytest.approx(2 / 6))
    assert (quality.pairs, quality.ties, quality.reversed) == (1, 2, 0)
    assert "shown first wins 50 %, shown second wins 33 %, tie 17 % of 6 showings" in str(composition)
    assert position_bias([seen("a", "b", 1)]) == []
