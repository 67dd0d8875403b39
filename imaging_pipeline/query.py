"""Questions to a RESULTS in SQL, over the views series, measurements and reviews."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from imaging_pipeline.arguments import add_results, add_settings, carry_out, parser_for, settings_of
from imaging_pipeline.ask import FAILED, FLAGS, SLOWEST, VOLUMES, ask
from imaging_pipeline.console import say, table
from imaging_pipeline.export import as_csv, as_json, shown, write_parquet
from imaging_pipeline.stores import open_store

EXAMPLES = """\
examples:
  imaging-pipeline query RESULTS --flags
  imaging-pipeline query RESULTS "SELECT status, reason_code, count(*) AS n FROM series GROUP BY ALL"
  imaging-pipeline query RESULTS "SELECT name, avg(volume_ml) FROM measurements GROUP BY name" --csv
  imaging-pipeline query RESULTS "FROM measurements" --parquet volumes.parquet
  imaging-pipeline query RESULTS "FROM series JOIN reviews USING (series_key, model_name) WHERE verdict = 'accept'"

series is the index, measurements has one row for each label of each mask, reviews what people said of masks (empty
until somebody has). The query reads these and nothing else, and changes nothing.

exit codes:
  0 answered   2 usage, settings, no RESULTS, or a query that cannot be answered
"""

_READY = {"failed": FAILED, "slowest": SLOWEST, "volumes": VOLUMES, "flags": FLAGS}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    parser = command_line()
    arguments = parser.parse_args(argv)
    if len(_asked(arguments)) != 1:
        parser.error("name one question: SQL, --failed, --slowest, --volumes or --flags")
    return carry_out(_query, arguments)


def _query(arguments: argparse.Namespace) -> int:
    (sql,) = _asked(arguments)
    found = ask(open_store(arguments.results, settings_of(arguments).storage), sql)
    if arguments.parquet is not None:
        write_parquet(found, arguments.parquet)
    elif arguments.csv or arguments.json:
        say((as_csv if arguments.csv else as_json)(found))
    else:
        table(found.column_names, _rows(found))
    return 0


def _asked(arguments: argparse.Namespace) -> list[str]:
    ready = [sql for name, sql in _READY.items() if vars(arguments)[name]]
    return ready if arguments.sql is None else [arguments.sql, *ready]


def _rows(found: pa.Table) -> Iterator[tuple[str, ...]]:
    for batch in found.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            yield tuple(shown(value) for value in row.values())


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("query", __doc__, EXAMPLES)
    add_results(parser)
    parser.add_argument("sql", metavar="SQL", nargs="?", help="a query in DuckDB's SQL")
    parser.add_argument("--failed", action="store_true", help="series that failed, why, and what to do")
    parser.add_argument("--slowest", action="store_true", help="the twenty series that took longest, by stage")
    parser.add_argument("--volumes", action="store_true", help="volumes of each label over all masks")
    parser.add_argument("--flags", action="store_true", help="what somebody should look at")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--csv", action="store_true", help="as CSV")
    forms.add_argument("--json", action="store_true", help="as JSON, a list of objects")
    forms.add_argument("--parquet", metavar="FILE", type=Path, help="into a Parquet file")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
