"""Lines, tables and bars of any command."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from imaging_pipeline.errors import PipelineError

_LOG_WIDTH = 1000
"""Columns where there is no terminal: lines of a log are not broken."""

STOPPING = "stopping behind the series at work; Ctrl-C again ends at once"


def open_console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error, as it is: plain lines without colours where it is no terminal.

    rich alone would take FORCE_COLOR, which CI systems set, for a terminal. It sees to NO_COLOR by itself.
    """
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    console = Console(stderr=stderr, highlight=False, soft_wrap=True, force_terminal=is_terminal)
    if not is_terminal:
        console.width = _LOG_WIDTH
    return console


def say(text: str) -> None:
    """One line on standard output."""
    print(text, flush=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows in aligned columns on standard output."""
    grid = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        grid.add_row(*map(escape, row))
    open_console().print(grid)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], object]]:
    """A bar on a terminal, nothing elsewhere; call what it yields once for each of `total` things."""
    console = open_console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    is_off = not console.is_interactive
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=is_off) as bar:
        number = bar.add_task(what, total=total)
        yield lambda: bar.advance(number)


def show_error(error: PipelineError) -> None:
    """One line on standard error."""
    print(f"imaging_pipeline: {error.code}: {error.message}; {error.hint}", file=sys.stderr)


def show_stopping(*, over: bool = False) -> None:
    """One line on standard error, from within a signal's handler: by the system call alone.

    Args:
        over: In place of what stands in the line of the cursor.
    """
    os.write(2, b"\r\x1b[2K" * over + f"imaging_pipeline: {STOPPING}\n".encode())
