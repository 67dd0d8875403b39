"""Tasks beside each other on one machine: seconds a window of each, by what runs the network.

    python -m benchmarks.bench_neighbours [--quick] [--json FILE]

As many processes as there are cores, one thread each, work on the same windows at the same time, as the tasks of a
`local[*]` job do. All systems run the same random UNet of 14 classes:

  openvino            as the pipeline sets it up: threads go where the kernel puts them
  openvino, pinned    as OpenVINO comes: each process pins its threads to the first cores of the machine
  torch               the plain module, channels last
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks.harness import Options, Row, parse_options, report, summarise
from benchmarks.measure import Measurement

N_CORES = len(os.sched_getaffinity(0))
PEER = "openvino, pinned"
SYSTEMS = ("openvino", PEER, "torch")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(__doc__ or "", argv)
    rows = [row for n_tasks in dict.fromkeys((1, N_CORES)) for row in _measure(n_tasks, options)]
    report("bench_neighbours", rows, options, ["seconds: a window, the mean of all tasks; memory: of one task"])


def _measure(n_tasks: int, options: Options) -> list[Row]:
    runs: dict[str, list[Measurement]] = {name: [] for name in SYSTEMS}
    for _ in range(options.repeats or (1 if options.quick else 3)):
        for name in SYSTEMS:
            runs[name].append(_beside_each_other(name, n_tasks, 3 if options.quick else 12))
            print(f"  {n_tasks} tasks, {name}: {runs[name][-1].seconds:.3f} s a window", flush=True)
    return summarise(f"{n_tasks} tasks x 1 thread", runs, PEER)


def _beside_each_other(system: str, n_tasks: int, n_windows: int) -> Measurement:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(n_tasks), context.SimpleQueue()
    tasks = [context.Process(target=_task, args=(system, n_windows, barrier, answers)) for _ in range(n_tasks)]
    for task in tasks:
        task.start()
    found = [answers.get() for _ in tasks]
    for task in tasks:
        task.join()
    return Measurement(
        seconds=statistics.mean(seconds for seconds, _ in found), peak_rss_mb=max(peak for _, peak in found)
    )


def _task(system: str, n_windows: int, barrier: Barrier, answers: Any) -> None:
    """One process: seconds a window and peak memory in MiB go into the queue."""
    import torch

    from benchmarks.cases_inference import WINDOW, random_network
    from imaging_pipeline.host import peak_rss_mb
    from imaging_pipeline.segment.backends import openvino
    from imaging_pipeline.segment.backends.live import live_network
    from imaging_pipeline.segment.backends.state_dict import TorchNetwork

    torch.set_num_threads(1)
    module = random_network(14).eval().to(memory_format=torch.channels_last_3d)
    window = torch.randn(1, 1, *WINDOW)
    if system == PEER:
        own = openvino._settings()
        openvino._settings = lambda: {name: value for name, value in own.items() if name != "ENABLE_CPU_PINNING"}
    plain = TorchNetwork(module)
    network = plain if system == "torch" else live_network(plain, "openvino", (1, *WINDOW))
    with torch.inference_mode():
        network(window)
        barrier.wait()
        began = time.perf_counter()
        for _ in range(n_windows):
            network(window)
    answers.put(((time.perf_counter() - began) / n_windows, peak_rss_mb()))


if __name__ == "__main__":
    main()
