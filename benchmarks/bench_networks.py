"""The default model in every form of its weights: seconds to open, seconds a window, and whether labels agree.

    python -m benchmarks.bench_networks [--quick] [--json FILE]

The peer is the state dict as a plain module takes it: one window a batch, default memory layout. All forms run in one
process in turn, round by round. Labels are compared over windows of smooth noise.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Options, Row, parse_options, report, summarise
from benchmarks.measure import Measurement
from imaging_pipeline.host import peak_rss_mb, reset_peak_rss
from imaging_pipeline.segment.backends import Network, load_network
from imaging_pipeline.segment.backends.state_dict import TorchNetwork
from imaging_pipeline.segment.bundle import Bundle, describe
from imaging_pipeline.segment.config import parse_config
from imaging_pipeline.segment.convert import convert
from imaging_pipeline.segment.weights import SUFFIXES
from imaging_pipeline.settings import ROOT, ModelSettings

NAME = "hippocampus_mr"
STOCK = "torch, plain module"
WINDOW = (40, 56, 40)
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A form of the weights, as it is run.

    Attributes:
        name: What the table calls it.
        open: Opens it.
        batch: Windows a batch.
    """

    name: str
    open: Callable[[], Network]
    batch: int


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(__doc__ or "", argv)
    with tempfile.TemporaryDirectory(prefix="bench-networks-") as scratch:
        rows = _measure(_all_forms(Path(scratch)), options)
    report("bench_networks", rows, options, ["open_s: from file to network; labels_equal: share of voxels"])


def _all_forms(scratch: Path) -> Bundle:
    """A copy of the default bundle with every form of its weights."""
    path = Path(shutil.copytree(ROOT / "models" / NAME, scratch / NAME))
    bundle = describe(NAME, ModelSettings(trusted_dirs=(scratch,)))
    for form in ("ts", "pt2", "onnx"):
        print(f"  {form}: largest difference {convert(bundle, form).largest_difference:.2g}", flush=True)
    assert path == bundle.path
    return bundle


def _measure(bundle: Bundle, options: Options) -> list[Row]:
    windows = _windows(4 if options.quick else 8)
    networks: dict[str, tuple[Network, int]] = {}
    open_seconds: dict[str, float] = {}
    for candidate in _candidates(bundle):
        start = time.perf_counter()
        networks[candidate.name] = (candidate.open(), candidate.batch)
        open_seconds[candidate.name] = time.perf_counter() - start
    truth = _labels(*networks[STOCK], windows)
    figures: dict[str, dict[str, float | int | str]] = {}
    for name, (network, batch) in networks.items():  # the first pass warms up
        equal = float((_labels(network, batch, windows) == truth).mean())
        figures[name] = {"windows_a_batch": batch, "open_s": open_seconds[name], "labels_equal": equal}
    runs: dict[str, list[Measurement]] = {name: [] for name in networks}
    for _ in range(options.repeats or (3 if options.quick else 9)):
        for name, (network, batch) in networks.items():
            reset_peak_rss()
            seconds = _seconds(network, batch, windows) / len(windows)
            runs[name].append(Measurement(seconds=seconds, peak_rss_mb=peak_rss_mb()))
    print(f"  {torch.get_num_threads()} threads, median over {len(runs[STOCK])} rounds")
    print(f"  plain module: {statistics.median(run.seconds for run in runs[STOCK]):.3f} s a window")
    return summarise(f"{NAME}, a window of {' x '.join(map(str, WINDOW))}", runs, STOCK, figures)


def _candidates(bundle: Bundle) -> list[Candidate]:
    """Every backend one window at a time and in pairs."""
    folder = bundle.path / "models"
    build = parse_config(bundle, CPU).build
    found = [Candidate(name=STOCK, open=partial(_plain, bundle), batch=1)]
    for backend, suffixes in SUFFIXES.items():
        file = next(folder / f"model{suffix}" for suffix in suffixes if (folder / f"model{suffix}").is_file())
        opener = partial(load_network, file, CPU, build if backend == "torch" else None, backend)
        found += [Candidate(name=f"{backend}, batches of {batch}", open=opener, batch=batch) for batch in (1, 2)]
    return found


def _plain(bundle: Bundle) -> Network:
    network = parse_config(bundle, CPU).build()
    network.load_state_dict(torch.load(bundle.weights[0].path, weights_only=True))
    return TorchNetwork(network.eval())


def _windows(n: int) -> torch.Tensor:
    """Smooth noise of the model's intensity range, the same every time."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, 1, *(length // 4 for length in WINDOW), generator=generator)
    return torch.nn.functional.interpolate(coarse, WINDOW, mode="trilinear")


def _labels(network: Network, batch: int, windows: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([network(part).argmax(1) for part in windows.split(batch)]).numpy()


def _seconds(network: Network, batch: int, windows: torch.Tensor) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        for part in windows.split(batch):
            network(part)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
