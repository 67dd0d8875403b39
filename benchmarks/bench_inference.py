"""One network, one input, from DICOM to NIfTI: this project, MONAI and nnU-Net, each run in a process of its own.

    python -m benchmarks.bench_inference [--quick] [--cases NAME ...] [--peers NAME ...] [--json FILE] [--chart PNG]

  ours       python -m imaging_pipeline.run --no-spark
  written1   MONAI as written: softmax of all classes back to the native grid, argmax there; one window a batch
  thrifty1   MONAI, argmax on the network's grid, nearest label on the native grid; one window a batch
  written4, thrifty4   the same, four windows a batch
  nnunet     nnU-Net's predictor on the array that MONAI prepared, nnU-Net's resampling of logits, argmax
  ours_bf16, written1_bf16, thrifty1_bf16   the network in bfloat16: segment.amp=bf16, torch's autocast

Cases are ctSLICES-GRID-CLASSES, such as ct120-1.5mm-14, and hippocampus (the default model on real crops). The network
of the CT cases has random weights. Needs neither Spark nor Java.
"""

import argparse
import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.cases_inference import CASES, CROPS_NAME, QUICK, WINDOW, Case, flops_of, hippocampus_case, make_case
from benchmarks.figures_inference import BF16, NOTES, OURS, Runs, is_ours
from benchmarks.harness import Options, Row, report, summarise
from benchmarks.measure import Command, Measurement, measure

PEERS = {
    "written1": ("written", 1),
    "thrifty1": ("thrifty", 1),
    "written4": ("written", 4),
    "thrifty4": ("thrifty", 4),
    "nnunet": ("nnunet", 1),
    "written1_bf16": ("written", 1),
    "thrifty1_bf16": ("thrifty", 1),
}
"""Name to what `peer_inference` calls the system, and its windows a batch."""

START_MB = 700
"""What Python, torch and MONAI take before any voxel."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    arguments = _parser().parse_args(argv)
    names = arguments.cases or ([QUICK.name] if arguments.quick else [*(spec.name for spec in CASES), CROPS_NAME])
    peak_flops = convolution_peak(arguments.device)
    rows: list[Row] = []
    notes = [f"a large convolution reaches {peak_flops / 1e9:.0f} GFLOP/s on {arguments.device}: peak_share is of that"]
    with tempfile.TemporaryDirectory(prefix="bench-inference-", dir=arguments.scratch) as scratch:
        for name in names:
            try:
                case = _case(name, Path(scratch))
            except FileNotFoundError as error:
                notes.append(f"{name} left out: {error}")
                continue
            print(f"{name}: {case.n_slices} slices, {case.n_classes} classes", flush=True)
            rows += _rows(case, arguments, Path(scratch) / "results" / name, peak_flops, notes)
    options = Options(quick=arguments.quick, json=arguments.json, repeats=arguments.repeats)
    report("bench_inference", rows, options, [*notes, *NOTES])
    if arguments.chart:
        from benchmarks.chart_inference import draw

        draw([row.flat() for row in rows], arguments.chart)


def convolution_peak(device: str) -> float:
    """Operations a second of a large fp32 convolution: 2 x 32 x 64 x 64 x 64 voxels, kernel 3, 32 channels out."""
    voxels = torch.randn(2, 32, 64, 64, 64, device=device)
    convolution = torch.nn.Conv3d(32, 32, 3, padding=1).to(device)
    seconds = []
    with torch.inference_mode():
        for _ in range(7):
            start = time.perf_counter()
            convolution(voxels).flatten()[0].item()  # waits for the device
            seconds.append(time.perf_counter() - start)
    return 2 * 32 * 27 * voxels.numel() / min(seconds)


def _case(name: str, scratch: Path) -> Case:
    if name == CROPS_NAME:
        return hippocampus_case()
    return make_case(next(spec for spec in (*CASES, QUICK) if spec.name == name), scratch)


def _rows(case: Case, arguments: argparse.Namespace, results: Path, peak_flops: float, notes: list[str]) -> list[Row]:
    """Rows of a case; a system that did not run has one that says why."""
    results.mkdir(parents=True)
    systems = [OURS, *([OURS + BF16] if arguments.bf16 else []), *arguments.peers]
    systems = [name for name in systems if arguments.bf16 or not name.endswith(BF16)]
    missing = {name: why for name in systems if (why := _why_not(case, name))}
    measured: dict[str, list[Measurement]] = {name: [] for name in systems}
    for number in range(arguments.repeats or (1 if arguments.quick else 3)):
        for name in [name for name in systems if name not in missing]:
            try:
                measured[name].append(measure(_command(case, name, results / f"{name}_{number}", arguments)))
                print(f"  round {number + 1}, {name}: {measured[name][-1].seconds:.1f} s", flush=True)
            except RuntimeError as error:  # the others go on
                missing[name] = "failed, see the notes"
                notes.append(f"{case.name}, {name}: {error}")
    done = {name: found for name, found in measured.items() if name not in missing}
    rows = _summary(case, done, results, peak_flops) if done else []
    notes += [f"{case.name}, {name}: {why}" for name, why in missing.items()]
    return [*rows, *(_absent(case, name, why) for name, why in missing.items())]


def _summary(case: Case, done: dict[str, list[Measurement]], results: Path, peak_flops: float) -> list[Row]:
    peer = next((name for name in PEERS if name in done), OURS)
    runs = Runs(
        case=case,
        results=results,
        seconds={name: [run.seconds for run in measured] for name, measured in done.items()},
        peer=peer,
        window_flops=flops_of(case.bundle),
        peak_flops=peak_flops,
    )
    return summarise(case.name, done, peer=peer, figures={name: runs.figures(name) for name in done})


def _absent(case: Case, name: str, why: str) -> Row:
    return Row(
        case=case.name,
        system=name,
        seconds=0.0,
        seconds_min=0.0,
        seconds_max=0.0,
        peak_rss_mb=0.0,
        repeats=0,
        ratio=0.0,
        figures={"slices": case.n_slices, "grid_mm": case.grid_mm, "classes": case.n_classes, "note": why},
    )


def _why_not(case: Case, name: str) -> str:
    """Why a system is not started; empty if it is."""
    if name == "nnunet" and importlib.util.find_spec("nnunetv2") is None:
        return "nnunetv2 is not installed"
    lines = Path("/proc/meminfo").read_text().splitlines()
    available_mb = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024
    need_mb = START_MB + _need_mb(case, name)
    return f"does not fit (needs about {need_mb / 1024:.0f} GiB)" if need_mb > available_mb else ""


def _need_mb(case: Case, name: str) -> float:
    """Memory beyond start-up by what a system holds at once; that of ours is not for us to guess."""
    if is_ours(name):
        return 0.0
    native, grid, (system, windows) = case.native_voxels, case.grid_voxels, PEERS[name]
    bytes_of = {
        "written": case.n_classes * 4 * (3 * native + grid) + 8 * native,
        "thrifty": case.n_classes * 4 * 2 * grid + 28 * native,
        "nnunet": case.n_classes * 2 * (native + 2 * grid) + 40 * native,
    }
    activations = windows * math.prod(WINDOW) * 4 * (16 + case.n_classes)
    return (bytes_of[system] + activations) / 2**20


def _command(case: Case, name: str, out: Path, arguments: argparse.Namespace) -> Command:
    amp = "bf16" if name.endswith(BF16) else "off"
    if is_ours(name):
        bundle = case.bundle
        given = ["benchmarks.ours_inference", f"{out}.json", str(case.study), "--out", str(out), "--no-spark"]
        given += ["--model", str(bundle), "--device", arguments.device]
        for setting in (f"models.trusted_dirs=[{bundle.parent}]", f"segment.amp='{amp}'", *arguments.set):
            given += ["--set", setting]
    else:
        system, windows = PEERS[name]
        folders = map(str, case.series.values())
        given = ["benchmarks.peer_inference", system, str(case.bundle), str(out), *folders]
        given += ["--device", arguments.device, "--windows", str(windows), "--amp", amp]
    environment = {"BENCH_STARTED": str(time.time())}
    return Command(argv=(sys.executable, "-W", "ignore", "-m", *given), environment=environment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [QUICK.name, *(spec.name for spec in CASES), CROPS_NAME]
    parser.add_argument("--quick", action="store_true", help=f"one round of {QUICK.name}")
    parser.add_argument("--cases", nargs="+", metavar="NAME", choices=known, help=f"among {', '.join(known)}")
    parser.add_argument("--peers", nargs="*", metavar="NAME", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--bf16", action="store_true", help="also ours and MONAI with the network in bfloat16")
    parser.add_argument("--repeats", metavar="N", type=int, help="rounds to take the median of")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    parser.add_argument("--chart", metavar="PNG", type=Path, help="also draw seconds and memory")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N, for all systems")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a setting of ours")
    parser.add_argument("--scratch", metavar="DIR", type=Path, help="where DICOM and masks go meanwhile")
    return parser


if __name__ == "__main__":
    main()
