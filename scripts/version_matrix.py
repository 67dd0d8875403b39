"""Runs tests against the lowest and the highest supported pyspark, torch, monai and pydicom; writes the table of it.

python scripts/version_matrix.py                                   lowest, then highest: all tests but the slow ones
python scripts/version_matrix.py lowest --tests tests/test_load.py
python scripts/version_matrix.py spark41=pyspark==4.1.4 --tests tests/test_session.py -m spark

uv installs where it is at hand (it resolves in seconds what takes pip many minutes), else pip does.
Each environment is a virtual environment of its own under --work, made anew, and goes when it is done (--keep leaves it
there). Bounds are those of setup.cfg; everything else is as constraints.txt pins it where that fits. Rows go into
docs/reference/versions.md, one for each environment and selection of tests.
"""

import argparse
import configparser
import json
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "versions.md"
PACKAGES = ("pyspark", "torch", "monai", "pydicom")
FOLLOW = ("torchvision", "triton", "sympy", "py4j", "setuptools")
"""Packages that one of the four pins by itself."""

BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"


def main() -> int:
    """One row for each environment; 1 where tests failed or nothing could be installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="*", default=["lowest", "highest"], metavar="NAME[=PIN,PIN]")
    parser.add_argument("--tests", nargs=argparse.REMAINDER, default=["-m", "not slow"], help="arguments of pytest")
    parser.add_argument("--extras", default="dev", help="extras of setup.cfg to install, by commas")
    parser.add_argument("--with", dest="besides", nargs="*", default=[], metavar="PACKAGE", help="further packages")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "version-matrix")
    parser.add_argument("--keep", action="store_true", help="leave the environments there")
    parser.add_argument("--set-up-only", action="store_true", help="make them, run nothing; implies --keep")
    arguments = parser.parse_args()
    codes = []
    for given in arguments.environments:
        name, _, pins = given.partition("=")
        row = check(name, pins.split(",") if pins else _pins(name), arguments)
        print(json.dumps(row), flush=True)
        codes.append(row["outcome"].startswith("passed"))
        if not arguments.set_up_only:
            write(row)
    return 0 if all(codes) else 1


def check(name: str, pins: list[str], arguments: argparse.Namespace) -> dict[str, str]:
    """Make an environment, run the tests in it, tell what came of it."""
    folder = arguments.work / name
    python = folder / "bin" / "python"
    try:
        if not (folder / "complete").exists():
            _install(folder, pins, arguments)
        found = _versions(python)
        outcome = "passed: not run" if arguments.set_up_only else _run(python, arguments.tests)
    except subprocess.CalledProcessError as error:
        found, outcome = dict.fromkeys(PACKAGES, "?"), f"cannot be installed: {_last_line(error.output or '')}"
    if not arguments.keep and not arguments.set_up_only:
        shutil.rmtree(folder, ignore_errors=True)
    told = {"tests": f"`{' '.join(arguments.tests)}`", "outcome": outcome, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    return {"environment": name, **found, **told}


def write(row: dict[str, str]) -> None:
    """Replace the row of this environment and selection, or add it."""
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    table, tail = rest.split(END)
    columns = list(row)
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    rows = {_key(line): line for line in lines}
    line = f"| {' | '.join(row.values())} |"
    rows[_key(line)] = line
    titles = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    body = "\n".join([*titles, *(rows[key] for key in sorted(rows))])
    PAGE.write_text(f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}", encoding="utf-8")


def _pins(name: str) -> list[str]:
    bounds = _bounds()
    if name == "lowest":
        return [f"{package}=={bounds[package].partition('>=')[2].partition(',')[0]}" for package in PACKAGES]
    if name == "highest":
        return [f"{package}{bounds[package]}" for package in PACKAGES]
    raise SystemExit(f"{name}: neither lowest, highest nor NAME=PIN,PIN")


def _bounds() -> dict[str, str]:
    config = configparser.RawConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].split("\n")
    return {name: bound for name, _, bound in (line.partition(" ") for line in lines) if name in PACKAGES}


def _install(folder: Path, pins: list[str], arguments: argparse.Namespace) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    free = "|".join((*PACKAGES, *FOLLOW))
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in pinned if not re.match(rf"({free})==", line, re.IGNORECASE)]
    (folder / "constraints.txt").write_text("\n".join([*kept, *pins]) + "\n", encoding="utf-8")
    requirements = _requirements(arguments.extras, outside={re.split("[=<>]", pin)[0] for pin in pins})
    python = folder / "bin" / "python"
    pip = [uv, "pip", "install", "--python", python] if (uv := shutil.which("uv")) else [python, "-m", "pip", "install"]
    pip += ["-c", folder / "constraints.txt"]
    (folder / "pip.log").write_text(_told([*pip, *pins, *requirements, *arguments.besides]), encoding="utf-8")
    (folder / "complete").touch()


def _requirements(extras: str, outside: set[str]) -> list[str]:
    """What setup.cfg asks for, but for packages whose bounds a pin may lie outside of."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].splitlines()
    for extra in filter(None, extras.split(",")):
        lines += config["options.extras_require"][extra].splitlines()
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [line for line in wanted if line.split()[0] not in outside]


def _versions(python: Path) -> dict[str, str]:
    program = (
        "import json, sys; from importlib.metadata import version as v; print(json.dumps(list(map(v, sys.argv[1:]))))"
    )
    return dict(zip(PACKAGES, json.loads(_told([python, "-c", program, *PACKAGES])), strict=True))


def _run(python: Path, tests: list[str]) -> str:
    report = python.parent.parent / "report.xml"
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    with (python.parent.parent / "pytest.log").open("w") as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    if not report.exists():
        return "pytest did not start"
    suite = next(ElementTree.parse(report).iter("testsuite")).attrib
    total, skipped = int(suite["tests"]), int(suite["skipped"])
    bad = int(suite["failures"]) + int(suite["errors"])
    counts = f"{total - skipped - bad} passed, {bad} failed, {skipped} skipped"
    return f"{'failed' if bad or not total else 'passed'}: {counts}, {float(suite['time']):.0f} s"


def _told(command: list[str | Path]) -> str:
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    ).stdout


def _key(line: str) -> tuple[str, str]:
    cells = [cell.strip() for cell in line.strip("|").split(" | ")]
    return cells[0], cells[-3]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:200]


if __name__ == "__main__":
    sys.exit(main())
