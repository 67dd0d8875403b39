"""What Spark's start costs on one machine: our JVM options against the JVM as it comes.

    python -m benchmarks.bench_start [--quick] [--json FILE]

The real command on the sample study with `--model none`: a session, two stages over a few files, and the end. Wall
seconds are those of the whole process; processor seconds count everything that it started, and hardly move with what
else the machine does. Runs that are not timed write the archive of classes before.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import interleave, parse_options, report, summarise
from benchmarks.measure import ROOT, Command

SAMPLE = ROOT / "sample_data" / "studies"
OURS, FIRST, PLAIN = "ours", "without the archive", "JVM as it comes"
_MOST_RUNS = 4
_OPTIONS = ("spark.driver.extraJavaOptions", "spark.executor.extraJavaOptions")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(__doc__ or "", argv)
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-start-") as scratch:
        _write_archive(Path(scratch))
        for master in ("local[*]", "local-cluster[2,1,1024]"):
            commands = {name: partial(_command, name, master, Path(scratch)) for name in (OURS, FIRST, PLAIN)}
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


def _write_archive(scratch: Path) -> None:
    """It is finished behind the command that begins it, and taken over by the next one."""
    for number in range(_MOST_RUNS):
        subprocess.run(_command(OURS, "local[1]", scratch, -1 - number).argv, capture_output=True, cwd=ROOT, check=True)
        if list((scratch / "cache").glob("spark/*.jsa")):
            return
        time.sleep(10)
    raise RuntimeError(f"no archive of classes after {_MOST_RUNS} runs")


def _command(system: str, master: str, scratch: Path, number: int) -> Command:
    out = scratch / f"{system.split()[0]}-{master.partition('[')[0]}-{number}"
    arguments = ["imaging_pipeline.run", str(SAMPLE), "--out", str(out), "--model", "none"]
    keep = "always" if system == OURS else "off"
    arguments += ["--master", master, "--set", f"spark.class_archive={keep}"]
    arguments += ["--set", f"models.cache_dir={scratch / 'cache'}"]
    if system == PLAIN:
        plain = ", ".join(f"{key}: -Dplain=1" for key in _OPTIONS)
        arguments += ["--set", f"spark.conf={{{plain}}}"]
    return Command(argv=(sys.executable, "-W", "ignore", "-m", *arguments))


if __name__ == "__main__":
    main()
