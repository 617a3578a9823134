"""`python -m development.bench`: measures, and writes `benchmarks/RESULTS.md` and `benchmarks/chart.svg`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from development.bench import growth, table
from development.bench.chart import chart
from development.bench.growth import Curve
from development.bench.report import load, results
from development.bench.runs import both_sides
from development.bench.table import Bench, Row
from development.console import guarded, say
from development.package import ROOT

RESULTS = ROOT / "benchmarks"
QUICK = 0.3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m development.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing about how the cost grows")
    parser.add_argument("--sdk", type=Path, help="a folder that the openai SDK is installed in (pip install --target)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the results")
    options = parser.parse_args()
    bench = Bench(QUICK if options.quick else 1, options.sdk)
    return guarded(lambda: run(bench, options.output, with_growth=not options.quick))


def run(bench: Bench, folder: Path, *, with_growth: bool) -> None:
    """Measure everything and write the report, first without how the cost grows, which takes the longest."""
    load_before = load()
    curves: list[Curve] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        rows = [said(step, bench) for step in STEPS]
        rows.append(said(table.import_time, bench, Path(temporary, "import")))
        say("Starting ComfyUI, twice ...")
        with both_sides(Path(temporary)) as (theirs, ours):
            rows += [said(step, bench, theirs, ours) for step in (table.nodes_together, table.time_added)]
            write(folder, bench, rows, curves, load_before)
            if with_growth:
                curves.append(growth.pictures(bench, theirs, ours))
                curves.append(growth.nodes(theirs, ours))
                curves.append(growth.workflows(theirs, ours))
    if with_growth:
        curves += [growth.sizes(bench, name, title) for name, title in SIZES]
        write(folder, bench, rows, curves, load_before)


def write(folder: Path, bench: Bench, rows: list[Row], curves: list[Curve], load_before: float) -> None:
    """Write the report and its chart."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RESULTS.md").write_text(results(bench, rows, curves, load_before), encoding="utf-8")
    (folder / "chart.svg").write_text(chart(rows), encoding="utf-8")
    say(f"Written: {folder / 'RESULTS.md'}")


STEPS = (table.encode_photo, table.encode_flat, table.encode_large, table.decode, table.body, table.urls)
SIZES = (("encode", "pixels of a photo that is encoded with its mask"), ("decode", "pixels of a PNG that is decoded"))


def said(step: Callable[..., Row], *arguments: object) -> Row:
    """Measure a step and print what came of it."""
    row = step(*arguments)
    say(f"{'  met ' if row.met else 'MISSED'}  {row.step}: {row.theirs} -> {row.ours}; {row.measured} ({row.goal})")
    return row


if __name__ == "__main__":
    sys.exit(main())
