"""Cores and GPUs of a task: what it asks for it gets, and no other task has it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.job import Job
from imaging_pipeline.segment import seat as seat_module
from imaging_pipeline.segment.bundle import describe
from imaging_pipeline.segment.estimate import task_bytes
from imaging_pipeline.settings import resolve
from imaging_pipeline.spark import resources
from imaging_pipeline.spark.broker import discover, share_out, take_seat
from imaging_pipeline.spark.executors import executor_room, gpu_properties, memory_overhead
from imaging_pipeline.spark.resources import Seating, seated
from tests.conftest import ROOT, Finished

Pipeline = Callable[..., Finished]
MIB = 1 << 20


def script(folder: Path, text: str) -> Path:
    path = folder / "get-gpus"
    path.write_text(textwrap.dedent(text))
    path.chmod(0o755)
    return path


@pytest.fixture
def two_gpus(tmp_path: Path) -> Path:
    """A machine with two GPUs, as far as a discovery script can tell."""
    return script(
        tmp_path,
        """\
        #!/bin/sh
        echo '{"name": "gpu", "addresses": ["0", "1"]}'
        """,
    )


# seats


@pytest.mark.parametrize(
    ("addresses", "amount", "names"),
    [
        ("01", 1, ["gpu-0.0", "gpu-1.0"]),
        ("01", 0.5, ["gpu-0.0", "gpu-1.0", "gpu-0.1", "gpu-1.1"]),
        ("0", 1 / 3, ["gpu-0.0", "gpu-0.1", "gpu-0.2"]),
        ("01234", 2, ["gpu-0+1.0", "gpu-2+3.0"]),
        ("0", 2, []),
        ("", 1, []),
    ],
)
def test_gpus_are_shared_out_as_spark_would(addresses: str, amount: float, names: list[str]) -> None:
    assert [seat.name for seat in share_out(tuple(addresses), amount)] == names


HOLD = """
import sys
from pathlib import Path
from imaging_pipeline.spark.broker import share_out, take_seat
seats = share_out(sys.argv[2].split(","), float(sys.argv[3]))
with take_seat(Path(sys.argv[1]), seats, 60) as seat:
    print(seat.addresses[0], flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that takes a seat and keeps it until it is told or killed."""

    def __init__(self, folder: Path, addresses: str, amount: float) -> None:
        command = [sys.executable, "-c", HOLD, str(folder), addresses, str(amount)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]

    def address(self) -> str:
        return str(self.process.stdout.readline().strip())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def start(addresses: str, amount: float) -> Holder:
        holders.append(Holder(tmp_path, addresses, amount))
        return holders[-1]

    yield start
    for holder in holders:
        holder.end()


def test_processes_never_share_a_gpu_and_one_that_is_killed_gives_it_back(
    hold: Callable[..., Holder], tmp_path: Path
) -> None:
    first, second = hold("0,1", 1), hold("0,1", 1)
    assert {first.address(), second.address()} == {"0", "1"}
    with pytest.raises(PipelineError) as refused, take_seat(tmp_path, share_out("01", 1), 0.3):
        pass
    assert refused.value.code is Code.DEVICE_NOT_FOUND
    assert f"process {first.process.pid}" in refused.value.message
    third = hold("0,1", 1)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    assert third.address() in "01"
    assert second.process.poll() is None


def test_half_a_gpu_each_lets_two_share_it_and_no_third(hold: Callable[..., Holder], tmp_path: Path) -> None:
    holders = [hold("7", 0.5) for _ in range(2)]
    assert [holder.address() for holder in holders] == ["7", "7"]
    with pytest.raises(PipelineError, match="no GPU became free"), take_seat(tmp_path, share_out("7", 0.5), 0.3):
        pass


def test_a_process_comes_back_to_the_gpu_where_its_model_is(hold: Callable[..., Holder], tmp_path: Path) -> None:
    other, seats = hold("0,1", 1), share_out("01", 1)
    taken = other.address()
    with take_seat(tmp_path, seats, 5) as seat:
        mine = seat.addresses[0]
    other.end()
    assert {taken, mine} == {"0", "1"}
    for _ in range(3):
        with take_seat(tmp_path, seats, 5) as seat:
            assert seat.addresses[0] == mine


# discovery


def smi(folder: Path, *lines: str) -> dict[str, str]:
    """An environment whose nvidia-smi says these lines."""
    (folder / "bin").mkdir()
    tool = folder / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/sh\ncat <<'EOF'\n" + "\n".join(lines) + "\nEOF\n")
    tool.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    return {**kept, "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}"}


GPUS = ("GPU 0: NVIDIA A100 (UUID: GPU-1)", "GPU 1: NVIDIA A100 (UUID: GPU-2)")
PARTS = ("  MIG 3g.20gb     Device  0: (UUID: MIG-1-a)", "  MIG 3g.20gb     Device  1: (UUID: MIG-1-b)")


@pytest.mark.parametrize(
    ("lines", "visible", "addresses"),
    [
        (GPUS, None, ["0", "1"]),
        ((GPUS[0], *PARTS), None, ["MIG-1-a", "MIG-1-b"]),
        (GPUS, "1", ["1"]),
        (GPUS, "", []),
        (GPUS, "0,-1,1", ["0"]),
        ((), None, []),
    ],
)
def test_the_discovery_script_says_what_nvidia_smi_and_cuda_would(
    lines: tuple[str, ...], visible: str | None, addresses: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = smi(tmp_path, *lines)
    monkeypatch.setenv("PATH", environment["PATH"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list(discover(ROOT / "conf" / "get-gpus.sh")) == addresses


def test_a_machine_without_nvidia_smi_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/proc/driver/nvidia/gpus").is_dir():
        pytest.skip("this machine has GPUs")
    for tool in ("bash", "env", "tr", "sed", "paste"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert discover(ROOT / "conf" / "get-gpus.sh") == ()


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho nonsense\n", "#!/bin/sh\necho '{}'\n"])
def test_a_discovery_script_that_fails_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="get-gpus names no GPUs") as refused:
        discover(script(tmp_path, text))
    assert refused.value.code is Code.DEVICE_NOT_FOUND


# what a task asks for


@pytest.mark.parametrize(
    ("wanted", "cores", "expected"),
    [
        ({}, 8, (1, 0, 8)),
        ({"task_cpus": 3}, 8, (3, 0, 2)),
        ({"executor_gpus": 2}, 8, (4, 2, 2)),
        ({"executor_gpus": 2, "task_gpus": 0.5}, 8, (2, 4, 4)),
        ({"executor_gpus": 4, "task_gpus": 2, "task_cpus": 2}, 8, (2, 2, 2)),
        ({"executor_gpus": 2, "task_cpus": 8}, 8, (8, 2, 1)),
        ({"executor_gpus": 2, "task_gpus": 0}, 8, (1, 0, 8)),
    ],
)
def test_tasks_fit_into_an_executor_by_cores_and_gpus(
    wanted: dict[str, float], cores: int, expected: tuple[int, int, int]
) -> None:
    room = executor_room(resolve(options={f"spark.{key}": value for key, value in wanted.items()}), cores, {})
    assert (room.task_cpus, room.by_gpus, room.n_tasks) == expected


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"task_cpus": 9}, "spark.task_cpus = 9, an executor has 8 cores"),
        ({"executor_gpus": 1, "task_gpus": 2}, "spark.task_gpus = 2, an executor has 1"),
        ({"task_gpus": 0.7}, "spark.task_gpus = 0.7: Value error, a whole number of GPUs, or at most 0.5 of one"),
        ({"task_gpus": 1.5}, "spark.task_gpus = 1.5"),
    ],
)
def test_a_task_that_fits_nowhere_is_refused_with_its_numbers(wanted: dict[str, float], says: str) -> None:
    with pytest.raises(PipelineError) as refused:
        executor_room(resolve(options={f"spark.{key}": value for key, value in wanted.items()}), 8, {})
    assert refused.value.code is Code.SETTINGS_INVALID
    assert says in refused.value.message


def test_only_clusters_that_have_gpus_are_told_to_find_them(two_gpus: Path) -> None:
    settings = resolve(options={"spark.executor_gpus": 2, "spark.discovery_script": str(two_gpus)})
    assert gpu_properties("local[4]", settings) == {}
    assert gpu_properties("yarn", resolve()) == {}
    assert gpu_properties("yarn", resolve(options={"spark.executor_gpus": 2, "device": "cpu"})) == {}
    yarn = gpu_properties("yarn", settings)
    assert yarn["spark.executor.resource.gpu.discoveryScript"] == str(two_gpus)
    assert "spark.task.resource.gpu.amount" not in yarn, "headers would wait for GPUs"
    assert gpu_properties("k8s://https://host", settings)["spark.executor.resource.gpu.vendor"] == "nvidia.com"


def test_executors_get_memory_for_what_their_tasks_will_take() -> None:
    settings = resolve(options={"spark.largest_volume": [256, 256, 100]})
    bundle = describe("hippocampus_mr", settings.models)
    small, large = (task_bytes(bundle, settings, (256, 256, n)) for n in (100, 400))
    n_voxels = 256 * 256 * 100
    assert small > 10 * n_voxels
    assert large - small >= 10 * 3 * n_voxels
    one = memory_overhead("yarn", settings, bundle, {})["spark.executor.memoryOverhead"]
    assert int(one.removesuffix("m")) == (small // MIB) + 900 + 384
    four = memory_overhead("yarn", settings, bundle, {"spark.executor.cores": "4", "spark.executor.memory": "8g"})
    assert int(four["spark.executor.memoryOverhead"].removesuffix("m")) == 4 * (small // MIB + 900) + 819
    assert memory_overhead("yarn", settings, bundle, {"spark.executor.memoryOverhead": "3g"}) == {}


# the device of a task


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    def make(**options: Any) -> Job:
        settings = resolve(options={key.replace("__", "."): value for key, value in options.items()})
        return Job(out=tmp_path, run_id="run", settings=settings, bundle=describe("hippocampus_mr", settings.models))

    return make


class Context:
    """A task of Spark's that has these GPUs."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    def cpus(self) -> int:
        return 2

    def resources(self) -> dict[str, Any]:
        return {"gpu": self} if self.addresses else {}


@pytest.fixture
def dealt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, float]]]:
    """A task with these GPUs on a machine where torch sees so many; what shares it claims."""

    def deal(*addresses: str, seen: int = 4, in_use: bool = False) -> list[tuple[str, float]]:
        claimed: list[tuple[str, float]] = []
        device = "imaging_pipeline.segment.device"
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(resources.TaskContext, "get", lambda: Context(*addresses))
        monkeypatch.setattr(f"{device}.cuda_devices", lambda: seen)
        monkeypatch.setattr(f"{device}.is_cuda_in_use", lambda: in_use)
        monkeypatch.setattr(f"{device}.claim_share", lambda names, share: claimed.append((names, share)))
        return claimed

    return deal


@dataclass(frozen=True)
class AtSeat:
    """What a task makes of what it was dealt."""

    device: str
    cores: int | None
    note: str


@contextmanager
def at_seat(job: Job) -> Iterator[AtSeat]:
    with seated(job, Seating()) as place:
        settings, note = seat_module.take(place, job.settings)
        yield AtSeat(settings.device, place.cores, note)


def test_a_task_takes_the_gpus_that_spark_assigned_by_their_numbers(
    dealt: Callable[..., Any], job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = dealt("3")
    with at_seat(job()) as seat:
        assert (seat.device, seat.cores, seat.note) == ("cuda:3", 2, "")
    dealt("0", "1")
    with at_seat(job(device="cuda")) as seat:
        assert seat.device == "cuda:0,cuda:1"
    assert claimed == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 3,1")
    with at_seat(job()) as seat:
        assert seat.device == "cuda:0,cuda:2"


def test_a_task_that_shares_a_gpu_claims_its_part_of_the_memory(
    dealt: Callable[..., Any], job: Callable[..., Job]
) -> None:
    claimed = dealt("1")
    with at_seat(job(spark__task_gpus=0.25)):
        assert claimed == [("cuda:1", 0.25)]


def test_a_part_of_a_gpu_is_taken_once_a_process(
    dealt: Callable[..., Any], job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    dealt("MIG-1-a")
    with at_seat(job()) as seat:
        assert (seat.device, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda:0", "MIG-1-a")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1-a")
    with at_seat(job()) as seat:
        assert seat.device == "cuda:0"
    dealt("MIG-1-b", in_use=True)
    with pytest.raises(PipelineError, match="MIG-1-b is dealt") as refused, at_seat(job()):
        pass
    assert "spark.python.worker.reuse" in refused.value.hint
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_auto_goes_to_the_cpu_where_nothing_is_dealt_or_torch_sees_nothing(
    dealt: Callable[..., Any], job: Callable[..., Job]
) -> None:
    dealt(seen=4)
    with at_seat(job()) as seat:
        assert (seat.device, seat.note) == ("cpu", "")
    with pytest.raises(PipelineError, match="1 GPUs each are dealt none"), at_seat(job(device="cuda")):
        pass
    dealt("1", seen=0)
    with at_seat(job()) as seat:
        assert seat.device == "cpu"
        assert "torch sees no CUDA device" in seat.note
    with at_seat(job(device="cuda:2")) as seat:
        assert seat.device == "cuda:2", "whoever names a device gets it"


def test_a_local_master_runs_as_many_tasks_as_there_are_seats(two_gpus: Path) -> None:
    def stage(n_slots: int, **wanted: Any) -> tuple[int, int | None, int]:
        options = {"spark.discovery_script": str(two_gpus), **{f"spark.{key}": value for key, value in wanted.items()}}
        found = resources._on_this_machine(n_slots, resolve(options=options))
        return found.n_tasks, found.seating.cores, found.bins_per_slot(resolve().spark)

    assert stage(8) == (2, 4, 1)
    assert stage(8, task_gpus=0.5) == (4, 2, 1)
    assert stage(2) == (2, 1, 4)
    assert stage(1) == (1, 1, 4)
    assert stage(8, task_gpus=0) == (8, 1, 4)
    assert stage(8, task_gpus=4) == (8, 1, 4), "no task can have four of two GPUs"
    assert stage(8, task_gpus=0, task_cpus=4) == (2, 4, 1)


# with Spark

DISTINCT = """\
#!{python}
# every machine of this cluster has two GPUs of its own
import fcntl, json, os
with open({counter!r}, "a+") as counter:
    fcntl.flock(counter, fcntl.LOCK_EX)
    counter.seek(0)
    first = 2 * len(counter.read())
    counter.write("x")
print(json.dumps({{"name": "gpu", "addresses": [str(first), str(first + 1)][: {n}]}}))
"""


@pytest.fixture
def probe(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(**options: Any) -> dict[str, Any]:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        dotted = json.dumps({f"spark.{key}": value for key, value in options.items()})
        command = [sys.executable, "-m", "tests.dealt_probe", str(scratch), dotted]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
        assert found, done.stdout + done.stderr
        return dict(json.loads(found[0].removeprefix("FOUND ")))

    return run


def most_at_once(rows: list[dict[str, Any]]) -> int:
    return max(sum(other["begin"] <= row["begin"] < other["end"] for other in rows) for row in rows)


def most_at_once_by_address(rows: list[dict[str, Any]]) -> Counter[str]:
    addresses = {row["address"] for row in rows}
    return Counter({key: most_at_once([row for row in rows if row["address"] == key]) for key in addresses})


@pytest.mark.spark
@pytest.mark.slow
def test_on_a_cluster_headers_use_all_cores_and_no_two_tasks_of_inference_share_a_gpu(
    probe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    gpus = script(tmp_path, DISTINCT.format(python=sys.executable, counter=str(tmp_path / "counter"), n=1))
    found = probe(master="local-cluster[2,2,1024]", executor_gpus=1, discovery_script=str(gpus))
    assert most_at_once(found["headers"]) == found["n"] == 4, "as many headers at a time as there are cores"
    assert {row["address"] for row in found["headers"]} == {""}
    assert found["n_tasks"] == 2
    assert most_at_once(found["rows"]) == 2
    assert len(most_at_once_by_address(found["rows"])) == 2
    assert set(most_at_once_by_address(found["rows"]).values()) == {1}
    assert {row["cpus"] for row in found["rows"]} == {2}
    assert {row["omp"] for row in found["rows"]} == {"2"}
    assert {row["omp"] for row in found["headers"]} == {"1"}
    assert len({row["pid"] for row in found["rows"]}) == 2, "as many processes that open a model as tasks at a time"


@pytest.mark.spark
@pytest.mark.slow
def test_on_a_cluster_half_a_gpu_each_lets_two_tasks_share_it(
    probe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    gpus = script(tmp_path, DISTINCT.format(python=sys.executable, counter=str(tmp_path / "counter"), n=1))
    found = probe(master="local-cluster[2,2,1024]", executor_gpus=1, task_gpus=0.5, discovery_script=str(gpus))
    assert found["n_tasks"] == 4
    assert most_at_once(found["rows"]) == 4
    assert sorted(most_at_once_by_address(found["rows"]).values()) == [2, 2]


@pytest.mark.spark
@pytest.mark.slow
def test_on_one_machine_the_broker_deals_each_task_a_gpu_of_its_own(
    probe: Callable[..., dict[str, Any]], two_gpus: Path
) -> None:
    found = probe(master="local[4]", discovery_script=str(two_gpus))
    assert most_at_once(found["headers"]) == 4
    assert {row["omp"] for row in found["headers"]} == {"1"}
    assert most_at_once(found["rows"]) == 2
    assert dict(most_at_once_by_address(found["rows"])) == {"0": 1, "1": 1}
    assert {row["omp"] for row in found["rows"]} == {"2"}
    assert len({row["pid"] for row in found["rows"]}) == 2


@pytest.mark.spark
@pytest.mark.slow
def test_the_command_runs_through_profiles_and_seats_to_the_same_masks(
    pipeline: Pipeline, sample: Path, tmp_path: Path, two_gpus: Path
) -> None:
    for name, options in (
        ("cluster", ("--master", "local-cluster[1,2,1024]", "--set", "spark.executor_gpus=2")),
        ("local", ("--master", "local[2]", "--set", "spark.task_gpus=0.5")),
    ):
        quick = ("--set", "models.backend=torch", "--set", f"spark.discovery_script={two_gpus}")  # no trial a worker
        done = pipeline(sample, "--out", tmp_path / name, *options, *quick)
        assert done.code == 0, done.out + done.err
        assert done.out.count("GPUs are dealt to tasks, and torch sees no CUDA device: they use the CPU") == 1
        assert "2 done" in done.out
        receipts = [json.loads(path.read_text()) for path in (tmp_path / name / "receipts").glob("*.json")]
        assert [item["device"] for item in receipts if item["status"] == "done"] == ["cpu"] * 2
    log = "".join(path.read_text() for path in (tmp_path / "cluster" / "logs").glob("*Z.log"))
    assert "spark.executor.memoryOverhead=" in log
