"""Prints what makes a shell complete commands, options, settings, folders and files of the command line."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, get_args

import shtab
from pydantic import BaseModel

from imaging_pipeline import commands
from imaging_pipeline.arguments import SCRIPT, carry_out, parser_for
from imaging_pipeline.console import say
from imaging_pipeline.settings import Settings

EXAMPLES = """\
examples:
  source <(imaging-pipeline completion bash)               # for this shell
  imaging-pipeline completion bash > ~/.local/share/bash-completion/completions/imaging-pipeline
  imaging-pipeline completion zsh > ~/.zfunc/_imaging-pipeline     # a folder of fpath, before compinit
  imaging-pipeline completion tcsh > ~/.imaging-pipeline.csh       # then source it in ~/.tcshrc

It completes `imaging-pipeline`, not `python -m`. Print it again after an update.

exit codes:
  0 printed   2 usage
"""

_SHELLS = ("bash", "zsh", "tcsh", "fish")
_FOLDERS = ("STUDIES", "RESULTS", "RESULTS_A", "RESULTS_B")

_NO_SPACE = """
# what ends in = goes on with a value
_imaging_pipeline() {
  _shtab_imaging_pipeline
  if [[ ${COMPREPLY[0]-} == *= ]]; then compopt -o nospace 2>/dev/null || :; fi
}
complete -o bashdefault -F _imaging_pipeline imaging-pipeline
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    return carry_out(_completion, command_line().parse_args(argv))


def _completion(arguments: argparse.Namespace) -> int:
    say(completion(arguments.shell))
    return 0


def completion(shell: str) -> str:
    """The script for a shell, made of the parsers of all commands.

    Args:
        shell: Its name.
    """
    parser = _whole()
    for action in _actions(parser):
        if action.metavar in _FOLDERS:
            _complete(action, shtab.DIRECTORY)
        elif action.metavar == "FILE":
            _complete(action, shtab.FILE)
        elif action.metavar == "KEY=VALUE":
            _complete(action, _of_keys(sorted(_keys(Settings))))
    script = shtab.complete(parser, shell)
    return script + _NO_SPACE if shell == "bash" else script


def _whole() -> argparse.ArgumentParser:
    """The command line with the options of all commands."""
    parser = argparse.ArgumentParser(prog=SCRIPT)
    parser.add_argument("--version", action="version")
    verbs = parser.add_subparsers(metavar="COMMAND", parser_class=_parser_of)  # type: ignore[call-overload]
    for name, text in commands.COMMANDS.items():
        verbs.add_parser(name, help=text)
    return parser


def _parser_of(*, prog: str, **_: Any) -> argparse.ArgumentParser:
    """The parser of a command, in place of the one that argparse would make for its name."""
    found: argparse.ArgumentParser = import_module(f"imaging_pipeline.{prog.split()[-1]}").command_line()
    return found


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of those below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)


def _complete(action: argparse.Action, how: dict[str, Any]) -> None:
    """Tell shtab; it looks at an attribute of the action."""
    action.complete = how  # type: ignore[attr-defined]


def _of_keys(keys: Iterable[str]) -> dict[str, Any]:
    """What completes names of settings; a value follows them."""
    words = " ".join(f"{key}=" for key in keys)
    function = f'_imaging_pipeline_keys() {{\n  compgen -W "{words}" -- "$1"\n}}'
    return {
        "bash": "_imaging_pipeline_keys",
        "zsh": f"{{compadd -S '' - {words}}}",
        "preamble": {"bash": function},
    }


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for section in sections:
            yield from _keys(section, f"{prefix}{name}.")
        if not sections:
            yield f"{prefix}{name}"


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("completion", __doc__, EXAMPLES)
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=", ".join(_SHELLS))
    return parser


if __name__ == "__main__":
    sys.exit(main())
