"""What the runs of `bench_inference` left behind, as figures of a row."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.agreement import compare_all
from benchmarks.cases_inference import Case
from imaging_pipeline.records import SeriesResult, Status
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.stores import LocalStore

OURS = "ours"
BF16 = "_bf16"
"""How names of systems end that compute in bfloat16."""
STAGES = {"open_model": "open", "decode": "load", "postprocess": "restore"}
"""Stages of our receipts to the names that the peers give them; others keep their own."""

NOTES = (
    "equal_voxels: share of native voxels with the label of the system in compared_with",
    "seconds_without_import: without start of Python and import of packages, but for those of our worker",
    "other_s: in no stage: the exit, and of ours the worker's start, its imports and the opening of the model",
    "network_s: windows cut out, through the network and added up, in every system",
    "forward_s: within network_s, the network alone (peers on the CPU)",
    "high_water_mb: most that the process held by its own account, not missed between two looks",
    "network_share: network_s / seconds; gflops: windows run x operations of the network in a window / network_s",
    "the synthetic cases' weights are random, with interpolating upsampling so that labels form regions",
    "fp32 but in systems _bf16; nnU-Net adds up in fp16, and on CUDA computes in fp16 by its own rule",
)

Figures = dict[str, float | int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Finished runs of one case.

    Attributes:
        results: Folder with an output folder for each system and round.
        seconds: System to wall seconds of each round.
        peer: System that masks are compared with.
        window_flops: Operations of the network in one window.
        peak_flops: Operations a second of a large convolution on this machine.
    """

    case: Case
    results: Path
    seconds: dict[str, Sequence[float]]
    peer: str
    window_flops: int
    peak_flops: float

    def figures(self, system: str) -> Figures:
        """Medians over the rounds; the mask of the first."""
        rounds = [_told(system, self.results / f"{system}_{number}") for number in range(len(self.seconds[system]))]
        stages = {name: _median(told["stages"].get(name, 0.0) for told in rounds) for name in rounds[0]["stages"]}
        seconds, network = statistics.median(self.seconds[system]), stages.get("network", 0.0)
        windows = rounds[0]["windows"]
        if windows is None:  # a model that does not count them runs those of the peer
            windows = _told(self.peer, self.results / f"{self.peer}_0")["windows"] or 0
        rate = windows * self.window_flops / network if network else 0.0
        return {
            "slices": self.case.n_slices,
            "grid_mm": self.case.grid_mm,
            "classes": self.case.n_classes,
            "seconds_without_import": seconds - stages.get("import", 0.0),
            **{f"{name}_s": value for name, value in stages.items()},
            "other_s": seconds - sum(stages.values()),
            "forward_s": _median(told["forward_seconds"] for told in rounds),
            "network_share": network / seconds,
            "windows": windows,
            "windows_skipped": rounds[0]["windows_skipped"],
            "gflops": rate / 1e9,
            "peak_share": rate / self.peak_flops,
            "high_water_mb": _median(told["high_water_mb"] for told in rounds),
            "peak_device_mb": _median(told["peak_device_mb"] for told in rounds),
            "masks": len(self._masks(system)),
            "equal_voxels": self._equal(system),
            "compared_with": self.peer,
        }

    def _equal(self, system: str) -> float:
        """Over the series of which both made a mask; 0 where the grids differ, too."""
        mine, others = (self._masks(name) for name in (system, self.peer))
        try:
            found = compare_all((mine[uid], others[uid]) for uid in mine if uid in others)
        except ValueError as error:
            print(f"  {system}: {error}")
            return 0.0
        return 1 - found.n_different / found.n_voxels if found.n_voxels else 0.0

    def _masks(self, system: str) -> dict[str, Path]:
        """Series Instance UID (0020,000E) to mask of the first round."""
        out = self.results / f"{system}_0"
        if is_ours(system):
            return {result.identity.series_uid: out / result.mask_path for result in _done(out)}
        return {uid: out / f"{folder.parent.name}_{folder.name}.nii.gz" for uid, folder in self.case.series.items()}


def is_ours(system: str) -> bool:
    """Whether a system is this project, in whatever precision."""
    return system.removesuffix(BF16) == OURS


def _told(system: str, out: Path) -> dict[str, Any]:
    """What a run said of itself."""
    if not is_ours(system):
        return {"windows_skipped": 0, **json.loads((out / "figures.json").read_text())}
    told = json.loads(out.with_name(f"{out.name}.json").read_text())
    stages: dict[str, float] = defaultdict(float, told["stages"])
    results = [asdict(result) for result in _done(out)]
    for result in results:
        for name, seconds in result["stage_seconds"].items():
            stages[STAGES.get(name, name)] += seconds
    total, skipped = (sum(result.get(key) or 0 for result in results) for key in ("windows_total", "windows_skipped"))
    return {
        "stages": dict(stages),
        "windows": total - skipped if total else None,
        "windows_skipped": skipped,
        "forward_seconds": 0.0,
        "high_water_mb": max((told["high_water_mb"], *(result["peak_rss_mb"] for result in results))),
        "peak_device_mb": max((result["peak_device_mb"] for result in results), default=0.0),
    }


def _done(out: Path) -> list[SeriesResult]:
    return [result for result in read_receipts(LocalStore(root=out)) if result.status is Status.DONE]


def _median(values: Any) -> float:
    return float(statistics.median(values))
