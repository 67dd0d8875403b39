"""Pre- and postprocessing around a network, against MONAI's own transforms.

    python -m benchmarks.bench_transforms [--quick] [--json FILE]

A volume of 192 x 192 x 120 voxels of 0.9 x 0.9 x 2.0 mm goes to 1.5 mm, scores of 14 classes come back as labels on
its own voxels. Two chains, as bundles have them:

  blend     Orientation, Spacing, ScaleIntensityRange | Activations, Invert (linear), AsDiscrete
  nearest   Orientation, Spacing, NormalizeIntensity, ScaleIntensity | Activations, AsDiscrete, Invert (nearest)

Each run is a fresh process. Seconds and memory are those of the transforms alone: without start-up, volume and scores.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    Invertd,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityd,
    ScaleIntensityRanged,
    Spacingd,
)

from benchmarks.harness import Row, interleave, parse_options, report, summarise
from benchmarks.measure import Command, Measurement
from imaging_pipeline.segment.transforms import compile_chain, in_memory

OURS, MONAI = "imaging_pipeline", "MONAI"
CHAINS = ("blend", "nearest")
N_CLASSES = 14
SHAPE, QUICK_SHAPE = (192, 192, 120), (96, 96, 60)
SPACING_MM = (0.9, 0.9, 2.0)

Figures = Mapping[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; as `one SYSTEM CHAIN SHAPE FILE` a single run of it."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["one"]:
        system, chain, shape, file = arguments[1:]
        Path(file).write_text(json.dumps(_one(system, chain, tuple(map(int, shape.split("x"))), Path(file))))
        return
    options = parse_options(__doc__ or "", argv)
    shape = QUICK_SHAPE if options.quick else SHAPE
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-transforms-") as scratch:
        for chain in CHAINS:
            commands = {system: partial(_command, system, chain, shape, Path(scratch)) for system in (OURS, MONAI)}
            runs = interleave(commands, options.repeats or (1 if options.quick else 3))
            rows += _rows(chain, {system: len(measured) for system, measured in runs.items()}, Path(scratch))
    notes = [
        f"{' x '.join(map(str, shape))} voxels of {' x '.join(map(str, SPACING_MM))} mm to 1.5 mm, {N_CLASSES} classes",
        "peak_rss_mb: what the transforms added to the process at most, result included",
        "different_voxels: labels unlike those of MONAI, in the first round",
    ]
    report("bench_transforms", rows, options, notes)


def _command(system: str, chain: str, shape: Sequence[int], scratch: Path, number: int) -> Command:
    size, file = "x".join(map(str, shape)), _file(scratch, system, chain, number)
    argv = (sys.executable, "-W", "ignore", "-m", "benchmarks.bench_transforms", "one", system, chain, size, str(file))
    return Command(argv=argv)


def _file(scratch: Path, system: str, chain: str, number: int) -> Path:
    return scratch / f"{chain}_{system}_{number}.json"


def _rows(chain: str, rounds: Mapping[str, int], scratch: Path) -> list[Row]:
    found: dict[str, list[Figures]] = {
        system: [json.loads(_file(scratch, system, chain, number).read_text()) for number in range(n)]
        for system, n in rounds.items()
    }
    runs = {
        system: [
            Measurement(seconds=run["prepare_seconds"] + run["finish_seconds"], peak_rss_mb=run["peak_mb"])
            for run in measured
        ]
        for system, measured in found.items()
    }
    labels = [np.load(_file(scratch, system, chain, 0).with_suffix(".npy")) for system in (OURS, MONAI)]
    different = int((labels[0] != labels[1]).sum())
    figures: dict[str, dict[str, float | int | str]] = {
        system: {
            "prepare_seconds": float(np.median([run["prepare_seconds"] for run in measured])),
            "finish_seconds": float(np.median([run["finish_seconds"] for run in measured])),
            "different_voxels": different if system == OURS else 0,
        }
        for system, measured in found.items()
    }
    return summarise(chain, runs, peer=MONAI, figures=figures)


def _one(system: str, chain: str, shape: tuple[int, ...], file: Path) -> Figures:
    image, (before, after) = _volume(shape), _chain(chain)
    before_mb = _status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.perf_counter()
    ours = compile_chain(before, after) if system == OURS else None
    prepared = before({"image": image}) if ours is None else ours.prepare(image)
    prepare_seconds = time.perf_counter() - start
    peak_mb = _status_mb("VmHWM") - before_mb
    on_grid = prepared["image"] if ours is None else prepared.image
    scores = _scores(on_grid.shape[1:])
    before_mb = _status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    if ours is None:
        pred = MetaTensor(scores, meta=dict(on_grid.meta), applied_operations=on_grid.applied_operations)
        labels = after({**prepared, "pred": pred})["pred"]
    else:
        labels = ours.finish(in_memory(scores), prepared)
    finish_seconds = time.perf_counter() - start
    peak_mb = max(peak_mb, _status_mb("VmHWM") - before_mb)
    np.save(file.with_suffix(".npy"), labels.as_tensor().numpy().astype(np.uint8))
    return {"prepare_seconds": prepare_seconds, "finish_seconds": finish_seconds, "peak_mb": peak_mb}


def _volume(shape: tuple[int, ...]) -> MetaTensor:
    coarse = torch.randn((1, 1, 12, 12, 12), generator=torch.Generator().manual_seed(0))
    values = 400 * torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0]
    affine = torch.diag(torch.tensor([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0], dtype=torch.float64))
    return MetaTensor(values.round(), affine=affine)


def _scores(shape: Sequence[int]) -> torch.Tensor:
    coarse = torch.randn((1, N_CLASSES, 9, 9, 9), generator=torch.Generator().manual_seed(1))
    return 5 * torch.nn.functional.interpolate(coarse, tuple(shape), mode="trilinear")[0]


def _chain(name: str) -> tuple[Compose, Compose]:
    grid = [Orientationd(keys="image", axcodes="RAS"), Spacingd(keys="image", pixdim=[1.5] * 3, mode="bilinear")]
    softmax, argmax = Activationsd(keys="pred", softmax=True), AsDiscreted(keys="pred", argmax=True)
    if name == "blend":
        scale = ScaleIntensityRanged(keys="image", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True)
        before = Compose([*grid, scale])
        return before, Compose([softmax, _back(before, nearest=False), argmax])
    before = Compose([*grid, NormalizeIntensityd(keys="image", nonzero=True), ScaleIntensityd(keys="image", minv=-1)])
    return before, Compose([softmax, argmax, _back(before, nearest=True)])


def _back(before: Compose, *, nearest: bool) -> Invertd:
    return Invertd(keys="pred", transform=before, orig_keys="image", nearest_interp=nearest, to_tensor=True)


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(field))) / 1024


if __name__ == "__main__":
    main()
