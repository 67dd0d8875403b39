"""The documentation tells what the code does: codes, settings, columns and commands are those that there are."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from imaging_pipeline.errors import Code, FlagCode
from imaging_pipeline.round import Exit
from imaging_pipeline.settings import Settings, resolve

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

import reference  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALERTS = ROOT / "conf" / "monitoring" / "alerts.yaml"


def sections() -> list[str]:
    return re.findall(r"^### (\S+)$", (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_reason_code_has_its_section_in_the_runbook_and_says_what_to_do() -> None:
    codes = {code.value for code in Code}
    assert codes - set(sections()) == set()
    assert {name for name in sections() if not name.startswith("ImagingPipeline")} == codes
    assert codes <= set(reference.remedies())


def test_every_alert_has_its_section_in_the_runbook() -> None:
    if not ALERTS.exists():
        pytest.skip("no alerts here")
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    assert alerts == {name for name in sections() if name.startswith("ImagingPipeline")}


def test_the_reference_has_a_meaning_for_each_code_flag_exit_code_column_and_setting() -> None:
    pages = reference.pages()
    for enum, page in ((Code, "reason-codes"), (FlagCode, "flags")):
        assert all(f"`{member.value}`" in pages[f"reference/{page}.md"] for member in enum)
    assert all(f"| {int(code)} |" in pages["reference/exit-codes.md"] for code in Exit)
    empty = [line for text in pages.values() for line in text.splitlines() if re.search(r"\|\s*\|$", line)]
    assert empty == []


def test_the_reference_has_every_setting_with_its_default() -> None:
    page = reference.pages()["reference/settings.md"]
    assert sorted(key for key in keys_of(Settings()) if f"| `{key}`" not in page) == []
    assert "| `qc.asymmetry` | `float` | `0.5` |" in page
    assert "| `geometry.missing_slices` **v** | `reject \\| interpolate` | `reject` |" in page


def test_every_command_that_a_page_shows_is_one_that_the_program_takes() -> None:
    parsers = reference.commands()
    shown = list(commands())
    assert {"run", "query", "verify", "index", "compare"} <= {module for _, module, _ in shown}
    for place, module, arguments in shown:
        try:
            parsers[module].parse_args(arguments)
        except (SystemExit, KeyError) as error:
            pytest.fail(f"{place}: {module} {arguments}: {error!r}")


def test_every_setting_that_a_page_names_is_there_and_takes_the_value_shown() -> None:
    settings = Settings()
    known = set(keys_of(settings))
    sections = (name for name, value in settings if isinstance(value, BaseModel))
    names = "|".join(name for name in sections if name != "spark")  # Spark's own properties begin like ours
    for page in PAGES:
        for key in re.findall(rf"`((?:{names})\.[a-z_0-9.]+)[`=]", page.read_text(encoding="utf-8")):
            if key.endswith((".yaml", ".py", ".key", ".properties")):
                continue
            assert any(found == key or found.startswith(f"{key}.") for found in known), f"{page.name}: {key}"
    for place, module, arguments in commands():
        given = [arguments[number + 1] for number, text in enumerate(arguments) if text == "--set"]
        assert resolve(assignments=given), f"{place}: {module} {arguments}"


def keys_of(values: BaseModel, prefix: str = "") -> Iterator[str]:
    for name, value in values:
        if isinstance(value, BaseModel):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """Place, module and arguments of each command of this package in a fenced block."""
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                found = re.search(r"(?:python -m imaging_pipeline\.|\bimaging-pipeline )(\w+) (.*)", line)
                if found is not None and "..." not in line:
                    words = shlex.split(found[2], comments=True)
                    stop = next((number for number, word in enumerate(words) if word in "|;&&>"), len(words))
                    yield page.name, found[1], words[:stop]
