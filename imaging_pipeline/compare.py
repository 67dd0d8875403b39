"""Masks of two RESULTS, or of two models in one: Dice, surface distances, drift of volumes, verdicts that changed."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from imaging_pipeline.arguments import add_settings, carry_out, parser_for, settings_of
from imaging_pipeline.comparison.compare import LabelRow, changes, compare, to_table
from imaging_pipeline.comparison.page import Comparison, as_page, figure
from imaging_pipeline.comparison.sides import Side, matches, open_side
from imaging_pipeline.comparison.summary import bland_altman, summaries
from imaging_pipeline.console import progress, say, show_error, table
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.export import as_csv, write_parquet, write_text, writing
from imaging_pipeline.stores import open_store

EXAMPLES = """\
examples:
  imaging-pipeline compare RESULTS_A RESULTS_B
  imaging-pipeline compare RESULTS_A RESULTS_B --html compare.html --plot volumes.png
  imaging-pipeline compare RESULTS --models one another --csv rows.csv       # two models in one RESULTS
  imaging-pipeline compare RESULTS_A RESULTS_B --models one another

Series are the same where the digest of their inputs is, else by Series Instance UID and stack; labels by name. It reads
every mask once and changes nothing.

exit codes:
  0 compared   1 some series could not be compared: a line for each   2 usage, settings, or nothing to compare
"""

_HEADINGS = ("label", "series", "Dice", "lowest", "surface mm", "Hausdorff 95 % mm", "drift ml", "limits ml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    parser = command_line()
    arguments = parser.parse_args(argv)
    if arguments.second is None and arguments.models is None:
        parser.error("name a second RESULTS, or two models of one by --models A B")
    return carry_out(_compare, arguments)


def _compare(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    places = arguments.first, arguments.second or arguments.first
    models = arguments.models or (None, None)
    sides = [open_side(open_store(place, settings.storage), model) for place, model in zip(places, models, strict=True)]
    names = _names(places, sides)
    found, failures = _found(sides[0], sides[1], names)
    if not found.rows and not failures:
        message = f"{names[0]} and {names[1]} have no series with a mask on both sides and a label of the same name"
        raise PipelineError(Code.NOTHING_TO_COMPARE, message, "name runs over the same studies")
    _tell(found)
    for failure in failures:
        show_error(failure)
    _write(found, arguments)
    return 1 if failures else 0


def _found(first: Side, second: Side, names: tuple[str, str]) -> tuple[Comparison, list[PipelineError]]:
    """What can be compared, and why the rest cannot: one series does not stop another."""
    same = list(matches(first, second))
    pairs = [match for match in same if match.has_masks]
    rows: list[LabelRow] = []
    failures: list[PipelineError] = []
    with progress("series", len(pairs)) as advance:
        for match in pairs:
            try:
                rows += compare(match, first, second)
            except PipelineError as error:
                failures.append(error)
            advance()
    found = Comparison(
        names=names,
        rows=rows,
        changes=[change for match in same for change in changes(match)],
        n_series=len(pairs) - len(failures),
        n_others=len(first.rows) + len(second.rows) - 2 * len(pairs),
    )
    return found, failures


def _tell(found: Comparison) -> None:
    others = f"; {found.n_others} rows of either without" if found.n_others else ""
    say(f"A {found.names[0]}, B {found.names[1]}: {found.n_series} series with a mask on both sides{others}")
    lines = [
        (
            *(item.name, str(item.n_series), figure(item.dice), figure(item.lowest_dice)),
            *(figure(item.mean_surface_mm), figure(item.hausdorff95_mm), figure(item.bias_ml)),
            f"{figure(item.low_ml)} to {figure(item.high_ml)}",
        )
        for item in summaries(found.rows)
    ]
    table(_HEADINGS, lines)
    for change in found.changes:
        say(f"{change.column} of {change.series_a}: {change.first or 'none'} in A, {change.second or 'none'} in B")


def _write(found: Comparison, arguments: argparse.Namespace) -> None:
    plot = bland_altman(found.rows, found.names) if found.rows and (arguments.html or arguments.plot) else b""
    if arguments.plot is not None:
        with writing(arguments.plot):
            arguments.plot.write_bytes(plot)
    if arguments.html is not None:
        write_text(as_page(found, plot), arguments.html)
    if arguments.csv is not None:
        write_text(as_csv(to_table(found.rows)) + "\n", arguments.csv)
    if arguments.parquet is not None:
        write_parquet(to_table(found.rows), arguments.parquet)


def _names(places: Sequence[str], sides: Sequence[Side]) -> tuple[str, str]:
    """What differs between the sides: their models, else their places."""
    first, second = (side.model for side in sides)
    if first == second:
        return str(places[0]), str(places[1])
    return (first, second) if places[0] == places[1] else (f"{places[0]} {first}", f"{places[1]} {second}")


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("compare", __doc__, EXAMPLES)
    parser.add_argument("first", metavar="RESULTS_A", help="folder or URL that runs have written to")
    parser.add_argument("second", metavar="RESULTS_B", nargs="?", help="another one; without it, --models of the first")
    parser.add_argument("--models", metavar=("A", "B"), nargs=2, help="model of each side, where there are several")
    parser.add_argument("--html", metavar="FILE", type=Path, help="one page with tables and plot")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="Bland-Altman plot of volumes as PNG")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="one row for each label and series")
    parser.add_argument("--parquet", metavar="FILE", type=Path, help="the same as Parquet")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
