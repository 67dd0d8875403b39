"""What commands have in common: name and help, arguments that several of them take, and how they end."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from imaging_pipeline import __version__
from imaging_pipeline.console import show_error
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.settings import Settings, resolve

SCRIPT = "imaging-pipeline"
"""Name of the console script, which has all commands."""

_INTERRUPTED = 128 + 2
"""What shells say of a program that SIGINT ended."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Wraps prose as well as the help of options; paragraphs with indented lines, such as examples, stay."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (f"{indent}{paragraph}" for paragraph in text.strip().split("\n\n"))
        return "\n\n".join(
            paragraph if "\n " in paragraph else argparse.HelpFormatter._fill_text(self, paragraph, width, indent)
            for paragraph in paragraphs
        )


def parser_for(name: str, description: str | None, epilog: str) -> argparse.ArgumentParser:
    """A parser for a command.

    Args:
        name: Name of the command and of its module.
        description: The module's docstring.
        epilog: Examples, in the words of the console script; exit codes.
    """
    prog = f"{_program()}{name}"
    found = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog.replace(f"{SCRIPT} ", _program()),
        formatter_class=Help,
    )
    found.add_argument("--version", action="version", version=f"imaging_pipeline {__version__}")
    return found


def _program() -> str:
    """What the name of a command follows in the words that started this process."""
    return f"{SCRIPT} " if Path(sys.argv[0]).name == SCRIPT else "python -m imaging_pipeline."


def add_results(to: argparse.ArgumentParser) -> None:
    """RESULTS, which an earlier run has made."""
    to.add_argument("results", metavar="RESULTS", help="folder or URL that runs have written to")


def add_settings(to: argparse.ArgumentParser) -> None:
    """A file of settings, and single ones; see `settings_of`."""
    to.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings")
    to.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be repeated")


def add_compute(to: argparse.ArgumentParser) -> None:
    """Where series are worked on; see `compute_options`."""
    to.add_argument("--master", metavar="URL", help="Spark master, such as local[4] or spark://host:7077")
    to.add_argument("--no-spark", action="store_true", help="run in this process, without Java")
    to.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1")


def add_quiet(to: argparse.ArgumentParser) -> None:
    """For cron."""
    to.add_argument("--quiet", action="store_true", help="nothing but the summary")


def compute_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_compute` was told, as settings; None where it was told nothing."""
    return {
        "spark.master": arguments.master,
        "spark_enabled": False if arguments.no_spark else None,
        "device": arguments.device,
    }


def settings_of(
    arguments: argparse.Namespace, options: Mapping[str, Any] | None = None, saved: Mapping[str, Any] | None = None
) -> Settings:
    """Settings of a command.

    Args:
        arguments: With those of `add_settings`.
        options: Named options as settings; those that are None leave the setting alone.
        saved: Settings of an earlier run, in place of the defaults.

    Raises:
        PipelineError: `settings-invalid`.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    return resolve(arguments.config, arguments.set, given, saved=saved)


def carry_out(
    work: Callable[[argparse.Namespace], int], arguments: argparse.Namespace, interrupted: int = _INTERRUPTED
) -> int:
    """Do what a command is there for; its exit code, and one line on standard error where it comes to nothing.

    Args:
        work: Does it.
        arguments: What the command was told.
        interrupted: Exit code behind Ctrl-C.
    """
    try:
        return work(arguments)
    except PipelineError as error:
        from imaging_pipeline.execution import exit_code_of  # a run is much to import for a question

        show_error(error)
        return exit_code_of(error)
    except KeyboardInterrupt:
        show_error(PipelineError(Code.USAGE, "interrupted", "run again to go on: what is done stays done"))
        return interrupted
    except BrokenPipeError:  # whoever reads standard output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
