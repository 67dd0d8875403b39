"""What Spark's start costs on one machine: our JVM options against the JVM as it comes.

    python -m benchmarks.bench_start [--quick] [--json FILE]

The real command on the sample study with `--model none`: a session, two stages over a few files, and the end. Wall
seconds are those of the whole process; processor seconds count everything that it started, and hardly move with what
else the machine does.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import interleave, parse_options, report, summarise
from benchmarks.measure import ROOT, Command

SAMPLE = ROOT / "sample_data" / "studies"
OURS, PLAIN = "ours", "JVM as it comes"
_OPTIONS = ("spark.driver.extraJavaOptions", "spark.executor.extraJavaOptions")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(__doc__ or "", argv)
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-start-") as scratch:
        for master in ("local[*]", "local-cluster[2,1,1024]"):
            commands = {name: partial(_command, name, master, Path(scratch)) for name in (OURS, PLAIN)}
            runs = interleave(commands, options.repeats or (1 if options.quick else 5))
            roles = {name: measured[0].cpu_seconds_of for name, measured in runs.items()}
            figures = {
                name: {
                    f"cpu_{role}_s": statistics.median(run.cpu_seconds_of.get(role, 0.0) for run in runs[name])
                    for role in sorted(roles[name])
                }
                for name in runs
            }
            rows += summarise(master, runs, peer=PLAIN, figures=figures)
    report("bench_start", rows, options)


def _command(system: str, master: str, scratch: Path, number: int) -> Command:
    out = scratch / f"{system.split()[0]}-{master.partition('[')[0]}-{number}"
    arguments = ["imaging_pipeline.run", str(SAMPLE), "--out", str(out), "--model", "none"]
    arguments += ["--master", master]
    if system == PLAIN:
        plain = ", ".join(f"{key}: -Dplain=1" for key in _OPTIONS)
        arguments += ["--set", f"spark.conf={{{plain}}}"]
    return Command(argv=(sys.executable, "-W", "ignore", "-m", *arguments))


if __name__ == "__main__":
    main()
