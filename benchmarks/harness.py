"""What every benchmark needs: fresh processes measured in turn, rows, a table and a JSON file.

Systems run one after the other, round by round (A B C A B C ...), so that whatever else the machine does meets all of
them alike. Ratios are taken within a round before their median is taken.
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.measure import Command, Measurement, measure

PACKAGES = ("torch", "monai", "pyspark", "pydicom", "numpy", "nibabel", "SimpleITK", "deltalake")

_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line of a benchmark says.

    Attributes:
        quick: Take about a minute: fewer and smaller cases.
        json: Where to write the report; None prints the table only.
        repeats: Rounds; None leaves the number to the benchmark.
    """

    quick: bool
    json: Path | None
    repeats: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One system on one case.

    Attributes:
        seconds: Median wall seconds over the rounds.
        peak_rss_mb: Median over the rounds.
        ratio: Seconds of the peer divided by seconds of this system, median over the rounds: above 1, this system is
            faster than the peer; the peer's own row says 1.
        figures: What else this benchmark has to say of the system.
    """

    case: str
    system: str
    seconds: float
    seconds_min: float
    seconds_max: float
    peak_rss_mb: float
    repeats: int
    ratio: float
    figures: Mapping[str, float | int | str] = field(default_factory=dict)

    def flat(self) -> dict[str, float | int | str]:
        """All figures under their names, the ratio last."""
        values = asdict(self)
        ratio, figures = values.pop("ratio"), values.pop("figures")
        return {**values, **figures, "ratio": ratio}


def parse_options(description: str, argv: Sequence[str] | None = None) -> Options:
    """Options of a benchmark script.

    Args:
        description: What the script measures, for `--help`.
        argv: Arguments without the program's name; None: those of this process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer and smaller cases, one round")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    parser.add_argument("--repeats", metavar="N", type=int, help="rounds to take the median of")
    arguments = parser.parse_args(argv)
    return Options(quick=arguments.quick, json=arguments.json, repeats=arguments.repeats)


def interleave(systems: Mapping[str, Callable[[int], Command]], repeats: int) -> dict[str, tuple[Measurement, ...]]:
    """Measure systems in turn, round by round.

    Args:
        systems: Name to what makes its command for a round, such as one with a fresh output folder.
        repeats: Rounds.

    Returns:
        Name to one measurement a round.
    """
    runs: dict[str, list[Measurement]] = {name: [] for name in systems}
    for number in range(repeats):
        for name, command in systems.items():
            runs[name].append(measure(command(number)))
            print(f"  round {number + 1}, {name}: {runs[name][-1].seconds:.1f} s", flush=True)
    return {name: tuple(measured) for name, measured in runs.items()}


def summarise(
    case: str,
    runs: Mapping[str, Sequence[Measurement]],
    peer: str,
    figures: Mapping[str, Mapping[str, float | int | str]] | None = None,
) -> list[Row]:
    """Medians of interleaved runs.

    Args:
        case: What was worked on.
        runs: What `interleave` returned.
        peer: The system that ratios are taken against.
        figures: System to further figures of its row.
    """
    rows = []
    for system, measured in runs.items():
        seconds = [run.seconds for run in measured]
        ratios = [other.seconds / run.seconds for other, run in zip(runs[peer], measured, strict=True)]
        row = Row(
            case=case,
            system=system,
            seconds=statistics.median(seconds),
            seconds_min=min(seconds),
            seconds_max=max(seconds),
            peak_rss_mb=statistics.median(run.peak_rss_mb for run in measured),
            repeats=len(measured),
            ratio=statistics.median(ratios),
            figures=dict((figures or {}).get(system, {})),
        )
        rows.append(row)
    return rows


def report(benchmark: str, rows: Sequence[Row], options: Options, notes: Sequence[str] = ()) -> None:
    """Print rows as a table and write them, with hardware, date and versions, where the options say.

    Args:
        benchmark: Name of the benchmark.
        rows: All cases and systems.
        options: Names the JSON file.
        notes: Sentences that belong to the figures.
    """
    machine = hardware()
    print(f"\n{benchmark}, {_today()}, {machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}\n")
    print(table(rows))
    print("\nratio: seconds of the peer / seconds of this system; above 1, this system is faster")
    print("\n".join(notes))
    if options.json is not None:
        content = {
            "benchmark": benchmark,
            "date": _today(),
            "quick": options.quick,
            "hardware": machine,
            "versions": dict(_versions()),
            "rows": [row.flat() for row in rows],
            "notes": list(notes),
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table, columns in line."""
    flat = [row.flat() for row in rows]
    names = [*dict.fromkeys(name for row in flat for name in row if name != "ratio"), "ratio"]
    cells = [names, *([_text(row.get(name, "")) for name in names] for row in flat)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    cells.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(f"| {line} |" for line in lines)


def hardware() -> dict[str, float | int | str | list[str]]:
    """What this machine is and how busy it was at the time."""
    cpu = _first_of(Path("/proc/cpuinfo"), "model name")
    flags = _first_of(Path("/proc/cpuinfo"), "flags").split()
    memory = _first_of(Path("/proc/meminfo"), "MemTotal").split()
    return {
        "cpu": cpu or platform.processor(),
        "cpu_features": [name for name in _CPU_FEATURES if name in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[0]) / 2**20, 1) if memory else 0.0,
        "load_average": " ".join(f"{value:.1f}" for value in os.getloadavg()),
        "system": platform.platform(),
    }


def _first_of(path: Path, key: str) -> str:
    """The value of the first `key: value` line."""
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _versions() -> list[tuple[str, str]]:
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append((name, version(name)))
    return found


def _text(value: float | int | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
