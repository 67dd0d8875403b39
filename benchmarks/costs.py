"""What each step of the job costs, as measured on one machine: the numbers that a simulated cluster is made of."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(__file__).with_name("costs.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of one core, unless it says otherwise.

    Attributes:
        list_s_per_file: Spark lists a file of a local disk; its executors do, where there are more than 32 folders.
        walk_s_per_file: The driver passes by it in search of files that Spark leaves out.
        header_s_per_file: An executor reads a header and packs it.
        find_s_per_slice: An executor opens the packet, groups and checks the plane, and packs its series' task.
        plan_s_per_slice: The driver takes its share of a packet and hands it on.
        plan_kb_per_slice: Memory that the driver holds for it meanwhile.
        plan_s_per_series: The driver takes, weighs and deals a series, whatever its slices.
        plan_kb_per_series: Memory that it holds for that.
        task_s: A slot between two partitions of the same stage.
        launch_s: Of that, the driver's own part for each partition, at most.
        decode_s_per_mb: From files in the page cache to a volume.
        preprocess_s_per_mvoxel: Volume to model grid, a million voxels of the volume.
        restore_s_per_mvoxel: Scores of 14 classes to labels on the volume's voxels, on the CPU.
        write_s_per_mvoxel: Mask measured, compressed, written, synced.
        written_mb_per_mvoxel: Megabytes of that mask.
        receipt_s: An executor writes a receipt.
        open_s: A worker starts, imports, and opens the model.
        follow_s_per_receipt: The driver reads a new receipt and notes it.
        poll_s: Seconds between two looks at the receipts.
        scan_s_per_receipt: One look, for each receipt that is there.
        commit_s: A batch into the Delta index, beside what follows.
        commit_s_per_row: For each row of the batch.
        commit_s_per_indexed_row: For each row that the index already holds.
        commit_s_per_commit: For each commit before it, which left a file of its own.
        commit_every_s: Seconds between two batches.
    """

    list_s_per_file: float
    walk_s_per_file: float
    header_s_per_file: float
    find_s_per_slice: float
    plan_s_per_slice: float
    plan_kb_per_slice: float
    plan_s_per_series: float
    plan_kb_per_series: float
    task_s: float
    launch_s: float
    decode_s_per_mb: float
    preprocess_s_per_mvoxel: float
    restore_s_per_mvoxel: float
    write_s_per_mvoxel: float
    written_mb_per_mvoxel: float
    receipt_s: float
    open_s: float
    follow_s_per_receipt: float
    poll_s: float
    scan_s_per_receipt: float
    commit_s: float
    commit_s_per_row: float
    commit_s_per_indexed_row: float
    commit_s_per_commit: float
    commit_every_s: float


def read_costs(path: Path = FILE) -> Costs:
    """Costs as a measurement has left them."""
    return Costs(**json.loads(path.read_text(encoding="utf-8"))["costs"])


def write_costs(costs: Costs, circumstances: dict[str, object], path: Path = FILE) -> None:
    """Leave costs with the machine, the date and the versions that they belong to."""
    content = {**circumstances, "costs": asdict(costs)}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
