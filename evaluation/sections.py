"""The tables of a report, and the sentences above them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .findings import Findings, Where
from .measures import RECALL, Measure
from .statistics import Estimate
from .tables import BEST, BETTER, WORSE, Cell, Head, Row, Table

MOST_COLUMNS = 12
"""Methods beside each other in a table of elements."""
MOST_NAMED = 6
"""Methods in a sentence."""
INTERVAL = "Below each mean, its 95 % interval: where it should lie with other sets of the same kind."
ONE_RUN = "Times are compared within one run on one machine; – stands where no run painted both."


def headline(findings: Findings) -> Table:
    """Every method by every measure, and what a picture costs."""
    rows = []
    columns = {measure: _column(findings, measure) for measure in findings.measures}
    for label in findings.reading.labels:
        cells = [column[label] for column in columns.values()]
        rows.append(Row(label, (*cells, Cell(_seconds(findings.seconds(label))), Cell(_times(findings.cost(label))))))
    other = findings.cheapest
    cost = f"Median of a picture's time over that of “{other}” for the same set, one by one."
    heads = [head(measure) for measure in findings.measures]
    heads += [Head("time", "s", "Median time of sampling one picture."), Head("cost", f"× {other}", cost)]
    bold = "Bold is the best mean of a column; whether it is more than chance, the next tables tell."
    return Table("All methods", "method", tuple(heads), tuple(rows), f"{INTERVAL} {bold} {ONE_RUN}")


def head(measure: Measure) -> Head:
    """A measure's heading."""
    return Head(measure.title, measure.unit, measure.explanation)


def _column(findings: Findings, measure: Measure) -> dict[str, Cell]:
    found = {label: findings.mean(measure, label) for label in findings.reading.labels}
    best = _best(measure, found.values())
    low, high = measure.span or _span(found.values())
    return {
        label: Cell(
            measure.text(one.value), measure.range(one.low, one.high),
            tone=BEST if one.value == best else "", bar=_bar(one, low, high),
        )
        for label, one in found.items()
    }  # fmt: skip


def differences(findings: Findings, baseline: str) -> Table:
    """Every other method minus a baseline, with wins, ties and losses."""
    measures = [one for one in findings.measures if baseline in findings.labels(one)]
    rows = []
    for label in (one for one in findings.reading.labels if one != baseline):
        rows.append(Row(label, tuple(_against(findings, measure, label, baseline) for measure in measures)))
    heads = tuple(Head(one.title, _points(one), one.explanation) for one in measures)
    note = (
        f"Each method minus “{baseline}”, set by set, with the 95 % interval of the mean difference; coloured where it "
        "leaves zero out. Below: pictures won, tied, lost, in %."
    )
    return Table(f"Against {baseline}", "method", heads, tuple(rows), note)


def _against(findings: Findings, measure: Measure, label: str, baseline: str) -> Cell:
    found = findings.difference(measure, label, baseline)
    if not found.cases:
        return Cell("–")
    counted = findings.wins(measure, label, baseline)
    return Cell(
        measure.text(found.value, sign=True), measure.range(found.low, found.high, sign=True),
        " / ".join(f"{100 * count / found.cases:.0f}" for count in counted), tone(measure, found),
    )  # fmt: skip


def tone(measure: Measure, found: Estimate) -> str:
    """Whether a difference is clear, and in which direction."""
    if not found.clear:
        return ""
    return BETTER if (found.value > 0) == measure.higher else WORSE


def by_size(findings: Findings, measure: Measure) -> Table:
    """A measure by N."""
    groups = {f"N = {size}": findings.sizes == size for size in sorted(set(findings.sizes.tolist()))}
    return _by(findings, measure, groups, f"{measure.title} by number of LoRAs", "sets of N LoRAs")


def by_world(findings: Findings, measure: Measure) -> Table:
    """A measure by world."""
    groups = {
        str(world): findings.pooled & (findings.worlds == world) for world in dict.fromkeys(findings.worlds.tolist())
    }
    return _by(findings, measure, groups, f"{measure.title} by world", "sets of a world")


def _by(findings: Findings, measure: Measure, groups: dict[str, Where], title: str, of: str) -> Table:
    labels = findings.labels(measure)
    cells = {label: {name: findings.mean(measure, label, where) for name, where in groups.items()} for label in labels}
    low, high = measure.span or _span([one for row in cells.values() for one in row.values()])
    rows = [
        Row(label, tuple(
            Cell(measure.text(one.value), measure.range(one.low, one.high), heat=_heat(measure, one.value, low, high))
            for one in row.values()
        ))
        for label, row in cells.items()
    ]  # fmt: skip
    counts = [next(iter(cells.values()))[name].sets for name in groups]
    heads = tuple(Head(name, _sets(count), f"{_sets(count)}: {of}") for name, count in zip(groups, counts, strict=True))
    return Table(
        title, f"method{f' ({measure.unit})' if measure.unit else ''}", heads, tuple(rows), "Darker is better."
    )


def cost_by_size(findings: Findings) -> Table:
    """What a picture costs by N."""
    sizes = sorted(set(findings.sizes.tolist()))
    rows = [
        Row(label, tuple(_cost(findings, label, findings.sizes == size) for size in sizes))
        for label in findings.reading.labels
    ]
    note = (
        f"A picture's time over that of “{findings.cheapest}” for the same set; below, its median in seconds. {ONE_RUN}"
    )
    return Table("Cost by number of LoRAs", "method", tuple(Head(f"N = {size}") for size in sizes), tuple(rows), note)


def _cost(findings: Findings, label: str, where: Where) -> Cell:
    seconds = findings.seconds(label, where)
    return Cell(_times(findings.cost(label, where)), "" if math.isnan(seconds) else f"{_seconds(seconds)} s")


def by_category(findings: Findings) -> Table | None:
    """How often elements of each category are there."""
    if findings.recalled is None:
        return None
    heads = tuple(Head(name, "%") for name in findings.categories)
    rows = [
        Row(label, tuple(_recall(findings, label, names) for names in findings.categories.values()))
        for label in findings.reading.labels
    ]
    return Table("By category", "method", heads, tuple(rows), RECALL.explanation)


def by_element(findings: Findings) -> Table | None:
    """How often every element is there."""
    labels = findings.reading.labels
    if findings.recalled is None or len(labels) > MOST_COLUMNS:
        return None
    rows = [
        Row(one.name.replace("_", " "), tuple(_recall(findings, label, [one.name], short=True) for label in labels))
        for one in findings.reading.elements
    ]
    heads = tuple(Head(label, "%") for label in labels)
    return Table("By element", "element", heads, tuple(rows), "The same for each element by itself.")


def _recall(findings: Findings, label: str, names: Sequence[str], short: bool = False) -> Cell:
    found = findings.recall(label, names)
    heat = None if math.isnan(found.value) else found.value
    return Cell(RECALL.text(found.value), "" if short else RECALL.range(found.low, found.high), heat=heat)


def sentences(findings: Findings) -> list[tuple[str, str]]:
    """What the main measures say: a word, and a sentence or two."""
    found = []
    for measure in findings.main():
        means = {label: findings.mean(measure, label) for label in findings.labels(measure)}
        means = {label: one for label, one in means.items() if one.cases}
        if len(means) < 2:
            continue
        ranked = sorted(means, key=lambda label: means[label].value, reverse=measure.higher)
        best, rest = ranked[0], ranked[1:]
        gaps = {label: findings.difference(measure, label, best) for label in rest}
        near = [label for label in rest if not gaps[label].clear]
        worse = [label for label in rest if gaps[label].clear]
        one = means[best]
        unit = f" {measure.unit}" if measure.unit else ""
        interval = f" ({measure.range(one.low, one.high)})" if not math.isnan(one.low) else ""
        text = f"“{best}” has the best mean, {measure.text(one.value)}{unit}{interval}."
        if near:
            text += f" Not told apart from it: {_listed(_some([f'“{label}”' for label in near]))}."
        if worse:
            behind = [f"“{label}” by {measure.text(abs(gaps[label].value))}" for label in worse]
            points = " (percentage points)" if measure.unit == "%" else ""
            text += f" Clearly behind it{points}: {_listed(_some(behind))}."
        found.append((measure.title.capitalize(), text))
    return found


def _best(measure: Measure, found: Iterable[Estimate]) -> float:
    values = [one.value for one in found if not math.isnan(one.value)]
    return (max if measure.higher else min)(values, default=math.nan)


def _span(found: Iterable[Estimate]) -> tuple[float, float]:
    ends = [end for one in found for end in (one.low, one.value, one.high) if not math.isnan(end)]
    low, high = min([0.0, *ends]), max(ends, default=1.0)  # bars begin at zero
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _bar(one: Estimate, low: float, high: float) -> tuple[float, float, float] | None:
    if math.isnan(one.value):
        return None
    ends = [one.value if math.isnan(end) else end for end in (one.low, one.value, one.high)]
    first, middle, last = (min(max((end - low) / (high - low), 0.0), 1.0) for end in ends)
    return first, middle, last


def _heat(measure: Measure, value: float, low: float, high: float) -> float | None:
    if math.isnan(value):
        return None
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return share if measure.higher else 1 - share


def _points(measure: Measure) -> str:
    return "points" if measure.unit == "%" else measure.unit


def _sets(count: int) -> str:
    return f"{count} set{'' if count == 1 else 's'}"


def _seconds(seconds: float) -> str:
    return "–" if math.isnan(seconds) else f"{seconds:.3g}"


def _times(times: float) -> str:
    return "–" if math.isnan(times) else f"{times:.2f}"


def _some(names: Sequence[str]) -> list[str]:
    return [*names] if len(names) <= MOST_NAMED else [*names[:MOST_NAMED], f"{len(names) - MOST_NAMED} more"]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
