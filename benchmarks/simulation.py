"""A cluster that works through bins of studies, event by event: what each slot does, and what it waits for.

Time passes only in these numbers. A slot is a GPU with one task at a time; within a task consecutive studies overlap
as in `imaging_pipeline.partition`: while the GPU works on one, the next is read and decoded, and the one before is
written; each of the three holds one study. All reading shares the storage evenly.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.simulated_storage import Storage
from benchmarks.simulated_values import DECODE, DRAIN, GPU, IDLE, LAUNCH, READ, RESTART, WRITER, Cluster, Outcome, Work


def simulate(bins: Sequence[Sequence[Work]], cluster: Cluster, seed: int = 0) -> Outcome:
    """Work through bins, the first ones first.

    Args:
        bins: Studies of each task, in order.
        cluster: Who works.
        seed: Of everything that chance decides.
    """
    return _Run(bins, cluster, random.Random(seed)).outcome()


@dataclass(slots=True, kw_only=True)
class _Task:
    """A bin, and which of its studies are not written yet."""

    number: int
    left: deque[int]
    failures: int = 0


class _Slot:
    """A GPU with the thread ahead of it and the one behind it; each holds one study or none."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.state = IDLE
        self.since = 0.0
        self.life = 0
        self.is_warm = False
        self.task: _Task | None = None
        self.to_read: deque[int] = deque()
        self.phase = ""
        self.ready: int | None = None
        self.on_gpu: int | None = None
        self.is_blocked = False
        self.writing: int | None = None


class _Run:
    def __init__(self, bins: Sequence[Sequence[Work]], cluster: Cluster, chance: random.Random) -> None:
        self._bins, self._cluster, self._chance = bins, cluster, chance
        self._queue = deque(_Task(number=n, left=deque(range(len(items)))) for n, items in enumerate(bins) if items)
        n_slow = round(cluster.slow_share * cluster.slots)
        self._slots = [_Slot(cluster.slow_factor if n < n_slow else 1.0) for n in range(cluster.slots)]
        chance.shuffle(self._slots)
        self._storage = Storage(cluster)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._reader_of: dict[int, int] = {}
        self._now = self._launcher_free = 0.0
        self._order = self._retries = self._given_up = 0
        self._open = sum(map(len, bins))
        self._finished: list[float] = []
        self._done: Counter[tuple[int, int]] = Counter()
        self._slot_s: Counter[str] = Counter()

    def outcome(self) -> Outcome:
        for slot in self._slots:
            self._join(slot)
        while self._open:
            read_end = self._storage.next_end()
            if self._events and self._events[0][0] <= read_end:
                self._now, _, action = heapq.heappop(self._events)
                action()
            else:
                self._now = read_end
                self._storage.finish(read_end)
        for slot in self._slots:
            self._turn(slot, IDLE)
        return Outcome(
            makespan_s=self._now,
            finished_s=self._finished,
            done=self._done,
            slot_s=self._slot_s,
            moved_mb=self._storage.moved_mb,
            retries=self._retries,
            given_up=self._given_up,
        )

    def _after(self, slot: _Slot, seconds: float, action: Callable[[_Slot], None]) -> None:
        """Something that happens to a slot later, unless its executor has died by then."""
        life = slot.life

        def act() -> None:
            if slot.life == life:
                action(slot)

        self._order += 1
        heapq.heappush(self._events, (self._now + seconds, self._order, act))

    def _turn(self, slot: _Slot, state: str) -> None:
        self._slot_s[slot.state] += self._now - slot.since
        slot.state, slot.since = state, self._now

    def _take_task(self, slot: _Slot) -> None:
        if not self._queue:
            self._turn(slot, IDLE)
            return
        self._turn(slot, LAUNCH)
        slot.task = self._queue.popleft()
        slot.to_read = deque(slot.task.left)
        self._launcher_free = max(self._launcher_free, self._now) + self._cluster.launch_s
        wait = self._launcher_free - self._now + self._cluster.task_s + (0.0 if slot.is_warm else self._cluster.open_s)
        slot.is_warm = True
        self._after(slot, wait, self._read_next)

    def _read_next(self, slot: _Slot) -> None:
        """The thread ahead takes its next study; the GPU waits for it where it has none."""
        assert slot.task is not None
        if not slot.to_read:
            return
        study = slot.to_read.popleft()
        slot.phase = READ
        self._wait_for_decoded(slot)
        mb = self._bins[slot.task.number][study].mb
        self._reader_of[id(slot)] = self._storage.start(self._now, mb, lambda: self._decode(slot, study))

    def _decode(self, slot: _Slot, study: int) -> None:
        slot.phase = DECODE
        self._wait_for_decoded(slot)
        self._after(slot, self._seconds(slot, study, "decode_s"), lambda slot: self._decoded(slot, study))

    def _decoded(self, slot: _Slot, study: int) -> None:
        slot.phase, slot.ready = "", study
        self._feed_gpu(slot)

    def _feed_gpu(self, slot: _Slot) -> None:
        if slot.on_gpu is not None:
            return
        if slot.ready is None:
            self._wait_for_decoded(slot)
            return
        slot.on_gpu, slot.ready = slot.ready, None
        self._turn(slot, GPU)
        self._after(slot, self._seconds(slot, slot.on_gpu, "gpu_s"), self._hand_to_writer)
        self._read_next(slot)

    def _hand_to_writer(self, slot: _Slot) -> None:
        slot.is_blocked = slot.writing is not None
        if slot.is_blocked:
            self._turn(slot, WRITER)
            return
        slot.writing, slot.on_gpu = slot.on_gpu, None
        assert slot.writing is not None
        self._after(slot, self._seconds(slot, slot.writing, "write_s"), self._written)
        self._feed_gpu(slot)

    def _written(self, slot: _Slot) -> None:
        assert slot.task is not None
        assert slot.writing is not None
        study, slot.writing = slot.writing, None
        slot.task.left.remove(study)
        self._done[slot.task.number, study] += 1
        self._finished.append(self._now)
        self._open -= 1
        if slot.is_blocked:
            self._hand_to_writer(slot)
        elif not slot.task.left:
            slot.task = None
            self._take_task(slot)

    def _wait_for_decoded(self, slot: _Slot) -> None:
        if slot.on_gpu is None:
            self._turn(slot, slot.phase or DRAIN)

    def _seconds(self, slot: _Slot, study: int, stage: str) -> float:
        assert slot.task is not None
        seconds: float = getattr(self._bins[slot.task.number][study], stage) * slot.factor
        noise = self._cluster.noise
        return seconds * self._chance.lognormvariate(-(noise**2) / 2, noise) if noise else seconds

    def _join(self, slot: _Slot) -> None:
        """An executor is up, and will die some day."""
        if self._cluster.failures_per_hour > 0:
            self._after(slot, self._chance.expovariate(self._cluster.failures_per_hour) * 3600, self._die)
        self._take_task(slot)

    def _die(self, slot: _Slot) -> None:
        """An executor is lost: its task goes back to the head of the queue without the studies that have receipts."""
        slot.life += 1
        self._storage.cancel(self._now, self._reader_of.pop(id(slot), 0))
        self._turn(slot, RESTART)
        task, slot.task = slot.task, None
        slot.phase, slot.ready, slot.on_gpu, slot.writing, slot.is_blocked = "", None, None, None, False
        slot.is_warm = False
        self._after(slot, self._cluster.restart_s, self._join)
        if task is not None:
            self._return(task)

    def _return(self, task: _Task) -> None:
        task.failures += 1
        if task.failures >= self._cluster.max_failures:
            self._given_up += len(task.left)
            self._open -= len(task.left)
            return
        self._retries += 1
        self._queue.appendleft(task)
        for slot in self._slots:
            if slot.state == IDLE:
                self._take_task(slot)
                return
