"""Pages of the reference, made from the code that they describe: parsers, settings, codes, tables, exit codes."""

import argparse
import ast
import contextlib
import importlib
import os
import re
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from imaging_pipeline.errors import Code, FlagCode
from imaging_pipeline.records import RESULTS_SCHEMA, Finding, Flag, Refusal, SeriesIdentity, SeriesResult
from imaging_pipeline.results import measurements
from imaging_pipeline.results.index import SCHEMA
from imaging_pipeline.results.reading import REVIEW_SCHEMA
from imaging_pipeline.results.reviews import Review
from imaging_pipeline.round import Exit
from imaging_pipeline.sections import ROOT
from imaging_pipeline.settings import Settings

PACKAGE = Path(__file__).resolve().parents[1] / "imaging_pipeline"
NOTE = "This page is made from the code when the documentation is built.\n"
_UNITS = {
    "seconds": "s", "hours": "h", "mb": "MiB", "bytes": "bytes", "voxels": "voxels", "megavoxel": "s per 10⁶ voxels",
    "tolerance": "voxels", "share": "share, 0 to 1", "asymmetry": "share of the mean", "slices": "slices",
}  # fmt: skip
_HEADINGS = {
    "a file that is no DICOM instance": "Files that are left out",
    "a series that is no volume": "Series that are skipped",
    "what a volume may have and still be right": "Findings about a volume that is right",
    "a DICOM output of a series that is done without it": "DICOM objects that are refused",
    "a series that should have worked": "Series that failed",
    "an output that has not reached its destination; the series is done all the same": "Objects that have not arrived",
    "a run that cannot start": "Runs that cannot start or go on",
    "what verify finds in a RESULTS": "What verify finds",
}


@cache
def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    return {
        "reference/cli.md": _cli(),
        "reference/settings.md": _settings(),
        "reference/reason-codes.md": _reason_codes(),
        "reference/flags.md": _flags(),
        "reference/tables.md": _tables(),
        "reference/receipts.md": _receipts(),
        "reference/exit-codes.md": _exit_codes(),
    }


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every module that is a command, with its parser; run comes first."""
    names = sorted(file.stem for file in PACKAGE.glob("*.py") if "\ndef command_line(" in file.read_text("utf-8"))
    names.sort(key=lambda name: name != "run")
    return {name: importlib.import_module(f"imaging_pipeline.{name}").command_line() for name in names}


def _cli() -> str:
    parts = ["# Commands", NOTE]
    for name, parser in commands().items():
        parts += [f"## {name}", _fenced(_help(parser))]
        for verb, sub in _verbs(parser).items():
            parts += [f"### {name} {verb}", _fenced(_help(sub))]
    return _joined(parts)


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    choices = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(next(choices, {}))


def _help(parser: argparse.ArgumentParser) -> str:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        return parser.format_help()
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _settings() -> str:
    text = (
        "Later ones win: the defaults below, `conf/default.yaml`, `--config FILE`, `--set KEY=VALUE`, named options. "
        "The value of `--set` is read as YAML. An unknown key or a bad value ends the run before it starts. A **v** "
        "marks settings that can change a voxel: series that are done are computed again when one of them changes.\n"
    )
    voxel = set(Settings().voxel_settings())
    parts = ["# Settings", NOTE, text]
    for title, rows in _sections(Settings, Settings(), ""):
        lines = ["| key | type | default | unit | meaning |", "|---|---|---|---|---|"]
        lines += [_row(f"`{key}`" + " **v**" * (key in voxel), *cells) for key, *cells in rows]
        parts += [f"## {title or 'The run'}", "\n".join(lines)]
    return _joined(parts)


def _sections(model: type[BaseModel], values: BaseModel, prefix: str) -> Iterator[tuple[str, list[list[str]]]]:
    rows, below = [], []
    for name, field in model.model_fields.items():
        value = getattr(values, name)
        if isinstance(value, BaseModel):
            below.append((f"{prefix}{name}", value))
            continue
        default = "from the environment" if field.default_factory and value == "" else f"`{_plain(value)}`"
        is_number = field.annotation in (int, float)
        unit = _UNITS.get(name.rsplit("_", 1)[-1], "") if is_number else ""
        rows.append([f"{prefix}{name}", _type(field.annotation), default, unit, field.description or ""])
    if rows:
        yield prefix.removesuffix("."), rows
    for name, value in below:
        yield from _sections(type(value), value, f"{name}.")


def _plain(value: Any) -> str:
    if value is None or value in ("", (), {}):
        return {None: "none", "": '""', (): "[]"}.get(value if not isinstance(value, dict) else None, "{}")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    text = str(value)
    home = f"{Path.home()}/"
    return text.replace(f"{ROOT}/", "").replace(home, "~/") if isinstance(value, Path) else text


def _type(annotation: Any) -> str:
    text = str(annotation) if not isinstance(annotation, type) else annotation.__name__
    text = re.sub(r"typing\.|pathlib\.|_local\.|, AfterValidator\([^)]*\)|, BeforeValidator\([^)]*\)", "", text)
    text = re.sub(r"Annotated\[(\w+)(\[.*?\])?(, [^\]]*)?\]", r"\1\2", text).replace("NoneType", "none")
    text = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " | "), text)
    return f"`{text.replace('None', 'none')}`"


def _reason_codes() -> str:
    text = (
        "Stable words, in the index, receipts and output: scripts may rely on them. The message beside each has the "
        "numbers. What to do is told by the hints that the code gives, where it has fixed ones (an ellipsis stands for "
        "what only the case at hand tells), else by the [runbook](../runbook.md), which has a section for each code.\n"
    )
    hints = {**remedies(), **_hints()}
    parts = ["# Reason codes", NOTE, text]
    rows: list[str] = []
    for heading, code, meaning in _members("Code"):
        if heading not in parts[-2:] and (title := f"## {_HEADINGS.get(heading, heading)}") not in parts:
            rows = ["| code | what happened | what to do |", "|---|---|---|"]
            parts += [title, rows]  # type: ignore[list-item]
        rows.append(_row(f"[`{code}`](../runbook.md#{code})", meaning, "; ".join(hints.get(code, []))))
    return _joined("\n".join(part) if isinstance(part, list) else part for part in parts)


def remedies() -> dict[str, list[str]]:
    """Section of the runbook to what it says is to be done."""
    text = (PACKAGE.parent / "docs" / "runbook.md").read_text("utf-8")
    sections = re.findall(r"^### ([\w-]+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    found = {name: re.search(r"\*\*Do\*\* (.+)", body) for name, body in sections}
    return {name: [_from_below(match[1].rstrip("."))] for name, match in found.items() if match}


def _from_below(text: str) -> str:
    """Links of a page in docs/ as they stand in a folder of it."""
    return re.sub(r"\]\((#|(?=\w))", lambda found: f"](../{'runbook.md#' if found[1] else ''}", text)


def _flags() -> str:
    text = (
        "Stable words in the column `flags` of series that are done: what somebody should look at. They change neither "
        "status nor exit code; the summary counts them. Thresholds are the [settings](settings.md#qc) `qc.*`; series "
        "that are done keep the flags that they were given.\n"
    )
    hints = _hints("FlagCode")
    lines = ["| code | what was found | what to check |", "|---|---|---|"]
    lines += [_row(f"`{code}`", meaning, "; ".join(hints.get(code, []))) for _, code, meaning in _members("FlagCode")]
    return _joined(["# Quality flags", NOTE, text, "\n".join(lines)])


def _tables() -> str:
    told = {**_attributes(SeriesIdentity), **_attributes(SeriesResult)}
    described = {name: item["Description"] for name, item in measurements.describe_columns().items()}
    parts = [
        "# Tables",
        NOTE,
        f"Schema version {RESULTS_SCHEMA}, which `versions` names with every result; what changed when stands in "
        "[Upgrading](../UPGRADING.md). All three are Delta tables, read by `python -m imaging_pipeline.query` as the "
        "views `series`, `measurements` and `reviews`, or by any Delta reader.\n",
        "## index",
        "RESULTS/index, one row for each series and model; the view `series`.\n",
        _columns(SCHEMA, told),
        "## measurements",
        "RESULTS/measurements, one row for each label of each mask.\n",
        _columns(measurements.SCHEMA, {**told, **described}),
        "## reviews",
        "RESULTS/reviews, one row for each verdict from the viewer.\n",
        _columns(REVIEW_SCHEMA, _attributes(Review)),
    ]
    return _joined(parts)


def _receipts() -> str:
    text = (
        "`RESULTS/receipts/<series>_<model>.json`: one for each series and model, written last, sealed by the secret "
        "of RESULTS. It holds what a row of the [index](tables.md) holds, the first eleven under `identity`.\n"
    )
    parts = ["# Receipts", NOTE, text, "## identity", _columns(_schema(SeriesIdentity), _attributes(SeriesIdentity))]
    result = _schema(SeriesResult)
    parts += ["## The result", _columns(pa.schema(list(result)[1:]), _attributes(SeriesResult))]
    for title, record in (("findings", Finding), ("flags", Flag), ("formats_refused", Refusal)):
        parts += [f"## An item of {title}", _columns(_schema(record), _attributes(record))]
    return _joined(parts)


def _exit_codes() -> str:
    lines = ["| code | meaning |", "|---|---|"]
    lines += [_row(str(int(Exit[name])), meaning) for _, name, meaning in _members("Exit", "round.py")]
    ending = (
        "`--watch` ends with 0 where a plain run ends with 5 or 7. `--dry-run` ends with 4 where a series is damaged, "
        "else with 0 where it finds one to take or one that is done, else with 3. Other commands use these numbers too "
        "and list theirs in their [help](cli.md).\n"
    )
    return _joined(["# Exit codes", NOTE, "Of `python -m imaging_pipeline.run`:\n", "\n".join(lines), ending])


def _schema(record: type) -> pa.Schema:
    from imaging_pipeline.rows import schema_of

    return schema_of(record)


def _columns(schema: pa.Schema, told: dict[str, str]) -> str:
    lines = ["| column | type | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(_row(f"`{item.name}`", _arrow(item.type), told.get(item.name, "")) for item in schema)])


def _arrow(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_arrow(kind.value_type)}"
    if pa.types.is_map(kind):
        return f"map of {_arrow(kind.key_type)} to {_arrow(kind.item_type)}"
    if pa.types.is_struct(kind):
        return f"({', '.join(field.name for field in kind)})"
    return str(kind)


def _attributes(record: type) -> dict[str, str]:
    """What a docstring says of each attribute."""
    text = (record.__doc__ or "").partition("Attributes:")[2]
    found = re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def _members(enum: str, module: str = "errors.py") -> Iterator[tuple[str, str, str]]:
    """Heading, value (or name, of numbers) and meaning of each member: its comments in the source."""
    text = (PACKAGE / module).read_text("utf-8")
    body = text.partition(f"class {enum}(")[2].partition("\nclass ")[0]
    heading = ""
    for line in body.splitlines():
        if found := re.fullmatch(r" {4}# (.+)", line):
            heading = found[1]
        elif found := re.fullmatch(r' {4}([A-Z_]+) = (?:"([a-z-]+)"|\d+)(?:  # (.+))?', line):
            yield heading, found[2] or found[1], found[3] or ""


def _hints(enum: str = "Code") -> dict[str, list[str]]:
    """Code to the hints that the source gives with it, in order, three at most."""
    kinds: dict[str, type[StrEnum]] = {"Code": Code, "FlagCode": FlagCode}
    found: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        for scope in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            names = {**_texts(tree.body), **_texts(list(ast.walk(scope)))}
            for call in [node for node in ast.walk(scope) if isinstance(node, ast.Call)]:
                for code, hint in _told(call, enum, names):
                    told = found.setdefault(kinds[enum][code].value, [])
                    if hint not in told and len(told) < 3:
                        told.append(hint)
    return found


def _told(call: ast.Call, enum: str, names: dict[str, ast.expr]) -> Iterator[tuple[str, str]]:
    """Of a call such as PipelineError(code, message, hint), or one that names its hint."""
    given = [*call.args, *(item.value for item in call.keywords)]
    places = [number for number, item in enumerate(given) if _is_member(item, enum)]
    named = [item.value for item in call.keywords if item.arg == "hint"]
    if not places or (not named and len(call.args) <= places[0] + 2):
        return
    code = given[places[0]]
    assert isinstance(code, ast.Attribute)
    with contextlib.suppress(ValueError):
        yield code.attr, _text(named[0] if named else call.args[places[0] + 2], names)


def _is_member(node: ast.expr, enum: str) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == enum


def _texts(nodes: list[Any]) -> dict[str, ast.expr]:
    simple = [node for node in nodes if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {node.targets[0].id: node.value for node in simple}  # type: ignore[attr-defined]


def _text(node: ast.expr, names: dict[str, ast.expr]) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        return "".join(map(str, parts))
    if isinstance(node, ast.Name) and node.id in names and names[node.id] is not node:
        return _text(names[node.id], {key: value for key, value in names.items() if key != node.id})
    raise ValueError(ast.dump(node))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def _joined(parts: Any) -> str:
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"
