"""Volumes through one model: to the model grid, window by window through the network, back to the native voxels."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from imaging_pipeline.segment.attempt import Attempt
from imaging_pipeline.segment.bundle import Bundle
from imaging_pipeline.segment.device import for_fallback, peak_device_mb, pick_devices, prepare, reset_peak
from imaging_pipeline.segment.machine import Machine
from imaging_pipeline.segment.model import Model, open_model
from imaging_pipeline.segment.transforms import Sink
from imaging_pipeline.settings import Settings
from imaging_pipeline.volume.types import Volume

_TRIAL_SHAPE = (48, 64, 40)


class Subject(Protocol):
    """Something with a volume to segment."""

    def hand_over(self) -> Volume:
        """The volume, once; the subject keeps nothing of it."""

    def sink(self) -> Sink | None:
        """What takes probabilities, if they are wanted."""


AnySubject = TypeVar("AnySubject", bound=Subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """A mask and what it took to make.

    Attributes:
        mask: Label numbers on the volume's own grid, uint8 or uint16.
        stage_seconds: Wall seconds of preprocess, network and postprocess. A batch that several volumes share counts
            for each by its windows.
        peak_device_mb: Largest device memory; 0 on CPU.
        device: Where the network ran.
        n_windows: Windows of the volume; 0 where the model goes over whole volumes.
        n_skipped: Those that were left out because they show air alone.
        memory_steps: Steps down that it took for want of memory, in order; empty normally.
        agreement: Mean pairwise Dice of an ensemble's members by label number; empty for one member. See `Agreement`.
    """

    mask: Volume
    stage_seconds: dict[str, float]
    peak_device_mb: float
    device: str
    n_windows: int = 0
    n_skipped: int = 0
    memory_steps: tuple[str, ...] = ()
    agreement: dict[int, float] = field(default_factory=dict)


class Engine:
    """A bundle on a device, ready for volumes; cheap to make where the process has the model already."""

    def __init__(self, bundle: Bundle, settings: Settings, cores: int | None = None) -> None:
        """Open the bundle.

        Args:
            bundle: The model.
            settings: Device, precision, threads.
            cores: CPU cores that this task owns; None: all of the process.

        Raises:
            PipelineError: `device-not-found`, or what `open_model` raises.
        """
        self.device, *others = pick_devices(settings.device)
        prepare(self.device, settings.segment, cores)
        self._model: Model = open_model(bundle, self.device, settings.segment, tuple(others), settings.models.cache_dir)
        self._machine = Machine(
            model=self._model,
            device=self.device,
            settings=settings.segment,
            open_on=lambda device: open_model(bundle, device, for_fallback(settings.segment)),
        )

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of the model grid that are mirrored; empty without test-time mirroring."""
        return self._model.mirror_axes

    @property
    def foreign(self) -> tuple[str, ...]:
        """Transforms of the bundle that run as MONAI's own objects."""
        return self._model.foreign

    @property
    def backend(self) -> str:
        """What runs the network."""
        return self._model.backend

    @property
    def gives_probabilities(self) -> bool:
        """Whether probabilities can be saved."""
        return self._model.gives_probabilities

    def segment(self, volume: Volume, sink: Sink | None = None) -> Segmentation:
        """Segment one volume.

        Args:
            volume: The volume.
            sink: Takes (axis, start, stop, probabilities) of native slabs.

        Raises:
            PipelineError: `too-large`, or `grid-mismatch` where the bundle does not return to the native grid.
        """
        [(_, done)] = self.segment_all([_One(volume, sink)])
        if isinstance(done, Exception):
            raise done
        return done

    def segment_all(self, subjects: Iterable[AnySubject]) -> Iterator[tuple[AnySubject, Segmentation | Exception]]:
        """Segment volumes one after the other; the windows of several may share a batch.

        Args:
            subjects: A volume is taken in when the one before it is done, or when its windows are wanted for a batch.

        Yields:
            Subject and result, or what went wrong with this volume, in order.
        """
        reset_peak(self.device)
        source, waiting = iter(subjects), deque[_Entry[AnySubject]]()

        def more() -> bool:
            taken = sum(entry.attempt.prepared_bytes for entry in waiting if entry.attempt is not None)
            if taken > self._machine.sharing_bytes:
                return False
            entry = self._take_in(source)
            if entry is not None:
                waiting.append(entry)
            return entry is not None

        self._machine.more = more
        try:
            while waiting or more():
                entry = waiting.popleft()
                yield entry.subject, self._finish(entry)
        finally:
            self._machine.more = None
            for entry in waiting:
                if entry.attempt is not None:
                    entry.attempt.close()

    def try_out(self) -> str:
        """Segment a small volume of noise; what came of it, in one line.

        Raises:
            PipelineError: What `segment` raises.
        """
        array = np.random.default_rng(0).normal(100, 30, _TRIAL_SHAPE).astype(np.float32)
        done = self.segment(Volume(array=array, affine=np.eye(4)))
        size = " x ".join(map(str, done.mask.shape))
        return f"{size} voxels of noise to {done.mask.array.dtype} labels in {sum(done.stage_seconds.values()):.2f} s"

    def _take_in(self, source: Iterator[AnySubject]) -> "_Entry[AnySubject] | None":
        with self._machine.outside():
            subject = next(source, None)
            if subject is None:
                return None
            try:
                attempt = Attempt(self._machine, subject.hand_over(), subject.sink())
                return _Entry(subject=subject, attempt=attempt, error=None)
            except Exception as error:
                return _Entry(subject=subject, attempt=None, error=error)

    def _finish(self, entry: "_Entry[AnySubject]") -> Segmentation | Exception:
        attempt = entry.attempt
        if attempt is None:
            return entry.error or AssertionError("neither volume nor error")
        try:
            mask = attempt.labels()
        except Exception as error:
            return error
        finally:
            attempt.close()
        return Segmentation(
            mask=mask,
            stage_seconds=attempt.seconds,
            peak_device_mb=peak_device_mb(self.device),
            device=str(attempt.device),
            n_windows=attempt.n_windows,
            n_skipped=attempt.n_skipped,
            memory_steps=tuple(attempt.steps),
            agreement=attempt.agreement,
        )


@dataclass(slots=True, kw_only=True)
class _Entry(Generic[AnySubject]):
    """A volume that has been taken in."""

    subject: AnySubject
    attempt: Attempt | None
    error: Exception | None


class _One:
    """A volume by itself."""

    def __init__(self, volume: Volume, sink: Sink | None) -> None:
        self._volumes, self._sink = [volume], sink

    def hand_over(self) -> Volume:
        return self._volumes.pop()

    def sink(self) -> Sink | None:
        return self._sink
