"""What the bench makes of its figures; `python dev.py bench` measures them."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from development.bench.chart import chart
from development.bench.growth import Curve, Point
from development.bench.report import results
from development.bench.table import Bench, Row, Timing

BENCH = Bench(effort=1, sdk=None)
MET = Row(
    "encode", "80 ms", "9 ms", goal="≥ x8", measured="x8.9", met=True, label="encode a <photo>", ratio=8.9, least=8.0
)
MISSED = Row(
    "decode",
    "90 ms",
    "60 ms",
    goal="≥ x1.8",
    measured="x1.5",
    met=False,
    label="decode 8 PNGs",
    ratio=1.5,
    least=1.8,
    limit="Pillow alone takes 50 ms.",
)
WITHOUT_RATIO = Row("import", "-", "20 ms", goal="≤ 30 ms", measured="20 ms", met=True)
SVG = "{http://www.w3.org/2000/svg}"


def test_a_missed_goal_is_said_with_what_stands_in_its_way() -> None:
    text = results(BENCH, [MET, MISSED], [], load_before=0.1)
    assert "1 of 2 goals are missed" in text
    assert "- **Missed: decode.** x1.5, where the goal is ≥ x1.8. Pillow alone takes 50 ms." in text
    assert "| decode | 90 ms | 60 ms | - | ≥ x1.8 | x1.5 | **no** |" in text
    assert "Missed: encode" not in text and "| encode | 80 ms | 9 ms | - | ≥ x8 | x8.9 | yes |" in text


def test_when_every_goal_is_met_the_report_says_no_more_than_that() -> None:
    text = results(BENCH, [MET, WITHOUT_RATIO], [], load_before=0.1)
    assert "Every goal is met." in text
    assert "issed" not in text and "**no**" not in text
    assert "How the cost grows" not in text


@pytest.mark.parametrize(("load", "is_said"), [(0.1, False), (1.7, True)])
def test_a_machine_that_was_busy_is_said_to_disturb_the_figures(load: float, is_said: bool) -> None:
    text = results(BENCH, [MET], [], load_before=load)
    assert f"Load when it began: {load}" in text
    assert ("disturbs the figures" in text) is is_said


def test_a_quick_run_is_told_from_a_whole_one() -> None:
    assert "dev.py bench --quick`" in results(replace(BENCH, effort=0.3), [MET], [], load_before=0)
    assert "dev.py bench`" in results(BENCH, [MET], [], load_before=0)


def test_the_cost_of_one_more_is_the_slope() -> None:
    counts = [1, 2, 4]
    theirs = [Point(0.5 + 0.25 * count, 10 + 3 * count) for count in counts]
    ours = [Point(0.5 + 0.125 * count, 10 + 1.5 * count) for count in counts]
    curve = Curve("nodes in one graph", "nodes", "peak", counts, theirs, ours, "node")
    text = results(BENCH, [MET], [curve], load_before=0)
    assert "### nodes in one graph" in text
    assert "| 4 | 1,500 ms | 1,000 ms | 22 MiB | 16 MiB |" in text
    assert "| one more node | 250.0 ms | 125.0 ms | 3.00 MiB | 1.50 MiB |" in text


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    timing = Timing({"theirs": [4.0, 9.0, 100.0], "ours": [2.0, 3.0, 1.0]}, {})
    assert timing.ratio == 3
    assert (timing.ms("theirs"), timing.ms("sdk")) == ("9000 ms", "-")


def test_the_chart_has_a_bar_for_each_ratio_and_marks_the_missed_ones() -> None:
    picture = ElementTree.fromstring(chart([MET, MISSED, WITHOUT_RATIO]))  # noqa: S314 (our own text)
    bars = [bar for bar in picture.iter(f"{SVG}rect") if "bar" in bar.get("class", "")]
    goals = [line for line in picture.iter(f"{SVG}line") if line.get("class") == "goal"]
    texts = ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]
    assert [bar.get("class") for bar in bars] == ["bar", "bar missed"]
    assert len(goals) == 2
    assert {"encode a <photo>", "decode 8 PNGs", "x8.9", "x1.5"} <= set(texts)
    lengths = [float(bar.get("width", "")) for bar in bars]
    assert lengths[0] / lengths[1] == pytest.approx(8.9 / 1.5, rel=0.01)
