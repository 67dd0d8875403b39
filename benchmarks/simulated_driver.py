"""The driver of a simulated run: planning before the first task, receipts and commits beside the tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.costs import Costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """What happens before the first task.

    Attributes:
        headers_s: Executors list files, read all headers and find series, every slot at work.
        driver_s: The driver walks through folders, hands headers on, takes series and deals them, alone.
        driver_gb: Memory that it holds for that.
    """

    headers_s: float
    driver_s: float
    driver_gb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What the driver does while tasks run.

    Attributes:
        busy_s: Seconds of the driver, looks at receipts and commits.
        commit_s: Of these, commits.
        last_commit_s: The longest commit.
        over_s: When the last row is in the index.
    """

    busy_s: float
    commit_s: float
    last_commit_s: float
    over_s: float


def plan(n_files: int, n_series: int, slots: int, open_file_s: float, costs: Costs) -> Planning:
    """The time before the first task.

    Args:
        n_files: Slices of all series.
        n_series: Series.
        slots: Tasks that read headers beside each other.
        open_file_s: Seconds that the storage takes to open a file.
        costs: Measured ones.
    """
    return Planning(
        headers_s=n_files
        * (costs.list_s_per_file + costs.header_s_per_file + open_file_s + costs.find_s_per_slice)
        / slots,
        driver_s=n_files * (costs.walk_s_per_file + costs.plan_s_per_slice) + n_series * costs.plan_s_per_series,
        driver_gb=(n_files * costs.plan_kb_per_slice + n_series * costs.plan_kb_per_series) / 1e6,
    )


def follow(finished_s: Sequence[float], makespan_s: float, costs: Costs, indexed: int = 0) -> Following:
    """The driver beside the tasks: a look at the receipts, the new ones read, and a commit when its time has come.

    Args:
        finished_s: When each receipt was written, in order of time.
        makespan_s: When the last task ended.
        costs: Measured ones.
        indexed: Rows that the index holds before.
    """
    now = committed_at = busy_s = commit_s = longest_s = 0.0
    seen = waiting = commits = 0
    while seen < len(finished_s) or waiting:
        fresh = seen
        while fresh < len(finished_s) and finished_s[fresh] <= now:
            fresh += 1
        look_s = fresh * costs.scan_s_per_receipt + (fresh - seen) * costs.follow_s_per_receipt
        waiting, seen = waiting + fresh - seen, fresh
        busy_s, now = busy_s + look_s, now + look_s
        if waiting and (now - committed_at >= costs.commit_every_s or now >= makespan_s):
            spent_s = costs.commit_s + waiting * costs.commit_s_per_row + commits * costs.commit_s_per_commit
            spent_s += (indexed + seen - waiting) * costs.commit_s_per_indexed_row
            commits += 1
            commit_s, busy_s, now = commit_s + spent_s, busy_s + spent_s, now + spent_s
            longest_s, waiting, committed_at = max(longest_s, spent_s), 0, now
        now += costs.poll_s
    return Following(busy_s=busy_s, commit_s=commit_s, last_commit_s=longest_s, over_s=max(now, makespan_s))
