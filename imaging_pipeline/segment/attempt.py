"""One volume on its way through a model, down the ladder of memory where there is not enough of it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.segment.agreement import Agreement
from imaging_pipeline.segment.batcher import Batcher
from imaging_pipeline.segment.device import sums_dtype
from imaging_pipeline.segment.machine import Machine
from imaging_pipeline.segment.memory import Load, Rung, available_bytes, is_out_of_memory, rungs
from imaging_pipeline.segment.model import Model
from imaging_pipeline.segment.stream import ScoreOverflowError, WindowStream
from imaging_pipeline.segment.transforms import Sink
from imaging_pipeline.segment.windows import WindowPlan
from imaging_pipeline.volume.types import Volume

_CPU = torch.device("cpu")


class Attempt:
    """One volume.

    Attributes:
        device: Where its network runs.
        seconds: Wall seconds by stage.
        steps: Steps down that it took for want of memory.
        n_windows: All windows; 0 where the model goes over the whole volume.
        n_skipped: Those that show air alone.
        agreement: Of the members of an ensemble by label number; empty where there is one member. See `Agreement`.
    """

    def __init__(self, machine: Machine, volume: Volume, sink: Sink | None) -> None:
        """Bring a volume to the model grid and lay out its windows.

        Args:
            machine: Model and batches.
            volume: The volume.
            sink: Takes probabilities.

        Raises:
            PipelineError: What the model's `prepare` raises, or `too-large`.
        """
        self.device = machine.device
        self.seconds = {"preprocess": 0.0, "network": 0.0, "postprocess": 0.0}
        self.steps: list[str] = []
        self.n_windows = self.n_skipped = 0
        self.agreement: dict[int, float] = {}
        self._labels: NDArray[Any] = np.empty((0, 0, 0), np.uint8)
        self._machine = machine
        self._model: Model = machine.model
        self._volume: Volume | None = volume
        self._grid, self._sink = volume.hollow, sink
        self._prepared: Any = None
        self._plan: WindowPlan | None = None
        self._stream: WindowStream | None = None
        self._batcher: Batcher = machine.shared
        self._rungs: Iterator[Rung] = rungs(self.device, machine.shared.size, sums_dtype(self.device))
        self._rung = next(self._rungs)
        while not self._try(self._open):
            self._step_down("out of memory")

    @property
    def prepared_bytes(self) -> int:
        """What the volume takes on the model grid."""
        image = getattr(self._prepared, "image", None)
        return image.numel() * image.element_size() if isinstance(image, torch.Tensor) else 0

    def labels(self) -> Volume:
        """The mask; steps down as often as memory runs out.

        Raises:
            PipelineError: `too-large` where nothing fits, `grid-mismatch`, or `model-invalid`.
        """
        while not self._try(self._restore):
            self._step_down("out of memory")
            while not self._try(self._open):
                self._step_down("out of memory")
        return self._grid.with_array(self._labels)

    def close(self) -> None:
        """Give back what the volume holds."""
        self._leave()
        self._prepared = self._plan = self._volume = None

    def _try(self, work: Callable[[], None]) -> bool:
        """Whether there was memory for it; what was held is gone when the caller goes on."""
        try:
            work()
        except ScoreOverflowError:
            self._rung = replace(self._rung, sums_dtype=torch.float32)
            self.steps.append("sums in float32 (beyond half precision)")
            self._leave()
            return self._try(self._open) and self._try(work)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _open(self) -> None:
        """Bring the volume to the model grid on the device of the rung, and line its windows up."""
        began = time.perf_counter()
        if self._prepared is None or self._rung.device != self.device:
            self._prepare()
        self._admit()
        self.seconds["preprocess"] += time.perf_counter() - began
        if self._plan is None:
            return
        shared = self._rung.name == ""
        fresh = self._machine.batcher(self._model, self.device, self._rung.batch)
        self._batcher = self._machine.shared if shared else fresh
        keeping, advance = self._rung.keeping(self._plan), self._batcher.advance
        mean = self._sink is not None
        self._stream = self._model.stream(self._prepared, self._plan, keeping, advance, mean=mean)
        self._batcher.add(self._stream)
        self.n_windows, self.n_skipped = self._stream.n_windows, self._stream.n_skipped

    def _prepare(self) -> None:
        if self._rung.device != self.device:
            self.device = self._rung.device
            self._model = self._machine.open_on(self.device)
        assert self._volume is not None
        self._prepared = self._model.prepare(self._volume)
        self._plan = self._model.plan(self._prepared)
        if self.device == _CPU:  # no other device is left to prepare it for
            self._volume = None

    def _admit(self) -> None:
        """Step down until the estimate fits."""
        while self._plan is not None and (lack := self._lack(self._plan)):
            self._step_down(lack)
            if self._rung.device != self.device:
                self._prepare()

    def _lack(self, plan: WindowPlan) -> str:
        """What there is too little of; empty where the estimate fits."""
        load = Load(
            plan=plan,
            n_channels=max(self._model.n_channels, 1),
            window_bytes=self._model.window_bytes,
            n_native=self._grid.array.size,
        )
        for device in dict.fromkeys((self._rung.device, self._rung.sums_device)):
            needed = load.bytes_on(self._rung, device)
            free = available_bytes(device, self._machine.settings.memory_limit_mb)
            if needed > free:
                return f"needs about {needed / 2**20:.0f} MiB on {device}, {free / 2**20:.0f} MiB are free"
        return ""

    def _step_down(self, reason: str) -> None:
        self._leave()
        lower = next(self._rungs, None)
        if lower is None:
            size = " x ".join(map(str, self._grid.shape))
            raise PipelineError(
                Code.TOO_LARGE,
                f"a volume of {size} voxels does not fit, not even with {self._rung.name or 'one batch'}: {reason}",
                "give the task more memory (or raise segment.memory_limit_mb); restore=labels takes less than classes",
            )
        self.steps.append(f"{lower.name} ({reason})")
        self._rung = lower

    def _leave(self) -> None:
        if self._stream is not None:
            self._batcher.remove(self._stream)
        self._stream = None

    def _restore(self) -> None:
        began, outside = time.perf_counter(), self._machine.outside_seconds
        in_network, own = self._batcher.seconds, 0.0
        agreement = Agreement() if self._stream is None else self._stream.agreement
        if self._stream is None:
            scores = self._model.whole(self._prepared, agreement)
            own = time.perf_counter() - began
        else:
            scores = self._stream.scores()
        try:
            self._labels = self._model.restore(scores, self._prepared, self._grid, self._sink)
            self.agreement = agreement.by_label()
        finally:
            elsewhere = self._machine.outside_seconds - outside + self._batcher.seconds - in_network + own
            self.seconds["network"] += own if self._stream is None else self._stream.seconds
            self.seconds["postprocess"] += time.perf_counter() - began - elsewhere
